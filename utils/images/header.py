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

from utils.images import netpbm

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
    "SVG": rb"(?>\s*<[?!][^>]*>)*+\s*<svg\b",
    "XCF": rb"gimp xcf",
    "a camera's raw file": rb"II\*\0.{4}CR|.{4}ftypcrx|FUJIFILMCCD|IIU\0|IIR[OS]|MMOR|FOVb",
}
_VAGUE = ("XBM", "CUR")  # Pillow takes texts with /* for the one, TGA for the other

# A marker of a JPEG with a length: 0xFF and a byte that is neither stuffing (00), nor a fill byte (FF), nor stands
# alone (01, restarts D0 to D7).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JP2_DEPTH = re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL)  # Ssiz of the codestream's SIZ (ISO 15444-1, A.5.1)
_JP2_PROFILE = re.compile(rb"(.{4})colr\x02..", re.DOTALL)  # length of the box, and its method 2 (I.5.3.3)
_AVIF_DEPTH = re.compile(rb"av1C.{2}(.)", re.DOTALL)  # high_bitdepth and twelve_bit of the AV1 codec box
_AVIF_COLOUR = re.compile(rb"colrnclx\0(.)\0(.)", re.DOTALL)

_PNG_MODES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray + alpha", 6: "RGBA"}
_JPEG_MODES = {1: "gray", 3: "RGB", 4: "CMYK"}
_NETPBM_MODES = {1: "gray", 2: "gray + alpha", 3: "RGB", 4: "RGBA"}
_TIFF_MODES = {0: "gray", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "LAB"}
_PILLOW_MODES = {"1": "gray", "L": "gray", "I;16": "gray", "LA": "gray + alpha", "P": "palette", "PA": "palette"}
BY_PILLOW = ("CMYK", "LAB", "YCbCr")  # modes that are converted
_LIGHT = {"gray": 1, "palette": 1, "RGB": 3}  # channels of a TIFF, without alpha
_TIFF_JPEG = (6, 7, 33003, 33005, 34712)  # compressions whose YCbCr is decoded to RGB

for _library in ("tifffile", "imagecodecs"):  # what they say of odd files goes into our messages
    logging.getLogger(_library).addHandler(logging.NullHandler())
    logging.getLogger(_library).propagate = False
Image.MAX_IMAGE_PIXELS = 400_000_000  # our own limit: it warned below, and a GIF is allocated to tell its frames


@dataclass(frozen=True)
class Header:
    """What is known of a file without decoding it.

    Attributes:
        kind: "png", "jpeg", "tiff", "netpbm" or Pillow's name of the format in lower case; empty: none that is read.
        size: (height, width) as stored, before `orientation` is applied; None where it is not known.
        orientation: EXIF orientation 1 to 8 by which the stored pixels are turned; 1 is upright.
        mode: what is stored: gray, RGB, palette, gray + alpha, RGBA, CMYK, LAB, YCbCr.
        highest: the stored value that means full light, 255 for 8 bits.
        transparent: alpha that the mode does not tell.
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
        if data.startswith(_TIFF_STARTS) and data[8:10] != b"CR":  # the mark of Canon's raw files
            return _tiff(data)
        if re.match(rb"P[1-7]\s", data):
            return _netpbm(data)
        return _by_pillow(data)
    except struct.error:
        return Header(damage="its header is cut off")
    except Exception as error:  # noqa: BLE001 - libraries raise anything of a broken file
        reason = " ".join(str(error).split())
        return Header(damage=f"its header cannot be read ({reason}); if other programs show it, save it as PNG")


def _png(data: bytes) -> Header:
    view, start, found, frames = memoryview(data), 8, dict[str, Any](), 0
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
            found["transparent"] = True
        elif kind == b"eXIf":
            found["orientation"] = _exif_orientation(bytes(body))
        elif kind == b"iCCP":
            with suppress(zlib.error):  # a broken one says nothing about the pixels
                packed = bytes(body).partition(b"\0")[2][1:]
                found["profile"] = _profile(zlib.decompressobj().decompress(packed, 2**24))
        elif kind == b"cICP" and length == 4:
            found["cicp"] = bytes(body)
        elif kind == b"acTL":
            frames = struct.unpack_from(">I", body)[0]
        elif kind in (b"fcTL", b"IDAT"):  # pixels before the first frame's control are a picture of their own
            found.setdefault("pages", frames + (kind == b"IDAT"))
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
        elif marker == 0xE2 and segment.startswith(b"MPF\0"):
            found["pages"] = _mpf_pages(segment[4:])
        elif marker == 0xE2 and segment.startswith(b"ICC_PROFILE\0") and len(segment) > 14:
            profile[segment[12]] = segment[14:]
        position += length
    return Header("jpeg", **found, profile=_profile(b"".join(profile[n] for n in sorted(profile))))


def _netpbm(data: bytes) -> Header:
    raster = netpbm.parse(data)
    mode = "?" if raster.meaning.startswith(b"CMYK") else _NETPBM_MODES.get(raster.channels, "?")
    about = f"{raster.channels} channels ({raster.meaning.decode('latin-1') or 'without a TUPLTYPE'})"
    why = f"has {about}; gray, RGB and RGBA are supported"
    return Header(
        "netpbm",
        raster.size,
        mode=mode,
        highest=raster.highest,
        pages=netpbm.count(data),
        damage=why if mode == "?" else None,
    )


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
        return f"holds {page.dtype} values, and 8 and 16 bit images are supported; save it as one of them"
    planes_of_lab = mode == "LAB" and page.planarconfig == 2  # which Pillow misreads
    if mode in BY_PILLOW and ((bits, channels) != (8, 4 if mode == "CMYK" else 3) or planes_of_lab):
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
        covers = kind != "gif" or image.has_transparency_data or image.tile[0].extents == (0, 0, *image.size)
        part = None if covers else "its first frame leaves a part of the picture without colours; save it as PNG"
        if kind == "jpeg2000":
            depth = (_JP2_DEPTH.search(data) or [b"", b"\7"])[1][0] % 128 + 1
            if (match := _JP2_PROFILE.search(data)) is not None:
                profile = data[match.end() : match.start() + int.from_bytes(match[1])]
        elif kind == "avif":
            flags, colour = (_AVIF_DEPTH.search(data) or [b"", b"\0"])[1][0], _AVIF_COLOUR.search(data)
            depth = 8 + 2 * (flags >> 6 & 1) + 2 * (flags >> 5 & 1)
        elif kind == "bmp" and data[70:74] == b"DEBM":  # of version 5, whose profile lies behind the pixels
            start, length = struct.unpack_from("<II", data, 126)
            profile = data[14 + start : 14 + start + length]
        bit_of_alpha = _bit_of_alpha(kind, data)
        return Header(
            kind,
            (image.height, image.width),
            orientation=_exif_orientation(image.info.get("exif", b"")),
            mode=_PILLOW_MODES.get(image.mode, image.mode) if bit_of_alpha is None else "RGB",
            highest=2**depth - 1,
            transparent=image.has_transparency_data and bit_of_alpha is None,
            profile=_profile(profile),
            cicp=b"" if colour is None else colour[1] + colour[2] + b"\0\1",
            damage=f"a {image.format} of 16 bits with alpha is not read here; save it as PNG" if bit_of_alpha else part,
            pages=getattr(image, "n_frames", 1),
        )


def _bit_of_alpha(kind: str, data: bytes) -> bool | None:
    """Tell of a file of 16 bits, of which Pillow gives alpha where there is none or exchanges its ends, whether it has
    any; None of others."""
    if kind == "tga" and 16 in (data[7], data[16]):  # bits of its palette, of its pixels
        return data[17] & 15 > 0
    if kind == "bmp" and data[28] == 16:
        return data[14] >= 56 and any(data[66:70])
    return None


def _what_else(data: bytes) -> str:
    """Say what a file is that is not read."""
    names = [name for name, start in _FOREIGN.items() if re.match(start, data, re.DOTALL)]
    Image.init()
    for name, (_, accepts) in Image.OPEN.items():
        if accepts is not None and accepts(data[:16].ljust(16)) is True and name not in _VAGUE:
            names.append(name)
    if names and names[0] in _PILLOW_FORMATS:
        return f"this {names[0]} file cannot be opened and may be cut off; if other programs show it, save it as PNG"
    if names:
        return f"{names[0]} is not read here; save it as PNG or TIFF"
    return f"this is not an image of a format that is read here ({' '.join(IMAGE_SUFFIXES)})"


def _profile(profile: bytes) -> bytes:
    """Return the profile, or nothing for what is none: a broken one says nothing about the pixels."""
    return profile if profile[36:40] == b"acsp" else b""


def _exif_orientation(block: bytes) -> int:
    found = _tags(block).get(274, 1)
    return int(found) if found in range(1, 9) else 1


def _mpf_pages(block: bytes) -> int:
    """Count the pictures of a JPEG that says so (CIPA DC-007): other views and gain maps, but no thumbnails."""
    order, entries = ">" if block.startswith(b"MM") else "<", _tags(block).get(0xB002)
    if not isinstance(entries, bytes) or len(entries) % 16:  # broken, which says nothing about the pixels
        return 1
    kinds = [attribute >> 16 & 0xFF for (attribute,) in struct.iter_unpack(f"{order}I12x", entries)]
    return max(1, len(kinds) - kinds.count(1))


def _tags(block: bytes) -> Image.Exif:
    """Return the tags of EXIF, or none: where it is broken it says nothing about the pixels."""
    exif = Image.Exif()
    with suppress(Exception):
        exif.load(block)
    return exif
