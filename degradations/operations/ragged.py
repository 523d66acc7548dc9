"""A batch of images of different sizes in one padded tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""(height, width)."""
T = TypeVar("T")


def on_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:  # noqa: ANN401
    """Bring host values to a device as a tensor; the host does not wait for what a GPU still has to do."""
    tensor = torch.as_tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def column(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bring one host value for each image to a device, as (B, 1, 1, 1)."""
    return on_device(values, device, dtype)[:, None, None, None]


def largest(sizes: Iterable[Size]) -> Size:
    """Return the greatest height and the greatest width."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    return height, width


@dataclass(frozen=True)
class Ragged:
    """Images of different sizes in one tensor.

    Attributes:
        data: (B, C, H, W); image i stands in `data[i, :, :h, :w]` with (h, w) = sizes[i]. What lies outside is
            undefined: a step treats borders at its image's own size and never reads beyond.
        sizes: B pairs (height, width). They are known from the plans on the host, so no step waits for the device.

    >>> images = Ragged.pack([torch.zeros(3, 8, 8), torch.ones(3, 4, 6)])
    >>> images.data.shape, images.sizes
    (torch.Size([2, 3, 8, 8]), ((8, 8), (4, 6)))
    >>> halved = images.per_image(lambda image, i: image[:, ::2, ::2])
    >>> images.put([1], halved.select([1])).sizes
    ((8, 8), (2, 3))
    """

    data: Tensor
    sizes: tuple[Size, ...]

    def __post_init__(self) -> None:
        if self.data.dim() != 4 or len(self.sizes) != self.data.shape[0]:
            raise ValueError(f"found data {tuple(self.data.shape)} with {len(self.sizes)} sizes, expected (B, C, H, W)")

    @classmethod
    def of(cls, batch: Tensor) -> Ragged:
        """Wrap a batch (B, C, H, W) whose images all fill the tensor."""
        return cls(batch, ((batch.shape[-2], batch.shape[-1]),) * batch.shape[0])

    @classmethod
    def pack(cls, images: Sequence[Tensor]) -> Ragged:
        """Stack images (C, h, w) of any sizes; where some have fewer channels, zeros follow theirs."""
        sizes = tuple((image.shape[-2], image.shape[-1]) for image in images)
        if len(images) == 1:
            return cls(images[0][None], sizes)
        if len({image.shape for image in images}) == 1:
            return cls(torch.stack(list(images)), sizes)
        data = images[0].new_zeros(len(images), *(max(side) for side in zip(*(i.shape for i in images), strict=True)))
        for row, image, (h, w) in zip(data, images, sizes, strict=True):
            row[: len(image), :h, :w] = image
        return cls(data, sizes)

    @property
    def one_by_one(self) -> bool:
        """Whether steps take the images one by one, as on the CPU, or all together, as on a device."""
        return self.data.device.type == "cpu"

    def images(self) -> list[Tensor]:
        """Return views (C, h, w) of the images."""
        return [row[:, :h, :w] for row, (h, w) in zip(self.data, self.sizes, strict=True)]

    def select(self, indices: Sequence[int]) -> Ragged:
        """Return the images with these indices, in this order, padded no further than they need."""
        sizes = tuple(self.sizes[i] for i in indices)
        height, width = largest(sizes)
        data = self.data[:, :, :height, :width]
        if list(indices) != list(range(len(self.sizes))):
            data = data.index_select(0, on_device(list(indices), data.device))
        return Ragged(data, sizes)

    def put(self, indices: Sequence[int], part: Ragged) -> Ragged:
        """Return a copy with the images of `part`, of any sizes, in the places `indices`.

        The tensor grows or shrinks to what its images then need.
        """
        if list(indices) == list(range(len(self.sizes))):
            return part
        new = dict(zip(indices, part.sizes, strict=True))
        sizes = tuple(new.get(i, size) for i, size in enumerate(self.sizes))
        height, width = largest(sizes)
        data = F.pad(self.data, (0, width - self.data.shape[-1], 0, height - self.data.shape[-2]))  # below 0 it cuts
        height, width = largest(part.sizes)
        data[on_device(list(indices), data.device), :, :height, :width] = part.data[..., :height, :width]
        return Ragged(data, sizes)

    def in_groups(self, keys: Sequence[T], apply: Callable[[T, Ragged, list[int]], Ragged]) -> Ragged:
        """Apply a function to the images of each key together, and put the results where their images stood.

        Args:
            keys: one for each image.
            apply: takes a key, the images that have it and their indices; returns as many images, of any sizes.
        """
        result = self
        for key in dict.fromkeys(keys):
            indices = [i for i, other in enumerate(keys) if other == key]
            result = result.put(indices, apply(key, self.select(indices), indices))
        return result

    def inside(self) -> Tensor:
        """Tell where images are, and not their padding: bool (B, 1, H, W)."""
        sizes = on_device(self.sizes, self.data.device)[:, :, None]
        rows, columns = (torch.arange(n, device=self.data.device) for n in self.data.shape[-2:])
        return ((rows < sizes[:, 0])[:, :, None] & (columns < sizes[:, 1])[:, None])[:, None]

    def per_image(self, function: Callable[[Tensor, int], Tensor]) -> Ragged:
        """Apply a function to each image (C, h, w) alone, with its index."""
        return Ragged.pack([function(image, i) for i, image in enumerate(self.images())])

    def map(self, function: Callable[[Tensor], Tensor]) -> Ragged:
        """Apply a pointwise function to the whole tensor."""
        return Ragged(function(self.data), self.sizes)

    def clip(self) -> Ragged:
        """Clip to [0, 1]."""
        return self.map(lambda data: data.clamp(0, 1))

    def levels(self) -> Ragged:
        """Clip, and round to whole 8-bit levels, uint8; halves go to the even level."""
        if not self.one_by_one:
            return self.map(lambda data: data.clamp(0, 1).mul_(255).round_().to(torch.uint8))
        return self.per_image(lambda image, _: _levels_one(image))

    def round(self) -> Ragged:
        """Clip, and round to whole 8-bit levels divided by 255; halves go to the even level."""
        levels = self.levels()
        return (
            levels.map(from_levels) if self.one_by_one else levels.map(lambda data: data.to(self.data.dtype).div_(255))
        )


def _levels_one(image: Tensor) -> Tensor:
    """Return the levels of an image (C, h, w) on the CPU, by OpenCV, which rounds and cuts as it converts."""
    rows = image.flatten(0, 1).numpy()
    return torch.from_numpy(cv2.addWeighted(rows, 255, rows, 0, 0, dtype=cv2.CV_8U)).view(image.shape)


def from_levels(levels: Tensor) -> Tensor:
    """Return 8-bit levels on the CPU, contiguous, divided by 255: float32, by a table, faster than by a division."""
    return torch.from_numpy(cv2.LUT(levels.view(-1).numpy(), _UNITS)).view(levels.shape)


_UNITS = np.arange(256, dtype=np.float32) / np.float32(255)


def mix_channels(matrices: Tensor, planes: Tensor) -> Tensor:
    """Mix planes (B, P, H, W) by a matrix (C, P) for each image to (B, C, H, W); in full float32 on any device."""
    if planes.device.type == "cpu":
        return (matrices @ planes.flatten(2)).unflatten(2, planes.shape[2:])
    first, *others = (matrices[:, :, i, None, None] * planes[:, i, None] for i in range(planes.shape[1]))
    return sum(others, first)
