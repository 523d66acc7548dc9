"""The pixels of each format, by the library that reads it right."""

from io import BytesIO

import imagecodecs
import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin, UnidentifiedImageError

from utils.images import netpbm
from utils.images.header import BY_PILLOW, Header

_CODECS = {"png": "png", "jpeg": "jpeg8", "webp": "webp", "avif": "avif", "jpeg2000": "jpeg2k"}  # of imagecodecs

VERSION = 1
"""Counts up when a file of some kind is read to other pixels than before, which makes `data.cache` anew."""

TiffImagePlugin.READ_LIBTIFF = True  # Pillow's own way takes YCbCr to be of full range and without subsampling


def decoded(data: bytes, header: Header) -> np.ndarray:
    """Decode an image file.

    Returns:
        (H, W), or (H, W, 1 to 4) with channels in the order gray or RGB, then alpha; uint8 or uint16 over the whole of
        its range; as stored, not yet upright. Of CMYK and CIELAB sRGB is made.

    Raises:
        Exception: whatever the library raises.
    """
    deep = header.highest > 255
    if header.mode in BY_PILLOW and deep:
        raise ValueError(f"has {header.mode} colours of more than 8 bits, which are not converted; save it as RGB")
    if header.kind == "avif" and deep and header.pages > 1:  # imagecodecs 2026.3 reads all frames or none
        raise ValueError(f"has {header.pages} frames of more than 8 bits, of which none is read")
    if header.mode in BY_PILLOW or (header.pages > 1 and header.kind in ("webp", "avif")):
        array = _by_pillow(data, header)
    elif header.kind == "tiff":
        array = _by_tifffile(data, header)
    elif header.kind == "netpbm":
        array = netpbm.decode(data)
    elif header.kind in _CODECS:
        array = getattr(imagecodecs, f"{_CODECS[header.kind]}_decode")(_without_profile(data, header))
    else:
        array = _by_pillow(data, header)
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"holds {array.dtype} values, and 8 and 16 bit images are supported; save it as one of them")
    if array.size == 0:
        raise ValueError("has no pixels")
    if array.ndim not in (2, 3) or array.shape[2:] > (4,):
        raise ValueError(f"has the shape {array.shape}; gray, RGB and RGBA are supported")
    return _full_range(array, header)


def _full_range(array: np.ndarray, header: Header) -> np.ndarray:
    """Spread values over the whole range of their type, where the highest that means light lies below."""
    top = np.iinfo(array.dtype).max
    scaled = header.kind in ("tiff", "netpbm", "avif", "jpeg2000", "jpeg") and header.mode != "palette"
    if not scaled or header.highest == top:
        return array
    return np.rint(np.minimum(np.arange(top + 1), header.highest) * top / header.highest).astype(array.dtype)[array]


def _without_profile(data: bytes, header: Header) -> bytes:
    """Hide the profile of a JPEG 2000, by which OpenJPEG would convert colours, deep ones wrongly."""
    return data.replace(b"colr\2", b"free\2", 1) if header.kind == "jpeg2000" and header.profile else data


def _by_tifffile(data: bytes, header: Header) -> np.ndarray:
    from tifffile import TiffFile

    with TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        array = page.asarray(maxworkers=1)
    array = np.moveaxis(array, 0, -1) if page.planarconfig == 2 and array.ndim == 3 else array
    array = array.reshape(*array.shape[:2], -1).astype(np.uint8 if array.dtype == bool else array.dtype, copy=False)
    colour, alpha = np.split(array, [3 if header.mode == "RGB" else 1], 2)
    if header.mode == "palette" and page.colormap is not None:
        table = np.moveaxis(page.colormap, 0, -1)
        eight_bits = table if table.max() < 256 else table >> 8  # as libtiff does: some writers take it for 8 bits
        colour = eight_bits.astype(np.uint8)[colour[..., 0]]
    elif page.photometric == 0:
        colour = header.highest - colour
    if page.extrasamples and int(page.extrasamples[0]) == 1:  # colours are multiplied by alpha; opaque ones stay exact
        top = np.iinfo(array.dtype).max
        colour = np.rint(np.minimum(colour * (np.float32(top) / np.maximum(alpha, 1)), top)).astype(array.dtype)
    return np.concatenate([colour, alpha], 2, dtype=colour.dtype) if alpha.shape[2] else colour


def _by_pillow(data: bytes, header: Header) -> np.ndarray:
    try:
        opened = Image.open(BytesIO(data))
    except UnidentifiedImageError:  # whose words name an object in memory
        raise ValueError("it is stored in a way that Pillow does not know") from None
    with opened as image:
        profile = image.info.get("icc_profile") or b""
        if image.mode == "LAB" or (image.mode == "CMYK" and profile):
            source = ImageCms.createProfile("LAB") if image.mode == "LAB" else BytesIO(profile)
            exact = ImageCms.Flags.NOOPTIMIZE  # by a table of 33 steps, CIELAB would be up to 14 levels off
            srgb = ImageCms.createProfile("sRGB")
            return np.array(ImageCms.profileToProfile(image, source, srgb, outputMode="RGB", flags=exact))
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        return np.array(image.convert(mode + "A" * header.alpha))
