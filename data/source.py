"""What every image source offers, and the registry of sources."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data.cache import ImageCache
from degradations import Degradation
from utils.images.files import changes, headers
from utils.images.header import Header
from utils.logging import counted
from utils.options.components import Registry, Spec
from utils.options.fields import Positive, PositiveInt, TwoOrMore

_LOOKED_AT = 5000  # images of a source, whose heads are read in seconds
Augment = Literal["flips_and_turns", "flip", "turns", "none"]


class UnreadableImageError(OSError):
    """An image that exists in a list but cannot be used. The message names the file and the reason."""


class Source:
    """An indexed set of ground-truth images, with or without given low-quality partners.

    Attributes:
        paired: `read_lq` gives a low-quality partner of the same index.
        keeps: whether it reads files that a cache may keep decoded.
        cache: what keeps them, where that is wanted.
        locality: so many neighbours, from each multiple of it on, are best read soon after one another.
    """

    paired: bool = False
    keeps: bool = False
    cache: ImageCache | None = None
    locality: int = 1

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has no length")

    def name(self, index: int) -> str:
        """Return where image `index` comes from: a path or a key, for messages and result tables."""
        raise NotImplementedError(f"{type(self).__name__} names nothing")

    def path(self, index: int) -> Path | None:
        """Return the file that holds image `index` and nothing else, or None where there is no such file."""
        return None

    def read(self, index: int) -> np.ndarray:
        """Return a ground truth (H, W, 3), RGB, uint8 or uint16. Raises UnreadableImageError naming file and reason."""
        raise NotImplementedError(f"{type(self).__name__} reads nothing")

    def ahead(self, indices: Sequence[int]) -> None:
        """Begin to fetch images that `read` will soon be asked for, in this order, where that takes long."""

    def remarks(self) -> list[str]:
        """Say which files are left out and what reading changes in the images, for the log at the start of a run."""
        step = -(-len(self) // _LOOKED_AT) or 1
        paths = [path for index in range(0, len(self), step) if (path := self.path(index)) is not None]
        found = list(headers(paths))
        said = changes(found)
        if self.cache is not None:
            said.append(self.cache.remark(step * sum(decoded_bytes(header) for _, header in found)))
        sampled = f"looked at every {step}th: " if step > 1 else ""
        return [sampled + remark for remark in said]

    def read_lq(self, index: int) -> np.ndarray:
        """Return the low-quality partner of `read(index)`; only where `paired`."""
        raise NotImplementedError(f"{type(self).__name__} has no low-quality images")


@dataclass(frozen=True)
class SourceEntry:
    """A source as it stands in an option file.

    Args:
        weight: its share of the training samples; left out, its share of the images.
        degradation: replaces the experiment's for this source.
        augment: replaces that of `data` for this source.
        crop: of validation images, keep only a central part of so many pixels.
        multiple: of validation images, cut the sides to multiples of this besides the scale's.
        repeats: of validation images, degrade each that many times, which makes the mean over a handful worth more.
        embedding: report at each validation how well an encoder (of dasr, cdsr) tells that many draws of the
            degradation apart, in crops of `crop` or else 48 low-quality pixels: see `models.embedding`.
    """

    source: Source
    weight: Positive | None = None
    degradation: Spec[Degradation] | None = None
    augment: Augment | None = None
    crop: PositiveInt | None = None
    multiple: PositiveInt = 1
    repeats: PositiveInt = 1
    embedding: TwoOrMore | None = None


def decoded_bytes(header: Header) -> int:
    """Return how many bytes an image takes as (H, W, 3), as far as its header tells its size."""
    height, width = header.size or (0, 0)
    return 3 * height * width * (2 if header.highest > 255 else 1)


def remarks_on_cut(count: int, scale: int) -> list[str]:
    """Say how many ground truths are cut, since they are larger than their partners by less than `scale` pixels."""
    if not count:
        return []
    return [
        f"{counted(count, 'ground truth is', 'ground truths are')} cut at the bottom and right to a multiple of {scale}"
    ]


def fingerprint(source: Source, sampled: int = 8) -> str:
    """Return what tells a source's images from others, wherever they lie: number, names, the content of a few."""
    count = len(source)
    digest = hashlib.sha256(repr([count, *(Path(source.name(index)).name for index in range(count))]).encode())
    for index in range(0, count, max(1, count // sampled)):
        try:
            digest.update(source.read(index).tobytes())
        except UnreadableImageError:
            digest.update(b"unreadable")
    return digest.hexdigest()


DATASETS: Registry[SourceEntry] = Registry(
    "data set", "data.sources", protocol=Source, entry=SourceEntry, context=("scale",)
)
