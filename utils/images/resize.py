"""MATLAB's bicubic `imresize`, which made the low-quality images of nearly every published benchmark."""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Border = Literal["symmetric", "replicate"]


def imresize(
    x: Tensor,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    antialias: bool = True,
    border: Border = "symmetric",
) -> Tensor:
    """Resize images as MATLAB's `imresize(x, scale, 'bicubic')`, differentiably.

    Args:
        x: images (..., H, W) of any floating dtype, on any device, in any range; H and W from 1 up.
        scale: factor for both sides; the result has ceil(H·scale) × ceil(W·scale) pixels.
        size: (height, width) of the result instead; then each side has its own factor.
        antialias: widen the cubic (a = -0.5) by 1/scale when shrinking, as MATLAB does by default.
        border: mirrored with the edge pixel repeated, as MATLAB does, or the edge pixel alone (DASR's released code).

    Returns:
        (..., h, w) in the dtype of `x`. Not clipped: the cubic overshoots at edges.

    Raises:
        ValueError: when not exactly one of `scale` and `size` is given, one is not positive, or `x` holds integers.

    Source: the documented behaviour of MATLAB's imresize (cubic convolution of Keys 1981, symmetric border with
    the edge pixel repeated), as KAIR and BasicSR imitate it.
    """
    if not x.is_floating_point():
        raise ValueError(f"found {x.dtype} pixels, expected floating point; divide by 255 first")
    if (scale is None) == (size is None):
        raise ValueError(f"expected either a scale or a size, found scale={scale} and size={size}")
    height, width = x.shape[-2:]
    if size is not None:
        if min(size) < 1:
            raise ValueError(f"found size {size}, expected at least 1x1")
        out_height, out_width = size
        factors = (out_height / height, out_width / width)
    else:
        assert scale is not None
        if not scale > 0:
            raise ValueError(f"found scale {scale}, expected a positive number")
        out_height, out_width = math.ceil(height * scale), math.ceil(width * scale)
        factors = (float(scale), float(scale))
    # Half precision would round the weights to three digits, and so may GPUs that are told to multiply float32 as TF32.
    work = torch.float64 if x.is_cuda else torch.promote_types(x.dtype, torch.float32)
    rows = _weights(height, out_height, factors[0], antialias, border, work, x.device)
    columns = _weights(width, out_width, factors[1], antialias, border, work, x.device)
    return (rows @ x.to(work) @ columns.T).to(x.dtype)


@lru_cache(maxsize=64)
def _weights(
    length: int,
    out_length: int,
    scale: float,
    antialias: bool,
    border: Border,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return `weight_matrix` as a constant tensor."""
    # A tensor born under inference mode could never take part in training afterwards, and this one is kept.
    with torch.inference_mode(False):
        matrix = weight_matrix(length, out_length, scale, antialias, border)
        return torch.as_tensor(matrix, dtype=dtype, device=device)


def weight_matrix(
    length: int, out_length: int, scale: float, antialias: bool = True, border: Border = "symmetric"
) -> np.ndarray:
    """Return the matrix (out_length, length), float64, rows summing to 1, that resizes one axis."""
    shrink = scale if antialias and scale < 1 else 1.0
    support = 4 / shrink
    taps = math.ceil(support) + 2
    # Pixel centres: MATLAB's 1-based u = x/scale + 0.5(1 - 1/scale), counted from 0.
    centre = (np.arange(out_length) + 0.5) / scale - 0.5
    left = np.floor(centre - support / 2)
    index = left[:, None] + np.arange(taps)
    weight = _cubic(shrink * (centre[:, None] - index))
    weight /= weight.sum(axis=1, keepdims=True)
    if border == "replicate":
        folded = np.clip(index.astype(np.int64), 0, length - 1)
    else:  # of any depth: the axis repeats with period 2·length, forwards and then backwards
        folded = index.astype(np.int64) % (2 * length)
        folded = np.where(folded < length, folded, 2 * length - 1 - folded)
    matrix = np.zeros((out_length, length))
    np.add.at(matrix, (np.arange(out_length)[:, None], folded), weight)
    return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return Keys' cubic convolution kernel with a = -0.5, support (-2, 2)."""
    d = np.abs(x)
    near = (1.5 * d - 2.5) * d**2 + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
