"""Images inside an LMDB database, in BasicSR's layout."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import lmdb
import numpy as np

from data.source import DATASETS, Source, UnreadableImageError, remarks_on_cut
from utils.images.files import ImageError, changes, decode_image
from utils.images.header import IMAGE_SUFFIXES, parse_header
from utils.logging import first_few
from utils.options.fields import PositiveInt
from utils.storage.files import located, looked_in, read_text
from utils.storage.lmdb_reader import reader

META, OLD_META = "meta_info.txt", "meta_info.pkl"
_SHOWN = 10  # keys in a message
_LOOKED_AT = 200  # images that are read whole
_LONGEST_KEY = 511  # bytes, as LMDB is compiled by default
_LONGEST_LINE = 1000  # the expression takes quadratic time
# name.png (height,width,channels) level; only the name is needed.
_LINE = re.compile(r"(?P<name>.+?)(?:\s+\((?P<height>\d{1,9}),\s*(?P<width>\d{1,9}),\s*\d{1,9}\)(?:\s+\d+)?)?")

Size = tuple[int, int]


@DATASETS.register("lmdb")
class Lmdb(Source):
    """Images of an LMDB database in BasicSR's layout: PNG bytes under keys, and a list of them.

    A database is a folder with `data.mdb` and `meta_info.txt`, whose lines are `name.png (height,width,channels)
    level`; the key is the name without its ending. `python -m data.prepare lmdb` writes such a folder.

    Args:
        root: the folder of the database, usually called NAME.lmdb.
        lq_root: a second database with the low-quality images under the same keys.
        scale: how many times larger the ground truth is; supplied by the experiment, needed with `lq_root`.

    As with `paired`, a ground truth that is larger by less than `scale` pixels is cut; `cut` counts those.

    Raises:
        ValueError: a database is missing, cut off or empty, its list names keys that it has not, the two databases
            list different keys, or sizes do not fit; keys are counted and up to ten named, sizes are all listed.
    """

    def __init__(self, root: str, lq_root: str | None = None, scale: PositiveInt | None = None) -> None:
        self._root, listed = str(located(root)), _listed(located(root), "root")
        self._keys = list(listed)
        self._lq_root: str | None = None
        self.scale, self.cut = scale or 1, 0
        _require(self._root, self._keys)
        if lq_root is not None:
            if scale is None:
                raise ValueError("scale: is missing; give the factor by which ground truths are larger")
            self.paired = True
            self._lq_root, partners = str(located(lq_root)), _listed(located(lq_root), "lq_root")
            self._match(listed, partners)
            _require(self._lq_root, self._keys)

    def _match(self, truths: dict[str, Size | None], partners: dict[str, Size | None]) -> None:
        problems = [
            f"{len(missing)} keys of {here} are missing in {there}: {first_few(missing, _SHOWN)}"
            for here, there, missing in (
                (self._root, self._lq_root, [key for key in truths if key not in partners]),
                (self._lq_root, self._root, [key for key in partners if key not in truths]),
            )
            if missing
        ]
        for key, size in truths.items():
            small = partners.get(key)
            if size is None or small is None:
                continue
            rest = self._rest(size, small)
            if rest is None:  # BasicSR ignores the sizes in the list, so some lists have wrong ones
                size, small = _true_size(self._root, key) or size, _true_size(self._lq_root, key) or small
                rest = self._rest(size, small)
            if rest is None:
                problems.append(self._mismatch(key, size, small))
            else:
                self.cut += rest != (0, 0)
        if problems:
            raise ValueError(f"the databases do not pair at scale {self.scale}:\n  " + "\n  ".join(problems))

    def _rest(self, size: Size, small: Size) -> Size | None:
        """Return how many pixels larger a ground truth is than its enlarged partner, or None where it does not fit."""
        rest = size[0] - small[0] * self.scale, size[1] - small[1] * self.scale
        return rest if all(0 <= r < self.scale for r in rest) else None

    def _mismatch(self, key: str, size: Size, small: Size) -> str:
        expected = f"expected {small[0] * self.scale}x{small[1] * self.scale}"
        partner = f"{self._lq_root} has {small[0]}x{small[1]}"
        return f"{self._root}, key {key!r}: is {size[0]}x{size[1]}, {expected}, for {partner}"

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        return f"{self._root}/{self._keys[index]}"

    def remarks(self) -> list[str]:
        roots = [root for root in (self._root, self._lq_root) if root is not None]
        some = self._keys[:: max(1, len(self._keys) // _LOOKED_AT)]
        found = [changes((key, parse_header(_value(root, key))) for key in some) for root in roots]
        return [
            *remarks_on_cut(self.cut, self.scale),
            *(f"{r}: {text}" for r, texts in zip(roots, found, strict=True) for text in texts),
        ]

    def read(self, index: int) -> np.ndarray:
        key = self._keys[index]
        image = _image(self._root, key)
        if self._lq_root is None:
            return image
        size, small = image.shape[:2], parse_header(_value(self._lq_root, key)).size
        height, width = small or _image(self._lq_root, key).shape[:2]
        if self._rest((size[0], size[1]), (height, width)) is None:
            raise UnreadableImageError(self._mismatch(key, (size[0], size[1]), (height, width)))
        return image[: height * self.scale, : width * self.scale]

    def read_lq(self, index: int) -> np.ndarray:
        if self._lq_root is None:
            return super().read_lq(index)
        return _image(self._lq_root, self._keys[index])


# --- the list ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetaLine:
    """A line of meta_info.txt: the key, and (height, width) where it is given."""

    key: str
    size: Size | None


def parse_meta(line: str) -> MetaLine:
    """Read a line of meta_info.txt. Raises ValueError for a name that cannot be a key, or that leads out of a folder.

    Names of result files are made of keys, so a stranger's list must not choose where they go.
    """
    match = None if len(line) > _LONGEST_LINE else _LINE.fullmatch(line.strip())
    name = "" if match is None else match["name"]
    path = PurePosixPath(name)
    key = name[: -len(path.suffix)] if path.suffix.lower() in IMAGE_SUFFIXES else name
    if not key or len(key.encode()) > _LONGEST_KEY or "\0" in key:
        raise ValueError(f"found {line[:80]!r}, expected NAME.png (HEIGHT,WIDTH,CHANNELS) LEVEL")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the folder")
    sized = match is not None and match["height"] is not None
    return MetaLine(key, (int(match["height"]), int(match["width"])) if match is not None and sized else None)


def _listed(root: Path, option: str) -> dict[str, Size | None]:
    """Return keys with their sizes, in the order of the list."""
    if not (root / "data.mdb").is_file():
        raise ValueError(
            f"{option}: {root} is no LMDB database{looked_in(root)}; expected a folder with data.mdb and {META}"
        )
    if (root / OLD_META).is_file() and not (root / META).exists():
        raise ValueError(
            f"{option}: {root} has {OLD_META}, so it is of the BasicSR of 2019, which kept bare pixels; convert it: "
            f"python -m data.prepare lmdb {root} --out NEW.lmdb"
        )
    try:
        lines = read_text(root / META).splitlines()
    except FileNotFoundError:
        raise ValueError(
            f"{option}: {root} has no {META}, so it is unfinished; run the `python -m data.prepare lmdb` that began it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{option}: cannot read {root / META} ({error})") from error
    found: dict[str, Size | None] = {}
    for number, text in enumerate(lines, 1):
        if text.strip():
            try:
                line = parse_meta(text)
            except ValueError as error:
                raise ValueError(f"{option}: {root / META}:{number}: {error}") from error
            if line.key in found:
                raise ValueError(f"{option}: {root / META}:{number}: the key {line.key!r} is listed twice")
            found[line.key] = line.size
    if not found:
        raise ValueError(f"{option}: {root / META} lists no images")
    return found


def _require(root: str, keys: Sequence[str]) -> None:
    """Raise ValueError unless the database has all keys."""
    try:
        missing = reader(root).missing(keys)
    except (lmdb.Error, OSError) as error:
        raise ValueError(f"{root}: cannot be opened as an LMDB database ({error})") from error
    if missing:
        raise ValueError(
            f"{root}: {len(missing)} of the {len(keys)} keys in {META} are missing: {first_few(missing, _SHOWN)}"
        )


# --- values ------------------------------------------------------------------------------------------------------


def _image(root: str, key: str) -> np.ndarray:
    try:
        return decode_image(_value(root, key), f"{root}, key {key!r}")
    except ImageError as error:
        raise UnreadableImageError(str(error)) from error


def _true_size(root: str | None, key: str) -> Size | None:
    """Return what the header of an image says, or None where it does not tell."""
    try:
        return None if root is None else parse_header(_value(root, key)).size
    except UnreadableImageError:
        return None


def _value(root: str, key: str) -> bytes:
    try:
        value = reader(root).get(key)
    except (lmdb.Error, OSError) as error:
        raise UnreadableImageError(f"{root}, key {key!r}: cannot be read ({error})") from error
    if value is None:
        raise UnreadableImageError(f"{root}, key {key!r}: is no longer in the database")
    return value
