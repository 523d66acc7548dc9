"""Changes of size of ragged batches, by OpenCV's, PyTorch's and MATLAB's interpolations.

They stand twice. On the CPU images are resized one by one: by OpenCV where that is the definition, else by products
with bands of weights, up to five times as fast as PyTorch. On a device it is two batched products with matrices of
weights. Tests hold the two against each other, and against PyTorch.
"""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from degradations.operations.bands import Bands, map_axes
from degradations.operations.ragged import Ragged, Size, on_device
from degradations.plan import Drawn
from utils.images.resize import Border, imresize

Interpolation = Literal["linear", "cubic", "area", "pool"]
MODES: tuple[Interpolation, ...] = ("linear", "cubic", "area")
"""OpenCV's, between which BSRGAN draws."""

_CV2_INTERPOLATION = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}


def draw_mode(rng: np.random.Generator, modes: Sequence[str]) -> str:
    """Draw one of the interpolations, all equally likely."""
    return modes[int(rng.integers(len(modes)))]


def resize_drawn(images: Ragged, drawn: Sequence[Drawn], clip: bool = True, border: Border = "symmetric") -> Ragged:
    """Resize each image to its drawn `size` in its drawn `mode`, by its `factor` where it has one.

    Args:
        images: in [0, 1].
        drawn: for each image `size`, `mode` (an `Interpolation`, or `matlab`: antialiased bicubic), perhaps `factor`.
        clip: cut what a cubic throws beyond [0, 1].
        border: how the image goes on outside for `matlab`.
    """
    sizes: list[Size] = [(height, width) for height, width in (values["size"] for values in drawn)]

    def resized(by_matlab: bool, part: Ragged, at: list[int]) -> Ragged:
        own = [sizes[i] for i in at]
        if not by_matlab:
            return resize(part, own, [drawn[i]["mode"] for i in at], [drawn[i].get("factor") for i in at])
        if len({*part.sizes}) == len({*own}) == 1:
            return Ragged.of(imresize(part.data, size=own[0], border=border))
        return part.per_image(lambda image, i: imresize(image, size=own[i], border=border))

    result = images.in_groups([values["mode"] == "matlab" for values in drawn], resized)
    return result.clip() if clip else result


def resize(
    images: Ragged,
    sizes: Sequence[Size],
    modes: Sequence[Interpolation],
    factors: Sequence[float | None] | None = None,
) -> Ragged:
    """Resize each image to its own size in its own mode, without clipping.

    `linear`, `cubic` (a = -0.75; neither antialiased) and `area`, which averages when shrinking, are OpenCV's; `pool`
    is PyTorch's adaptive average pooling, its "area". The sampling step of the first two is the ratio of the sizes,
    or, for an image with a factor, exactly 1 / factor; its size is then floor(side · factor), as in PyTorch's
    interpolation by `scale_factor`.
    """
    factors = [None] * len(sizes) if factors is None else factors
    if images.one_by_one:
        return images.per_image(lambda image, i: _resize_one(image, sizes[i], modes[i], factors[i]))
    return resize_batched(images, sizes, modes, factors)


def _resize_one(image: Tensor, size: Size, mode: Interpolation, factor: float | None) -> Tensor:
    old: Size = (image.shape[1], image.shape[2])
    by_factor = factor not in (None, 1) and mode != "area"
    if mode != "pool" and not by_factor:
        return _by_opencv(image, size, mode)
    if old == tuple(size) and mode in ("pool", "linear"):  # PyTorch copies, whatever the factor
        return image
    step = 1 / factor if by_factor and factor is not None and mode != "pool" else None
    axes = [(length, new, mode, step) for length, new in zip(old, size, strict=True)]
    vertical = _resize_bands(*axes[0])
    return map_axes(image, vertical, vertical if axes[0] == axes[1] else _resize_bands(*axes[1]))


def _by_opencv(image: Tensor, size: Size, mode: Interpolation) -> Tensor:
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    result = np.empty((len(image), *size), np.float32)
    for c, plane in enumerate(image):
        cv2.resize(plane.numpy(), (size[1], size[0]), result[c], interpolation=_CV2_INTERPOLATION[mode])
    return torch.from_numpy(result)


def _resize_bands(length: int, new: int, kind: str, step: float | None) -> Bands:
    """Return the map of one axis; arguments as in `resize_weights`."""
    # With a given step in float32, as PyTorch does, whose places are off by some 1e-5 pixels.
    dtype = np.float64 if step is None else np.float32
    at, step_of = np.arange(new, dtype=dtype), np.array([[length / new if step is None else step]], dtype)
    start, end, *taps = _KINDS[kind](at, np.array([[length]]), np.array([[new]]), step_of)[:, 0]
    if kind != "pool":
        return Bands.of(np.stack(taps[:4], 1).astype(int), np.stack(taps[4:], 1), length)
    places = start[:, None] + np.arange((end - start).max())
    weights = (places < end[:, None]) / (end - start)[:, None]
    return Bands.of(places.clip(max=length - 1).astype(int), weights, length)


def resize_batched(
    images: Ragged,
    sizes: Sequence[Size],
    modes: Sequence[Interpolation],
    factors: Sequence[float | None] | None = None,
) -> Ragged:
    """Do as `resize` for all images at once: one product with row weights and one with column weights."""
    factors = [None] * len(sizes) if factors is None else factors
    kinds, steps = [], []
    for old, new, mode, factor in zip(images.sizes, sizes, modes, factors, strict=True):
        # OpenCV averages areas only when neither axis grows
        kinds.append("area_up" if mode == "area" and (new[0] > old[0] or new[1] > old[1]) else mode)
        # OpenCV's areas know no factor; PyTorch copies an image of the same size whatever the factor, when linear
        by_size = mode == "area" or (mode == "linear" and tuple(new) == tuple(old))
        steps.append(None if factor is None or by_size else 1 / factor)
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
    kinds: Sequence[str],
    steps: Sequence[float | None],
    device: torch.device,
) -> Tensor:
    """Return the matrices (B, max new, max length), float64, by which `resize` maps one axis of each image.

    Args:
        lengths: of the axis, in pixels, before.
        news: and after.
        kinds: names in `_KINDS`.
        steps: from one output pixel to the next, in pixels of before; None is the ratio of the lengths.
        device: of the result.
    """
    old, new = (np.array(sides)[:, None] for sides in (lengths, news))
    step = np.array([o / n if s is None else s for o, n, s in zip(lengths, news, steps, strict=True)])[:, None]
    described = np.empty((10, len(lengths), max(news)))
    for kind in set(kinds):
        of_kind = np.array([other == kind for other in kinds])
        described[:, of_kind] = _KINDS[kind](np.arange(max(news)), old[of_kind], new[of_kind], step[of_kind])
    start, end, *taps = on_device(described, device)[..., None]
    cells = torch.arange(max(lengths), device=device)
    mean = (torch.minimum(end, cells + 1) - torch.maximum(start, cells)).clamp_(min=0)
    matrix = mean / (end - start).clamp(min=1)
    for place, weight in zip(taps[:4], taps[4:], strict=True):
        matrix += (cells == place) * weight
    return matrix


# Each kind describes output pixels `at` (n,) of axes with `old` and `new` (B, 1) pixels, `step` apart, by ten numbers:
# the interval from a start to an end whose mean they are, or the places of four taps, and the taps' weights.


def _area(at: np.ndarray, old: np.ndarray, new: np.ndarray, step: np.ndarray) -> np.ndarray:
    return _mean(at * step, np.minimum((at + 1) * step, old))


def _pool(at: np.ndarray, old: np.ndarray, new: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Take whole pixels."""
    return _mean(at * old // new, -(-(at + 1) * old // new))


def _linear(at: np.ndarray, old: np.ndarray, new: np.ndarray, step: np.ndarray) -> np.ndarray:
    centre = (at + 0.5) * step - 0.5
    low = np.floor(centre)
    return _taps(old, low, _tent(centre - low))


def _cubic(at: np.ndarray, old: np.ndarray, new: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Weigh four neighbours by Keys' cubic convolution with a = -0.75."""
    centre = (at + 0.5) * step - 0.5
    low = np.floor(centre)
    a, t = -0.75, centre - low

    def near(x: np.ndarray) -> np.ndarray:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: np.ndarray) -> np.ndarray:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return _taps(old, low, (far(1 + t), near(t), near(1 - t), far(2 - t)))


def _area_up(at: np.ndarray, old: np.ndarray, new: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Take nearly the nearest: a linear ramp only within the last output pixel of a source pixel.

    In OpenCV's own arithmetic, since a last bit decides between neighbours.
    """
    nearest = np.floor(at * (1 / (new / old)))
    ramp = ((at + 1) - (nearest + 1) * (new / old)).astype(np.float32)
    return _taps(old, nearest, _tent(np.where(ramp <= 0, 0, ramp - np.floor(ramp))))


def _tent(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weigh the two neighbours in the middle of four, `t` behind the first of them."""
    return np.zeros_like(t), 1 - t, t, np.zeros_like(t)


def _mean(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    return np.stack([start, end, *[np.zeros(start.shape)] * 8])


def _taps(old: np.ndarray, low: np.ndarray, weights: tuple[np.ndarray, ...]) -> np.ndarray:
    """Place the second of four taps at `low`, and none of them outside."""
    none = np.zeros(low.shape)
    return np.stack([none, none, *((low + k).clip(0, old - 1) for k in range(-1, 3)), *weights])


_KINDS = {"area": _area, "area_up": _area_up, "cubic": _cubic, "linear": _linear, "pool": _pool}
