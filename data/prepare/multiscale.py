"""Photographs to smaller copies of themselves, so that training sees things at several sizes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import PlainValidator

from utils.options.arguments import Arg
from utils.options.fields import Count


def _shrinking(value: float | str) -> float:
    top, _, bottom = str(value).partition("/")
    try:
        factor = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        factor = 0.0
    if not 0 < factor < 1:
        raise ValueError("expected a factor between 0 and 1, such as 0.5 or 1/3")
    return factor


Shrinking = Annotated[float, PlainValidator(_shrinking)]


@dataclass(frozen=True)
class Multiscale:
    """Copies at the factors `scales` (NAMET0, NAMET1, …), then one whose shorter side is `shortest` (the last T).

    As Real-ESRGAN's script: sizes are cut to whole numbers, and the filter is Pillow's antialiased Lanczos. Other than
    there, nothing is enlarged: an image whose shorter side is at most `shortest` gets no such copy, since a ground
    truth should be sharp.
    """

    scales: Annotated[tuple[Shrinking, ...], Arg("S", nargs="*")] = (0.75, 0.5, 1 / 3)
    """Factors below 1."""
    shortest: Count = 400
    """One more copy whose shorter side is N; 0 for none."""

    def outputs(self, image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        for number, size in enumerate(self.sizes(*image.shape[:2])):
            if size is not None:
                yield f"T{number}", lanczos(image, size)

    def remark(self, image: np.ndarray) -> str:
        left_out = [f"T{number}" for number, size in enumerate(self.sizes(*image.shape[:2])) if size is None]
        return f"{image.shape[0]}x{image.shape[1]} gives no {', '.join(left_out)}" if left_out else ""

    def sizes(self, height: int, width: int) -> list[tuple[int, int] | None]:
        """Return (height, width) of each copy; None where it would be empty or no smaller."""
        sizes = [(int(height * scale), int(width * scale)) for scale in self.scales]
        if self.shortest:
            short, ratio = self.shortest, max(height, width) / min(height, width)
            sizes.append((int(short * ratio), short) if width < height else (short, int(short * ratio)))
        return [size if min(size) > 0 and size[0] < height and size[1] < width else None for size in sizes]


def lanczos(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) or (H, W, C) of uint8 or uint16 resized to `size` (height, width) by Pillow's Lanczos filter."""
    height, width = size

    def resized_by_pillow(array: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.LANCZOS))

    if image.dtype == np.uint8:
        return resized_by_pillow(image)
    # Of more than 8 bits it takes gray alone, as float32.
    planes = [resized_by_pillow(p.astype(np.float32)) for p in image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)]
    resized = np.rint(np.stack(planes, -1)).clip(0, np.iinfo(image.dtype).max)
    return resized.astype(image.dtype).reshape(*size, *image.shape[2:])
