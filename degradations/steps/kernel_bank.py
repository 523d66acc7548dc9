"""Blur by kernels from files."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Literal

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.kernels.files import Bank, centred
from degradations.kernels.frame import Align, check_wraps, shift_of
from degradations.operations.filters import Border, convolve
from degradations.plan import MissingPoolError, require_same
from utils.options.fields import Count


@STEPS.register("kernel_bank")
class KernelBank(Step):
    """Blur by one of the kernels that stand in files, all equally likely. Not clipped.

    A plan holds the number of the kernel and a hash of the whole bank; with other kernels it is refused. Kernels of a
    known scale (a pool of estimates, KernelGAN's files) are refused where another scale is still to go.

    Args:
        path: a file, a folder or a pattern (see `bank_files`), or `usrnet_8` for the Gaussians of USRNet's table.
        indices: the kernels to draw from, counted from 0; left out, all.
        augment: turn each by a random number of quarters and mirror it half of the time. A shift that was
            made for a scale turns too; `align` puts it right, and is asked for where the scale is known.
        align: `as_is`, or the centre of mass where a Gaussian's would be (see `shifted_gaussian_blur`). Estimated
            kernels stand as `upper_left` puts them, for `every_nth`; where the image is resized, as `bsrgan` and
            `realesrgan` do, they need `centre`.
        border: how the image goes on outside.
    """

    def __init__(
        self,
        path: str,
        indices: tuple[Count, ...] = (),
        augment: bool = False,
        align: Literal["as_is", "upper_left", "centre"] = "as_is",
        border: Border = "wrap",
    ) -> None:
        self.path, self.augment, self.indices = path, augment, indices
        self.align: Align | None = None if align == "as_is" else align
        self.border: Border = border
        with suppress(MissingPoolError):  # what is still to be made is missed by the first draw
            _ = self.bank

    @cached_property
    def bank(self) -> Bank:
        """Return the kernels; reading them may raise OptionError."""
        bank = Bank.read(self.path)
        if (last := max(self.indices, default=0)) >= len(bank.kernels):
            raise ValueError(f"indices: found {last}, but {self.path} holds {len(bank.kernels)}, from 0")
        return bank

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        if self.bank.scale not in (None, state.factor):
            raise MissingPoolError(
                f"{self.path} holds kernels for x{self.bank.scale}, but x{state.factor} is still to go; "
                "name a pool of that scale, and leave out steps that halve the image"
            )
        if self.bank.scale is not None and self.augment and self.align is None:
            raise ValueError(
                f"{self.path} holds kernels that stand where x{self.bank.scale} needs them; turned, they would move "
                "the image: set `align: upper_left`, or centre before resizing"
            )
        indices = self.indices or range(len(self.bank.kernels))
        drawn: Drawn = {"bank": self.bank.hash, "index": indices[int(rng.integers(len(indices)))]}
        if self.augment:
            drawn |= {"turns": int(rng.integers(4)), "mirrored": bool(rng.integers(2))}
        if self.align is not None:
            drawn["shift"] = shift_of(self.align, state.factor)
        check_wraps(state.size, self.kernel(drawn).shape[0], self.border)
        return drawn

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return convolve(images, [self.kernel(d) for d in drawn], self.border)

    def kernel(self, drawn: Drawn) -> np.ndarray:
        require_same(drawn["bank"], self.bank.hash, "kernels", self.path)
        kernel = np.rot90(self.bank.kernels[drawn["index"]], drawn.get("turns", 0))
        kernel = kernel[::-1] if drawn.get("mirrored") else kernel
        return centred(kernel, drawn["shift"]) if "shift" in drawn else kernel
