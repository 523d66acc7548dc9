"""Resizing by a random factor: up, down or not at all."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.operations.resizing import MODES, Interpolation, draw_mode, resize_drawn
from utils.options.fields import PositiveRange, RangeSchedule, Weights


@STEPS.register("resize_up_down_keep")
class ResizeUpDownKeep(Step):
    """Resize by a random factor, up, down or not at all (KAIR's bsrgan_plus, with these defaults; Real-ESRGAN).

    Args:
        kinds: probabilities of `up`, `down` and `keep`.
        up_range: factors ≥ 1 of the sides when upsampling.
        down_range: factors ≤ 1 when downsampling; left out, [0.5 / s, 1] with s the scale still to go.
        relative_to: the size that the factor multiplies: the `current` one, or the final low-quality one (`lq`).
        modes: interpolations, all equally likely; one is drawn also for `keep`, where it matters only with `lq`.
        sampling: the step of `linear` and `cubic` is the ratio of the whole `sizes`, or 1 / `factor` (Real-ESRGAN's
            first resize; a factor of the current size only).
        clip: whether to cut what cubic interpolation throws beyond [0, 1].

    Sides are cut to whole pixels, and at least 1.
    """

    def __init__(
        self,
        kinds: Weights = {"up": 0.2, "down": 0.7, "keep": 0.1},  # noqa: B006 - never written to
        up_range: PositiveRange = RangeSchedule.fixed(1, 2),  # noqa: B008 - never written to
        down_range: PositiveRange | None = None,
        relative_to: Literal["current", "lq"] = "current",
        modes: tuple[Interpolation, ...] = MODES,
        sampling: Literal["sizes", "factor"] = "sizes",
        clip: bool = True,
    ) -> None:
        if unknown := set(kinds) - {"up", "down", "keep"}:
            raise ValueError(f"kinds: found {sorted(unknown)}, expected up, down, keep")
        if sampling == "factor" and relative_to == "lq":
            raise ValueError("sampling: `factor` is that of the current size, so it does not go with relative_to: lq")
        self.kinds, self.up_range, self.down_range = kinds, up_range, down_range
        self.relative_to, self.modes, self.sampling, self.clip = relative_to, modes, sampling, clip

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        rng = state.decisions or rng
        kind = str(rng.choice(list(self.kinds), p=list(self.kinds.values())))
        factor = 1.0
        if kind == "up":
            factor = float(rng.uniform(*self.up_range.at(state.iteration)))
        elif kind == "down":
            down = (0.5 / state.factor, 1) if self.down_range is None else self.down_range.at(state.iteration)
            factor = float(rng.uniform(*down))
        height, width = state.size if self.relative_to == "current" else state.lq_size
        state.size = (max(1, int(factor * height)), max(1, int(factor * width)))
        drawn: Drawn = {"kind": kind, "size": list(state.size), "mode": draw_mode(rng, self.modes)}
        exact = self.sampling == "factor" and factor * min(height, width) >= 1
        return {**drawn, "factor": factor} if exact else drawn

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return resize_drawn(images, drawn, self.clip)
