"""Decoded images on the disk, so that a crop of a photograph reads little more than the crop."""

import hashlib
import os
import shutil
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import numpy as np

from utils.images import decoders
from utils.images.files import read_image
from utils.options.fields import OptionError
from utils.storage.files import DAMAGED_ARRAY, is_abandoned

_HEAD = 4096  # bytes of a photograph that are compared, besides its size and time


class ImageCache:
    """A folder with a .npy file for each image that was read once; whoever reads it again gets it mapped into memory.

    Any number of processes may share it: a file appears whole or not at all. It is made anew when its image has another
    size, time of change or beginning, or the decoders another version. Nothing else is ever removed.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder. Raises OptionError if it cannot be."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"data.cache: cannot make the folder {folder} ({error.strerror})") from error
        for left in folder.glob(".*.tmp"):
            with suppress(OSError):
                if is_abandoned(left.stat()):
                    left.unlink()

    def read(self, path: str | Path) -> np.ndarray:
        """Return what `read_image` does, read-only and mapped where it is kept. Raises ImageError as that does.

        An image that cannot be kept, as the disk is full, is decoded each time.
        """
        path = os.path.abspath(path)
        kept = self.folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.npy"
        try:
            stamp = _stamp(path)
        except OSError:
            return read_image(path)  # says what is wrong
        with suppress(OSError, *DAMAGED_ARRAY):
            return _mapped(kept, stamp)
        image = read_image(path)
        with suppress(OSError):
            _write(kept, image, stamp)
        return image

    def remark(self, bytes_needed: int) -> str:
        """Say how much the images that are about to be kept take, and how much the disk has left."""
        free = shutil.disk_usage(self.folder).free
        return f"data.cache: decoded, the images take {_gb(bytes_needed)} in {self.folder}; {_gb(free)} are free there"


def _gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB"


@cache
def _decoders() -> tuple[str, ...]:
    """Return the versions of all that turns a file into pixels."""
    return str(decoders.VERSION), *(version(library) for library in ("imagecodecs", "pillow", "tifffile"))


def _stamp(path: str) -> bytes:
    """Return 32 bytes that tell this state of a file, and who decodes it, from others. Raises OSError."""
    with open(path, "rb") as file:
        state, head = os.fstat(file.fileno()), file.read(_HEAD)
    return hashlib.sha256(repr((state.st_size, state.st_mtime_ns, *_decoders())).encode() + head).digest()


def _mapped(kept: Path, stamp: bytes) -> np.ndarray:
    """Map a kept image. Raises OSError if there is none, ValueError if it is of another state or incomplete."""
    with kept.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        file.seek(start + int(np.prod(shape)) * dtype.itemsize)
        if file.read() != stamp:
            raise ValueError(f"{kept} is of another state of its image")
        return np.memmap(file, dtype, "r", start, shape)


def _write(kept: Path, image: np.ndarray, stamp: bytes) -> None:
    """Keep an image in one step. Raises OSError."""
    aside = kept.with_name(f".{kept.stem}-{uuid4().hex}.tmp")
    try:
        with aside.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(image))
            image.tofile(file)
            file.write(stamp)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(kept)
    finally:
        aside.unlink(missing_ok=True)
