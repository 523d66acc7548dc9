"""Sharpening by an unsharp mask."""

from collections.abc import Sequence

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
    if images.one_by_one:
        return images.per_image(lambda image, _: _sharpen_one(image, row, weight, limit))
    rows, data = [row] * len(images.sizes), images.data
    residual = data - convolve(images, rows).data
    mask = residual.abs().gt_(limit)  # numbers at once: to make them of bools is slow
    soft = convolve(Ragged(mask, images.sizes), rows).data
    return Ragged(_mixed(data, residual, soft, weight), images.sizes)


def _sharpen_one(image: Tensor, row: np.ndarray, weight: float, limit: float) -> Tensor:
    """Sharpen (C, H, W) plane by plane, in memory that is used again and again and so stays in the cache of a CPU."""
    axes, result = row_bands(row, (image.shape[1], image.shape[2])), torch.empty_like(image)
    residual, mask = image.new_empty(2, 1, *image.shape[1:])
    for plane, soft in zip(image.split(1), result.split(1), strict=True):
        torch.sub(plane, map_axes(plane, *axes, out=residual), out=residual)
        torch.abs(residual, out=mask).gt_(limit)
        _mixed(plane, residual, map_axes(mask, *axes, out=soft), weight)
    return result


def _mixed(data: Tensor, residual: Tensor, soft: Tensor, weight: float) -> Tensor:
    """Return soft · sharp + (1 - soft) · data, in the place of `soft`; `residual` is overwritten."""
    gain = torch.add(data, residual, alpha=weight, out=residual).clamp_(0, 1).sub_(data)
    return torch.addcmul(data, gain, soft, out=soft)


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
