"""Blur by random Gaussian kernels."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.kernels.families import anisotropic_gaussian, gaussian_row, square
from degradations.operations.filters import Border, convolve
from utils.options.fields import IntRange, NonNegativeRange, Prob


def draw_odd(rng: np.random.Generator, low: int, high: int) -> int:
    """A random odd number in [low, high]."""
    first = low | 1
    return first + 2 * int(rng.integers((high - first) // 2 + 1))


def check_odd_range(size_range: tuple[int, int]) -> None:
    """Raises ValueError for a range of kernel sizes without an odd one of at least 1."""
    if size_range[0] < 1 or (size_range[0] | 1) > size_range[1]:
        raise ValueError(f"size_range {list(size_range)} holds no odd kernel size of at least 1")


@STEPS.register("gaussian_blur")
class GaussianBlur(Step):
    """Isotropic or anisotropic Gaussian blur with a random odd kernel size (BSRGAN, Sec. 3.1).

    `sigma_range` is in pixels; `variance_range` holds the two variances of an anisotropic kernel in square pixels.
    Left out, they grow with the scale s that is still to come, as released: σ in [0, 2 + 0.2 s], variances in
    [0, 4 + s]. `size_range` is the kernel's side. Not clipped.
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
            low, high = (
                (0, 4 + state.factor) if self.variance_range is None else self.variance_range.at(state.iteration)
            )
            variances = [float(v) for v in rng.uniform(low, high, 2)]
            return {"size": size, "variances": variances, "theta": float(rng.uniform(0, pi))}
        low, high = (0, 2 + 0.2 * state.factor) if self.sigma_range is None else self.sigma_range.at(state.iteration)
        return {"size": size, "sigma": float(rng.uniform(low, high))}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return convolve(images, [gaussian_kernel(d) for d in drawn], self.border)

    def kernel(self, drawn: Drawn) -> np.ndarray:
        return square(gaussian_kernel(drawn))


def gaussian_kernel(drawn: Drawn) -> np.ndarray:
    """The kernel that `gaussian_blur` drew: (k, k), or (k,) standing for its outer product."""
    if "sigma" in drawn:
        return gaussian_row(drawn["size"], drawn["sigma"])
    return anisotropic_gaussian(drawn["size"], drawn["theta"], *drawn["variances"])
