"""A table of image files that other programs' libraries make: each is read as its maker means it, or refused by name.

The same files go through the other ways in which images come in: training crops, restoring, preparation, LMDB.
"""

import os
import resource
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from data.prepare.check import examine
from data.prepare.convert import convert
from data.prepare.lmdb import write_database
from data.prepare.tiles import Tiles
from data.source import DATASETS
from data.sources.folder import Folder
from data.sources.lmdb import Lmdb
from data.training import DataOptions, Mix, TrainingSet
from degradations import DEGRADATIONS
from models.restoring.files import restoration_targets, restore_files
from models.restoring.generator import bicubic_generator
from models.restoring.restorer import Restorer
from utils.images.bands import why_not_in_bands
from utils.images.files import (
    ImageError,
    changes,
    decode_picture,
    headers,
    list_images,
    read_image,
    read_picture,
    to_float,
)
from utils.images.header import Header, parse_header
from utils.logging import Console

MAGICK = shutil.which("convert-im6.q16") or shutil.which("magick")
SIZE = (24, 40)


class File(NamedTuple):
    """A file, and what its maker put in: pixels over the whole range of their type; `within` is the rounding."""

    data: bytes | bytearray
    pixels: np.ndarray
    alpha: np.ndarray | None = None
    within: float = 0
    profile: bytes = b""


def smooth(seed: int, channels: int, top: int) -> np.ndarray:
    """A picture without symmetry, soft enough for lossy formats, with all values up to `top`."""
    noise = np.random.default_rng(seed).random((*SIZE, channels))
    soft = cv2.GaussianBlur(noise, (0, 0), 4).reshape(*SIZE, channels)
    soft = (soft - soft.min((0, 1))) / np.ptp(soft, (0, 1))
    return np.rint(soft * top).astype(np.uint8 if top < 256 else np.uint16)


def whole(array: np.ndarray, bits: int) -> np.ndarray:
    """Values of so many bits over the whole range of their type."""
    top = np.iinfo(array.dtype).max
    return np.rint(array / (2**bits - 1) * top).astype(array.dtype)


def rgb_of(array: np.ndarray) -> np.ndarray:
    return (
        np.repeat(array.reshape(*SIZE, -1)[..., :1], 3, 2) if array.ndim == 2 or array.shape[2] < 3 else array[..., :3]
    )


def alpha_of(array: np.ndarray) -> np.ndarray | None:
    return array[..., -1] if array.ndim == 3 and array.shape[2] in (2, 4) else None


def shaped(seed: int, channels: int, top: int) -> np.ndarray:
    array = smooth(seed, channels, top)
    return array[..., 0] if channels == 1 else array


def by_pillow(array: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    image, buffer = Image.fromarray(array), BytesIO()
    (image if mode is None else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def by_tifffile(array: np.ndarray, **options: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


RGB8, RGBA8, GRAY8 = shaped(1, 3, 255), shaped(2, 4, 255), shaped(3, 1, 255)
RGB16 = shaped(4, 3, 65535)
WIDE = imagecodecs.cms_profile(
    "rgb", whitepoint=(0.3127, 0.3290, 1), primaries=(0.68, 0.32, 1, 0.265, 0.69, 1, 0.15, 0.06, 1), gamma=2.2
)


def pngs() -> Iterator[tuple[str, File]]:
    for bits in (8, 16):
        for channels in (1, 2, 3, 4):
            array = shaped(channels, channels, 2**bits - 1)
            yield f"png_{bits}_{channels}.png", File(imagecodecs.png_encode(array), rgb_of(array), alpha_of(array))
    flat = GRAY8 // 51 * 51
    hidden = np.where(flat == 102, 0, 255).astype(np.uint8)
    yield "png_gray_trns.png", File(by_pillow(flat, "PNG", transparency=102), rgb_of(flat), hidden)
    coarse = RGB8 // 64 * 64
    key = coarse[3, 4]
    unseen = np.where((coarse == key).all(2), 0, 255).astype(np.uint8)
    data = by_pillow(coarse, "PNG", transparency=tuple(int(v) for v in key))
    yield "png_rgb_trns.png", File(data, coarse, unseen)
    palette = Image.fromarray(RGB8).quantize(16)
    for bits in (4, 8):
        buffer, table = BytesIO(), bytes(range(0, 256, 16))
        palette.save(buffer, "PNG", bits=bits, transparency=table)
        expected = np.asarray(palette.convert("RGB"))
        opacity = np.frombuffer(table, np.uint8)[np.asarray(palette)]
        yield f"png_palette{bits}_trns.png", File(buffer.getvalue(), expected, opacity)
    bilevel = np.where(GRAY8 > 127, 255, 0).astype(np.uint8)
    yield "png_1.png", File(by_bits(bilevel, "PNG"), rgb_of(bilevel))
    yield "png_icc.png", File(by_pillow(RGB8, "PNG", icc_profile=WIDE), RGB8, profile=WIDE)


def by_bits(array: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).point(lambda v: v, "1").save(buffer, kind, **options)
    return buffer.getvalue()


def tiffs() -> Iterator[tuple[str, File]]:
    for bits in (8, 16):
        for channels in (1, 2, 3, 4):
            array = shaped(channels, channels, 2**bits - 1)
            about: dict[str, Any] = {"photometric": "minisblack" if channels < 3 else "rgb"}
            about |= {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
            for compression in (None, "lzw", "zlib", "zstd"):
                data = by_tifffile(array, compression=compression, planarconfig="contig", **about)
                yield f"tiff_{bits}_{channels}_{compression}.tif", File(data, rgb_of(array), alpha_of(array))
        deep = shaped(5, 3, 2**bits - 1)
        for compression in (None, "lzw"):
            planes = np.moveaxis(deep, 2, 0)
            data = by_tifffile(planes, photometric="rgb", planarconfig="separate", compression=compression)
            yield f"tiff_{bits}_planar_{compression}.tif", File(data, deep)
        gray = deep[..., 0]
        yield (
            f"tiff_{bits}_white.tif",
            File(by_tifffile(gray, photometric="miniswhite"), rgb_of(np.iinfo(gray.dtype).max - gray)),
        )
        data = by_tifffile(deep, photometric="rgb", tile=(16, 16), compression="lzw", predictor=True)
        yield f"tiff_{bits}_tiles.tif", File(data, deep)
        yield f"tiff_{bits}_big_endian.tif", File(by_tifffile(deep, photometric="rgb", byteorder=">"), deep)
        yield f"tiff_{bits}_bigtiff.tif", File(by_tifffile(deep, photometric="rgb", bigtiff=True), deep)
        top = np.iinfo(deep.dtype).max
        alpha = np.full(SIZE, top, deep.dtype)
        alpha[:, 20:] = top // 2 + 1
        multiplied = np.rint(deep * (alpha[..., None] / top)).astype(deep.dtype)
        data = by_tifffile(np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"])
        yield f"tiff_{bits}_associated.tif", File(data, deep, alpha, within=2)
    for compression in ("packbits", "lzma", "jpeg2000", "jpegxl", "png"):
        yield f"tiff_{compression}.tif", File(by_tifffile(RGB8, photometric="rgb", compression=compression), RGB8)
    yield "tiff_icc.tif", File(by_tifffile(RGB8, photometric="rgb", iccprofile=WIDE), RGB8, profile=WIDE)
    yield (
        "tiff_jpeg.tif",
        File(
            by_tifffile(
                RGB8, photometric="rgb", compression="jpeg", compressionargs={"level": 98, "outcolorspace": "ycbcr"}
            ),
            RGB8,
            within=14,
        ),
    )
    bilevel = np.where(GRAY8 > 127, 255, 0).astype(np.uint8)
    for compression in ("raw", "group4"):
        yield f"tiff_1_{compression}.tif", File(by_bits(bilevel, "TIFF", compression=compression), rgb_of(bilevel))
    palette = Image.fromarray(RGB8).quantize(16)
    buffer = BytesIO()
    palette.save(buffer, "TIFF")
    yield "tiff_palette.tif", File(buffer.getvalue(), np.asarray(palette.convert("RGB")))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab, buffer = ImageCms.profileToProfile(Image.fromarray(RGB8), *profiles, outputMode="LAB"), BytesIO()
    assert lab is not None
    lab.save(buffer, "TIFF")
    yield "tiff_lab.tif", File(buffer.getvalue(), RGB8, within=8)
    cmyk = Image.fromarray(RGB8).convert("CMYK")
    yield "tiff_cmyk.tif", File(saved(cmyk, "TIFF"), RGB8, within=1)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lossy() -> Iterator[tuple[str, File]]:
    yield "jpeg_gray.jpg", File(by_pillow(GRAY8, "JPEG", quality=98), rgb_of(GRAY8), within=4)
    for name, options in {
        "base.jpg": {},
        "progressive.jfif": {"progressive": True},
        "full.jpe": {"subsampling": 0},
    }.items():
        yield f"jpeg_{name}", File(by_pillow(RGB8, "JPEG", quality=98, **options), RGB8, within=14)
    yield "jpeg_cmyk.jpg", File(saved(Image.fromarray(RGB8).convert("CMYK"), "JPEG", quality=98), RGB8, within=14)
    yield "jpeg_icc.jpg", File(by_pillow(RGB8, "JPEG", quality=98, icc_profile=WIDE), RGB8, within=14, profile=WIDE)
    yield "jpeg_lossless.jpg", File(imagecodecs.jpeg8_encode(RGB8, lossless=True), RGB8)
    for channels in (1, 3):
        array = shaped(channels, channels, 4095)
        data = imagecodecs.jpeg8_encode(array, level=99, bitspersample=12)
        yield f"jpeg12_{channels}.jpg", File(data, rgb_of(whole_of(array, 12)), within=2500)
    yield "webp_rgb.webp", File(by_pillow(RGB8, "WEBP", lossless=True), RGB8)
    yield "webp_rgba.webp", File(by_pillow(RGBA8, "WEBP", lossless=True, exact=True), rgb_of(RGBA8), alpha_of(RGBA8))
    yield "webp_icc.webp", File(by_pillow(RGB8, "WEBP", lossless=True, icc_profile=WIDE), RGB8, profile=WIDE)
    yield "avif_icc.avif", File(by_pillow(RGB8, "AVIF", quality=100, icc_profile=WIDE), RGB8, within=14, profile=WIDE)
    for bits in (8, 10, 12):
        for channels in (1, 3, 4):
            array = shaped(channels, channels, 2**bits - 1)
            expected = whole_of(array, bits)
            data = imagecodecs.avif_encode(array, level=100, bitspersample=bits)
            yield f"avif_{bits}_{channels}.avif", File(data, rgb_of(expected), alpha_of(expected))
    for bits in (8, 10, 12, 16):
        for channels in (1, 3, 4):
            array = shaped(channels, channels, 2**bits - 1)
            expected = whole_of(array, bits)
            data = imagecodecs.jpeg2k_encode(array, level=0, reversible=True, bitspersample=bits)
            yield f"jp2_{bits}_{channels}.jp2", File(data, rgb_of(expected), alpha_of(expected))


def whole_of(array: np.ndarray, bits: int) -> np.ndarray:
    return whole(array, bits) if bits % 8 else array


def netpbm(kind: str, top: int) -> File:
    array = shaped(6, 3 if kind in ("P3", "P6") else 1, top)
    head = f"{kind}\n# 7 8 9\n{SIZE[1]} {SIZE[0]}\n{top}\n".encode()
    plain = b" ".join(str(v).encode() for v in array.ravel())
    data = head + (plain if kind in ("P2", "P3") else array.astype(">u2" if top > 255 else "u1").tobytes())
    return File(data, rgb_of(np.rint(array / top * np.iinfo(array.dtype).max).astype(array.dtype)), within=top == 100)


def others() -> Iterator[tuple[str, File]]:
    for kind, ending in {"P2": "pgm", "P3": "ppm", "P5": "pgm", "P6": "pnm"}.items():
        for top in (100, 255, 1023, 65535):
            yield f"netpbm_{kind}_{top}.{ending}", netpbm(kind, top)
    bilevel = np.where(GRAY8 > 127, 255, 0).astype(np.uint8)
    yield "netpbm_P4.pbm", File(by_bits(bilevel, "PPM"), rgb_of(bilevel))
    yield "bmp_1.bmp", File(by_bits(bilevel, "BMP"), rgb_of(bilevel))
    yield "bmp_rgb.bmp", File(by_pillow(RGB8, "BMP"), RGB8)
    yield (
        "bmp_rgba.bmp",
        File(cv2.imencode(".bmp", RGBA8[..., [2, 1, 0, 3]])[1].tobytes(), rgb_of(RGBA8), alpha_of(RGBA8)),
    )
    yield "bmp_gray.dib", File(by_pillow(GRAY8, "BMP"), rgb_of(GRAY8))
    for compression in (None, "tga_rle"):
        yield f"tga_rgb_{compression}.tga", File(by_pillow(RGB8, "TGA", compression=compression), RGB8)
    yield "tga_rgba.tga", File(by_pillow(RGBA8, "TGA"), rgb_of(RGBA8), alpha_of(RGBA8))
    yield "tga_gray.tga", File(by_pillow(GRAY8, "TGA"), rgb_of(GRAY8))
    palette = Image.fromarray(RGB8).quantize(32)
    expected = np.asarray(palette.convert("RGB"))
    yield "gif.gif", File(saved(palette, "GIF"), expected)
    clear = np.where(np.asarray(palette) == 3, 0, 255).astype(np.uint8)
    yield "gif_clear.gif", File(saved(palette, "GIF", transparency=3, optimize=False), expected, clear)


def turned() -> Iterator[tuple[str, File]]:
    back = {1: (), 2: ("m",), 3: ("r", "r"), 4: ("f",), 5: ("t",), 6: ("c",), 7: ("r", "r", "t"), 8: ("r",)}
    moves = {
        "m": np.fliplr,
        "f": np.flipud,
        "r": np.rot90,
        "c": lambda a: np.rot90(a, -1),
        "t": lambda a: a.swapaxes(0, 1),
    }
    for orientation, steps in back.items():
        upright = RGB8
        for step in steps:
            upright = moves[step](upright)
        exif = Image.Exif()
        exif[274] = orientation
        yield f"turned_{orientation}.png", File(by_pillow(RGB8, "PNG", exif=exif), upright)
        yield f"turned_{orientation}.webp", File(by_pillow(RGB8, "WEBP", exif=exif, lossless=True), upright)
        yield f"turned_{orientation}.jpg", File(by_pillow(RGB8, "JPEG", exif=exif, quality=98), upright, within=14)
        yield f"turned_{orientation}.avif", File(by_pillow(RGB8, "AVIF", exif=exif, quality=100), upright, within=14)
        data = by_tifffile(RGB16, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        deep = RGB16
        for step in steps:
            deep = moves[step](deep)
        yield f"turned_{orientation}.tif", File(data, deep)


# --- what is seldom met --------------------------------------------------------------------------------------------

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def by_hand(array: np.ndarray, bits: int, colours: int, interlaced: bool = False, **chunks: bytes) -> bytes:
    """A PNG of any depth, which no library at hand writes."""

    def lines(part: np.ndarray) -> bytes:
        values = part.reshape(len(part), -1)
        if bits < 8:
            packed = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
            values = np.packbits(packed.reshape(len(part), -1), 1)
        return b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in values)

    parts = [array[y::v, x::h] for x, y, h, v in ADAM7] if interlaced else [array]
    pixels = zlib.compress(b"".join(lines(part) for part in parts if part.size))
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, colours, 0, 0, interlaced)
    more = b"".join(chunk(kind.encode(), body) for kind, body in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def odd_pngs() -> Iterator[tuple[str, File]]:
    for bits in (1, 2, 4, 8, 16):
        gray = shaped(7, 1, 2**bits - 1)
        expected, key = whole_of(gray, bits), gray[3, 4]
        unseen = np.where(gray == key, 0, np.iinfo(expected.dtype).max).astype(expected.dtype)
        for interlaced in (False, True):
            data = by_hand(gray, bits, 0, interlaced, tRNS=struct.pack(">H", key))
            yield f"png_gray{bits}_trns{interlaced:d}.png", File(data, rgb_of(expected), unseen)
        if bits == 16:
            continue
        colours, table = shaped(8, 3, 255).reshape(-1, 3)[: 2**bits], bytes(range(0, 255, 9))[: 2**bits]
        opacity = np.array([*table, *[255] * (2**bits - len(table))], np.uint8)
        data = by_hand(gray, bits, 3, bits == 2, PLTE=colours.tobytes(), tRNS=table)
        yield f"png_palette{bits}_by_hand.png", File(data, colours[gray], opacity[gray])
    for kind, channels in {2: 3, 4: 2, 6: 4}.items():
        deep = shaped(9, channels, 65535)
        yield f"png_16_{channels}_interlaced.png", File(by_hand(deep, 16, kind, True), rgb_of(deep), alpha_of(deep))
    coarse = shaped(9, 3, 65535) // 9000 * 9000
    unseen = np.where((coarse == coarse[3, 4]).all(2), 0, 65535).astype(np.uint16)
    yield "png_rgb16_trns.png", File(by_hand(coarse, 16, 2, tRNS=struct.pack(">HHH", *coarse[3, 4])), coarse, unseen)
    gamma, short = struct.pack(">I", 100000), b"\1"  # of tRNS
    yield "png_remarks.png", File(by_hand(RGB8, 8, 2, sBIT=b"\5\5\5", gAMA=gamma, tRNS=short), RGB8)


def odd_tiffs() -> Iterator[tuple[str, File]]:
    for bits in (8, 16):
        array, top = shaped(2, 2, 2**bits - 1), 2**bits - 1
        data = by_tifffile(array, photometric="miniswhite", extrasamples=["unassalpha"], planarconfig="contig")
        yield f"tiff_{bits}_white_alpha.tif", File(data, rgb_of(top - array[..., :1]), array[..., 1])
        planes, how = np.moveaxis(shaped(2, 4, top), 2, 0), {"tile": (16, 16), "compression": "zstd", "predictor": True}
        data = by_tifffile(planes, photometric="rgb", planarconfig="separate", extrasamples=["unassalpha"], **how)
        yield f"tiff_{bits}_planar_alpha.tif", File(data, rgb_of(shaped(2, 4, top)), planes[3])
        table = np.random.default_rng(0).integers(0, 65536, (3, 2**bits), dtype=np.uint16)
        index = shaped(3, 1, top)
        data = by_tifffile(index, photometric="palette", colormap=table)
        yield f"tiff_{bits}_colours.tif", File(data, (np.moveaxis(table, 0, -1)[index] >> 8).astype(np.uint8))
    for bits in (2, 4, 10, 12):
        gray = shaped(3, 1, 2**bits - 1)
        for photometric, expected in {"minisblack": gray, "miniswhite": 2**bits - 1 - gray}.items():
            data = by_tifffile(gray, photometric=photometric, bitspersample=bits)
            yield f"tiff_{bits}_{photometric}.tif", File(data, rgb_of(whole_of(expected, bits)))
    for turn, upright in {3: RGB8[::-1, ::-1], 6: np.rot90(RGB8, -1), 8: np.rot90(RGB8)}.items():
        exif = Image.Exif()
        exif[274] = turn
        for mode in ("CMYK", "YCbCr"):
            data = saved(Image.fromarray(RGB8).convert(mode), "TIFF", exif=exif)
            yield f"turned_{turn}_{mode.lower()}.tif", File(data, upright, within=3)
    small, buffer = RGB8[::2, ::2], BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(RGB8, photometric="rgb", subifds=1)
        file.write(small, photometric="rgb", subfiletype=1)
        file.write(small, photometric="rgb", subfiletype=1)
    yield "tiff_thumbnails.tif", File(buffer.getvalue(), RGB8)


def odd_others() -> Iterator[tuple[str, File]]:
    cmyk = 255 - np.asarray(Image.fromarray(RGB8).convert("CMYK"))  # as Adobe stores it
    for stored in ("CMYK", "YCCK"):
        data = imagecodecs.jpeg8_encode(cmyk, level=98, colorspace="CMYK", outcolorspace=stored)
        yield f"jpeg_cmyk_{stored}.jpg", File(data, RGB8, within=16)
    yield "jpeg_rgb.jpg", File(by_pillow(RGB8, "JPEG", quality=98, keep_rgb=True), RGB8, within=6)
    long = struct.pack(">I", len(WIDE) + 150_000) + WIDE[4:] + bytes(150_000)
    data = by_pillow(RGB8, "JPEG", quality=98, icc_profile=long)
    yield "jpeg_icc_in_three.jpg", File(data, RGB8, within=14, profile=long)
    for bits in (8, 12, 16):
        array = shaped(4, 3, 2**bits - 1)
        data = profiled(bytes(imagecodecs.jpeg2k_encode(array, level=0, reversible=True, bitspersample=bits)), WIDE)
        yield f"jp2_icc_{bits}.jp2", File(data, whole_of(array, bits), profile=WIDE)
    for kind in ("P2", "P3", "P5", "P6"):
        for top in (1, 7, 200, 4095):
            yield f"netpbm_{kind}_{top}.pnm", netpbm(kind, top)
    for depth, name in {1: "GRAYSCALE", 2: "GRAYSCALE_ALPHA", 3: "RGB", 4: "RGB_ALPHA"}.items():
        for top in (1, 200, 1023):
            array = shaped(6, depth, top)
            head = f"P7\nWIDTH {SIZE[1]}\nHEIGHT {SIZE[0]}\nDEPTH {depth}\nMAXVAL {top}\nTUPLTYPE {name}\nENDHDR\n"
            expected = np.rint(array / top * np.iinfo(array.dtype).max).astype(array.dtype)
            data = head.encode() + array.astype(">u2" if top > 255 else "u1").tobytes()
            yield f"pam_{depth}_{top}.pam", File(data, rgb_of(expected), alpha_of(expected))
    bgra = np.ascontiguousarray(RGBA8[..., [2, 1, 0, 3]])
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for height, rows in {SIZE[0]: bgra[::-1], -SIZE[0]: bgra}.items():
        data = bitmap(rows.tobytes(), height, 32, masks)
        yield f"bmp_v5_{height}.bmp", File(data, rgb_of(RGBA8), alpha_of(RGBA8))
    levels = np.array([31, 63, 31])
    coarse = np.rint(RGB8 / 255 * levels).astype("<u2")
    packed = coarse[..., 0] << 11 | coarse[..., 1] << 5 | coarse[..., 2]
    data = bitmap(packed[::-1].tobytes(), SIZE[0], 16, (0xF800, 0x7E0, 0x1F, 0))
    yield "bmp_565.bmp", File(data, np.rint(coarse / levels * 255).astype(np.uint8), within=1)
    for packed in (False, True):
        pixels = b"".join(b"\x27" * packed + row.tobytes() for row in bgra)  # of the packed, each row is as it is
        data = struct.pack("<BBB5xHHHHBB", 0, 0, 10 if packed else 2, 0, 0, SIZE[1], SIZE[0], 32, 0x28) + pixels
        yield f"tga_top_left_{packed:d}.tga", File(data, rgb_of(RGBA8), alpha_of(RGBA8))


def bitmap(pixels: bytes, height: int, bits: int, masks: tuple[int, int, int, int]) -> bytes:
    """A BMP of version 5, with the bits of its channels in masks."""
    about = struct.pack("<IiiHHIIiiII", 124, SIZE[1], height, 1, bits, 3, len(pixels), 2835, 2835, 0, 0)
    about += struct.pack("<IIII4s", *masks, b"BGRs") + bytes(64)
    return struct.pack("<2sIHHI", b"BM", 14 + len(about) + len(pixels), 0, 0, 14 + len(about)) + about + pixels


def profiled(data: bytes, profile: bytes) -> bytes:
    """A JPEG 2000 with a profile where its colours were named, which no library at hand writes."""
    inner, outer = data.index(b"colr") - 4, data.index(b"jp2h") - 4
    (old,), box = struct.unpack_from(">I", data, inner), b"colr\2\0\0" + profile
    length = struct.unpack_from(">I", data, outer)[0] - old + 4 + len(box)
    before = data[:outer] + struct.pack(">I", length) + data[outer + 4 : inner]
    return before + struct.pack(">I", 4 + len(box)) + box + data[inner + old :]


def bitmap_with_profile(profile: bytes) -> bytes:
    """A BMP of version 5 that has a profile behind its pixels, which no library at hand writes."""
    pixels = np.ascontiguousarray(RGB8[::-1, :, ::-1]).tobytes()
    about = struct.pack("<IiiHHIIiiII", 124, SIZE[1], SIZE[0], 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    about += struct.pack("<16x4s48xIIII", b"DEBM", 4, len(about) + 84 + len(pixels), len(profile), 0)
    head = struct.pack("<2sIHHI", b"BM", 14 + len(about) + len(pixels) + len(profile), 0, 0, 14 + len(about))
    return head + about + pixels + profile


def as_cielab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of 8 bits (TIFF 6, section 23), white D50, of sRGB by the matrix and curve of its profile."""
    linear = np.where(rgb <= 0.04045 * 255, rgb / 12.92 / 255, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    matrix = [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
    xyz = linear @ np.transpose(matrix) / (0.9642, 1, 0.8249)
    x, y, z = np.moveaxis(np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29), -1, 0)
    signed = np.rint(np.stack([2.55 * (116 * y - 16), 500 * (x - y), 200 * (y - z)], -1))
    return signed.astype(np.int16).view(np.uint16).astype(np.uint8)


STUDIO_RANGE = (532, "2I", 6, (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1), True)  # ReferenceBlackWhite


def as_video(rgb: np.ndarray) -> np.ndarray:
    """YCbCr of studio range."""
    full = np.asarray(Image.fromarray(rgb).convert("YCbCr")) - np.array([0.0, 128, 128])
    return np.rint(full * [219 / 255, 224 / 255, 224 / 255] + [16, 128, 128]).astype(np.uint8)


def found_by_looking() -> Iterator[tuple[str, File]]:
    """Kinds that were read wrong once."""
    raster, head = RGB16[..., 0].astype(">u2").tobytes(), f"P5 # a 7\n{SIZE[1]}# b 8\n{SIZE[0]} 65535"
    for name, end in {"in_a_number": "\n", "at_the_end": "# c 9\n"}.items():
        yield f"netpbm_comment_{name}.pgm", File((head + end).encode() + raster, rgb_of(RGB16[..., 0]))
    bits = (GRAY8[:, :37] > 127).astype(np.uint8)
    white = np.repeat(255 * bits[..., None], 3, 2)
    for name, between in {"blanks": " ", "none": ""}.items():
        text = "\n".join(between.join(str(1 - bit) for bit in row) for row in bits)
        yield f"netpbm_P1_{name}.pbm", File(f"P1\n37 {SIZE[0]}\n{text}\n".encode(), white)
    yield "netpbm_P4_37.pbm", File(f"P4 37 {SIZE[0]}\n".encode() + np.packbits(1 - bits, 1).tobytes(), white)
    head = f"P7\n# WIDTH 7\nWIDTH {SIZE[1]}\nHEIGHT {SIZE[0]}\nDEPTH 3\nMAXVAL 255\n# HEIGHT 7\nENDHDR\n"
    yield "pam_comments.pam", File(head.encode() + RGB8.tobytes() + b"\n", RGB8)
    coarse = np.rint(RGB8 / 255 * 31).astype("<u2")
    packed = (coarse[..., 0] << 10 | coarse[..., 1] << 5 | coarse[..., 2]) | np.uint16(0x8000)
    head = struct.pack("<BBB5xHHHHBB", 0, 0, 2, 0, 0, SIZE[1], SIZE[0], 16, 0x20)
    yield "tga_555.tga", File(head + packed.tobytes(), np.rint(coarse / 31 * 255).astype(np.uint8), within=1)
    table = packed.reshape(-1)[:256]
    colours = np.rint(coarse.reshape(-1, 3)[:256] / 31 * 255).astype(np.uint8)
    head = struct.pack("<BBBHHBHHHHBB", 0, 1, 1, 0, 256, 16, 0, 0, SIZE[1], SIZE[0], 8, 0x20)
    yield "tga_555_palette.tga", File(head + table.tobytes() + GRAY8.tobytes(), colours[GRAY8], within=1)
    gray, two = imagecodecs.cms_profile("gray", whitepoint=(0.3127, 0.3290, 1), gamma=1.8), shaped(2, 2, 255)
    data = by_pillow(two, "PNG", icc_profile=gray)
    yield "png_gray_alpha_icc.png", File(data, rgb_of(two), two[..., 1], profile=gray)
    yield "bmp_icc.bmp", File(bitmap_with_profile(WIDE), RGB8, profile=WIDE)
    soft = 64 + RGB8 // 2  # whose CIELAB of 8 bits is near
    yield "tiff_lab_soft.tif", File(by_tifffile(as_cielab(soft), photometric="cielab"), soft, within=4)
    deep = shaped(1, 3, 4095)
    red, green, blue = np.moveaxis(deep / 4095, 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    ycc = np.stack([luma, (blue - luma) / 1.772 + 0.5, (red - luma) / 1.402 + 0.5], 2)
    data = imagecodecs.jpeg2k_encode(np.rint(ycc * 4095).astype(np.uint16), level=0, bitspersample=12, mct=False)
    enumerated = bytes(data).replace(b"colr\1\0\0\0\0\0\x10", b"colr\1\0\0\0\0\0\x12")  # sRGB, sYCC
    yield "jp2_sycc12.jp2", File(enumerated, whole(deep, 12), within=60)
    studio = by_tifffile(as_video(RGB8), photometric="ycbcr", subsampling=(1, 1), extratags=[STUDIO_RANGE])
    yield "tiff_studio.tif", File(studio, RGB8, within=5)
    table = np.random.default_rng(0).integers(0, 256, (3, 256), dtype=np.uint16)
    data = by_tifffile(GRAY8, photometric="palette", colormap=table)
    yield "tiff_colours_of_8_bits.tif", File(data, table.T[GRAY8].astype(np.uint8))
    yield "png_no_profile.png", File(with_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"junk" * 50)), RGB8)


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG of RGB8 that says something of itself."""
    data = by_pillow(RGB8, "PNG")
    return data[:33] + chunk(kind, body) + data[33:]


TABLE = dict(
    [
        *(*pngs(), *tiffs(), *lossy(), *others(), *turned()),
        *(*odd_pngs(), *odd_tiffs(), *odd_others(), *found_by_looking()),
    ]
)


def difference(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return int(np.abs(found.astype(int) - expected).max())


def test_the_table_is_long() -> None:
    assert len(TABLE) >= 90


@pytest.mark.parametrize("name", TABLE)
def test_a_file_is_read_as_its_maker_means_it(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = TABLE[name]
    (tmp_path / name).write_bytes(file.data)
    picture = read_picture(tmp_path / name)
    assert difference(picture.pixels, file.pixels) <= file.within
    assert (picture.alpha is None) == (file.alpha is None)
    if picture.alpha is not None and file.alpha is not None:
        assert difference(picture.alpha, file.alpha) == 0
    assert picture.profile == file.profile and picture.pages == 1
    assert capfd.readouterr() == ("", ""), "libraries keep still"


MAGICK_FILES = {
    "gray4.tif": ["-colorspace", "gray", "-depth", "4"],
    "gray12.tif": ["-colorspace", "gray", "-depth", "12"],
    "rgb10.tif": ["-depth", "10"],
    "rgb12.tif": ["-depth", "12"],
    "rgb16.tif": ["-depth", "16"],
    "lsb.tif": ["-define", "tiff:fill-order=lsb"],
    "planar.tif": ["-interlace", "plane"],
    "palette.tif": ["-type", "palette"],
    "associated.tif": ["-alpha", "set", "-define", "tiff:alpha=associated"],
    "rgb.pam": [],
    "deep.pam": ["-depth", "16"],
    "rgba.pam": ["-alpha", "set"],
    "os2.bmp": ["-type", "palette"],
    "deep.png": ["-depth", "16"],
    "interlaced.png": ["-interlace", "line"],
}


@pytest.mark.skipif(MAGICK is None, reason="ImageMagick is not installed")
@pytest.mark.parametrize("name", MAGICK_FILES)
def test_imagemagick_files(tmp_path: Path, name: str) -> None:
    assert MAGICK is not None
    (tmp_path / "in.png").write_bytes(by_pillow(RGB8, "PNG"))
    subprocess.run([MAGICK, tmp_path / "in.png", *MAGICK_FILES[name], tmp_path / name], check=True)
    raw = subprocess.run(
        [MAGICK, tmp_path / name, "-colorspace", "sRGB", "-depth", "16", "-endian", "MSB", "rgb:-"],
        check=True,
        capture_output=True,
    )
    expected = np.frombuffer(raw.stdout, ">u2").reshape(*SIZE, 3)
    found = read_image(tmp_path / name)
    found = found.astype(int) * (257 if found.dtype == np.uint8 else 1)
    assert np.abs(found - expected).max() <= (256 if name == "palette.tif" else 1)  # colours of 16 bits for 8


def animated(kind: str, **options: Any) -> bytes:
    """Three pictures, the first RGB8."""
    frames = [Image.fromarray(np.roll(RGB8, 5 * k, 1)) for k in range(3)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)


SEVERAL = {
    "pages.tif": (animated("TIFF"), 0),
    "frames.png": (animated("PNG"), 0),
    "frames.webp": (animated("WEBP", lossless=True), 0),
    "frames.avif": (animated("AVIF", quality=100), 14),
    "apart.png": (animated("PNG", default_image=True), 0),
    "views.jpg": (animated("MPO", quality=98), 14),
    "in_a_row.ppm": (by_pillow(RGB8, "PPM") * 3, 0),
    "in_a_row.pam": ((b"P7\nWIDTH 40\nHEIGHT 24\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + RGB8.tobytes()) * 3, 0),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_pages_the_first_is_read_and_the_others_named(tmp_path: Path, name: str) -> None:
    data, within = SEVERAL[name]
    (tmp_path / name).write_bytes(data)
    picture = read_picture(tmp_path / name)
    assert picture.pages == 3 and difference(picture.pixels, RGB8) <= within
    assert "1 of 1 images have several pages, of which the first is taken" in Folder(str(tmp_path)).remarks()[0]


def thumbnail_first() -> bytes:
    """As cameras' raw files are: TIFFs whose first page is small, and another further in."""
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(RGB8[::4, ::4], photometric="rgb", subfiletype=1, subifds=1)
        file.write(RGB16[..., 0], photometric="cfa")
    return buffer.getvalue()


def on_a_canvas(width: int, height: int) -> bytes:
    """A GIF whose frame is smaller than the picture."""
    data = saved(Image.fromarray(RGB8).quantize(32), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


CMYK8 = np.asarray(Image.fromarray(RGB8).convert("CMYK"))
REFUSED = {
    "raw.tif": (thumbnail_first(), "its first page is a thumbnail"),
    "cmyk16.tif": (
        by_tifffile(CMYK8.astype(np.uint16) * 257, photometric="separated"),
        "has the colours CMYK, 16 bits",
    ),
    "cmyk_jpeg2000.tif": (
        by_tifffile(CMYK8, photometric="separated", compression="jpeg2000"),
        "stored in a way that Pillow does not know",
    ),
    "cmyka.tif": (
        by_tifffile(np.dstack([CMYK8, GRAY8]), photometric="separated", extrasamples=["unassalpha"]),
        "has the colours CMYK, 8 bits, in a form",
    ),
    "three_gray.tif": (by_tifffile(RGB8, photometric="minisblack", planarconfig="contig"), "has 3 channels; gray, RGB"),
    "cmyk12.jpg": (
        imagecodecs.jpeg8_encode(
            shaped(2, 4, 4095), level=98, bitspersample=12, colorspace="CMYK", outcolorspace="CMYK"
        ),
        "has CMYK colours of more than 8 bits",
    ),
    "a.jls": (imagecodecs.jpegls_encode(RGB8), "JPEG-LS is not read here"),
    "a.jxr": (imagecodecs.jpegxr_encode(RGB8), "JPEG XR is not read here"),
    "a.ico": (saved(Image.fromarray(RGBA8), "ICO"), "ICO is not read here"),
    "a.dds": (saved(Image.fromarray(RGBA8), "DDS"), "DDS is not read here"),
    "a.qoi": (imagecodecs.qoi_encode(RGB8), "QOI is not read here"),
    "a.hdr": (imagecodecs.rgbe_encode(RGB8.astype(np.float32)), "Radiance HDR is not read here"),
    "argb1555.bmp": (
        bitmap(bytes(2 * GRAY8.size), SIZE[0], 16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
        "a BMP of 16 bits with alpha",
    ),
    "two.json": (b"{}", "this is not an image"),
    "code.c": (b"/* no picture */ int main;", "this is not an image"),
    "lab16.tif": (by_tifffile(RGB16, photometric="cielab"), "has the colours LAB, 16 bits, in a form"),
    "volume.tif": (
        by_tifffile(np.stack([GRAY8] * 5), photometric="minisblack", volumetric=True, tile=(1, 16, 16)),
        "has 1 channels in 5 layers",
    ),
    "half.tif": (by_tifffile(RGB8.astype(np.float16)), "holds float16 values"),
    "float.tif": (by_tifffile(RGB8.astype(np.float32)), "holds float32 values"),
    "signed.tif": (by_tifffile(RGB8.astype(np.int16)), "holds int16 values"),
    "deep.tif": (by_tifffile(RGB8.astype(np.uint32)), "holds uint32 values"),
    "many.tif": (by_tifffile(shaped(1, 7, 255), planarconfig="contig", photometric="rgb"), "has 7 channels"),
    "a.jxl": (imagecodecs.jpegxl_encode(RGB8), "JPEG XL is not read here; save it as PNG"),
    "a.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC is not read here"),
    "a.exr": (b"v/1\x01" + bytes(40), "OpenEXR is not read here"),
    "a.psd": (b"8BPS\0\1" + bytes(40), "Photoshop is not read here"),
    "a.pfm": (b"PF\n40 24\n-1.0\n" + bytes(24 * 40 * 12), "PFM is not read here"),
    "page.png": (b"<html>404</html>", "this is not an image"),
    "cmyk.pam": (
        b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE CMYK\nENDHDR\n" + bytes(4),
        r"4 channels \(CMYK\)",
    ),
    "blanks.pgm": (b"P5 " + b"# " * 99, "width, height or MAXVAL are missing"),  # which took for ever
    "alpha.tga": (struct.pack("<BBB5xHHHHBB2x", 0, 0, 2, 0, 0, 1, 1, 16, 0x21), "a TGA of 16 bits with alpha"),
    "tga15.tga": (struct.pack("<BBB5xHHHHBB2x", 0, 0, 2, 0, 0, 1, 1, 15, 0x20), "this is not an image of a format"),
    "part.gif": (on_a_canvas(60, 30), "its first frame leaves a part of the picture without colours"),
    "empty.gif": (b"GIF89a" + struct.pack("<HHBBB", 40, 24, 0, 0, 0), "this GIF file cannot be opened"),
    "a.cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(50), "a camera's raw file is not read here"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201", "a camera's raw file is not read here"),
    "a.svg": (b"<?xml version='1.0'?>\n<!-- x -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not read here"),
    "planes_of_lab.tif": (
        by_tifffile(np.moveaxis(RGB8, 2, 0), photometric="cielab", planarconfig="separate"),
        "has the colours LAB, 8 bits, in a form",
    ),
    "cut.pgm": (b"P5 9 9 255\n" + bytes(80), "has fewer values than it should"),
    "cut.gif": (saved(Image.fromarray(RGB8).quantize(32), "GIF")[:300], "GIF file is not read"),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "TGA", "WEBP", "PPM", "JPEG2000"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (24, 1)])
def test_images_of_one_row_or_column(kind: str, size: tuple[int, int]) -> None:
    array = np.ascontiguousarray(RGB8[: size[0], : size[1]])
    data = by_pillow(array, kind, lossless=True) if kind == "WEBP" else by_pillow(array, kind)
    np.testing.assert_array_equal(decode_picture(data, "a").pixels, array)


@pytest.mark.parametrize("megapixels", [95, 190])
def test_pillow_neither_warns_of_large_images_nor_refuses_them(megapixels: int, recwarn: Any) -> None:
    data = saved(Image.new("1", (megapixels * 100, 10_000)), "BMP")
    assert parse_header(data) == Header("bmp", (10_000, megapixels * 100), mode="gray", highest=1)
    assert not recwarn.list


def test_a_palette_of_a_tiff_keeps_its_alpha() -> None:
    """tifffile writes no such file: the tag of the colours is put in afterwards."""
    index, alpha = np.uint8(GRAY8 // 16), shaped(5, 1, 255)
    table = np.random.default_rng(0).integers(0, 65536, (3, 256), dtype=np.uint16)
    how: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    data = bytearray(by_tifffile(np.dstack([index, alpha]), extratags=[(320, 3, 768, table.ravel(), True)], **how))
    with tifffile.TiffFile(BytesIO(data)) as file:
        place = file.pages.first.tags["PhotometricInterpretation"].valueoffset
    data[place : place + 2] = struct.pack("<H", 3)
    picture = decode_picture(bytes(data), "a")
    np.testing.assert_array_equal(picture.pixels, (np.moveaxis(table, 0, -1)[index] >> 8).astype(np.uint8))
    np.testing.assert_array_equal(picture.alpha, alpha)


def test_a_thumbnail_is_no_page_of_a_jpeg() -> None:
    """Cameras write large ones behind the picture (CIPA DC-007, 5.2.3.3.1)."""
    data = animated("MPO", quality=98)
    place = data.index(b"MPF\0") + 54  # of the pictures' entries, of 16 bytes each
    assert [parse_header(data[: place + 16] + kind + data[place + 20 :]).pages for kind in KINDS] == [3, 2, 3]


KINDS = [b"\0\0\0\0", b"\1\0\1\0", b"\2\0\2\0"]  # unsaid, a thumbnail, a disparity


def test_a_broken_list_of_views_says_nothing_about_the_picture() -> None:
    data = bytearray(animated("MPO", quality=98))
    place = data.index(b"\x02\xb0\7\0", data.index(b"MPF\0")) + 4  # how many bytes the entries have
    data[place : place + 4] = struct.pack("<I", 20)
    header = parse_header(bytes(data))
    assert header.damage is None and header.pages == 1


def test_a_huge_gif_is_refused_before_it_is_allocated() -> None:
    """Pillow allocates the picture of a GIF to tell its frames."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=r"a: its header cannot be read \(Image size \(1200000000 pixels\) exceeds"):
        decode_picture(on_a_canvas(40_000, 30_000), "a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


def test_a_second_frame_of_another_size_is_refused() -> None:
    data = by_pillow(RGB8, "JPEG")
    place = data.index(b"\xff\xc0")
    frame = bytearray(data[place : place + 2 + int.from_bytes(data[place + 2 : place + 4])])
    frame[5:9] = struct.pack(">HH", 99, 77)
    with pytest.raises(ImageError, match=r"a: this JPEG file is not read \(.*two SOF markers\)"):
        decode_picture(data[:-2] + bytes(frame) + data[-2:], "a")


@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
def test_a_strip_that_is_not_there_is_the_same_in_bands(tmp_path: Path, tag: str) -> None:
    """tifffile reads from the file's first byte as a whole, and nothing by strips."""
    data = bytearray(by_tifffile(RGB8, photometric="rgb"))
    with tifffile.TiffFile(BytesIO(data)) as file:
        place = file.pages.first.tags[tag].valueoffset
    data[place : place + 2] = bytes(2)
    (path := tmp_path / "gone.tif").write_bytes(data)
    assert why_not_in_bands(parse_header(bytes(data)), path) == "some of its strips are not in the file"


@pytest.mark.parametrize("tag", ["TileLength", "TileWidth", "ImageLength", "SamplesPerPixel"])
def test_a_tag_of_two_values_is_no_crash(tmp_path: Path, tag: str) -> None:
    """Where one is due, tifffile gives both."""
    data = bytearray(by_tifffile(RGB8, photometric="rgb", tile=(16, 16)))
    with tifffile.TiffFile(BytesIO(data)) as file:
        found = file.pages.first.tags[tag]
    data[found.offset + 2 : found.offset + 12] = struct.pack("<HIHH", 3, 2, found.value, found.value)
    (path := tmp_path / "two.tif").write_bytes(data)
    header = parse_header(bytes(data))
    assert header.damage is not None or why_not_in_bands(header, path) == "its tags are of no plain kind"
    with suppress(ImageError):  # or in words
        np.testing.assert_array_equal(read_picture(path).pixels, RGB8)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, reason = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(tmp_path / name)
    assert "damaged" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "libraries keep still"


# --- cICP ----------------------------------------------------------------------------------------------------------


def with_cicp(*code: int) -> bytes:
    """A PNG of RGB8 whose cICP says how its colours are coded (ITU-T H.273)."""
    return with_chunk(b"cICP", bytes(code))


def from_linear(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055)


def to_xyz(*primaries: float) -> np.ndarray:
    """The matrix from linear RGB of these primaries, x and y of each, with the white D65, to XYZ."""
    x, y = np.reshape(primaries, (3, 2)).T
    columns = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    return columns * np.linalg.solve(columns, [0.3127 / 0.329, 1, (1 - 0.3127 - 0.329) / 0.329])


CONVERTED = {
    "Display P3": ((12, 13, 0, 1), to_xyz(0.68, 0.32, 0.265, 0.69, 0.15, 0.06)),
    "BT.2020": ((9, 1, 0, 1), to_xyz(0.708, 0.292, 0.17, 0.797, 0.131, 0.046)),
    "sRGB": ((1, 13, 0, 1), to_xyz(0.64, 0.33, 0.3, 0.6, 0.15, 0.06)),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_colours_of_cicp_are_converted(tmp_path: Path, name: str) -> None:
    """As the primaries' matrices say it, clipped to what sRGB can show."""
    code, matrix = CONVERTED[name]
    (tmp_path / "a.png").write_bytes(with_cicp(*code))
    encoded = RGB8 / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    expected = from_linear(linear @ (np.linalg.inv(CONVERTED["sRGB"][1]) @ matrix).T).clip(0, 1) * 255
    assert np.abs(read_image(tmp_path / "a.png") - expected).max() <= (1e-6 if name == "sRGB" else 2)
    assert bool(Folder(str(tmp_path)).remarks()) == (name != "sRGB")


@pytest.mark.parametrize("code", [(12, 13, 0, 1), (9, 16, 0, 1), (9, 18, 0, 1), (1, 13, 0, 0)])
def test_cicp_is_carried_or_refused(tmp_path: Path, code: tuple[int, ...]) -> None:
    """PNG results keep it, those of other formats and --colour srgb get the colours, or words about which they are."""
    source, png, jpeg = (tmp_path / name for name in ("a.png", "b.png", "c.jpg"))
    source.write_bytes(with_cicp(*code))
    restorer = Restorer(bicubic_generator(1))
    assert list(restore_files({source: png}, restorer, Console())) == [True]
    assert b"cICP" + bytes(code) in png.read_bytes()
    np.testing.assert_array_equal(read_picture(png).pixels, RGB8)
    for done in (
        restore_files({source: jpeg}, restorer, Console()),
        restore_files({source: png}, restorer, Console(), colour="srgb"),
    ):
        assert list(done) == [code[0] == 12]
    if code[0] != 12:
        with pytest.raises(ImageError, match=rf"primaries {code[0]}, transfer {code[1]} .*are not converted"):
            read_image(source)


def test_a_broken_cicp_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(with_cicp(9, 16))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB8)


# --- the other ways ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("formats")
    for name, file in TABLE.items():
        (root / name.replace(".", "_", name.count(".") - 1)).write_bytes(file.data)
    for path in root.iterdir():  # names that differ without their endings, as data sets need them
        path.rename(path.with_name(f"{path.stem}_{path.suffix[1:]}{path.suffix}"))
    return root


def test_all_are_listed(folder: Path) -> None:
    listing = list_images(folder)
    assert len(listing.files) == len(TABLE) and not listing.remark


def test_data_sets_say_what_they_drop_and_change(folder: Path) -> None:
    """By the headers alone, of just the files whose pictures tell the same."""
    (folder / "notes.txt").touch()
    (folder / ".hidden.png").touch()
    os.mkfifo(folder / "pipe.png")
    pictures = {str(path): read_picture(path) for path in list_images(folder).files}
    converted = {name for name, p in pictures.items() if (p.pixels != p.srgb().pixels).any()}
    stored = {name for name in pictures if "tiff_lab" in name or "cmyk" in name}
    expected = {"alpha": {n for n, p in pictures.items() if p.alpha is not None}, "sRGB": converted | stored}
    for path in (folder / "notes.txt", folder / ".hidden.png", folder / "pipe.png"):
        assert list_images(folder).remark.count(path.name) == 1
        path.unlink()
    for word, names in expected.items():
        alone = [(str(name), header) for name, header in headers(pictures) if changes([(name, header)])]
        found = [name for name, header in alone if any(word in text for text in changes([(name, header)]))]
        assert set(found) == names
    said = Folder(str(folder)).remarks()
    assert said == changes(headers(pictures)) and len(said) == 2
    assert f"{len(converted | stored)} of {len(TABLE)} images have colours of their own" in said[1]


def test_preparation_checks_them_all(folder: Path) -> None:
    facts = {path: examine(path) for path in list_images(folder).files}
    assert {path.name: fact.reason for path, fact in facts.items() if fact.kind != "good"} == {}


def test_through_folder_lmdb_and_tiles(folder: Path, tmp_path: Path) -> None:
    console = Console()
    assert write_database(folder, tmp_path / "x.lmdb", "", 1, console) == 0
    assert convert(Tiles(64, 64), folder, tmp_path / "tiles", "", 1, console) == 0
    source, database = Folder(str(folder)), Lmdb(str(tmp_path / "x.lmdb"))
    keys = {Path(database.name(i)).name: i for i in range(len(database))}
    for index in range(len(source)):
        path = source.path(index)
        expected = read_picture(path).srgb().pixels
        np.testing.assert_array_equal(source.read(index), expected)
        np.testing.assert_array_equal(database.read(keys[path.stem]), expected)
        np.testing.assert_array_equal(read_image(tmp_path / "tiles" / f"{path.stem}_s001.png"), expected)


def test_through_training_crops(folder: Path) -> None:
    """Each crop is a part of what the maker put in, at its place, in all of its depth."""
    specs = {"a": DATASETS.check({"type": "folder", "root": str(folder)}, "data.train.a", scale=1)}
    options = DataOptions(specs, crop_size=16, batch_size=1, augment="none")
    mix = Mix.build(specs, DEGRADATIONS.build({"type": "bicubic"}, scale=1), 1)
    training, seen = TrainingSet(mix, options, seed=0, stage="a", batch_size=1, in_worker=True), set()
    for number in range(len(TABLE)):
        batch = training[number]
        picture = read_picture(batch.paths[0]).srgb().pixels
        places = np.lib.stride_tricks.sliding_window_view(to_float(picture), (16, 16), (0, 1))
        crop = batch.targets["plain"][0].numpy()
        assert np.abs(places - crop).max((2, 3, 4)).min() < 1e-6, batch.paths
        seen.add(batch.paths[0])
    assert len(seen) == len(TABLE), "an epoch has each file once"


def test_a_gray_profile_is_converted_where_there_is_no_gray(tmp_path: Path) -> None:
    """WebP has RGB, which such a profile does not fit."""
    (source := tmp_path / "a.png").write_bytes(TABLE["png_gray_alpha_icc.png"].data)
    assert all(restore_files({source: tmp_path / "a.webp"}, Restorer(bicubic_generator(1)), Console()))
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), read_image(source))


@pytest.mark.parametrize("ext", ["png", "tif"])
def test_through_restoring_at_scale_1(folder: Path, tmp_path: Path, ext: str) -> None:
    targets = restoration_targets([folder], tmp_path, ext=ext)
    assert all(restore_files(targets, Restorer(bicubic_generator(1)), Console()))
    for source, target in targets.items():
        before, after = read_picture(source), read_picture(target)
        np.testing.assert_array_equal(after.pixels, before.pixels)
        assert after.profile == before.profile and after.gray == before.gray
        assert (after.alpha is None) == (before.alpha is None)
        if after.alpha is not None and before.alpha is not None:
            np.testing.assert_array_equal(after.alpha, before.alpha)
