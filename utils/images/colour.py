"""Luma and chroma: the studio-range BT.601 of MATLAB (`rgb2ycbcr`), in which papers report, and the gray of cameras.

Arrays are (…, 3) RGB. uint8 arrays are in levels and come back as rounded uint8; floating arrays are in [0, 1] and
come back in the same dtype on the same scale (Y within 16/255…235/255), not rounded and, but for `ycbcr2rgb`, not
clipped. Every function raises ValueError for other dtypes and shapes.
"""

from functools import lru_cache

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
    """Return studio luma (…) of an RGB image (…, 3)."""
    return _finish(_levels(image) / 255 @ np.array(_Y) + _OFFSETS[0], image.dtype)


def rgb2ycbcr(image: np.ndarray) -> np.ndarray:
    """Return studio YCbCr (…, 3) of an RGB image (…, 3)."""
    return _finish(_levels(image) / 255 @ np.array([_Y, _CB, _CR]).T + np.array(_OFFSETS), image.dtype)


def ycbcr2rgb(image: np.ndarray) -> np.ndarray:
    """Return the RGB image (…, 3), clipped, of studio YCbCr (…, 3)."""
    levels = _levels(image) @ np.array(_TO_RGB).T * 255 + np.array(_RGB_OFFSETS)
    return _finish(levels.clip(0, 255), image.dtype)


def gray(images: Tensor) -> Tensor:
    """Return full-range BT.601 luma (…, 1, H, W) of RGB (…, 3, H, W): 0.299 R + 0.587 G + 0.114 B. Gray stays."""
    if images.shape[-3] == 1:
        return images
    if images.shape[-3] != 3:
        raise ValueError(f"found {images.shape[-3]} channels, expected RGB or gray")
    red, green, blue = images.split(1, dim=-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _levels(image: np.ndarray) -> np.ndarray:
    """Return float64 on the 0…255 scale."""
    if image.ndim < 1 or image.shape[-1] != 3:
        raise ValueError(f"found an array of shape {image.shape}, expected three channels last")
    if image.dtype == np.uint8:
        return image.astype(np.float64)
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"found {image.dtype} pixels, expected uint8 or floating point in [0, 1]")
    return image.astype(np.float64) * 255


def _finish(levels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return levels.round().clip(0, 255).astype(np.uint8) if dtype == np.uint8 else (levels / 255).astype(dtype)


# --- profiles ------------------------------------------------------------------------------------------------------

# Primaries of ITU-T H.273, x and y of red, green and blue; their white is D65.
_PRIMARIES = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    5: (0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_D65 = (0.3127, 0.3290, 1.0)
_LIKE_SRGB, _GAMMAS = (1, 2, 6, 13, 14, 15), {4: 2.2, 5: 2.8, 8: 1.0}  # transfers; video's are shown as sRGB's
_NEAR = 2  # 8-bit levels by which profiles that are called sRGB differ from one another


def to_srgb(image: np.ndarray, profile: bytes) -> np.ndarray:
    """Convert an image (H, W, 3), uint8 or uint16, from the colours of an ICC profile to sRGB (relative colorimetric).

    One that means sRGB already, or that is for another number of channels than RGB or gray, changes nothing. Raises
    RuntimeError for a profile that cannot be used.
    """
    return image if profile[16:20] not in _SPACES or is_srgb(profile) else _converted(image, profile)


_SPACES = {b"RGB ": "rgb", b"GRAY": "minisblack"}


@lru_cache(maxsize=64)
def is_srgb(profile: bytes) -> bool:
    """Return whether a profile of RGB or gray means the colours of sRGB, to rounding. Raises RuntimeError as above."""
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    if profile[16:20] == b"GRAY":
        grid = np.repeat(levels[None, :, None], 3, 2)
    return int(np.abs(_converted(grid, profile).astype(int) - grid).max()) <= _NEAR


def _converted(image: np.ndarray, profile: bytes) -> np.ndarray:
    from imagecodecs import cms_profile, cms_transform  # Little CMS, which Pillow offers for 8 bits only

    space = _SPACES[profile[16:20]]
    source = np.ascontiguousarray(image if space == "rgb" else image[..., 0])
    return cms_transform(source, profile, cms_profile("srgb"), colorspace=space, outcolorspace="rgb", intent=1)


@lru_cache(maxsize=16)
def cicp_profile(code: bytes) -> bytes:
    """Return an ICC profile of RGB colours that are coded as in PNG's cICP (ITU-T H.273); empty where that is sRGB.

    Raises ValueError for what none describes: transfer functions of HDR, other primaries, values of narrow range.
    """
    from imagecodecs import cms_profile

    primaries, transfer = (1 if code[0] == 2 else code[0]), code[1]
    if primaries not in _PRIMARIES or transfer not in (*_LIKE_SRGB, *_GAMMAS) or code[3] == 0:
        narrow = ", narrow range" * (code[3] == 0)
        raise ValueError(f"its colours (primaries {primaries}, transfer {transfer} of H.273{narrow}) are not converted")
    if primaries == 1 and transfer in _LIKE_SRGB:
        return b""
    x_and_y = np.reshape(_PRIMARIES[primaries], (3, 2))
    encoded = np.linspace(0, 1, 4096)
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = encoded ** _GAMMAS[transfer] if transfer in _GAMMAS else linear
    curve = np.rint(65535 * linear).astype(np.uint16)
    chromaticities = tuple(np.column_stack([x_and_y, np.ones(3)]).ravel().tolist())
    return cms_profile("rgb", whitepoint=_D65, primaries=chromaticities, transferfunction=(curve, curve, curve))
