"""Where KernelGAN takes its crops: where there is detail (Bell-Kligler et al., NeurIPS 2019, Sec. 4).

Images are arrays (H, W, 3) in [0, 1], maps are arrays (H, W) in pixels of the image.
"""

import numpy as np
import torch
from scipy.ndimage import uniform_filter

from utils.images.resize import imresize

FLAT_BORDER = 5
"""Gradients this near to the border count as none."""


def centre_probabilities(image: np.ndarray, for_generator: bool, size: int) -> np.ndarray:
    """Return the probability (H, W), float64, of each pixel of an image with even sides to be the centre of a crop.

    Detail within a box of half the crop's side, none for the border of a crop's half; uniform where nothing is left.
    Crops of the generator (`size` pixels) are chosen by the detail that is left after halving the image.
    """
    if for_generator:
        half = imresize(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float64)), 0.5).numpy()
        detail = _detail(half.transpose(1, 2, 0)).repeat(2, axis=0).repeat(2, axis=1)
    else:
        detail = _detail(image)
    half_size = size // 2
    kept = (slice(half_size, -half_size),) * 2
    inner = np.zeros(detail.shape)
    inner[kept] = np.maximum(uniform_filter(detail, half_size, mode="constant")[kept], 0)  # its running sums round
    return inner / inner.sum() if inner.sum() > 0 else np.full(inner.shape, 1 / inner.size)


def _detail(image: np.ndarray) -> np.ndarray:
    """Map detail, with mean 1: the 3 % strongest gradients along each axis, plus the gradients' magnitude.

    Quirk: the magnitude goes in as it is; the released code clips it as well, and does not use the result.
    """
    down, across = np.gradient(image @ np.array([0.299, 0.587, 0.114]))
    maps = [np.abs(down), np.abs(across), np.hypot(down, across)]
    inner = np.zeros(down.shape)
    inner[FLAT_BORDER:-FLAT_BORDER, FLAT_BORDER:-FLAT_BORDER] = 1
    down, across, magnitude = (m * inner for m in maps)
    total = sum(m / m.sum() if m.sum() > 0 else m for m in (_strongest(down), _strongest(across), magnitude))
    smooth = uniform_filter(total, 5, mode="constant")
    return smooth / smooth.mean() if smooth.mean() > 0 else smooth


def _strongest(gradient: np.ndarray) -> np.ndarray:
    """Return nearly a mask of the largest 3 %: values between those of two neighbouring ranks, from 0."""
    ranked = np.sort(gradient, axis=None)
    pivot = int(0.97 * ranked.size)
    low, high = ranked[pivot], ranked[pivot + 1]
    return np.clip(gradient, low, high if high > low else low + 1e-5) - low


def corners(centres: np.ndarray, shape: tuple[int, int], size: int) -> np.ndarray:
    """Return even top-left corners (n, 2) of crops around pixels, given by number in a flattened map of `shape`."""
    middle = np.stack(np.unravel_index(centres, shape), axis=-1) - size // 2
    inside = np.minimum(np.maximum(middle, 0), np.array(shape) - size)
    return inside - inside % 2
