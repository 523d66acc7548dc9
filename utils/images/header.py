"""What the bytes of an image file say before any pixel is decoded: format, size, depth, colour, whether it is whole.

OpenCV fills the missing part of a cut-off file with grey in some versions, and allocates whatever size is claimed.
Both are found here, by walking the containers of PNG and JPEG. Other formats are opened by Pillow or tifffile.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from tifffile import TiffFile

# A marker of a JPEG: 0xFF and a byte that is neither stuffing (00), nor a fill byte (FF), nor a restart (D0 to D7).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNM = re.compile(rb"P([1-6])(?:\s|#[^\n\r]*)+(\d{1,9})(?:\s|#[^\n\r]*)+(\d{1,9})(?:(?:\s|#[^\n\r]*)+(\d{1,5}))?")
_PAM = re.compile(rb"(HEIGHT|WIDTH|DEPTH|MAXVAL)\s+(\d{1,9})")
_JP2_DEPTH = re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL)  # Ssiz of the codestream's SIZ (ISO 15444-1, A.5.1)
_AVIF_DEPTH = re.compile(rb"av1C.{2}(.)", re.DOTALL)  # high_bitdepth and twelve_bit of the AV1 codec box
_AVIF_COLOUR = re.compile(rb"colrnclx\0(.)\0(.)", re.DOTALL)

_PNG_MODES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray + alpha", 6: "RGBA"}
_JPEG_MODES = {1: "gray", 3: "RGB", 4: "CMYK"}
_PAM_MODES = {1: "gray", 2: "gray + alpha", 3: "RGB", 4: "RGBA"}
_TIFF_MODES = {0: "gray", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "LAB"}
_PILLOW_MODES = {"1": "gray", "L": "gray", "I;16": "gray", "LA": "gray + alpha", "P": "palette", "PA": "palette"}
_PILLOW_FORMATS = ("AVIF", "BMP", "GIF", "JPEG2000", "TGA", "WEBP")
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_JPEG = (6, 7, 33003, 33005, 34712)  # compressions whose YCbCr is decoded to RGB
_FOREIGN = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"v/1\x01": "OpenEXR",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"#?RADIANCE": "Radiance HDR",
    b"PF": "PFM",
    b"Pf": "PFM",
}

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says of odd files goes into our messages
logging.getLogger("tifffile").propagate = False


@dataclass(frozen=True)
class Header:
    """What is known of a file without decoding it.

    Attributes:
        kind: "png", "jpeg", "tiff", "pnm" or Pillow's name of the format in lower case; empty: none that is read here.
        size: (height, width) as stored, before `orientation` is applied; None where it is not known.
        orientation: EXIF orientation 1 to 8 by which the stored pixels are turned; 1 is upright.
        mode: what is stored: gray, RGB, palette, gray + alpha, RGBA, CMYK, LAB, YCbCr.
        highest: the stored value that means full light, 255 for 8 bits.
        transparent: alpha that the mode does not tell (tRNS of a PNG).
        special: an 8-bit or gray decoder does not do: a JPEG that is lossless, arithmetic or of 12 bits; tRNS.
        profile: the ICC profile, or empty.
        cicp: primaries, transfer, matrix and range of ITU-T H.273, or empty.
        pages: images in the file, without thumbnails.
        damage: why the file cannot be whole, or cannot be read, or None.
    """

    kind: str = ""
    size: tuple[int, int] | None = None
    orientation: int = 1
    mode: str = "RGB"
    highest: int = 255
    transparent: bool = False
    special: bool = False
    profile: bytes = b""
    cicp: bytes = b""
    pages: int = 1
    damage: str | None = None

    @property
    def gray(self) -> bool:
        """Whether one channel of light is stored."""
        return self.mode.startswith("gray")

    @property
    def alpha(self) -> bool:
        """Whether opacity is stored."""
        return self.transparent or self.mode in ("gray + alpha", "RGBA")


def parse_header(data: bytes) -> Header:
    """Read the header of an image file given as bytes. Never raises: what cannot be read is `damage`."""
    try:
        if data.startswith(_PNG_SIGNATURE):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data[:4] in _TIFF_SIGNATURES:
            return _tiff(data)
        if re.match(rb"P[1-7]\s", data):
            return _pnm(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
            return Header("webp", damage="the WebP has fewer bytes than it says, so it is cut off")
        return _by_pillow(data)
    except struct.error:
        return Header(damage="its header is cut off")
    except Exception as error:  # noqa: BLE001 - libraries raise anything of a broken file
        return Header(damage=f"its header cannot be read ({' '.join(str(error).split())})")


def _png(data: bytes) -> Header:
    view, position, found = memoryview(data), len(_PNG_SIGNATURE), dict[str, Any]()
    while True:
        if position + 12 > len(data):
            return Header("png", **found, damage="the PNG ends before its last chunk, so it is cut off")
        (length,), kind = struct.unpack_from(">I", data, position), data[position + 4 : position + 8]
        start, end = position + 8, position + 8 + length
        name = kind.decode("latin-1")
        if end + 4 > len(data):
            return Header("png", **found, damage=f"the PNG ends inside a chunk {name!r}, so it is cut off")
        # Chunks with a capital first letter are those without which there is no image.
        if kind[:1].isupper() and zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return Header("png", **found, damage=f"the checksum of a PNG chunk {name!r} is wrong")
        if kind == b"IHDR":
            width, height, bits, colour = struct.unpack_from(">IIBB", data, start)
            found |= {"size": (height, width), "mode": _PNG_MODES.get(colour, "?"), "highest": 2**bits - 1}
        elif kind == b"tRNS":
            found |= {"transparent": True, "special": True}
        elif kind == b"eXIf":
            found["orientation"] = _exif_orientation(data[start:end])
        elif kind == b"iCCP":
            found["profile"] = _profile(_inflated(data[start:end].partition(b"\0")[2][1:]))
        elif kind == b"cICP" and length == 4:
            found["cicp"] = data[start : start + 4]
        elif kind == b"acTL":
            found["pages"] = struct.unpack_from(">I", data, start)[0]
        elif kind == b"IEND":
            return Header("png", **found)
        position = end + 4


def _jpeg(data: bytes) -> Header:
    position, found, profile = 2, dict[str, Any](), dict[int, bytes]()
    damage: str | None = "the JPEG has no end marker, so it is cut off"
    while (match := _JPEG_MARKER.search(data, position)) is not None:
        marker, position = match[0][-1], match.end()
        if marker == 0xD9:
            damage = None
            break
        if marker == 0x01:  # the only other marker without a length
            continue
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position + 2 : position + length]
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", segment)
            found |= {"size": (height, width), "mode": _JPEG_MODES.get(channels, "?"), "highest": 2**bits - 1}
            found["special"] = bits != 8 or marker > 0xC2
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            found["orientation"] = _exif_orientation(segment)
        elif marker == 0xE2 and segment.startswith(b"ICC_PROFILE\0") and len(segment) > 14:
            profile[segment[12]] = segment[14:]
        position += length
    return Header("jpeg", **found, profile=_profile(b"".join(profile[n] for n in sorted(profile))), damage=damage)


def _pnm(data: bytes) -> Header:
    if data.startswith(b"P7"):
        fields = {name: int(number) for name, number in _PAM.findall(data[:1000])}
        size, mode = (fields[b"HEIGHT"], fields[b"WIDTH"]), _PAM_MODES.get(fields[b"DEPTH"], "?")
        return Header("pnm", size, mode=mode, highest=fields[b"MAXVAL"])
    match = _PNM.match(data)
    if match is None:
        raise ValueError("width, height or MAXVAL are missing")
    plain, highest = match[1] in b"123", int(match[4] or 1)
    # OpenCV gives bitmaps, and plain text of 8 bits, over the whole range, and the others as they stand.
    scaled = match[1] in b"14" or (plain and highest < 256)
    mode, size = "RGB" if match[1] in b"36" else "gray", (int(match[3]), int(match[2]))
    return Header("pnm", size, mode=mode, highest=255 if scaled else min(65535, max(1, highest)), special=plain)


def _tiff(data: bytes) -> Header:
    from tifffile import TiffFile  # costs a tenth of a second, which only those pay who have such files

    with TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        mode = _TIFF_MODES.get(int(page.photometric), "?")
        if mode == "YCbCr" and page.compression in _TIFF_JPEG:
            mode = "RGB"
        bits, orientation = page.bitspersample, page.tags.valueof(274, 1)
        return Header(
            "tiff",
            (int(page.imagelength), int(page.imagewidth)),
            orientation if orientation in range(1, 9) else 1,
            mode,
            2 ** min(bits, 16) - 1 if isinstance(bits, int) else 0,
            transparent=page.samplesperpixel in (2, 4) and mode in ("gray", "RGB"),
            profile=_profile(page.iccprofile or b""),
            pages=_full_pages(file),
        )


def _full_pages(file: TiffFile) -> int:
    """Count the images that are neither thumbnails nor masks. A chain of pages may lead back."""
    full: dict[int, bool] = {}
    for page in file.pages:
        if page.offset in full:
            break
        full[page.offset] = not page.subfiletype & 5  # type: ignore[union-attr]
    return max(1, sum(full.values()))


def _by_pillow(data: bytes) -> Header:
    try:
        image = Image.open(BytesIO(data), formats=_PILLOW_FORMATS)
    except UnidentifiedImageError:
        foreign = next((name for start, name in _FOREIGN.items() if data.startswith(start)), None)
        foreign = "HEIC" if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1") else foreign
        return Header(damage=None if foreign is None else f"{foreign} is not read here; save it as PNG or TIFF")
    with image:
        kind, deep, colour = str(image.format).lower(), None, None
        if kind == "jpeg2000":
            deep = (_JP2_DEPTH.search(data) or [b"", b"\7"])[1][0] % 128 + 1
        elif kind == "avif":
            flags, colour = (_AVIF_DEPTH.search(data) or [b"", b"\0"])[1][0], _AVIF_COLOUR.search(data)
            deep = 8 + 2 * (flags >> 6 & 1) + 2 * (flags >> 5 & 1)
        return Header(
            kind,
            (image.height, image.width),
            orientation=_exif_orientation(image.info.get("exif", b"")),
            mode=_PILLOW_MODES.get(image.mode, image.mode),
            highest=2 ** (deep or (1 if image.mode == "1" else 8)) - 1,
            transparent=image.has_transparency_data,
            profile=_profile(image.info.get("icc_profile") or b""),
            cicp=b"" if colour is None else colour[1] + colour[2] + b"\0\1",
            pages=getattr(image, "n_frames", 1),
        )


def _inflated(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, 2**24)
    except zlib.error:
        return b""


def _profile(profile: bytes) -> bytes:
    """Return the profile, or nothing for what is none: a broken one says nothing about the pixels."""
    return profile if profile[36:40] == b"acsp" else b""


def _exif_orientation(block: bytes) -> int:
    exif = Image.Exif()
    try:
        exif.load(block)
        orientation = exif.get(274, 1)
    except Exception:  # noqa: BLE001 - broken EXIF says nothing about the pixels
        return 1
    return int(orientation) if orientation in range(1, 9) else 1
