"""Photographs to smaller copies of themselves, so that training sees things at several sizes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import PlainValidator
from scipy.sparse import csr_array

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

    As Real-ESRGAN's script: sizes are cut to whole numbers, and the filter is the antialiased Lanczos of Pillow,
    computed here. Other than there, nothing is enlarged: an image whose shorter side is at most `shortest` gets no
    such copy, since a ground truth should be sharp.
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
        """(height, width) of each copy; None where it would be empty or no smaller."""
        found = [(int(height * scale), int(width * scale)) for scale in self.scales]
        if self.shortest:
            short, ratio = self.shortest, max(height, width) / min(height, width)
            found.append((int(short * ratio), short) if width < height else (short, int(short * ratio)))
        return [size if min(size) > 0 and size[0] < height and size[1] < width else None for size in found]


def lanczos(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes (H, W) or (H, W, C) of uint8 or uint16 with Pillow's Lanczos filter: rows, rounding, then columns.

    Within a level of Pillow, which computes in whole numbers (and, for changed proportions, may begin with rows).
    """
    flat = image.reshape(*image.shape[:2], -1)
    top = np.iinfo(image.dtype).max
    rows, columns = _weights(image.shape[0], size[0]), _weights(image.shape[1], size[1])

    def along(matrix: csr_array, array: np.ndarray) -> np.ndarray:
        """Resizes the first axis."""
        mixed = matrix @ array.reshape(len(array), -1).astype(np.float32)
        return np.clip(np.floor(mixed + 0.5), 0, top).reshape(-1, *array.shape[1:])

    wide = along(columns, flat.swapaxes(0, 1)).swapaxes(0, 1)
    return along(rows, wide).astype(image.dtype).reshape(*size, *image.shape[2:])


def _weights(length: int, out_length: int) -> csr_array:
    """(out_length, length): a sinc over three lobes, widened when shrinking, cut off at the border."""
    scale = length / out_length
    widened = max(scale, 1.0)
    centre = (np.arange(out_length) + 0.5) * scale
    first = np.maximum((centre - 3 * widened + 0.5).astype(int), 0)
    last = np.minimum((centre + 3 * widened + 0.5).astype(int), length)
    index = first[:, None] + np.arange(int(6 * widened) + 2)
    x = (index + 0.5 - centre[:, None]) / widened
    weight = np.where((index < last[:, None]) & (np.abs(x) < 3), np.sinc(x) * np.sinc(x / 3), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    row, column = np.nonzero(weight)
    taps = (weight[row, column].astype(np.float32), (row, index[row, column]))
    return csr_array(taps, shape=(out_length, length))
