"""Blur by isotropic and anisotropic Gaussians."""

from collections.abc import Sequence
from math import pi

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.kernels.families import anisotropic_gaussian, gaussian_row, square
from degradations.kernels.frame import check_odd_range, draw_odd
from degradations.operations.filters import Border, convolve
from utils.options.fields import IntRange, NonNegativeRange, Prob


@STEPS.register("gaussian_blur")
class GaussianBlur(Step):
    """Blur by an isotropic or anisotropic Gaussian with a random odd kernel size (BSRGAN, Sec. 3.1). Not clipped.

    Args:
        anisotropic_prob: how often the kernel is anisotropic, with a uniform direction.
        sigma_range: of an isotropic kernel, in pixels; left out, [0, 2 + 0.2 s] with the scale s still to come.
        variance_range: of both variances of an anisotropic kernel, in square pixels; left out, [0, 4 + s].
        size_range: of the kernel's side, odd.
        border: how the image goes on outside.
    """

    def __init__(
        self,
        anisotropic_prob: Prob = 0.5,
        sigma_range: NonNegativeRange | None = None,
        variance_range: NonNegativeRange | None = None,
        size_range: IntRange = (7, 25),
        border: Border = "mirror",
    ) -> None:
        check_odd_range(size_range)
        self.anisotropic_prob, self.size_range = anisotropic_prob, size_range
        self.border: Border = border
        self.sigma_range, self.variance_range = sigma_range, variance_range

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        size = draw_odd(rng, *self.size_range)
        if rng.random() < self.anisotropic_prob:
            within = (0, 4 + state.factor) if self.variance_range is None else self.variance_range.at(state.iteration)
            variances = [float(v) for v in rng.uniform(*within, 2)]
            return {"size": size, "variances": variances, "theta": float(rng.uniform(0, pi))}
        within = (0, 2 + 0.2 * state.factor) if self.sigma_range is None else self.sigma_range.at(state.iteration)
        return {"size": size, "sigma": float(rng.uniform(*within))}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return convolve(images, [gaussian_kernel(d) for d in drawn], self.border)

    def kernel(self, drawn: Drawn) -> np.ndarray:
        return square(gaussian_kernel(drawn))


def gaussian_kernel(drawn: Drawn) -> np.ndarray:
    """Return the kernel that `gaussian_blur` drew: (k, k), or (k,) standing for its outer product."""
    if "sigma" in drawn:
        return gaussian_row(drawn["size"], drawn["sigma"])
    return anisotropic_gaussian(drawn["size"], drawn["theta"], *drawn["variances"])
