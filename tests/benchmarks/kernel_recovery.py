"""How well known kernels are found again: KernelGAN as released and as it is here, beside Gaussians without direction.

    python -m tests.benchmarks.kernel_recovery PHOTOS [--iterations 3000] [--out recovery.json] [--skip released]

Six photos of the folder, of at least 320x480 pixels and spread over its names, are blurred by two kernels and halved.
Figures compare an estimate for x2 with the truth in a common frame, both with their centres of mass at one place: PSNR
by the largest value of the truth, and Pearson correlation. `isotropic` is the isotropic Gaussian of the lowest
loss among those by which the default estimates a kernel; nothing of the truth goes into it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import correlate

from degradations.kernel_shape import moved_to_centre
from degradations.kernels import elliptic
from models.kernelgan import KernelGAN, estimate_kernels
from utils.image import read_image
from utils.logging import Console, table

TRUE_KERNELS = ((2.2, 1.0, 0.6), (2.8, 1.2, 2.2))
"""Sigma along and across, and angle."""


def true_kernel(along: float, across: float, theta: float) -> np.ndarray:
    """(13, 13), half a pixel to the lower right of the middle pixel, where halving by it leaves an image centred."""
    return elliptic(13, theta, along**2, across**2, shift=-0.5)


def photos_of(folder: Path, count: int) -> list[np.ndarray]:
    """The 320x480 or 480x320 upper left pixels of photos spread evenly over the names of a folder, uint8 RGB."""
    images = [read_image(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in (".png", ".jpg")]
    large = [image for image in images if min(image.shape[:2]) >= 320 and max(image.shape[:2]) >= 480]
    wide = [image.shape[1] >= image.shape[0] for image in large]
    cropped = [im[:320, :480] if is_wide else im[:480, :320] for im, is_wide in zip(large, wide, strict=True)]
    return cropped[:: len(cropped) // count][:count]


def halved(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A photo (H, W, 3) uint8 blurred by a kernel, mirrored at its border, every second pixel kept, rounded."""
    blurred = np.stack([correlate(channel.astype(float), kernel)[::2, ::2] for channel in np.moveaxis(image, 2, 0)], 2)
    return np.uint8(blurred.round().clip(0, 255))


def agreement(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """(PSNR in dB, Pearson correlation) of kernels that are both centred for x2, each in an odd frame of its own."""
    size = max(len(found), len(true))
    a, b = (np.pad(kernel, (size - len(kernel)) // 2) for kernel in (found, true))
    psnr = 10 * np.log10(b.max() ** 2 / ((a - b) ** 2).mean())
    return float(psnr), float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
