"""Noise of photon counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.steps import noise
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
            (`exact`: Real-ESRGAN).
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
        rounded = images.map(_round_to_8_bits)
        base = rounded if self.base == "rounded" else images
        counted = [
            _round_to_8_bits(gray(exact)) if d["gray"] else image
            for exact, image, d in zip(base.images(), rounded.images(), drawn, strict=True)
        ]
        peaks = [d["peak"] if "peak" in d else _levels_peak(image) for image, d in zip(counted, drawn, strict=True)]
        rates = [image * peak for image, peak in zip(counted, peaks, strict=True)]
        counts = noise.poisson_counts(rates, [d["seed"] for d in drawn])

        def noisy(image: Tensor, i: int) -> Tensor:
            return (image + (counts[i] / peaks[i] - counted[i]) * drawn[i]["strength"]).clamp_(0, 1)

        return base.per_image(noisy)


def _round_to_8_bits(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round_() / 255


def _levels_peak(image: Tensor) -> Tensor:
    """The least power of two that is not below the number of different 8-bit values in an image; a scalar tensor."""
    # Counted by marking, since unique and bincount make the host wait for the device.
    seen = torch.zeros(256, device=image.device)
    seen.index_fill_(0, (image * 255).round().long().flatten(), 1)
    powers = 2 ** torch.arange(9, device=image.device)
    return 2 ** (powers < seen.sum()).sum()
