"""Figures for a paper: a part of an image enlarged, as every method made it, beside the whole; and tables in LaTeX."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.images.plot import figure
from utils.options.fields import OptionError


@dataclass(frozen=True)
class Crop:
    """A part of one image of a benchmark, in pixels of the ground truth from the upper left corner."""

    image: str
    x: int
    y: int
    width: int
    height: int

    @classmethod
    def parse(cls, given: str) -> "Crop":
        """Read IMAGE:X,Y,W,H. Raises OptionError.

        >>> Crop.parse("Set5/baby:10,20,64,48")
        Crop(image='Set5/baby', x=10, y=20, width=64, height=48)
        """
        match = re.fullmatch(r"(.+):(\d+),(\d+),(\d+),(\d+)", given)
        if match is None or not all(int(side) for side in match.groups()[3:]):
            raise OptionError(
                f"--crop {given}: expected IMAGE:X,Y,W,H, such as baby:200,120,64,64, in pixels of the result"
            )
        return cls(match[1], *map(int, match.groups()[1:]))

    def __str__(self) -> str:
        return f"{self.image}:{self.x},{self.y},{self.width},{self.height}"

    def is_of(self, set_name: str, image: str) -> bool:
        """Tell whether this is of that image: IMAGE is its name in results.csv, or SET/IMAGE."""
        return self.image in (image, f"{set_name}/{image}")

    def cut(self, image: np.ndarray, height: int) -> np.ndarray:
        """Cut out of an image (h, w, 3) as of a result that is `height` pixels high: of a small one, fewer pixels.

        Raises OptionError where it reaches beyond the image.
        """
        shrink = height / image.shape[0]
        x, y, right, below = (
            round(side / shrink) for side in (self.x, self.y, self.x + self.width, self.y + self.height)
        )
        if right > image.shape[1] or below > image.shape[0]:
            found = f"{round(image.shape[1] * shrink)}x{height}"
            raise OptionError(f"--crop {self}: reaches beyond the image, which is {found} (width x height)")
        return image[y : max(below, y + 1), x : max(right, x + 1)]


def write_figure(stem: Path, crop: Crop, images: Mapping[str, np.ndarray]) -> None:
    """Write `stem`.pdf and .png: the last image whole, with a frame, and the crop of each (H, W, 3) under its caption.

    Captions may have two lines: name and numbers. Of lower images, pixels stay visible.
    """
    from matplotlib.patches import Rectangle

    whole = list(images.values())[-1]
    parts = {caption: crop.cut(image, whole.shape[0]) for caption, image in images.items()}
    columns = -(-len(parts) // 2)
    rows, side = 2 if len(parts) > 1 else 1, 1.3  # inches, a cell's width
    cell = side * crop.height / crop.width
    height = rows * (cell + 0.4)
    width = height * whole.shape[1] / whole.shape[0]
    with figure(width + columns * side, height) as drawn:
        grid = drawn.add_gridspec(rows, columns + 1, width_ratios=[width, *[side] * columns])
        axes = drawn.add_subplot(grid[:, 0])
        axes.imshow(whole)
        axes.add_patch(Rectangle((crop.x, crop.y), crop.width, crop.height, fill=False, edgecolor="red", linewidth=1.2))
        axes.set_axis_off()
        for place, (caption, part) in enumerate(parts.items()):
            axes = drawn.add_subplot(grid[place // columns, 1 + place % columns])
            axes.imshow(part, interpolation="nearest", extent=(0, crop.width, crop.height, 0))  # one shape for all
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(caption, fontsize=7, labelpad=2)
            axes.spines[:].set_visible(False)
        stem.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(stem.with_name(f"{stem.name}.png"), dpi=200)
        drawn.savefig(stem.with_name(f"{stem.name}.pdf"), metadata={"CreationDate": None})


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[Sequence[bool]]) -> str:
    """Return a booktabs table whose first column holds names; the best numbers are bold."""
    lines = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule"]
    lines += [" & ".join(map(tex, head)) + r" \\", r"\midrule"]
    for (name, *numbers), marks in zip(rows, best, strict=True):
        cells = [rf"\textbf{{{n}}}" if is_best else n for n, is_best in zip(numbers, marks, strict=True)]
        lines.append(" & ".join([tex(name), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def tex(plain: str) -> str:
    r"""Return text as LaTeX prints it.

    >>> tex("a_b & 5 %")
    'a\\_b \\& 5 \\%'
    """
    return re.sub(r"([&%$#_{}])", r"\\\1", plain)
