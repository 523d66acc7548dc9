"""Sharpening by an unsharp mask."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.kernels.families import gaussian_row
from degradations.operations.bands import map_axes
from degradations.operations.filters import convolve, row_bands
from utils.options.fields import NonNegative, PositiveInt


def usm(images: Ragged, weight: float = 0.5, radius: int = 50, threshold: float = 10) -> Ragged:
    """Sharpen by an unsharp mask: add what a Gaussian blur takes away, softly limited to where that is much.

    Args:
        images: in [0, 1], where the result stays. Borders are mirrored.
        weight: factor on what is added.
        radius: the blur's support in pixels, made odd; its σ is 0.3 ((radius - 1) / 2 - 1) + 0.8 (OpenCV's rule: 8
            for 51).
        threshold: a mask is 1 where the difference exceeds this, in 8-bit units; the mask is blurred alike.

    Source: KAIR's and Real-ESRGAN's released code.
    """
    side = radius + (1 - radius % 2)
    # A row is applied separably: for 51 taps that is 25 times less work than the square that the sources use.
    row = gaussian_row(side, 0.3 * ((side - 1) / 2 - 1) + 0.8)
    limit = threshold / 255
    if not images.one_by_one:
        rows = [row] * len(images.sizes)
        return images.map(
            lambda data: _sharpen(data, lambda part: convolve(Ragged(part, images.sizes), rows).data, weight, limit)
        )
    return images.per_image(lambda image, _: _sharpen_one(image, row, weight, limit))


def _sharpen_one(image: Tensor, row: np.ndarray, weight: float, limit: float) -> Tensor:
    """Sharpen (C, H, W) plane by plane, so that what is between stays in the cache of a CPU."""
    axes, result = row_bands(row, (image.shape[1], image.shape[2])), torch.empty_like(image)
    for plane, made in zip(image.split(1), result.split(1), strict=True):
        _sharpen(plane, lambda part: map_axes(part, *axes), weight, limit, out=made)
    return result


def _sharpen(
    data: Tensor, blur: Callable[[Tensor], Tensor], weight: float, limit: float, out: Tensor | None = None
) -> Tensor:
    blurred = blur(data)
    residual = torch.sub(data, blurred, out=blurred)
    soft = blur(residual.abs().gt_(limit))  # numbers at once: to make them of bools is slow
    # soft · sharp + (1 - soft) · data, with one product less
    gain = torch.add(data, residual, alpha=weight, out=residual).clamp_(0, 1).sub_(data)
    return torch.addcmul(data, gain, soft, out=out)


@STEPS.register("sharpen")
class Sharpen(Step):
    """Sharpen by an unsharp mask, see `usm` (KAIR, Real-ESRGAN). Nothing random; [0, 1] stays [0, 1].

    Args:
        weight: factor on what is added.
        radius: support of the blur in pixels, made odd.
        threshold: the difference, in 8-bit units, from which on a pixel is sharpened.
    """

    def __init__(self, weight: NonNegative = 0.5, radius: PositiveInt = 50, threshold: NonNegative = 10) -> None:
        self.weight, self.radius, self.threshold = weight, radius, threshold

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        return {}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return usm(images, self.weight, self.radius, self.threshold)
