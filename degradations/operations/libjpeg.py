"""JPEG compression as libjpeg does it (4:2:0), on batches of any sizes, bit for bit the same on every device.

On the CPU libjpeg itself does it, through OpenCV, where that is the libjpeg imitated here.

libjpeg computes in integers. All integers here are held in floating point wide enough to be exact: sums of the
colour conversion stay below 2^24 (float32), those of the cosine transform below 2^53 (float64, which neither TF32 nor
autocast touches). So neither the device nor the other images of a batch change a result.

Sources: ITU-T T.81 annex K (tables); the documented integer behaviour of libjpeg and libjpeg-turbo ("islow"
transform, after Loeffler, Ligtenberg and Moschytz 1989, with 13-bit constants; "fancy" upsampling).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from degradations.operations.diffjpeg import CHROMA, LUMA
from degradations.operations.ragged import Ragged, Size, from_levels, largest, on_device

# Rows of the 8-point cosine transform times 2^13 (and times sqrt 8), left halves; odd rows are antisymmetric.
_TRANSFORM = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)


def jpeg(images: Ragged, quality: Sequence[float]) -> Ragged:
    """Compress and decompress each image at its own quality.

    Args:
        images: RGB or gray, in [0, 1] (clipped and rounded to 8 bit first), each at least 1x1.
        quality: one per image, 1…100; whole numbers give libjpeg's tables.

    Returns:
        Images of the same sizes whose values are whole 8-bit levels divided by 255.

    Raises:
        ValueError: for a wrong number of qualities or channels, or a quality outside 1…100.
    """
    if len(quality) != len(images.sizes) or not all(1 <= q <= 100 for q in quality):
        raise ValueError(
            f"found qualities {list(quality)} for {len(images.sizes)} images, expected one of 1…100 for each"
        )
    if images.data.shape[1] not in (1, 3):
        raise ValueError(f"found {images.data.shape[1]} channels, expected RGB or gray")
    small = max(largest(images.sizes)) <= 65500
    if images.one_by_one and small and all(q == int(q) for q in quality) and _opencv_has_libjpeg():
        return images.per_image(lambda image, i: _through_opencv(image, int(quality[i])))
    return jpeg_batched(images, quality)


def _through_opencv(image: Tensor, quality: int) -> Tensor:
    levels = Ragged.of(image[None]).levels().data[0].numpy()
    code = cv2.imencode(".jpg", cv2.merge([*levels[::-1]]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(code, cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    planes = np.empty_like(levels)
    cv2.split(decoded, [*planes[::-1]])
    return from_levels(torch.from_numpy(planes))


@lru_cache(maxsize=1)
def _opencv_has_libjpeg() -> bool:
    """Tell whether OpenCV's build codes as `jpeg_batched` does; another transform or upsampling shows at once."""
    noise = torch.from_numpy(np.random.default_rng(0).random((1, 3, 39, 53), np.float32))
    smooth = noise.cumsum(-1).div_(53)
    return all(
        torch.equal(_through_opencv(image[0], quality), jpeg_batched(Ragged.of(image), [quality]).data[0])
        for image in (noise, smooth, smooth[:, :1])
        for quality in (30, 60, 95)
    )


def jpeg_batched(images: Ragged, quality: Sequence[float]) -> Ragged:
    """Do as `jpeg` for all images at once on any device, of what `jpeg` accepts."""
    data, sizes = images.data, images.sizes
    height, width = largest(sizes)
    grid = (16 * math.ceil(height / 16), 16 * math.ceil(width / 16))
    levels = _extend(data.float(), sizes, grid).mul(255).round_().clamp_(0, 255)
    if data.shape[1] == 1:
        result = _codec(levels, _tables(quality, LUMA, data.device))
    else:
        luma, chroma = _to_ycc(levels)
        luma = _codec(luma, _tables(quality, LUMA, data.device))
        chroma = _codec(_halve(chroma, sizes), _tables(quality, CHROMA, data.device))
        result = _to_rgb(luma, _double(chroma, sizes, grid))
    return Ragged(result[..., :height, :width].div(255).to(data.dtype), sizes)


# --- cosine transform and quantisation ----------------------------------------------------------------------------


def _codec(planes: Tensor, tables: Tensor) -> Tensor:
    """Return what coding leaves of planes (B, C, H, W) of levels 0…255; sides are multiples of 8, tables (B, 8, 8)."""
    batch, channels, height, width = planes.shape
    pass1, pass2, undo1, undo2 = _transforms(planes.device)
    half = pass1.new_full((), 0.5)  # each pass divides by a power of two and rounds halves up
    stacks = (8 * batch * channels * height // 8, 8, width // 8)
    # Eight neighbours in a row become the first axis, so that both passes are products over long contiguous axes:
    # x is (8 horizontal frequencies, B, C, H/8, 8 rows or vertical frequencies, W/8).
    x = torch.addmm(half, pass1, planes.double().sub_(128).reshape(-1, 8).T).floor_()
    x = torch.baddbmm(half, pass2.expand(stacks[0], 8, 8), x.view(stacks)).floor_()
    x = x.view(8, batch, channels, height // 8, 8, width // 8)
    step = tables.permute(2, 0, 1)[:, :, None, None, :, None]
    # The transform's result is eight times the coefficient. libjpeg rounds halves away from zero, `round` to even
    # numbers: the factor above 1 lifts halves off the tie and can move nothing else, all quotients being whole
    # multiples of 1/2040 below 2^13.
    x = x.mul_((1 + 1e-9) / (8 * step)).round_().mul_(step)
    x = torch.baddbmm(half, undo1.expand(stacks[0], 8, 8), x.view(stacks)).floor_()
    x = torch.addmm(half, undo2, x.view(8, -1)).floor_()
    return x.T.to(planes.dtype, memory_format=torch.contiguous_format).view(planes.shape).add_(128).clamp_(0, 255)


@lru_cache(maxsize=8)
def _transforms(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four matrices (8, 8), each with the shift that ends its pass.

    They code along rows, along columns, and decode along columns, along rows.
    """
    # A tensor born under inference mode could not take part in training, and these are kept.
    with torch.inference_mode(False):
        half = torch.tensor(_TRANSFORM, dtype=torch.float64)
        sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)[:, None]
        forward = torch.cat([half, sign * half.flip(1)], 1).to(device)
        inverse = forward.T.contiguous()
        return forward / 2**11, forward / 2**15, inverse / 2**11, inverse / 2**18


def _tables(quality: Sequence[float], base: np.ndarray, device: torch.device) -> Tensor:
    """Return quantisation tables (B, 8, 8) by libjpeg's rule, limited to a byte as in baseline files."""
    percent = np.array([math.floor(5000 / q) if q < 50 else 200 - 2 * q for q in quality])
    tables = np.floor((base * percent[:, None, None] + 50) / 100).clip(1, 255)
    return on_device(tables, device)


# --- colour and chroma sampling -----------------------------------------------------------------------------------


def _mix(red: Tensor, green: Tensor, blue: Tensor, weights: tuple[int, int, int], offset: int) -> Tensor:
    """Return floor((weights · rgb + offset) / 2^16)."""
    r, g, b = (weight / 2**16 for weight in weights)
    return (red * r).add_(green, alpha=g).add_(blue, alpha=b).add_(offset / 2**16).floor_()


def _to_ycc(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Convert by full-range BT.601 to luma (B, 1, H, W) and both chroma planes (B, 2, H, W), whole levels 0…255."""
    red, green, blue = levels.unbind(1)
    luma = _mix(red, green, blue, (19595, 38470, 7471), 2**15)
    centre = 128 * 2**16 + 2**15 - 1
    cb = _mix(red, green, blue, (-11059, -21709, 32768), centre)
    cr = _mix(red, green, blue, (32768, -27439, -5329), centre)
    return luma[:, None], torch.stack([cb, cr], 1)


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Return RGB levels (B, 3, H, W), clipped."""
    y, (cb, cr) = luma[:, 0], (chroma - 128).unbind(1)
    rgb = luma.new_empty(luma.shape[0], 3, *luma.shape[2:])
    zero_point = 0.5  # half a level, so that floor rounds
    torch.add(y, (cr * (91881 / 2**16)).add_(zero_point).floor_(), out=rgb[:, 0])
    green = (cb * (-22554 / 2**16)).add_(cr, alpha=-46802 / 2**16).add_(zero_point).floor_()
    torch.add(y, green, out=rgb[:, 1])
    torch.add(y, (cb * (116130 / 2**16)).add_(zero_point).floor_(), out=rgb[:, 2])
    return rgb.clamp_(0, 255)


def _halve(chroma: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Average 2x2 pixels. Their halves round up and down by turns along the width, so that no level drifts."""
    mean = chroma[..., 0::2, :] + chroma[..., 1::2, :]
    mean = (mean[..., 0::2] + mean[..., 1::2]).div_(4)
    mean[..., 0::2] += 0.25
    mean[..., 1::2] += 0.5
    # Below the image libjpeg repeats the last row of means, while to its right it repeats pixels before the mean.
    grid = (mean.shape[-2], mean.shape[-1])
    return _extend(mean.floor_(), [((h + 1) // 2, grid[1]) for h, _ in sizes], grid)


def _double(chroma: Tensor, sizes: Sequence[Size], grid: Size) -> Tensor:
    """Double the size by a triangle filter (3:1 weights towards the nearer neighbours), edges repeated."""
    own = [((h + 1) // 2, (w + 1) // 2) for h, w in sizes]
    x = _extend(chroma, own, (grid[0] // 2 + 1, grid[1] // 2 + 1))
    x = torch.cat([x[..., :1, :], x], -2)
    x = torch.cat([x[..., :1], x], -1)
    near = x[..., 1:-1, :] * 3
    rows = torch.stack([near + x[..., :-2, :], near + x[..., 2:, :]], -2).flatten(-3, -2)
    near = rows[..., 1:-1] * 3
    result = chroma.new_empty(*chroma.shape[:2], *grid)
    torch.add(near, rows[..., :-2], out=result[..., 0::2]).add_(8)
    torch.add(near, rows[..., 2:], out=result[..., 1::2]).add_(7)
    result = result.div_(16).floor_()
    narrow = [w <= 2 for _, w in own]
    if any(narrow):  # libjpeg repeats pixels where there are too few for the filter
        plain = x[..., 1:-1, 1:-1].repeat_interleave(2, -2).repeat_interleave(2, -1)
        chosen = on_device(narrow, x.device)[:, None, None, None]
        result = torch.where(chosen, plain, result)
    return result


def _extend(planes: Tensor, sizes: Sequence[Size], grid: Size) -> Tensor:
    """Extend planes (B, C, …, …), of which `sizes` counts, to (B, C, *grid) by repeating each plane's edges."""
    if len(set(sizes)) == 1:
        height, width = sizes[0]
        inner = planes[..., :height, :width]
        missing = (0, grid[1] - width, 0, grid[0] - height)
        return F.pad(inner, missing, mode="replicate") if any(missing) else inner
    batch, channels = planes.shape[:2]
    last = on_device(sizes, planes.device) - 1
    rows = torch.minimum(torch.arange(grid[0], device=planes.device), last[:, :1])
    columns = torch.minimum(torch.arange(grid[1], device=planes.device), last[:, 1:])
    planes = planes.gather(2, rows[:, None, :, None].expand(batch, channels, grid[0], planes.shape[3]))
    return planes.gather(3, columns[:, None, None, :].expand(batch, channels, *grid))
