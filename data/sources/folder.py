"""A folder of ground-truth images."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np

from data.source import DATASETS, Source, UnreadableImageError
from utils.images.files import IMAGE_SUFFIXES, ImageError, image_files, read_image
from utils.options.fields import OptionError, PositiveInt

# A listed name ends at its suffix, so it may hold blanks; BasicSR's lists go on with a column such as (480,480,3).
_LISTED = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))(?:\s|$)", re.IGNORECASE)
_SHOWN = 5  # names in a message


@DATASETS.register("folder")
class Folder(Source):
    """All images of one or several folders, at any depth.

    Args:
        root: a folder, or several, one after the other. Relative to the working directory; `~` is the home folder.
        names: a text file that lists the images to use, one path relative to `root` per line; further columns
            (BasicSR's meta-info files) are ignored. Default: every image, sorted.
        max_images: use only this many, from the front.

    Raises:
        OptionError: a folder is missing or has no images, or the list names what is not there or not inside `root`.
    """

    def __init__(self, root: str | list[str], names: str | None = None, max_images: PositiveInt | None = None) -> None:
        roots = [Path(r).expanduser() for r in ([root] if isinstance(root, str) else root)]
        if not roots:
            raise OptionError("root: found an empty list, expected at least one folder")
        if names is None:
            found = [path for r in roots for path in _all_images(r)]
        elif len(roots) == 1:
            found = listed_images(roots[0], Path(names).expanduser())
        else:
            raise OptionError(f"names: a list goes with one root, found {len(roots)}; use one data entry for each")
        # Strings take a third of the memory of paths, and go to every worker.
        self._paths = [str(path) for path in found[:max_images]]

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return self._paths[index]

    def path(self, index: int) -> Path:
        return Path(self._paths[index])

    def read(self, index: int) -> np.ndarray:
        return read_listed(self._paths[index])


def read_listed(path: str | Path) -> np.ndarray:
    """An image file of a data set as (H, W, 3) RGB. Raises UnreadableImageError naming the file and the reason."""
    try:
        return read_image(path)
    except ImageError as error:
        raise UnreadableImageError(str(error)) from error


def listed_images(root: Path, listing: Path) -> list[Path]:
    """The images under `root` that a text file lists, in its order. Raises OptionError naming what is wrong."""
    if not root.is_dir():
        raise OptionError(f"root: there is no folder {root}")
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"names: cannot read the list {listing} ({error})") from error
    found = [_listed_path(root, line.strip(), f"{listing}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise OptionError(f"names: the list {listing} is empty")
    missing = [path for path in found if not path.is_file()]
    if missing:
        shown = ", ".join(str(path) for path in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise OptionError(f"names: {len(missing)} of the {len(found)} images listed in {listing} are missing: {shown}")
    return found


def listable(name: str) -> bool:
    """Whether a path relative to the root comes out of a list as it went in."""
    match = _LISTED.match(name)
    return match is not None and match[1] == name and name == name.strip() and len(name.splitlines()) == 1


def _listed_path(root: Path, line: str, where: str) -> Path:
    match = _LISTED.match(line)
    if match is None:
        raise OptionError(
            f"names: {where}: found {line!r}, expected a path ending in one of {' '.join(IMAGE_SUFFIXES)}"
        )
    relative = PurePosixPath(match[1])
    if relative.is_absolute() or ".." in relative.parts:
        raise OptionError(f"names: {where}: {match[1]!r} leads out of {root}; list paths relative to it")
    return root / relative


def _all_images(root: Path) -> list[Path]:
    try:
        found = image_files(root)
    except OSError as error:
        raise OptionError(f"root: {error}; expected a folder of images ({' '.join(IMAGE_SUFFIXES)})") from error
    if not found:
        raise OptionError(f"root: {root} holds no images; accepted are {' '.join(IMAGE_SUFFIXES)}, in any case")
    return found
