"""Luma and chroma: the studio-range BT.601 of MATLAB (`rgb2ycbcr`), in which papers report, and the gray of cameras.

Arrays are (…, 3) RGB. uint8 arrays are in levels and come back as rounded uint8; floating arrays are in [0, 1] and
come back in the same dtype on the same scale (Y within 16/255…235/255), not rounded and, but for `ycbcr2rgb`, not
clipped. Every function raises ValueError for other dtypes and shapes.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

# Levels per unit of R, G, B; the columns of MATLAB's matrix as KAIR and BasicSR write them.
_Y = (65.481, 128.553, 24.966)
_CB = (-37.797, -74.203, 112.0)
_CR = (112.0, -93.786, -18.214)
_OFFSETS = (16.0, 128.0, 128.0)
_TO_RGB = ((0.00456621, 0.0, 0.00625893), (0.00456621, -0.00153632, -0.00318811), (0.00456621, 0.00791071, 0.0))
_RGB_OFFSETS = (-222.921, 135.576, -276.836)


def rgb2y(image: np.ndarray) -> np.ndarray:
    """Studio luma (…) of an RGB image (…, 3)."""
    return _finish(_levels(image) / 255 @ np.array(_Y) + _OFFSETS[0], image.dtype)


def rgb2ycbcr(image: np.ndarray) -> np.ndarray:
    """Studio YCbCr (…, 3) of an RGB image (…, 3)."""
    return _finish(_levels(image) / 255 @ np.array([_Y, _CB, _CR]).T + np.array(_OFFSETS), image.dtype)


def ycbcr2rgb(image: np.ndarray) -> np.ndarray:
    """The RGB image (…, 3), clipped, of studio YCbCr (…, 3)."""
    levels = _levels(image) @ np.array(_TO_RGB).T * 255 + np.array(_RGB_OFFSETS)
    return _finish(levels.clip(0, 255), image.dtype)


def gray(images: Tensor) -> Tensor:
    """Full-range BT.601 luma (…, 1, H, W) of RGB (…, 3, H, W): 0.299 R + 0.587 G + 0.114 B. Gray stays as it is."""
    if images.shape[-3] == 1:
        return images
    if images.shape[-3] != 3:
        raise ValueError(f"found {images.shape[-3]} channels, expected RGB or gray")
    red, green, blue = images.split(1, dim=-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _levels(image: np.ndarray) -> np.ndarray:
    """float64 on the 0…255 scale."""
    if image.ndim < 1 or image.shape[-1] != 3:
        raise ValueError(f"found an array of shape {image.shape}, expected three channels last")
    if image.dtype == np.uint8:
        return image.astype(np.float64)
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"found {image.dtype} pixels, expected uint8 or floating point in [0, 1]")
    return image.astype(np.float64) * 255


def _finish(levels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return levels.round().clip(0, 255).astype(np.uint8) if dtype == np.uint8 else (levels / 255).astype(dtype)
