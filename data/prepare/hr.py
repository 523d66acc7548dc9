"""Real photographs to ground truths: noise and blur are averaged away by making them smaller (RealSR)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.prepare.convert import convert
from data.prepare.section import CleanHr
from data.prepare.work import refuse_inside
from utils.images.files import from_tensor, to_tensor
from utils.images.resize import imresize
from utils.logging import Console
from utils.options.fields import OptionError

VERSION = 1


@dataclass(frozen=True)
class Trimmed:
    """Images made smaller by `factor`, whose right and lower border are cut to multiples of `scale`."""

    factor: int
    scale: int
    released: bool = False

    def outputs(self, image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        if self.factor > 1:
            small = from_tensor(imresize(to_tensor(image.reshape(*image.shape[:2], -1)), 1 / self.factor))
            small = small.clip(0, 1) * np.float32(np.iinfo(image.dtype).max)
            shape = *small.shape[:2], *image.shape[2:]  # gray images have no axis of channels
            image = (small if self.released else np.rint(small)).astype(image.dtype).reshape(shape)
        height, width = (side // self.scale * self.scale for side in image.shape[:2])
        if height and width:
            yield "", image[:height, :width]

    def remark(self, image: np.ndarray) -> str:
        height, width = image.shape[:2]
        needed = self.factor * self.scale - self.factor + 1
        return f"{height}x{width} is too small, expected {needed} or more a side" if min(height, width) < needed else ""


def check_folders(source: Path, target: Path | None, out: Path) -> None:
    """Raise OptionError if one folder lies in the other, or results would lie in one of them."""
    folders = [source, *([] if target is None else [target])]
    if target is not None:
        one, other = source.resolve(), target.resolve()
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise OptionError(
                f"source {source} and target {target} are the same folder or lie in each other; the target is for "
                "other, clean images, and may be left out"
            )
    for folder in folders:
        for name in ("source", "target")[: len(folders)]:
            refuse_inside(out / name, folder)


def make_hr(
    job: CleanHr, scale: int, source: Path, target: Path | None, out: Path, workers: int, console: Console
) -> int:
    """Write OUT/source (cleaned) and OUT/target (as it is), each image trimmed to `scale`; `type: folder` with the
    root OUT reads both. Kernels and noise are to come from the source only.

    Returns how many images could not be used. Raises as `convert` and `check_folders`.
    """
    check_folders(source, target, out)
    folders = {"source": source, **({} if target is None else {"target": target})}
    trimmed = trims(job, scale, folders).items()
    return sum(convert(trim, folders[name], out / name, "", workers, console) for name, trim in trimmed)


def trims(job: CleanHr, scale: int, folders: Iterable[str]) -> dict[str, Trimmed]:
    """Return what is done to the images of each folder: those of `source` are cleaned, those of `target` are not."""
    cleaned = Trimmed(job.factor, scale, job.released)
    return {name: cleaned if name == "source" else Trimmed(1, scale) for name in folders}
