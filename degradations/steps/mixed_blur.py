"""Real-ESRGAN's blurs: random kernels of seven kinds, and the low-pass that leaves ringing."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import numpy as np

from degradations import STEPS, Drawn, Ragged, Size, State, Step
from degradations.kernels.families import elliptic, gaussian_row, sinc, square
from degradations.operations.filters import convolve
from degradations.steps.blur import check_odd_range, draw_odd
from utils.options.fields import IntRange, PositiveRange, Prob, RangeSchedule, Weights

KINDS: Weights = {
    "isotropic": 0.45,
    "anisotropic": 0.25,
    "generalized_isotropic": 0.12,
    "generalized_anisotropic": 0.03,
    "plateau_isotropic": 0.12,
    "plateau_anisotropic": 0.03,
}


class _DrawnKernelBlur(Step):
    """A blur whose plan describes a kernel of odd size in `size_range`; borders mirrored without the edge pixel."""

    def __init__(self, size_range: IntRange) -> None:
        check_odd_range(size_range)
        self.size_range = size_range

    def draw_size(self, rng: np.random.Generator, state: State) -> int:
        """Refuses an image too small for any size of the range, so that small images fail always or never."""
        _check_border(state.size, (self.size_range[1] - 1) | 1)
        return draw_odd(rng, *self.size_range)

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        for size, values in zip(images.sizes, drawn, strict=True):
            _check_border(size, values["size"])
        return convolve(images, [_kernel(values) for values in drawn])

    def kernel(self, drawn: Drawn) -> np.ndarray:
        return square(_kernel(drawn))


@STEPS.register("mixed_blur")
class MixedBlur(_DrawnKernelBlur):
    """Blur by a random kernel: Gaussian, generalized Gaussian or plateau, isotropic or not, or a sinc low-pass
    (Real-ESRGAN, Sec. 3.1 and 3.3; the defaults are those of its first order).

    Args:
        kinds: probabilities of the kinds, given that it is no sinc.
        sinc_prob: how often it is a circular low-pass, with a cutoff in [π/3, π] below size 13, else in [π/5, π].
        size_range: the kernel's side, odd.
        sigma_range: widths along both axes in pixels; the direction is uniform.
        beta_gaussian_range: exponents β of the generalized Gaussians. One half of them lies below 1.
        beta_plateau_range: exponents of the plateaus, likewise: as released, one half has exactly β = 1.

    Not clipped. The image must be larger than the kernel's radius.
    """

    def __init__(
        self,
        kinds: Weights = KINDS,
        sinc_prob: Prob = 0.1,
        size_range: IntRange = (7, 21),
        sigma_range: PositiveRange = RangeSchedule.fixed(0.2, 3),  # noqa: B008 - never written to
        beta_gaussian_range: PositiveRange = RangeSchedule.fixed(0.5, 4),  # noqa: B008
        beta_plateau_range: PositiveRange = RangeSchedule.fixed(1, 2),  # noqa: B008
    ) -> None:
        super().__init__(size_range)
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"kinds: found {sorted(unknown)}, expected some of {', '.join(KINDS)}")
        self.beta_ranges = {"generalized": beta_gaussian_range, "plateau": beta_plateau_range}
        for schedule in self.beta_ranges.values():
            if any(low > 1 or high < 1 for _, (low, high) in schedule.points):
                raise ValueError(f"found the range {schedule} of an exponent β, expected one that contains 1")
        self.kinds, self.sinc_prob, self.sigma_range = kinds, sinc_prob, sigma_range

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        size = self.draw_size(rng, state)
        if rng.random() < self.sinc_prob:
            return {"kind": "sinc", "size": size, "cutoff": float(rng.uniform(pi / 3 if size < 13 else pi / 5, pi))}
        kind = str(rng.choice(list(self.kinds), p=list(self.kinds.values())))
        sigmas = self.sigma_range.at(state.iteration)
        drawn: Drawn = {"kind": kind, "size": size}
        if kind.endswith("anisotropic"):
            drawn["sigmas"] = [float(v) for v in rng.uniform(*sigmas, 2)]
            drawn["theta"] = float(rng.uniform(0, pi))
        else:
            drawn["sigma"] = float(rng.uniform(*sigmas))
        if (shape := kind.split("_")[0]) in self.beta_ranges:
            low, high = self.beta_ranges[shape].at(state.iteration)
            drawn["beta"] = float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))
        return drawn


@STEPS.register("sinc_blur")
class SincBlur(_DrawnKernelBlur):
    """A circular low-pass of random size and cutoff in [π/3, π], which rings and overshoots as sharpened and
    compressed images do (Real-ESRGAN, Sec. 3.3).

    `sinc_prob` is how often it happens: drawn for each sample, as released, also where `draws: batch` lets the entry's
    `prob` be drawn for the batch. Not clipped. The image must be larger than the kernel's radius.
    """

    def __init__(self, size_range: IntRange = (7, 21), sinc_prob: Prob = 0.8) -> None:
        super().__init__(size_range)
        self.sinc_prob = sinc_prob

    def sample(self, rng: np.random.Generator, state: State) -> Drawn | None:
        size = self.draw_size(rng, state)
        if rng.random() >= self.sinc_prob:
            return None
        return {"kind": "sinc", "size": size, "cutoff": float(rng.uniform(pi / 3, pi))}


def _kernel(drawn: Drawn) -> np.ndarray:
    """The kernel that was drawn: (k, k), or (k,) standing for its outer product."""
    if drawn["kind"] == "sinc":
        return sinc(drawn["size"], drawn["cutoff"])
    if drawn["kind"] == "isotropic":
        return gaussian_row(drawn["size"], drawn["sigma"])
    sigma_1, sigma_2 = drawn.get("sigmas") or (drawn["sigma"],) * 2
    profile = "plateau" if drawn["kind"].startswith("plateau") else "gaussian"
    return elliptic(
        drawn["size"], drawn.get("theta", 0.0), sigma_1**2, sigma_2**2, drawn.get("beta", 1.0), profile=profile
    )


def _check_border(size: Size, kernel: int) -> None:
    if min(size) <= kernel // 2:
        raise ValueError(
            f"a blur with kernels up to {kernel}x{kernel} was given an image of {size[0]}x{size[1]} pixels, which "
            f"cannot be mirrored by {kernel // 2}; use a larger crop_size (or image), a smaller size_range, or less "
            "shrinking before it"
        )
