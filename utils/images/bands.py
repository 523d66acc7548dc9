"""Image files too large to hold, read from top to bottom: PNG and TIFF in the plain forms that large files have.

A band of a PNG is made a small PNG of its own, and a TIFF gives its strips or rows of tiles, so that pixels are decoded
by what decodes whole files.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.images.decoders import decoded
from utils.images.encoders import Form, png_chunk, png_head
from utils.images.files import ImageError, Picture, picture_of
from utils.images.header import Header

_BAND = 2**21  # bytes of pixels that are decoded at once, in some five copies
_LARGEST_SEGMENT = 2**26  # of a TIFF's strip or row of tiles


def why_not_in_bands(header: Header, path: Path) -> str | None:
    """Return why a file of this header cannot be read from top to bottom, or None if it can."""
    if header.kind not in ("png", "tiff"):
        return f"{header.kind.upper()} is decoded as a whole"
    if header.orientation != 1:
        return "it lies turned in its file"
    if header.alpha:
        return "it has alpha"
    if header.mode not in ("gray", "RGB") or header.highest not in (255, 65535):
        return f"its colours ({header.mode}, up to {header.highest}) are decoded as a whole"
    if header.kind == "png":
        with path.open("rb") as file:
            return "it is interlaced" if file.read(29)[28] else None
    try:
        return _why_no_strips(path)
    except Exception:  # noqa: BLE001 - reading it as a whole says what is wrong
        return "its tags are of no plain kind"


def read_in_bands(path: Path, header: Header) -> Iterator[Picture]:
    """Read a file that `why_not_in_bands` has nothing against: pictures as `read_picture` gives, each of some rows.

    `header` is that of the whole file, which is taken for sound. Raises ImageError where its pixels are damaged.
    """
    rows = 0
    try:
        for band in _png_bands(path, header) if header.kind == "png" else _tiff_bands(path):
            rows += len(band)
            yield picture_of(path, band, header)
    except Exception as error:
        raise ImageError(f"{path}: is damaged below row {rows} ({' '.join(str(error).split())})") from error


def _png_bands(path: Path, header: Header) -> Iterator[np.ndarray]:
    (height, width), depth = header.size or (0, 0), 1 if header.highest == 255 else 2
    channels = 1 if header.mode == "gray" else 3
    form = Form((height, width, 3) if channels == 3 else (height, width), np.dtype(f"u{depth}"))
    above, left = bytes(form.row), height
    with path.open("rb") as file:
        for lines in _scan_lines(file, 1 + form.row):
            # A PNG of these rows, below the one before as it came out, on which their filters may build.
            count = len(lines) // (1 + form.row)
            packed = zlib.compress(b"\0" + above + lines, 0)
            small = b"".join([png_head(replace(form, shape=(1 + count, *form.shape[1:]))), png_chunk(b"IDAT", packed)])
            band = decoded(small + png_chunk(b"IEND", b""), header)[1:]
            above = band[-1].astype(form.dtype.newbyteorder(">"), copy=False).tobytes()
            left -= count
            yield band[: left + count]
    if left > 0:
        raise ValueError(f"{left} rows are missing")


def _scan_lines(file: BinaryIO, line: int) -> Iterator[bytes]:
    """Unpack whole lines of a PNG, some at a time, as they are filtered."""
    unpacker, waiting, enough = zlib.decompressobj(), bytearray(), max(1, _BAND // line) * line
    file.seek(8)
    while head := file.read(8):
        length, kind = struct.unpack(">I4s", head)
        packed = file.read(length)
        file.seek(4, 1)  # the checksum, which reading the header has proved
        while kind == b"IDAT" and packed:
            waiting += unpacker.decompress(packed, enough)
            packed = unpacker.unconsumed_tail
            while len(waiting) >= enough:
                yield bytes(waiting[:enough])
                del waiting[:enough]
    if waiting := waiting[: len(waiting) // line * line]:
        yield bytes(waiting)


def _why_no_strips(path: Path) -> str | None:
    from tifffile import TiffFile

    with TiffFile(path) as file:
        page = file.pages.first
        if page.planarconfig != 1 or page.photometric not in (1, 2, 6) or page.samplesperpixel not in (1, 3):
            return "its planes or colours are put together as a whole"
        if page.is_contiguous and not (all(page.dataoffsets) and all(page.databytecounts)):
            return "some of its strips are not in the file"
        rows = page.tilelength if page.is_tiled else page.rowsperstrip
        if rows * page.imagewidth * page.samplesperpixel * np.dtype(page.dtype).itemsize > _LARGEST_SEGMENT:
            return f"its strips are as high as {rows} rows"
    return None


def _tiff_bands(path: Path) -> Iterator[np.ndarray]:
    from tifffile import TiffFile

    with TiffFile(path) as file:
        page, row, top = file.pages.first, None, 0
        for part, (_, _, y, x, _), (_, height, width, _) in page.segments(maxworkers=1):
            if row is not None and y != top:
                yield row
                row = None
            if row is None:
                row = np.zeros((min(height, page.imagelength - y), page.imagewidth, page.samplesperpixel), page.dtype)
                row, top = row[..., 0] if page.samplesperpixel == 1 else row, y
            if part is not None:
                part = part[0, ..., 0] if page.samplesperpixel == 1 else part[0]
                row[:, x : x + width] = part[: len(row), : page.imagewidth - x]
        if row is not None:
            yield row
