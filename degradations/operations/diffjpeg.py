"""JPEG as Real-ESRGAN computes it: in floating point, with a real-valued quality, and differentiable if wanted.

It is not libjpeg's coding: neither the quantisation tables nor pixels are rounded, chroma is averaged and repeated,
and borders are filled with black. After Shin and Song, "JPEG-resistant adversarial images" (NIPS workshop 2017); tables
from ITU-T T.81 annex K.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from degradations.operations.ragged import Ragged, largest, on_device

LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA = np.pad(
    np.array([[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]), (0, 4), constant_values=99
)

_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
_FINEST = 1e-3
"""The least factor on the tables, reached at quality 99.95: at 100 the released code divides by 0, and gives NaN."""


def diffjpeg_ragged(images: Ragged, quality: Sequence[float]) -> Ragged:
    """Do as `diffjpeg` for images of any sizes, each at its own quality, clipped to [0, 1] first."""
    height, width = largest(images.sizes)
    data = images.data[..., :height, :width].clamp(0, 1)
    if len(set(images.sizes)) > 1:  # each image's border is black, whatever stands beyond it
        data = data.where(Ragged(data, images.sizes).inside(), 0)
    return Ragged(diffjpeg(data, quality), images.sizes)


def diffjpeg(images: Tensor, quality: Sequence[float] | Tensor | float, differentiable: bool = False) -> Tensor:
    """Compress and decompress.

    Args:
        images: RGB (B, 3, H, W) in [0, 1].
        quality: one for all images, or one per image, in (0, 100]; not only whole numbers.
        differentiable: round x to round(x) + (x - round(x))³, whose gradient is not zero.

    Returns:
        (B, 3, H, W) in [0, 1], not rounded to 8 bits.

    Quirk: the luma table is transposed, so that horizontal frequencies are coded as the standard codes vertical ones,
    as released.
    """
    batch, channels, height, width = images.shape
    qualities = torch.as_tensor(quality, dtype=torch.float32).reshape(-1)
    if channels != 3 or len(qualities) not in (1, batch) or not ((qualities > 0) & (qualities <= 100)).all():
        raise ValueError(
            f"found images {tuple(images.shape)} and qualities {qualities.tolist()}, expected RGB images (B, 3, H, W) "
            "and a quality in (0, 100] for all or for each"
        )
    factors = torch.where(qualities < 50, 5000 / qualities, 200 - 2 * qualities) / 100
    factors = on_device(factors.clamp(min=_FINEST), images.device)[:, None, None]
    padded = F.pad(images.float() * 255, (0, -width % 16, 0, -height % 16))
    ycc = _mix(padded, _TO_YCC)
    # Means of 2x2 pixels, repeated again below: chroma at half the size.
    luma = _coded(ycc[:, :1], on_device(LUMA.T, images.device) * factors, 128, differentiable)
    chroma = F.avg_pool2d(ycc[:, 1:], 2)
    chroma = _coded(chroma, on_device(CHROMA, images.device) * factors, 0, differentiable)
    chroma = chroma.repeat_interleave(2, -1).repeat_interleave(2, -2)
    rgb = _mix(torch.cat([luma, chroma], 1), _TO_RGB)[..., :height, :width]
    return (rgb.clamp(0, 255) / 255).to(images.dtype)


def _mix(planes: Tensor, weights: tuple[tuple[float, ...], ...]) -> Tensor:
    """Map the three channels linearly, summed in float32 on any device."""
    first, second, third = planes.unbind(1)
    return torch.stack([first * a + second * b + third * c for a, b, c in weights], 1)


def _coded(planes: Tensor, tables: Tensor, centre: float, differentiable: bool) -> Tensor:
    """Return what the quantised cosine transform leaves of planes (B, C, H, W); tables (B or 1, 8, 8) of steps."""
    coefficients = quantised(planes - centre, tables, differentiable)
    batch, channels, height, width = planes.shape
    steps = tables.reshape(-1, 1, 64, 1).float()
    blocks = _basis(planes.device).T @ (coefficients * steps)
    blocks = blocks.view(batch, channels, 8, 8, height // 8, width // 8)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(planes.shape) + centre


def quantised(planes: Tensor, tables: Tensor, differentiable: bool = False) -> Tensor:
    """Return quantised coefficients (B, C, 64 frequencies, blocks) of planes (B, C, H, W) around 0."""
    batch, channels, height, width = planes.shape
    blocks = planes.view(batch, channels, height // 8, 8, width // 8, 8).permute(0, 1, 3, 5, 2, 4)
    basis = _basis(planes.device)
    x = basis @ blocks.reshape(batch, channels, 64, -1).to(basis.dtype) / tables.reshape(-1, 1, 64, 1).float()
    nearest = x.round()
    return nearest.detach() + (x - nearest.detach()) ** 3 if differentiable else nearest


@lru_cache(maxsize=8)
def _basis(device: torch.device) -> Tensor:
    """Return the orthonormal two-dimensional cosine transform (64 frequencies, 64 pixels).

    In float64 on GPUs, which may be told to multiply float32 numbers with ten bits of mantissa.
    """
    n = np.arange(8)
    rows = np.cos((2 * n[None] + 1) * n[:, None] * np.pi / 16) / 2
    rows[0] /= np.sqrt(2)
    with torch.inference_mode(False):  # kept, so it must be able to take part in training
        return torch.from_numpy(np.kron(rows, rows)).to(
            device, torch.float64 if device.type == "cuda" else torch.float32
        )
