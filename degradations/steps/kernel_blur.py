"""Blur by kernels that a non-blind network is told: Gaussians, camera shake, kernels from files.

All convolve, with the image repeated periodically by default, as USRNet's solution in the Fourier domain assumes.
Nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Literal

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.filters import Border, convolve
from degradations.kernel_files import centred, content_hash, read_bank
from degradations.motion import kernel_of_seed
from utils.fields import Count, Odd, PositiveRange, Prob, Range, RangeSchedule

Align = Literal["upper_left", "centre"]


def shift_of(align: Align, factor: int) -> float:
    """How far to the upper left a kernel stands, so that the upper left pixel of each block shows the block's centre.

    With that, blurring and keeping every `factor`-th pixel leaves an image where bicubic resizing leaves it.
    """
    return 0.5 * (factor - 1) if align == "upper_left" else 0.0


def check_size(size: int, state: State, border: Border) -> None:
    """Raises ValueError for a kernel that would wrap around an image more than once."""
    if border == "wrap" and size > min(state.size):
        height, width = state.size
        raise ValueError(
            f"a kernel of {size}x{size} is larger than the image of {height}x{width}, which it would wrap around; use "
            "larger images, smaller kernels, or another border"
        )


@STEPS.register("shifted_gaussian_blur")
class ShiftedGaussianBlur(Step):
    """Blur by a Gaussian that stands where the coming downsampling needs it (USRNet, CVPR 2020, Sec. 5.1).

    Args:
        size: side of the kernel.
        variance_range: of both variances, in square pixels, drawn independently.
        theta_range: of the angle between the first one's axis and the x axis (to the right), in radians.
        isotropic_prob: how often both variances are the same.
        align: `upper_left` for keeping the upper left pixel of each block; `centre` for resizing that keeps centres.
        border: how the image goes on outside.

    The shift follows the scale still to go, where the released code draws it from 1 to 4, whatever the scale is.
    """

    def __init__(
        self,
        size: Odd = 25,
        variance_range: PositiveRange = RangeSchedule.fixed(0.6, 12),  # noqa: B008 - never written to
        theta_range: Range = RangeSchedule.fixed(0, pi),  # noqa: B008
        isotropic_prob: Prob = 0.0,
        align: Align = "upper_left",
        border: Border = "wrap",
    ) -> None:
        self.size, self.variance_range, self.theta_range = size, variance_range, theta_range
        self.isotropic_prob = isotropic_prob
        self.align: Align = align
        self.border: Border = border

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        check_size(self.size, state, self.border)
        shift = shift_of(self.align, state.factor)
        if shift > self.size // 2:
            raise ValueError(
                f"at scale {state.factor} a kernel of {self.size}x{self.size} does not hold its own centre"
            )
        first, second = (float(v) for v in rng.uniform(*self.variance_range.at(state.iteration), 2))
        if rng.random() < self.isotropic_prob:
            second = first
        theta = float(rng.uniform(*self.theta_range.at(state.iteration)))
        return {"size": self.size, "variances": [first, second], "theta": theta, "shift": shift}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return convolve(images, [self.kernel(d) for d in drawn], self.border)

    def kernel(self, drawn: Drawn) -> np.ndarray:
        first, second = drawn["variances"]
        return shifted_gaussian(drawn["size"], drawn["theta"], first, second, drawn["shift"])


def shifted_gaussian(size: int, theta: float, variance_1: float, variance_2: float, shift: float) -> np.ndarray:
    """`anisotropic_gaussian` with its centre `shift` pixels to the upper left of the middle pixel."""
    x = np.arange(size) - (size // 2 - shift)
    along = np.cos(theta) * x[None, :] + np.sin(theta) * x[:, None]
    across = np.sin(theta) * x[None, :] - np.cos(theta) * x[:, None]
    kernel = np.exp(-0.5 * (along**2 / variance_1 + across**2 / variance_2))
    return kernel / kernel.sum()


@STEPS.register("motion_blur")
class MotionBlur(Step):
    """Blur by camera shake, see `degradations.motion`; `size` is the kernel's side, `border` how the image goes on.

    A plan holds the seed of the camera's path as `trajectory`, so that it stays small.
    """

    def __init__(self, size: Odd = 25, border: Border = "wrap") -> None:
        self.size = size
        self.border: Border = border

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        check_size(self.size, state, self.border)
        return {"size": self.size, "trajectory": int(rng.integers(2**32))}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return convolve(images, [self.kernel(d) for d in drawn], self.border)

    def kernel(self, drawn: Drawn) -> np.ndarray:
        return kernel_of_seed(drawn["trajectory"], drawn["size"])


@STEPS.register("kernel_bank")
class KernelBank(Step):
    """Blur by one of the kernels that stand in files, all equally likely.

    A plan holds the number of the kernel and a hash of the whole bank; with other kernels it is refused.

    Args:
        path: a file, a folder or a pattern (see `read_bank`), or `usrnet_8` for the Gaussians of USRNet's table.
        indices: the kernels to draw from, counted from 0; left out, all.
        augment: turn each by a random number of quarters and mirror it half of the time. A shift that was
            made for a scale turns too; `align` puts it right.
        align: `as_is`, or the centre of mass where a Gaussian's would be (see `shifted_gaussian_blur`).
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
        self.path, self.augment = path, augment
        self.align: Align | None = None if align == "as_is" else align
        self.border: Border = border
        self.kernels = read_bank(path)
        self.hash = content_hash(self.kernels)
        self.indices = indices or tuple(range(len(self.kernels)))
        if max(self.indices) >= len(self.kernels):
            raise ValueError(f"indices: found {max(self.indices)}, but {path} holds {len(self.kernels)}, from 0")

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        drawn: Drawn = {"bank": self.hash, "index": self.indices[int(rng.integers(len(self.indices)))]}
        if self.augment:
            drawn |= {"turns": int(rng.integers(4)), "mirrored": bool(rng.integers(2))}
        if self.align is not None:
            drawn["shift"] = shift_of(self.align, state.factor)
        check_size(self.kernel(drawn).shape[0], state, self.border)
        return drawn

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return convolve(images, [self.kernel(d) for d in drawn], self.border)

    def kernel(self, drawn: Drawn) -> np.ndarray:
        if drawn["bank"] != self.hash:
            raise ValueError(
                f"the plan was drawn from the kernels {drawn['bank'][:8]}, but {self.path} holds {self.hash[:8]}; give "
                "the files that it was drawn from"
            )
        kernel = np.rot90(self.kernels[drawn["index"]], drawn.get("turns", 0))
        kernel = kernel[::-1] if drawn.get("mirrored") else kernel
        return centred(kernel, drawn["shift"]) if "shift" in drawn else kernel
