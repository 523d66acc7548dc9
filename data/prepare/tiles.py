"""Large photographs to overlapping tiles, which are read faster during training."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from utils.options.fields import Count, PositiveInt


@dataclass(frozen=True)
class Tiles:
    """Square windows of `size` pixels every `step` pixels, row by row; `NAME_s001` is the first.

    Where more than `thresh` pixels are left behind the last window, one more ends at the border. An image that is
    smaller than a window in a direction is kept at its own length there: BasicSR's script drops such images silently.
    """

    size: PositiveInt = 480
    """Pixels of a tile."""
    step: PositiveInt = 240
    """Pixels between tiles."""
    thresh: Count = 0
    """One more tile at the border if more than this many pixels are left."""

    def outputs(self, image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        corners = [(top, left) for top in self.starts(image.shape[0]) for left in self.starts(image.shape[1])]
        for number, (top, left) in enumerate(corners, 1):
            yield f"_s{number:03d}", image[top : top + self.size, left : left + self.size]

    def remark(self, image: np.ndarray) -> str:
        height, width = image.shape[:2]
        if min(height, width) >= self.size:
            return ""
        if max(height, width) <= self.size:
            return f"{height}x{width} is smaller than a tile of {self.size}, kept as it is"
        side, other = ("height", "width") if height < width else ("width", "height")
        return (
            f"{height}x{width}: its {side} is smaller than a tile of {self.size} and kept; its {other} is cut into "
            f"{len(self.starts(max(height, width)))}"
        )

    def starts(self, length: int) -> list[int]:
        """Return where windows begin along a side."""
        starts = list(range(0, max(length - self.size, 0) + 1, self.step))
        if length - (starts[-1] + self.size) > self.thresh:
            starts.append(length - self.size)
        return starts
