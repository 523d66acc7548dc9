"""The bytes of each format, by the library that writes it right. PNG and TIFF take their pixels from top to bottom, so
that an image need not be in memory as a whole."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

_BLOCK = 2**21  # bytes that are filtered and packed at once
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by channels


@dataclass(frozen=True)
class Form:
    """What is known of an image before its pixels: shape (H, W) or (H, W, 2 to 4), uint8 or uint16, and its colours."""

    shape: tuple[int, ...]
    dtype: np.dtype
    profile: bytes = b""
    cicp: bytes = b""

    @property
    def channels(self) -> int:
        """Count the values of a pixel."""
        return self.shape[2] if len(self.shape) == 3 else 1

    @property
    def alpha(self) -> bool:
        """Whether the last value of a pixel is opacity."""
        return self.channels in (2, 4)

    @property
    def nbytes(self) -> int:
        """Count the bytes of all pixels."""
        return self.shape[0] * self.row

    @property
    def row(self) -> int:
        """Count the bytes of a row of pixels."""
        return self.shape[1] * self.channels * self.dtype.itemsize


def write_encoded(file: BinaryIO, suffix: str, form: Form, bands: Iterable[np.ndarray], quality: int = 95) -> None:
    """Write bands (n, W, ...), which make up an image, in the format of a suffix, JPEG with this quality.

    Raises ValueError if they make up another one, or the library refuses.
    """
    if suffix == ".png":
        _write_png(file, form, bands)
    elif suffix in (".tif", ".tiff"):
        _write_tiff(file, form, bands)
    else:
        (array,) = _blocks(form, bands, form.shape[0])
        kind = {".webp": "WEBP", ".bmp": "BMP"}.get(suffix, "JPEG")
        how = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": quality}}.get(kind, {})
        Image.fromarray(array).save(file, kind, icc_profile=form.profile, **how)


def _blocks(form: Form, bands: Iterable[np.ndarray], height: int) -> Iterator[np.ndarray]:
    """Cut bands anew, so that each but the last has `height` rows. Raises ValueError if they are not the image."""
    waiting, rows = np.empty((0, *form.shape[1:]), form.dtype), 0
    for band in bands:
        if band.shape[1:] != form.shape[1:] or band.dtype != form.dtype:
            raise ValueError(f"found rows {band.shape[1:]} of {band.dtype}, expected {form.shape[1:]} of {form.dtype}")
        rows += len(band)
        waiting = np.concatenate([waiting, band]) if len(waiting) else band
        while len(waiting) >= height:
            yield np.ascontiguousarray(waiting[:height])
            waiting = waiting[height:]
    if len(waiting):
        yield np.ascontiguousarray(waiting)
    if rows != form.shape[0]:
        raise ValueError(f"found {rows} rows, expected {form.shape[0]}")


def _write_png(file: BinaryIO, form: Form, bands: Iterable[np.ndarray]) -> None:
    """Write by the filter `up`, which NumPy computes for many rows at once, and a fast deflate: smaller files than
    OpenCV's in less time."""
    file.write(png_head(form))
    packer, above = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE), np.zeros((1, form.row), np.uint8)
    for block in _blocks(form, bands, max(1, _BLOCK // form.row)):
        raw = block.astype(form.dtype.newbyteorder(">"), copy=False).reshape(len(block), -1).view(np.uint8)
        lines = np.empty((len(raw), 1 + form.row), np.uint8)
        lines[:, 0] = 2
        np.subtract(raw, np.concatenate([above, raw[:-1]]), out=lines[:, 1:])
        above = raw[-1:].copy()
        if packed := packer.compress(lines.data):
            file.write(png_chunk(b"IDAT", packed))
    file.write(png_chunk(b"IDAT", packer.flush()) + png_chunk(b"IEND", b""))


def png_head(form: Form) -> bytes:
    """Return a PNG of this form up to its pixels."""
    height, width = form.shape[:2]
    bits, colours = 8 * form.dtype.itemsize, _COLOUR_TYPES[form.channels]
    head = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    head += png_chunk(b"cICP", form.cicp) if form.cicp else b""
    return head + (png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(form.profile)) if form.profile else b"")


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG with its length and checksum."""
    return b"".join(
        [struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))]
    )


def _write_tiff(file: BinaryIO, form: Form, bands: Iterable[np.ndarray]) -> None:
    from imagecodecs import delta_encode, lzw_encode
    from tifffile import imwrite

    height = max(1, 2**18 // form.row)
    strips = (bytes(lzw_encode(delta_encode(block, axis=1).tobytes())) for block in _blocks(form, bands, height))
    imwrite(
        file,
        strips,
        shape=form.shape,
        dtype=form.dtype,
        photometric="minisblack" if form.channels < 3 else "rgb",
        planarconfig="contig",
        extrasamples=["unassalpha"] if form.alpha else None,
        compression="lzw",
        predictor=True,
        rowsperstrip=height,
        bigtiff=form.nbytes > 2**32 - 2**25,
        iccprofile=form.profile or None,
        metadata=None,
        software=False,
    )
