"""Netpbm's files, PBM, PGM, PPM and PAM, in decimal or binary form, for any MAXVAL (https://netpbm.sourceforge.net/doc).

Pillow reads 8 bits of them, and OpenCV 5.0 exchanges PAM's red and blue.
"""

import re
from contextlib import suppress
from typing import NamedTuple

import numpy as np

_NUMBER = rb"(?>\s|#[^\n\r]*)+(\d{1,9})"  # after blanks and comments
_END = rb"(?:#[^\n\r]*)?\s"
_BITS = re.compile(rb"P[14]" + 2 * _NUMBER + _END)
_LEVELS = re.compile(rb"P[2356]" + 3 * _NUMBER + _END)
_PAM = re.compile(rb"P7\s[^\0]*?^ENDHDR\r?\n", re.MULTILINE)
_FIELD = re.compile(rb"^([A-Z]+)[ \t]+(\S+)", re.MULTILINE)


class Raster(NamedTuple):
    """What is said of a picture before its values.

    Attributes:
        kind: P1 to P7.
        size: (height, width).
        channels: values of a pixel.
        highest: MAXVAL, which means full light; 1 for bits.
        meaning: TUPLTYPE of a PAM, or empty.
        start: of the values, in bytes.
    """

    kind: bytes
    size: tuple[int, int]
    channels: int
    highest: int
    meaning: bytes
    start: int

    @property
    def end(self) -> int:
        """Where the values of a binary picture end."""
        (height, width), deep = self.size, 1 + (self.highest > 255)
        return self.start + height * (-(-width // 8) if self.kind == b"P4" else width * self.channels * deep)


def parse(data: bytes, start: int = 0) -> Raster:
    """Read the header that starts here. Raises ValueError if it lacks something."""
    kind, size, channels, highest, meaning = data[start : start + 2], (0, 0), 1, 1, b""
    if (match := _PAM.match(data, start)) is not None:
        fields = {b"MAXVAL": b"0", b"DEPTH": b"0", **dict(_FIELD.findall(match[0]))}
        size, channels = (int(fields.get(b"HEIGHT", 0)), int(fields.get(b"WIDTH", 0))), int(fields[b"DEPTH"])
        highest, meaning = int(fields[b"MAXVAL"]), fields.get(b"TUPLTYPE", b"")
    elif (match := _BITS.match(data, start)) is not None:
        size = int(match[2]), int(match[1])
    elif (match := _LEVELS.match(data, start)) is not None:
        size, channels, highest = (int(match[2]), int(match[1])), 3 if kind in (b"P3", b"P6") else 1, int(match[3])
    if match is None or not 0 < highest < 65536:
        raise ValueError("width, height or MAXVAL are missing or no numbers of this format")
    return Raster(kind, size, channels, highest, meaning, match.end())


def count(data: bytes) -> int:
    """Count the pictures, of which files may hold several, one after the other."""
    start = number = 0
    with suppress(ValueError):
        while re.match(rb"P[1-7]\s", data[start : start + 3]):
            raster, number = parse(data, start), number + 1
            start = raster.end if raster.kind > b"P3" else data.find(b"\nP", raster.start) + 1 or len(data)
    return number


def decode(data: bytes) -> np.ndarray:
    """Decode the first picture: (H, W, channels), uint8 or uint16, up to its MAXVAL. Raises ValueError if it is cut."""
    raster = parse(data)
    (height, width), dtype = raster.size, np.dtype(np.uint8 if raster.highest < 256 else np.uint16)
    binary, number = data[raster.start : raster.end], height * width * raster.channels
    if raster.kind <= b"P3":
        values = _decimal(data[raster.start :], raster.kind == b"P1")[:number].clip(0, raster.highest)
    elif len(binary) < raster.end - raster.start:
        values = np.empty(0)
    elif raster.kind == b"P4":  # 1 is black, as in P1; rows end with a byte
        values = 1 - np.unpackbits(np.frombuffer(binary, np.uint8).reshape(height, -1), axis=1)[:, :width]
    else:
        values = np.frombuffer(binary, dtype.newbyteorder(">"))
    if values.size < number:
        raise ValueError("has fewer values than it should, so it is cut off")
    return values.reshape(height, width, raster.channels).astype(dtype)


def _decimal(text: bytes, bits: bool) -> np.ndarray:
    """Read numbers, or bits, between which blanks may lack. Comments, and whatever follows, are left out."""
    digits = re.sub(rb"[^\d\s].*", b"", re.sub(rb"#[^\n\r]*", b"", text), flags=re.DOTALL)
    if bits:
        return ord("1") - np.frombuffer(re.sub(rb"\s", b"", digits), np.uint8)
    return np.fromstring(digits, int, sep=" ") if digits.strip() else np.empty(0, int)
