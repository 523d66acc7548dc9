"""A batch of images of different sizes in one padded tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def on_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:  # noqa: ANN401
    """Host values as a tensor on a device; the host does not wait for what a GPU still has to do."""
    tensor = torch.as_tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def column(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """One host value for each image, (B, 1, 1, 1), on a device as by `on_device`."""
    return on_device(values, device, dtype)[:, None, None, None]


@dataclass(frozen=True)
class Ragged:
    """Images of different sizes in one tensor.

    Attributes:
        data: (B, C, H, W); image i stands in `data[i, :, :h, :w]` with (h, w) = sizes[i]. What lies outside is
            undefined: a step treats borders at its image's own size and never reads beyond.
        sizes: B pairs (height, width). They are known from the plans on the host, so no step waits for the device.
    """

    data: Tensor
    sizes: tuple[Size, ...]

    def __post_init__(self) -> None:
        if self.data.dim() != 4 or len(self.sizes) != self.data.shape[0]:
            raise ValueError(f"found data {tuple(self.data.shape)} with {len(self.sizes)} sizes, expected (B, C, H, W)")

    @classmethod
    def of(cls, batch: Tensor) -> Ragged:
        """A batch (B, C, H, W) whose images all fill the tensor."""
        return cls(batch, ((batch.shape[-2], batch.shape[-1]),) * batch.shape[0])

    @classmethod
    def pack(cls, images: Sequence[Tensor]) -> Ragged:
        """From images (C, h, w) of any sizes; where some have fewer channels, zeros follow theirs."""
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
        """Views (C, h, w) of the images."""
        return [row[:, :h, :w] for row, (h, w) in zip(self.data, self.sizes, strict=True)]

    def select(self, indices: Sequence[int]) -> Ragged:
        """The images with these indices, in this order, padded no further than they need."""
        sizes = tuple(self.sizes[i] for i in indices)
        height, width = (max(side) for side in zip(*sizes, strict=True))
        if list(indices) == list(range(len(self.sizes))):
            return Ragged(self.data[:, :, :height, :width], sizes)
        chosen = on_device(list(indices), self.data.device)
        return Ragged(self.data[:, :, :height, :width].index_select(0, chosen), sizes)

    @staticmethod
    def join(parts: Sequence[tuple[Sequence[int], Ragged]]) -> Ragged:
        """Undoes `select`: parts with the indices at which their images belong."""
        if len(parts) == 1 and list(parts[0][0]) == sorted(parts[0][0]):
            return parts[0][1]
        count = sum(len(indices) for indices, _ in parts)
        height = max(part.data.shape[-2] for _, part in parts)
        width = max(part.data.shape[-1] for _, part in parts)
        first = parts[0][1].data
        data = first.new_zeros(count, first.shape[1], height, width)
        sizes: list[Size] = [(0, 0)] * count
        for indices, part in parts:
            where = on_device(list(indices), first.device)
            data[where, :, : part.data.shape[-2], : part.data.shape[-1]] = part.data
            for i, size in zip(indices, part.sizes, strict=True):
                sizes[i] = size
        return Ragged(data, tuple(sizes))

    def put(self, indices: Sequence[int], part: Ragged) -> Ragged:
        """The images with those of `part`, of any sizes, in the places of `indices`."""
        if list(indices) == list(range(len(self.sizes))):
            return part
        sizes = tuple((dict(enumerate(self.sizes)) | dict(zip(indices, part.sizes, strict=True))).values())
        missing = [max(sides) - own for sides, own in zip(zip(*sizes, strict=True), self.data.shape[2:], strict=True)]
        data = F.pad(self.data, (0, missing[1], 0, missing[0]))  # a copy; negative numbers cut
        height, width = (max(sides) for sides in zip(*part.sizes, strict=True))
        data[on_device(list(indices), data.device), :, :height, :width] = part.data[..., :height, :width]
        return Ragged(data, sizes)

    def inside(self) -> Tensor:
        """Where images are, not their padding: bool (B, 1, H, W)."""
        sizes = on_device(self.sizes, self.data.device)[:, :, None]
        rows, columns = (torch.arange(n, device=self.data.device) for n in self.data.shape[-2:])
        return ((rows < sizes[:, 0])[:, :, None] & (columns < sizes[:, 1])[:, None])[:, None]

    def per_image(self, function: Callable[[Tensor, int], Tensor]) -> Ragged:
        """Applies a function to each image (C, h, w) alone, with its index."""
        return Ragged.pack([function(image, i) for i, image in enumerate(self.images())])

    def map(self, function: Callable[[Tensor], Tensor]) -> Ragged:
        """Applies a pointwise function to the whole tensor."""
        return Ragged(function(self.data), self.sizes)

    def clip(self) -> Ragged:
        """Clips to [0, 1]."""
        return self.map(lambda data: data.clamp(0, 1))


def mix_channels(matrices: Tensor, planes: Tensor) -> Tensor:
    """(B, C, H, W): planes (B, P, H, W) mixed by a matrix (C, P) for each image; in full float32 on any device."""
    first, *others = (matrices[:, :, i, None, None] * planes[:, i, None] for i in range(planes.shape[1]))
    return sum(others, first)
