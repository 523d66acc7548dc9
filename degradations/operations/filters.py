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
from scipy.fft import next_fast_len
from torch import Tensor

from degradations.kernels.families import square
from degradations.operations.ragged import Ragged, Size, on_device

Border = Literal["mirror", "symmetric", "replicate", "wrap"]
Interpolation = Literal["linear", "cubic", "area", "pool"]

_CV2_BORDER = {
    "mirror": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
    "replicate": cv2.BORDER_REPLICATE,
    "wrap": cv2.BORDER_WRAP,
}
_CV2_INTERPOLATION = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
_TORCH_BORDER = {"mirror": "reflect", "replicate": "replicate", "wrap": "circular"}
_TORCH_INTERPOLATION = {"linear": "bilinear", "cubic": "bicubic"}


def convolve(images: Ragged, kernels: Sequence[np.ndarray], border: Border = "mirror") -> Ragged:
    """Convolves each image with its own kernel (odd size; the kernel is flipped, as in scipy.ndimage.convolve).

    A kernel may be given as a row (k,): its outer product with itself is meant, and applied separably. `mirror` does
    not repeat the edge pixel, `symmetric` does (SciPy's "reflect"). Not clipped.
    """
    if images.one_by_one:
        return images.per_image(lambda image, i: _convolve_one(image, kernels[i], border))
    return convolve_batched(images, kernels, border)


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


def _convolve_one(image: Tensor, kernel: np.ndarray, border: Border) -> Tensor:
    kernel = _trimmed(kernel)
    if kernel.ndim == 2 and kernel.shape[0] > 11 and image[0].numel() > 200**2:
        # Above 11 taps OpenCV transforms too, but takes twice as long for large images.
        return convolve_batched(Ragged.of(image[None]), [kernel], border).data[0]
    radius = kernel.shape[0] // 2
    flag = _CV2_BORDER[border]
    planes = [plane.numpy() for plane in image]
    if border == "wrap":  # OpenCV's filters do not wrap, its padding does
        planes = [cv2.copyMakeBorder(p, radius, radius, radius, radius, flag) for p in planes]
        flag = cv2.BORDER_REPLICATE
    result = np.empty((len(planes), *planes[0].shape), np.float32)
    weights = np.ascontiguousarray(np.flip(kernel), np.float32)
    for c, plane in enumerate(planes):
        if kernel.ndim == 1:
            cv2.sepFilter2D(plane, -1, weights, weights, result[c], borderType=flag)
        else:
            cv2.filter2D(plane, -1, weights, result[c], borderType=flag)
    inner = slice(radius, -radius or None) if border == "wrap" else slice(None)
    return torch.from_numpy(result)[:, inner, inner]


def convolve_batched(images: Ragged, kernels: Sequence[np.ndarray], border: Border = "mirror") -> Ragged:
    """`convolve` for all images at once, by FFT; kernels of different sizes are centred in the largest."""
    device = images.data.device
    squares = [square(k) for k in (kernels[:1] if all(k is kernels[0] for k in kernels) else kernels)]
    size = max(k.shape[0] for k in squares)
    stacked = np.zeros((len(squares), 1, size, size), np.float32)
    for (canvas,), k in zip(stacked, squares, strict=True):
        margin = (size - k.shape[0]) // 2
        canvas[margin : margin + k.shape[0], margin : margin + k.shape[0]] = k
    padded = pad(images, size // 2, border)
    shape = [16 * next_fast_len(-(-side // 16)) for side in padded.shape[-2:]]  # pyright: ignore[reportOperatorIssue]
    product = torch.fft.rfft2(padded, s=shape).mul_(torch.fft.rfft2(on_device(stacked, device), s=shape))
    height, width = images.data.shape[-2:]
    result = torch.fft.irfft2(product, s=shape)
    return Ragged(result[..., size - 1 : size - 1 + height, size - 1 : size - 1 + width], images.sizes)


def pad(images: Ragged, radius: int, border: Border) -> Tensor:
    """(B, C, H + 2r, W + 2r): each image extended at its own borders; beyond its extension lies its last pixel."""
    device, canvas = images.data.device, (images.data.shape[-2], images.data.shape[-1])
    if set(images.sizes) == {canvas} and radius < min(canvas) and border in _TORCH_BORDER:
        return F.pad(images.data, (radius,) * 4, mode=_TORCH_BORDER[border])
    rows, columns = (
        on_device(np.stack([_border_index(s[axis], canvas[axis], radius, border) for s in images.sizes]), device)
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
    if border == "symmetric":
        folded = at % (2 * length)
        return np.minimum(folded, 2 * length - 1 - folded)
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
    if images.one_by_one:
        return images.per_image(lambda image, i: _resize_one(image, sizes[i], modes[i], factors[i]))
    return resize_batched(images, sizes, modes, factors)


def _resize_one(image: Tensor, size: Size, mode: Interpolation, factor: float | None) -> Tensor:
    if mode == "pool":
        return F.adaptive_avg_pool2d(image, size)
    if factor not in (None, 1) and mode != "area":
        return F.interpolate(image[None], scale_factor=factor, mode=_TORCH_INTERPOLATION[mode])[0]
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    result = np.empty((len(image), *size), np.float32)
    for c, plane in enumerate(image):
        cv2.resize(plane.numpy(), (size[1], size[0]), result[c], interpolation=_CV2_INTERPOLATION[mode])
    return torch.from_numpy(result)


def resize_batched(
    images: Ragged,
    sizes: Sequence[Size],
    modes: Sequence[Interpolation],
    factors: Sequence[float | None] | None = None,
) -> Ragged:
    """`resize` for all images at once: one product with row weights and one with column weights."""
    factors = [None] * len(sizes) if factors is None else factors
    kinds, steps = [], []
    for old, new, mode, factor in zip(images.sizes, sizes, modes, factors, strict=True):
        # OpenCV averages areas only when neither axis grows
        kinds.append("area_up" if mode == "area" and (new[0] > old[0] or new[1] > old[1]) else mode)
        # PyTorch copies an image of the same size whatever the factor, when linear
        steps.append(None if factor is None or (mode == "linear" and tuple(new) == tuple(old)) else 1 / factor)
    rows, columns = (
        resize_weights([s[axis] for s in images.sizes], [s[axis] for s in sizes], kinds, steps, images.data.device)
        for axis in (0, 1)
    )
    height, width = rows.shape[-1], columns.shape[-1]
    # In float64, since a GPU may be told to multiply float32 numbers with ten bits of mantissa.
    made = rows[:, None] @ images.data[..., :height, :width].double() @ columns[:, None].transpose(-1, -2)
    return Ragged(made.to(images.data.dtype), tuple((h, w) for h, w in sizes))


def resize_weights(
    lengths: Sequence[int],
    news: Sequence[int],
    kinds: Sequence[Literal["linear", "cubic", "area", "area_up", "pool"]],
    steps: Sequence[float | None],
    device: torch.device,
) -> Tensor:
    """The matrices (B, max new, max length), float64, by which `resize` maps one axis of each image.

    Each output pixel is the mean over an interval (`area`; `pool` takes whole pixels), or up to four taps `steps`
    apart from one output pixel to the next (None: the ratio of the lengths).
    """
    old, new = (np.array(sides)[:, None] for sides in (lengths, news))
    kind, at = np.array(kinds)[:, None], np.arange(max(news))
    step = np.array([o / n if s is None else s for o, n, s in zip(lengths, news, steps, strict=True)])[:, None]
    start = np.select([kind == "area", kind == "pool"], [at * step, at * old // new], 0)
    end = np.select([kind == "area", kind == "pool"], [np.minimum((at + 1) * step, old), -(-(at + 1) * old // new)], 0)
    centre = (at + 0.5) * step - 0.5
    # Upwards, areas are nearly nearest: a linear ramp only within the last output pixel of a source pixel. In OpenCV's
    # own arithmetic, since a last bit decides between neighbours.
    nearest = np.floor(at * (1 / (new / old)))
    ramp = ((at + 1) - (nearest + 1) * (new / old)).astype(np.float32)
    low = np.where(kind == "area_up", nearest, np.floor(centre))
    t = np.where(kind == "area_up", np.where(ramp <= 0, 0, ramp - np.floor(ramp)), centre - low)
    none = np.zeros_like(t)
    linear = np.isin(kind, ("linear", "area_up"))
    taps = np.select([linear, kind == "cubic"], [np.stack([none, 1 - t, t, none]), np.stack(_cubic(t))], 0.0)
    index = (low + np.arange(-1, 3)[:, None, None]).clip(0, old - 1)
    values = on_device(np.stack([start, end, *index, *taps]), device)[..., None]
    cells = torch.arange(max(lengths), device=device)
    mean = (torch.minimum(values[1], cells + 1) - torch.maximum(values[0], cells)).clamp_(min=0)
    matrix = mean / (values[1] - values[0]).clamp(min=1)
    for place, weight in zip(values[2:6], values[6:], strict=True):
        matrix += (cells == place) * weight
    return matrix


def _cubic(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """The weights of four neighbours, `t` behind the second; Keys' cubic convolution with a = -0.75."""
    a = -0.75

    def near(x: np.ndarray) -> np.ndarray:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: np.ndarray) -> np.ndarray:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return far(1 + t), near(t), near(1 - t), far(2 - t)
