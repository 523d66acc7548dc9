"""What the bytes of an image file say before any pixel is decoded: format, size, depth, colour, and why it is not read.

OpenCV fills the missing part of a cut-off file with grey in some versions, and allocates whatever size is claimed.
Both are found here, by walking the containers of PNG and JPEG. Other formats are opened by Pillow or tifffile.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".tga", ".icb", ".vda", ".vst"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pam"),
)
_PILLOW_FORMATS = ("AVIF", "BMP", "GIF", "JPEG2000", "TGA", "WEBP")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FOREIGN = {  # what Pillow does not know by name
    "HEIC": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG XR": rb"II\xbc\x01",
    "OpenEXR": rb"v/1\x01",
    "Photoshop": rb"8BPS",
    "PDF": rb"%PDF",
    "PFM": rb"P[Ff]\s",
    "Radiance HDR": rb"#\?R",
}

# A marker of a JPEG with a length: 0xFF and a byte that is neither stuffing (00), nor a fill byte (FF), nor stands
# alone (01, restarts D0 to D7).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNM = re.compile(rb"P([1-6])(?:\s|#[^\n\r]*)+(\d{1,9})(?:\s|#[^\n\r]*)+(\d{1,9})(?:(?:\s|#[^\n\r]*)+(\d{1,5}))?")
_PAM = re.compile(rb"(HEIGHT|WIDTH|DEPTH|MAXVAL)\s+(\d{1,9})")
_JP2_DEPTH = re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL)  # Ssiz of the codestream's SIZ (ISO 15444-1, A.5.1)
_JP2_PROFILE = re.compile(rb"(.{4})colr\x02..", re.DOTALL)  # length of the box, and its method 2 (I.5.3.3)
_AVIF_DEPTH = re.compile(rb"av1C.{2}(.)", re.DOTALL)  # high_bitdepth and twelve_bit of the AV1 codec box
_AVIF_COLOUR = re.compile(rb"colrnclx\0(.)\0(.)", re.DOTALL)

_PNG_MODES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray + alpha", 6: "RGBA"}
_JPEG_MODES = {1: "gray", 3: "RGB", 4: "CMYK"}
_PAM_MODES = {1: "gray", 2: "gray + alpha", 3: "RGB", 4: "RGBA"}
_TIFF_MODES = {0: "gray", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "LAB"}
_PILLOW_MODES = {"1": "gray", "L": "gray", "I;16": "gray", "LA": "gray + alpha", "P": "palette", "PA": "palette"}
BY_PILLOW = ("CMYK", "LAB", "YCbCr")  # modes that are converted
_LIGHT = {"gray": 1, "palette": 1, "RGB": 3}  # channels of a TIFF, without alpha
_TIFF_JPEG = (6, 7, 33003, 33005, 34712)  # compressions whose YCbCr is decoded to RGB

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says of odd files goes into our messages
logging.getLogger("tifffile").propagate = False
Image.MAX_IMAGE_PIXELS = 400_000_000  # our own limit: it warned below, and a GIF is allocated to tell its frames


@dataclass(frozen=True)
class Header:
    """What is known of a file without decoding it.

    Attributes:
        kind: "png", "jpeg", "tiff", "pnm" or Pillow's name of the format in lower case; empty: none that is read here.
        size: (height, width) as stored, before `orientation` is applied; None where it is not known.
        orientation: EXIF orientation 1 to 8 by which the stored pixels are turned; 1 is upright.
        mode: what is stored: gray, RGB, palette, gray + alpha, RGBA, CMYK, LAB, YCbCr.
        highest: the stored value that means full light, 255 for 8 bits.
        transparent: alpha that the mode does not tell.
        key: the colour that is transparent in a PNG of gray or RGB, as its tRNS has it, or empty.
        profile: the ICC profile, or empty.
        cicp: primaries, transfer, matrix and range of ITU-T H.273, or empty.
        pages: images in the file, without thumbnails.
        damage: why the file cannot be whole, or is not read, or None.
    """

    kind: str = ""
    size: tuple[int, int] | None = None
    orientation: int = 1
    mode: str = "RGB"
    highest: int = 255
    transparent: bool = False
    key: bytes = b""
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

    @property
    def upright(self) -> tuple[int, int] | None:
        """Height and width of the image as it is seen."""
        return self.size if self.size is None or self.orientation < 5 else (self.size[1], self.size[0])


def parse_header(data: bytes) -> Header:
    """Read the header of an image file given as bytes. Never raises: what is not read has its reason in `damage`."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(_TIFF_STARTS):
            return _tiff(data)
        if re.match(rb"P[1-7]\s", data):
            return _pnm(data)
        return _by_pillow(data)
    except struct.error:
        return Header(damage="its header is cut off")
    except Exception as error:  # noqa: BLE001 - libraries raise anything of a broken file
        return Header(damage=f"its header cannot be read ({' '.join(str(error).split())})")


def _png(data: bytes) -> Header:
    view, start, found = memoryview(data), 8, dict[str, Any]()
    while True:
        # A chunk: length, kind, body, checksum. One that is cut off seems to be longer than all files.
        length, kind = struct.unpack(">I4s", data[start : start + 8].ljust(8, b"\xff"))
        body, end = view[start + 8 : start + 8 + length], start + 12 + length
        if end > len(data):
            return Header("png", **found, damage="the PNG ends inside or before its last chunk, so it is cut off")
        # Chunks with a capital first letter are those without which there is no image.
        if kind[:1].isupper() and zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            return Header("png", **found, damage=f"the checksum of a PNG chunk {kind.decode('latin-1')!r} is wrong")
        if kind == b"IHDR":
            width, height, bits, colour = struct.unpack_from(">IIBB", body)
            found |= {"size": (height, width), "mode": _PNG_MODES.get(colour, "?"), "highest": 2**bits - 1}
        elif kind == b"tRNS" and length == {"gray": 2, "RGB": 6, "palette": length}.get(found.get("mode", "?")):
            found |= {"transparent": True, "key": b"" if found["mode"] == "palette" else bytes(body)}
        elif kind == b"eXIf":
            found["orientation"] = _exif_orientation(bytes(body))
        elif kind == b"iCCP":
            with suppress(zlib.error):  # a broken one says nothing about the pixels
                packed = bytes(body).partition(b"\0")[2][1:]
                found["profile"] = _profile(zlib.decompressobj().decompress(packed, 2**24))
        elif kind == b"cICP" and length == 4:
            found["cicp"] = bytes(body)
        elif kind == b"acTL":
            found["pages"] = struct.unpack_from(">I", body)[0]
        elif kind == b"IEND":
            return Header("png", **found)
        start = end


def _jpeg(data: bytes) -> Header:
    position, found, profile = 2, dict[str, Any](), dict[int, bytes]()
    found["damage"] = "the JPEG has no end marker, so it is cut off"
    while (match := _JPEG_MARKER.search(data, position)) is not None:
        marker, position = match[0][-1], match.end()
        if marker == 0xD9:
            found["damage"] = None
            break
        if marker == 0xF7:
            return Header(damage="JPEG-LS is not read here; save it as PNG or TIFF")
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position + 2 : position + length]
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", segment)
            found |= {"size": (height, width), "mode": _JPEG_MODES.get(channels, "?"), "highest": 2**bits - 1}
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            found["orientation"] = _exif_orientation(segment)
        elif marker == 0xE2 and segment.startswith(b"ICC_PROFILE\0") and len(segment) > 14:
            profile[segment[12]] = segment[14:]
        position += length
    return Header("jpeg", **found, profile=_profile(b"".join(profile[n] for n in sorted(profile))))


def _pnm(data: bytes) -> Header:
    if data.startswith(b"P7"):
        fields = {name: int(number) for name, number in _PAM.findall(data[:1000])}
        size, mode = (fields[b"HEIGHT"], fields[b"WIDTH"]), _PAM_MODES.get(fields[b"DEPTH"], "?")
        return Header("pam", size, mode=mode, highest=fields[b"MAXVAL"])
    match = _PNM.match(data)
    if match is None:
        raise ValueError("width, height or MAXVAL are missing")
    deep = match[1] not in b"14" and int(match[4] or 1) > 255  # Pillow gives the others over the whole range of 8 bits
    mode, size = "RGB" if match[1] in b"36" else "gray", (int(match[3]), int(match[2]))
    return Header("pnm", size, mode=mode, highest=min(65535, int(match[4])) if deep else 255)


def _tiff(data: bytes) -> Header:
    from tifffile import TiffFile  # costs a tenth of a second, which only those pay who have such files

    with TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        mode = _TIFF_MODES.get(int(page.photometric), "?")
        if mode == "YCbCr" and page.compression in _TIFF_JPEG:
            mode = "RGB"
        size, pages, bits = (int(page.imagelength), int(page.imagewidth)), _full_pages(file), page.bitspersample
        orientation = turn if (turn := page.tags.valueof(274)) in range(1, 9) else 1
        if mode in BY_PILLOW:  # which turns it upright
            size, orientation = Header(size=size, orientation=orientation).upright, 1
        return Header(
            "tiff",
            size,
            orientation,
            mode,
            2 ** min(bits, 16) - 1 if isinstance(bits, int) else 0,
            transparent=page.samplesperpixel == _LIGHT.get(mode, 9) + 1,
            profile=_profile(page.iccprofile or b""),
            pages=pages,
            damage=_why_no_picture(page, mode, pages),
        )


def _full_pages(file: TiffFile) -> int:
    """Count the images that are neither thumbnails nor masks. A chain of pages may lead back."""
    full: dict[int, bool] = {}
    for page in file.pages:
        if page.offset in full:
            break
        full[page.offset] = not page.subfiletype & 5  # type: ignore[union-attr]
    return sum(full.values())


def _why_no_picture(page: TiffPage, mode: str, pages: int) -> str | None:
    """Return why the first page of a TIFF is not read, or None if it is."""
    bits, channels, layers = page.bitspersample, page.samplesperpixel, page.imagedepth
    if page.subfiletype & 1 and (pages or page.subifds):
        return "its first page is a thumbnail, as in the raw files of cameras; save the picture itself as TIFF or PNG"
    if mode == "?" or not isinstance(bits, int):
        return f"has the colours {page.photometric!s}, {bits} bits, which are not converted; save it as RGB"
    if page.dtype is None or page.dtype.kind not in "bu" or page.dtype.itemsize > 2:
        return f"holds {page.dtype} values; 8 and 16 bit images are supported"
    if mode in BY_PILLOW and (bits, channels) != (8, 4 if mode == "CMYK" else 3):
        return f"has the colours {mode}, {bits} bits, in a form that is not converted; save it as RGB"
    if channels - _LIGHT.get(mode, channels) not in (0, 1) or layers > 1:
        return f"has {channels} channels{f' in {layers} layers' * (layers > 1)}; gray, RGB and RGBA are supported"
    return None


def _by_pillow(data: bytes) -> Header:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        return Header("webp", damage="the WebP has fewer bytes than it says, so it is cut off")
    try:
        image = Image.open(BytesIO(data), formats=_PILLOW_FORMATS)
    except UnidentifiedImageError:
        return Header(damage=_what_else(data))
    with image:
        kind, depth, colour = str(image.format).lower(), 1 if image.mode == "1" else 8, None
        profile = image.info.get("icc_profile") or b""
        if kind == "jpeg2000":
            depth = (_JP2_DEPTH.search(data) or [b"", b"\7"])[1][0] % 128 + 1
            if (match := _JP2_PROFILE.search(data)) is not None:
                profile = data[match.end() : match.start() + int.from_bytes(match[1])]
        elif kind == "avif":
            flags, colour = (_AVIF_DEPTH.search(data) or [b"", b"\0"])[1][0], _AVIF_COLOUR.search(data)
            depth = 8 + 2 * (flags >> 6 & 1) + 2 * (flags >> 5 & 1)
        argb16 = kind == "bmp" and data[14] >= 56 and data[28] == 16 and any(data[66:70])
        return Header(
            kind,
            (image.height, image.width),
            orientation=_exif_orientation(image.info.get("exif", b"")),
            mode=_PILLOW_MODES.get(image.mode, image.mode),
            highest=2**depth - 1,
            transparent=image.has_transparency_data,
            profile=_profile(profile),
            cicp=b"" if colour is None else colour[1] + colour[2] + b"\0\1",
            pages=getattr(image, "n_frames", 1),
            damage="a BMP of 16 bits with alpha is not read here; save it as PNG" if argb16 else None,
        )


def _what_else(data: bytes) -> str:
    """Say what a file is that is not read."""
    names = [name for name, start in _FOREIGN.items() if re.match(start, data, re.DOTALL)]
    Image.init()
    for name, (_, accepts) in Image.OPEN.items():
        if accepts is not None and name != "XBM" and accepts(data[:16].ljust(16)) is True:  # XBM: texts with /*
            names.append(name)
    if names:
        return f"{names[0]} is not read here; save it as PNG or TIFF"
    return f"this is not an image of a format that is read here ({' '.join(IMAGE_SUFFIXES)})"


def _profile(profile: bytes) -> bytes:
    """Return the profile, or nothing for what is none: a broken one says nothing about the pixels."""
    return profile if profile[36:40] == b"acsp" else b""


def _exif_orientation(block: bytes) -> int:
    exif = Image.Exif()
    with suppress(Exception):  # broken EXIF says nothing about the pixels
        exif.load(block)
        if exif.get(274) in range(1, 9):
            return int(exif[274])
    return 1
