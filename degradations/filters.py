"""Filtering and resampling of ragged batches.

Each operation stands twice. On the CPU OpenCV or PyTorch does it, image by image: nothing is faster there, and for
resizes it is the published definition itself. On a device the same operation is a few large batched ones. Tests hold
the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from degradations.kernels import square
from degradations.ragged import Ragged, Size

Border = Literal["mirror", "replicate", "wrap"]
Interpolation = Literal["linear", "cubic", "area", "pool"]

_CV2_BORDER = {"mirror": cv2.BORDER_REFLECT_101, "replicate": cv2.BORDER_REPLICATE, "wrap": cv2.BORDER_WRAP}
_CV2_INTERPOLATION = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
_TORCH_INTERPOLATION = {"linear": "bilinear", "cubic": "bicubic"}


def convolve(images: Ragged, kernels: Sequence[np.ndarray], border: Border = "mirror") -> Ragged:
    """Convolves each image with its own kernel (odd size; the kernel is flipped, as in scipy.ndimage.convolve).

    A kernel may be given as a row (k,): its outer product with itself is meant, and applied separably. `mirror` does
    not repeat the edge pixel. Not clipped.
    """
    if images.data.device.type == "cpu":
        return images.per_image(lambda image, i: _convolve_cv2(image, kernels[i], border))
    return convolve_batched(images, kernels, border)


def _planes(image: Tensor) -> list[np.ndarray]:
    return [plane.numpy() for plane in image]


def _trimmed(kernel: np.ndarray) -> np.ndarray:
    """The kernel without margins that together weigh less than 1e-7: a narrow Gaussian in a large frame is common."""
    total, keep = np.abs(kernel).sum(), kernel.shape[0] // 2
    while keep > 0:
        margin = kernel.shape[0] // 2 - keep + 1
        inner = kernel[(slice(margin, -margin),) * kernel.ndim]
        if total - np.abs(inner).sum() > 1e-7 * total:
            break
        keep -= 1
    margin = kernel.shape[0] // 2 - keep
    return kernel[(slice(margin, kernel.shape[0] - margin),) * kernel.ndim]


def _convolve_cv2(image: Tensor, kernel: np.ndarray, border: Border) -> Tensor:
    kernel = _trimmed(kernel)
    radius = kernel.shape[0] // 2
    flag = _CV2_BORDER[border]
    planes = _planes(image)
    if border == "wrap":  # OpenCV's filters do not wrap, its padding does
        planes = [cv2.copyMakeBorder(p, radius, radius, radius, radius, flag) for p in planes]
        flag = cv2.BORDER_REPLICATE
    if kernel.ndim == 1:
        row = kernel[::-1].astype(np.float32)
        planes = [cv2.sepFilter2D(p, -1, row, row, borderType=flag) for p in planes]
    else:
        flipped = np.ascontiguousarray(kernel[::-1, ::-1], np.float32)
        planes = [cv2.filter2D(p, -1, flipped, borderType=flag) for p in planes]
    result = torch.from_numpy(np.stack(planes))
    return result[:, radius : -radius or None, radius : -radius or None].clone() if border == "wrap" else result


def convolve_batched(images: Ragged, kernels: Sequence[np.ndarray], border: Border = "mirror") -> Ragged:
    """`convolve` for all images at once, by FFT; kernels of different sizes are centred in the largest."""
    squares = [square(k) for k in kernels]
    size = max(k.shape[0] for k in squares)
    stacked = np.zeros((len(squares), size, size), np.float32)
    for canvas, k in zip(stacked, squares, strict=True):
        margin = (size - k.shape[0]) // 2
        canvas[margin : margin + k.shape[0], margin : margin + k.shape[0]] = k
    padded = pad(images, size // 2, border)
    shape = padded.shape[-2:]
    spectrum = torch.fft.rfft2(torch.from_numpy(stacked).to(padded.device), s=shape)
    result = torch.fft.irfft2(torch.fft.rfft2(padded) * spectrum[:, None], s=shape)
    height, width = images.data.shape[-2:]
    return Ragged(result[..., size - 1 : size - 1 + height, size - 1 : size - 1 + width], images.sizes)


def pad(images: Ragged, radius: int, border: Border) -> Tensor:
    """(B, C, H + 2r, W + 2r): each image extended at its own borders; beyond its extension lies its last pixel."""
    device = images.data.device
    rows, columns = (
        torch.as_tensor(
            np.stack([_border_index(s[axis], images.data.shape[2 + axis], radius, border) for s in images.sizes])
        ).to(device)
        for axis in (0, 1)
    )
    batch = torch.arange(len(images.sizes), device=device)[:, None, None]
    return images.data.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@lru_cache(maxsize=512)
def _border_index(length: int, canvas: int, radius: int, border: Border) -> np.ndarray:
    at = np.minimum(np.arange(-radius, canvas + radius), length - 1 + radius)
    if border == "replicate" or length == 1:
        return np.clip(at, 0, length - 1)
    if border == "wrap":
        return at % length
    folded = np.abs(at) % (2 * (length - 1))
    return np.minimum(folded, 2 * (length - 1) - folded)


def resize(
    images: Ragged,
    sizes: Sequence[Size],
    modes: Sequence[Interpolation],
    factors: Sequence[float | None] | None = None,
) -> Ragged:
    """Resizes each image to its own size in its own mode.

    `linear`, `cubic` (a = -0.75; neither antialiased) and `area`, which averages when shrinking, are OpenCV's; `pool`
    is PyTorch's adaptive average pooling, its "area". The sampling step of the first two is the ratio of the sizes,
    or, for an image with a factor, exactly 1 / factor; its size is then floor(side · factor), as in PyTorch's
    interpolation by `scale_factor`. Not clipped.
    """
    factors = [None] * len(sizes) if factors is None else factors
    if images.data.device.type == "cpu":
        return images.per_image(lambda image, i: _resize_one(image, sizes[i], modes[i], factors[i]))
    return resize_batched(images, sizes, modes, factors)


def _resize_one(image: Tensor, size: Size, mode: Interpolation, factor: float | None) -> Tensor:
    if mode == "pool":
        return F.adaptive_avg_pool2d(image, size)
    if factor not in (None, 1) and mode != "area":
        return F.interpolate(image[None], scale_factor=factor, mode=_TORCH_INTERPOLATION[mode])[0]
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    flag = _CV2_INTERPOLATION[mode]
    return torch.from_numpy(np.stack([cv2.resize(p, (size[1], size[0]), interpolation=flag) for p in _planes(image)]))


def resize_batched(
    images: Ragged,
    sizes: Sequence[Size],
    modes: Sequence[Interpolation],
    factors: Sequence[float | None] | None = None,
) -> Ragged:
    """`resize` for all images at once: one product with row weights and one with column weights."""
    factors = [None] * len(sizes) if factors is None else factors
    height, width = images.data.shape[-2:]
    new_height, new_width = (max(side) for side in zip(*sizes, strict=True))
    down = np.zeros((len(sizes), new_height, height), np.float32)
    across = np.zeros((len(sizes), new_width, width), np.float32)
    for i, (old, new, mode, factor) in enumerate(zip(images.sizes, sizes, modes, factors, strict=True)):
        if mode == "linear" and tuple(new) == tuple(old):  # which PyTorch copies whatever the factor
            factor = None
        # OpenCV averages areas only when neither axis grows
        kind = "area_up" if mode == "area" and (new[0] > old[0] or new[1] > old[1]) else mode
        down[i, : new[0], : old[0]] = resize_weights(old[0], new[0], kind, factor)
        across[i, : new[1], : old[1]] = resize_weights(old[1], new[1], kind, factor)
    device = images.data.device
    rows, columns = (torch.from_numpy(w).to(device)[:, None] for w in (down, across))
    return Ragged(rows @ images.data @ columns.transpose(-1, -2), tuple((h, w) for h, w in sizes))


@lru_cache(maxsize=128)
def resize_weights(
    length: int, new: int, kind: Literal["linear", "cubic", "area", "area_up", "pool"], factor: float | None = None
) -> np.ndarray:
    """The matrix (new, length) by which `resize` maps one axis."""
    if kind == "pool":  # the mean of all pixels that a cell touches
        low, high = np.arange(new) * length // new, -(-np.arange(1, new + 1) * length // new)
        cells = np.arange(length)
        weights = (cells >= low[:, None]) & (cells < high[:, None])
        return (weights / (high - low)[:, None]).astype(np.float32)
    if kind == "area":
        edges = np.arange(new + 1) * (length / new)
        cells = np.arange(length)
        overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        weights = np.clip(overlap, 0, None)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    step = length / new if factor is None else 1 / factor
    if kind == "area_up":  # nearly nearest: a linear ramp only within the last output pixel of a source pixel
        # In OpenCV's own arithmetic, since a last bit decides between neighbours.
        inverse = new / length
        low = np.floor(np.arange(new) * (1 / inverse)).astype(int)
        t = (np.arange(1, new + 1) - (low + 1) * inverse).astype(np.float32)
        t = np.where(t <= 0, 0, t - np.floor(t))
        taps = [(low, 1 - t), (low + 1, t)]
    else:
        at = (np.arange(new) + 0.5) * step - 0.5
        low = np.floor(at).astype(int)
        t = at - low
        taps = [(low, 1 - t), (low + 1, t)] if kind == "linear" else _cubic_taps(low, t)
    weights = np.zeros((new, length))
    for index, weight in taps:
        np.add.at(weights, (np.arange(new), np.clip(index, 0, length - 1)), weight)
    return weights.astype(np.float32)


def _cubic_taps(low: np.ndarray, t: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    a = -0.75

    def near(x: np.ndarray) -> np.ndarray:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: np.ndarray) -> np.ndarray:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [(low - 1, far(1 + t)), (low, near(t)), (low + 1, near(1 - t)), (low + 2, far(2 - t))]
