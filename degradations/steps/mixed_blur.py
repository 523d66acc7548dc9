"""Blur by kernels of seven kinds."""

from collections.abc import Sequence
from math import pi

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.kernels.families import elliptic, gaussian_row, sinc, square
from degradations.kernels.frame import check_mirrors, check_odd_range, draw_mirrored_size
from degradations.operations.filters import convolve
from utils.options.fields import IntRange, PositiveRange, Prob, RangeSchedule, Weights

KINDS: Weights = {
    "isotropic": 0.45,
    "anisotropic": 0.25,
    "generalized_isotropic": 0.12,
    "generalized_anisotropic": 0.03,
    "plateau_isotropic": 0.12,
    "plateau_anisotropic": 0.03,
}


@STEPS.register("mixed_blur")
class MixedBlur(Step):
    """Blur by a random kernel: Gaussian, generalized Gaussian or plateau, isotropic or not, or a sinc low-pass
    (Real-ESRGAN, Sec. 3.1 and 3.3; the defaults are those of its first order).

    Args:
        kinds: probabilities of the kinds, given that it is no sinc.
        sinc_prob: how often it is a circular low-pass, with a cutoff in [π/3, π] below size 13, else in [π/5, π].
        size_range: the kernel's side, odd.
        sigma_range: widths along both axes in pixels; the direction is uniform.
        beta_gaussian_range: exponents β of the generalized Gaussians. One half of them lies below 1.
        beta_plateau_range: exponents of the plateaus, likewise: as released, one half has exactly β = 1.

    Not clipped. The image, mirrored without its edge pixel, must be larger than the kernel's radius.
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
        check_odd_range(size_range)
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"kinds: found {sorted(unknown)}, expected some of {', '.join(KINDS)}")
        self.beta_ranges = {"generalized": beta_gaussian_range, "plateau": beta_plateau_range}
        for schedule in self.beta_ranges.values():
            if any(low > 1 or high < 1 for _, (low, high) in schedule.points):
                raise ValueError(f"found the range {schedule} of an exponent β, expected one that contains 1")
        self.kinds, self.sinc_prob = kinds, sinc_prob
        self.size_range, self.sigma_range = size_range, sigma_range

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        size = draw_mirrored_size(rng, self.size_range, state.size)
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

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        for size, values in zip(images.sizes, drawn, strict=True):
            check_mirrors(size, values["size"])
        return convolve(images, [_kernel(values) for values in drawn])

    def kernel(self, drawn: Drawn) -> np.ndarray:
        return square(_kernel(drawn))


def _kernel(drawn: Drawn) -> np.ndarray:
    """Return the drawn kernel: (k, k), or (k,) standing for its outer product."""
    if drawn["kind"] == "sinc":
        return sinc(drawn["size"], drawn["cutoff"])
    if drawn["kind"] == "isotropic":
        return gaussian_row(drawn["size"], drawn["sigma"])
    sigma_1, sigma_2 = drawn.get("sigmas") or (drawn["sigma"],) * 2
    profile = "plateau" if drawn["kind"].startswith("plateau") else "gaussian"
    return elliptic(
        drawn["size"], drawn.get("theta", 0.0), sigma_1**2, sigma_2**2, drawn.get("beta", 1.0), profile=profile
    )
