"""Noise of photon counts."""

from collections.abc import Sequence
from math import log10
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.operations import noise
from degradations.operations.ragged import column
from utils.images.colour import gray
from utils.options.fields import NonNegativeRange, Prob, Range, RangeSchedule
from utils.seeding import draw_seed


@STEPS.register("poisson_noise")
class PoissonNoise(Step):
    """Add noise as of counted photons: of each channel on its own, or of the luma and added to all channels.

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

    def ranged(self, drawn: Drawn) -> dict[str, list[float]]:
        peak = {"log_peak_range": [log10(drawn["peak"])]} if "peak" in drawn else {}
        return {"strength_range": [drawn["strength"]], **peak}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        grays, device = [d["gray"] for d in drawn], images.data.device
        base = images.round() if self.base == "rounded" else images
        counted = self._counted(images, base, grays)
        drawn_peaks = self.peak == "drawn"
        peaks = column([d["peak"] for d in drawn], device) if drawn_peaks else _levels_peaks(counted)
        most = max(d["peak"] for d in drawn) if drawn_peaks else 256
        planes = [1 if is_gray else counted.data.shape[1] for is_gray in grays]
        counts = noise.poisson_counts(counted, peaks, [d["seed"] for d in drawn], planes, most)
        strengths = column([d["strength"] for d in drawn], device)
        counts, expected = (noise.one_plane(part, grays) for part in (counts, counted.data.float()))
        # base + (counts / peaks - expected / 255) · strengths
        noisy = torch.addcmul(base.data, counts, strengths / peaks).addcmul_(expected, strengths / -255)
        return Ragged(noisy.clamp_(0, 1), base.sizes)

    def _counted(self, images: Ragged, base: Ragged, grays: Sequence[bool]) -> Ragged:
        """Return the levels that are counted: an image's, or those of its luma."""
        if not any(grays):
            return images.levels()
        lumas = base.map(gray if self.base == "rounded" else _torchvision_gray).levels()
        if all(grays):
            return lumas
        chosen = column(grays, images.data.device, torch.bool)
        return Ragged(torch.where(chosen, lumas.data, images.levels().data), images.sizes)


def _torchvision_gray(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of torchvision's `rgb_to_grayscale`, whose red weight has four digits."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _levels_peaks(levels: Ragged) -> Tensor:
    """Return the least powers of two (B, 1, 1, 1) not below the numbers of different 8-bit levels in the images."""
    if levels.one_by_one:
        planes = [image.flatten(0, 1).numpy() for image in levels.images()]
        counts = np.stack([cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel() for plane in planes])
        seen = torch.from_numpy(counts).sign()
    else:
        # Counted by marking, since unique and bincount make the host wait for the device.
        marks = levels.data.long()
        if len(set(levels.sizes)) > 1:
            marks = marks.where(levels.inside(), 256)
        seen = torch.zeros(len(marks), 257, device=marks.device).scatter_(1, marks.flatten(1), 1)[:, :256]
    powers = 2 ** torch.arange(9, device=levels.data.device)
    return 2.0 ** (powers < seen.sum(1, keepdim=True)).sum(1)[:, None, None, None]
