"""A folder of ground-truth images."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from data.cache import ImageCache
from data.source import DATASETS, Source, UnreadableImageError
from utils.images.files import IMAGE_SUFFIXES, ImageError, Listing, list_images, read_image
from utils.logging import first_few
from utils.options.fields import OptionError, PositiveInt
from utils.storage.files import located, looked_in, read_text

# A listed name ends at its suffix, so it may hold blanks; BasicSR's lists go on with a column such as (480,480,3), and
# Real-ESRGAN's lists of pairs with a comma and the name of the low-quality image.
_NAME = rf".+?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})"
_LISTED = re.compile(rf"({_NAME})(?:,\s*({_NAME})$|\s|$)", re.IGNORECASE)


@DATASETS.register("folder")
class Folder(Source):
    """All images of one or several folders, at any depth.

    Args:
        root: a folder, or several, one after the other. Relative to the working directory; `~` is the home folder.
        names: a text file that lists the images to use, one path relative to `root` (or all to the folder above) per
            line; further columns (BasicSR's meta-info files) are ignored. Default: every image, sorted.
        max_images: use only this many, from the front.

    Raises:
        OptionError: a folder is missing or has no images, or the list names what is not there or not inside `root`.
    """

    keeps = True

    def __init__(self, root: str | list[str], names: str | None = None, max_images: PositiveInt | None = None) -> None:
        self._left_out: list[str] = []
        roots = [located(r) for r in ([root] if isinstance(root, str) else root)]
        if not roots:
            raise OptionError("root: found an empty list, expected at least one folder")
        if names is None:
            listings = [whole_folder(r, "root") for r in roots]
            images = [path for listing in listings for path in listing.files]
            self._left_out = [listing.remark for listing in listings if listing.remark]
        elif len(roots) == 1:
            images = listed_images(roots[0], located(names))
        else:
            raise OptionError(f"names: a list goes with one root, found {len(roots)}; use one data entry for each")
        # Strings take a third of the memory of paths, and go to every worker.
        self._paths = [str(path) for path in images[:max_images]]

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return self._paths[index]

    def path(self, index: int) -> Path:
        return Path(self._paths[index])

    def remarks(self) -> list[str]:
        return [*self._left_out, *super().remarks()]

    def read(self, index: int) -> np.ndarray:
        return read_listed(self._paths[index], self.cache)


def read_listed(path: str | Path, cache: ImageCache | None = None) -> np.ndarray:
    """Read an image of a data set as (H, W, 3) RGB, from a cache where there is one.

    Raises UnreadableImageError naming the file and the reason.
    """
    try:
        return read_image(path) if cache is None else cache.read(path)
    except ImageError as error:
        raise UnreadableImageError(str(error)) from error


def listed_images(root: Path, listing: Path) -> list[Path]:
    """Return the images under `root` that a text file lists, in its order. Raises OptionError naming what is wrong."""
    lines = read_list(listing)
    if any(len(names) == 2 for names in lines):
        raise OptionError(f"names: {listing} lists pairs; use `type: paired` with gt_root and lq_root")
    return present(root, [names[0] for names in lines], listing)


def read_list(listing: Path) -> list[tuple[str, ...]]:
    """Return the name in each line of a list of images, or both names of a pair (ground truth first), with slashes.

    Raises OptionError naming the line that is wrong.
    """
    try:
        lines = read_text(listing).splitlines()
    except OSError as error:
        raise OptionError(f"names: cannot read the list {listing} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"names: cannot read the list {listing} ({error}); save it as UTF-8") from error
    entries = [_names(line.strip(), f"names: {listing}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise OptionError(f"names: the list {listing} is empty")
    return entries


def present(root: Path, names: Sequence[str], listing: Path, option: str = "root") -> list[Path]:
    """Return the listed images under `root`. A list may be written from the folder above: then all its names begin with
    that of `root`, as Real-ESRGAN's script does. Raises OptionError naming what is missing."""
    if not root.is_dir():
        raise OptionError(f"{option}: there is no folder {root}{looked_in(root)}")
    paths, own = [located(name, root) for name in names], f"{root.resolve().name}/"
    if not paths[0].exists() and all(name.replace("\\", "/").startswith(own) for name in names):
        paths = [located(name[len(own) :], root) for name in names]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        shown = first_few([str(path) for path in missing])
        raise OptionError(f"names: {len(missing)} of the {len(paths)} images listed in {listing} are missing: {shown}")
    return paths


def listable(name: str) -> bool:
    """Tell whether a path relative to the root comes out of a list, which is UTF-8, as it went in."""
    match = _LISTED.match(name)
    written = name.encode(errors="ignore").decode().strip()  # which drops bytes of a name that are no text
    return match is not None and match[1] == name == written and len(name.splitlines()) == 1


def _names(line: str, where: str) -> tuple[str, ...]:
    match = _LISTED.match(line)
    if match is None:
        raise OptionError(f"{where}: found {line!r}, expected a path ending in one of {' '.join(IMAGE_SUFFIXES)}")
    names = tuple(name for name in match.groups() if name is not None)
    for name in names:
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
            raise OptionError(f"{where}: {name!r} leads out of the folder; list paths relative to it")
    return names


def whole_folder(root: Path, option: str) -> Listing:
    """List a folder of which all images are used. Raises OptionError, naming the option, where there are none."""
    try:
        listing = list_images(root)
    except OSError as error:
        raise OptionError(f"{option}: {error}; expected a folder of images ({' '.join(IMAGE_SUFFIXES)})") from error
    if not listing.files:
        raise OptionError(f"{option}: {root} holds no images; accepted are {' '.join(IMAGE_SUFFIXES)}, in any case")
    return listing
