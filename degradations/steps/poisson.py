"""Noise of photon counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.steps import noise
from degradations.steps.rounding import round_to_8_bits
from utils.colour import gray
from utils.fields import NonNegativeRange, Prob, Range, RangeSchedule
from utils.seeding import draw_seed


@STEPS.register("poisson_noise")
class PoissonNoise(Step):
    """Noise as of counted photons: of each channel on its own, or of the luma and added to all channels.

    The image is rounded to 8 bits, multiplied by a peak (the photons at white), and counted; counts / peak - image is
    the noise. It is multiplied by a strength, added and clipped.

    Args:
        peak: `drawn` as 10^u with u from `log_peak_range` (KAIR's bsrgan_plus: 100 to 10000 photons), or `levels`:
            the power of two at or above the number of different values in the image (Real-ESRGAN).
        log_peak_range: decimal logarithm of the photons at white.
        strength_range: factor on the noise; 1 is physical.
        gray_prob: how often the noise is that of the luma.
        base: what luma is taken of and the noise is added to: the image `rounded` to 8 bits (KAIR), or as it was
            (`exact`: Real-ESRGAN, whose luma has torchvision's weights).
    """

    def __init__(
        self,
        peak: Literal["drawn", "levels"] = "drawn",
        log_peak_range: Range = RangeSchedule.fixed(2, 4),  # noqa: B008 - never written to
        strength_range: NonNegativeRange = RangeSchedule.fixed(1, 1),  # noqa: B008 - never written to
        gray_prob: Prob = 0.5,
        base: Literal["rounded", "exact"] = "rounded",
    ) -> None:
        self.peak, self.log_peak_range, self.strength_range = peak, log_peak_range, strength_range
        self.gray_prob, self.base = gray_prob, base

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        logarithm, strength = (
            float(rng.uniform(*r.at(state.iteration))) for r in (self.log_peak_range, self.strength_range)
        )
        drawn: Drawn = {"gray": bool(rng.random() < self.gray_prob), "strength": strength, "seed": draw_seed(rng)}
        return {**drawn, "peak": 10**logarithm} if self.peak == "drawn" else drawn

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        rounded = round_to_8_bits(images)
        base, luma = (rounded, gray) if self.base == "rounded" else (images, _torchvision_gray)
        lumas = round_to_8_bits(Ragged(luma(base.data), base.sizes)) if any(d["gray"] for d in drawn) else rounded
        counted = [
            light if d["gray"] else image
            for light, image, d in zip(lumas.images(), rounded.images(), drawn, strict=True)
        ]
        peaks = [d["peak"] if "peak" in d else _levels_peak(image) for image, d in zip(counted, drawn, strict=True)]
        rates = [image * peak for image, peak in zip(counted, peaks, strict=True)]
        counts = noise.poisson_counts(rates, [d["seed"] for d in drawn])

        def noisy(image: Tensor, i: int) -> Tensor:
            return (image + (counts[i] / peaks[i] - counted[i]) * drawn[i]["strength"]).clamp_(0, 1)

        return base.per_image(noisy)


def _torchvision_gray(images: Tensor) -> Tensor:
    """The luma (B, 1, H, W) of torchvision's `rgb_to_grayscale`, whose red weight has four digits."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _levels_peak(image: Tensor) -> Tensor:
    """The least power of two that is not below the number of different 8-bit values in an image; a scalar tensor."""
    # Counted by marking, since unique and bincount make the host wait for the device.
    seen = torch.zeros(256, device=image.device)
    seen.index_fill_(0, (image * 255).round().long().flatten(), 1)
    powers = 2 ** torch.arange(9, device=image.device)
    return 2 ** (powers < seen.sum()).sum()
