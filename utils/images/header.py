"""What the bytes of an image file say before any pixel is decoded: size, orientation, and whether the file is whole.

OpenCV fills the missing part of a cut-off file with grey in some versions, and allocates whatever size a header claims.
Both are found here, by walking the containers of PNG, JPEG and WebP, and reading the first directory of a TIFF.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

# A marker of a JPEG: 0xFF and a byte that is neither stuffing (00), nor a fill byte (FF), nor a restart (D0 to D7).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WIDTH, _HEIGHT, _ORIENTATION, _EXTRA_SAMPLES = 0x100, 0x101, 0x112, 0x152  # TIFF tags, also in EXIF


@dataclass(frozen=True)
class Header:
    """What is known of a file without decoding it.

    Attributes:
        size: (height, width) as OpenCV decodes it, before `orientation` is applied; None where it is not parsed here.
        orientation: EXIF orientation 1 to 8 that the decoder leaves to us; 1 is upright.
        gray: the file stores one channel of light (PNG only; elsewhere the decoded shape tells).
        premultiplied: OpenCV decodes 8-bit colours multiplied by alpha (TIFF that declares its alpha).
        damage: why the file cannot be whole, or None.
    """

    size: tuple[int, int] | None = None
    orientation: int = 1
    gray: bool = False
    premultiplied: bool = False
    damage: str | None = None


def parse_header(data: bytes) -> Header:
    """Reads the header of an image file given as bytes. Never raises: what cannot be read is `damage`."""
    try:
        if data.startswith(_PNG_SIGNATURE):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
    except struct.error:
        return Header(damage="its header is cut off")
    return Header()


def _png(data: bytes) -> Header:
    view, position = memoryview(data), len(_PNG_SIGNATURE)
    size, orientation, gray = None, 1, False
    while True:
        if position + 12 > len(data):
            return Header(size, orientation, damage="the PNG ends before its last chunk, so it is cut off")
        (length,), kind = struct.unpack_from(">I", data, position), data[position + 4 : position + 8]
        start, end = position + 8, position + 8 + length
        if end + 4 > len(data):
            return Header(
                size, orientation, damage=f"the PNG ends inside a chunk {kind.decode('latin-1')!r}, so it is cut off"
            )
        # Chunks with a capital first letter are those without which there is no image.
        if kind[:1].isupper() and zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return Header(size, orientation, damage=f"the checksum of a PNG chunk {kind.decode('latin-1')!r} is wrong")
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack_from(">IIBB", data, start)
            size, gray = (height, width), colour in (0, 4)
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[start:end])
        elif kind == b"IEND":
            return Header(size, orientation, gray)
        position = end + 4


def _jpeg(data: bytes) -> Header:
    size, orientation, position = None, 1, 2
    while (match := _JPEG_MARKER.search(data, position)) is not None:
        marker, position = match[0][-1], match.end()
        if marker == 0xD9:
            return Header(size, orientation)
        if marker == 0x01:  # the only other marker without a length
            continue
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position + 2 : position + length]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", segment, 1)
            size = (height, width)
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(segment)
        position += length
    return Header(size, orientation, damage="the JPEG has no end marker, so it is cut off")


def _webp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 4)
    if length + 8 > len(data):
        return Header(damage=f"the WebP has {len(data)} of {length + 8} bytes, so it is cut off")
    orientation, position = 1, 12
    while position + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, position + 4)
        if data[position : position + 4] == b"EXIF":
            orientation = _exif_orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return Header(orientation=orientation)


def _tiff(data: bytes) -> Header:
    tags = _tiff_tags(data)
    size = (tags[_HEIGHT], tags[_WIDTH]) if _HEIGHT in tags and _WIDTH in tags else None
    # OpenCV turns TIFF images upright by itself, so the orientation is left at 1. From 5 on, sides change places.
    if size is not None and 5 <= tags.get(_ORIENTATION, 1) <= 8:
        size = (size[1], size[0])
    return Header(size, premultiplied=tags.get(_EXTRA_SAMPLES) in (1, 2))


def _exif_orientation(block: bytes) -> int:
    try:
        orientation = _tiff_tags(block.removeprefix(b"Exif\0\0")).get(_ORIENTATION, 1)
    except struct.error:
        return 1  # broken EXIF says nothing about the pixels
    return orientation if 1 <= orientation <= 8 else 1


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Tags of the first directory that hold one whole number. Raises struct.error when it is cut off."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return {}
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    tags = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        if number == 1 and kind in (3, 4):  # 16 or 32 bits
            (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    return tags
