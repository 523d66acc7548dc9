"""The pixels of each format, by the library that reads it right."""

from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageCms

from utils.images.header import BY_PILLOW, Header

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it cannot read is in our messages


def decoded(data: bytes, header: Header) -> np.ndarray:
    """Decode an image file.

    Returns:
        (H, W), or (H, W, 1 to 4) with channels in the order gray or RGB, then alpha; uint8 or uint16 over the whole of
        its range; as stored, not yet upright. Of CMYK and CIELAB sRGB is made.

    Raises:
        Exception: whatever the library raises.
    """
    deep = header.highest > 255
    if header.mode == "CMYK" and deep:
        raise ValueError("has CMYK colours of more than 8 bits, which are not converted; save it as RGB")
    if header.kind == "avif" and deep and header.pages > 1:  # imagecodecs 2026.3 reads all frames or none
        raise ValueError(f"has {header.pages} frames of more than 8 bits, of which none is read")
    if header.mode in BY_PILLOW:
        array = _by_pillow(data)
    elif header.kind == "tiff":
        array = _by_tifffile(data, header)
    elif header.kind == "jpeg2000":  # of which OpenJPEG would convert colours, by deep profiles wrongly
        array = _by_imagecodecs(data.replace(b"colr\2", b"free\2", 1) if header.profile else data, "jpeg2k")
    elif header.kind == "avif" and deep:
        array = _by_imagecodecs(data, "avif")
    elif header.kind == "pam":
        array = _pam(data, header)
    elif header.kind in ("png", "jpeg", "webp") or (header.kind == "pnm" and deep):
        array = _by_opencv(data, header)
    else:
        array = _by_pillow(data)
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"holds {array.dtype} values; 8 and 16 bit images are supported")
    if array.size == 0:
        raise ValueError("has no pixels")
    if array.ndim not in (2, 3) or array.shape[2:] > (4,):
        raise ValueError(f"has the shape {array.shape}; gray, RGB and RGBA are supported")
    return _full_range(array, header)


def _full_range(array: np.ndarray, header: Header) -> np.ndarray:
    """Spread values over the whole range of their type, where the highest that means light lies below."""
    top = np.iinfo(array.dtype).max
    scaled = header.kind in ("tiff", "pnm", "pam", "avif", "jpeg2000", "jpeg") and header.mode != "palette"
    if not scaled or header.highest == top:
        return array
    return np.rint(np.minimum(np.arange(top + 1), header.highest) * top / header.highest).astype(array.dtype)[array]


def _by_opencv(data: bytes, header: Header) -> np.ndarray:
    plain = data + b"\n" if header.kind == "pnm" else data  # it misses the end of a plain PNM that ends in a number
    image = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None and header.kind == "jpeg":
        return _by_imagecodecs(data, "jpeg8")  # of 12 bits, and kinds of compression
    if image is None or image.size == 0:
        raise ValueError("OpenCV gives no reason")
    if image.ndim == 3 and image.shape[2] in (3, 4):
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return image if image.shape[2:] == (4,) or not header.key else _with_key(image, header)


def _with_key(image: np.ndarray, header: Header) -> np.ndarray:
    """Add the alpha of a PNG of gray or RGB in which one colour is transparent."""
    top = np.iinfo(image.dtype).max
    key = np.frombuffer(header.key, ">u2").astype(int) * (top // header.highest)
    image = image.reshape(*image.shape[:2], -1)
    return np.dstack([image, np.where((image == key).all(2), 0, top).astype(image.dtype)])


def _pam(data: bytes, header: Header) -> np.ndarray:
    """Decode Netpbm's PAM, whose red and blue OpenCV 5.0 exchanges."""
    values = np.frombuffer(data.partition(b"ENDHDR\n")[2], ">u2" if header.highest > 255 else "u1")
    height, width = header.size or (0, 0)
    return values.reshape(height, width, -1).astype(values.dtype.newbyteorder("="))


def _by_imagecodecs(data: bytes, codec: str) -> np.ndarray:
    import imagecodecs

    return getattr(imagecodecs, f"{codec}_decode")(data)


def _by_tifffile(data: bytes, header: Header) -> np.ndarray:
    from tifffile import TiffFile

    with TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        array = page.asarray(maxworkers=1)
    array = np.moveaxis(array, 0, -1) if page.planarconfig == 2 and array.ndim == 3 else array
    array = array.reshape(*array.shape[:2], -1).astype(np.uint8 if array.dtype == bool else array.dtype, copy=False)
    colour, alpha = np.split(array, [3 if header.mode == "RGB" else 1], 2)
    if header.mode == "palette" and page.colormap is not None:
        colour = (np.moveaxis(page.colormap, 0, -1)[colour[..., 0]] >> 8).astype(np.uint8)
    elif page.photometric == 0:
        colour = header.highest - colour
    if page.extrasamples and int(page.extrasamples[0]) == 1:  # colours are multiplied by alpha; opaque ones stay exact
        top = np.iinfo(array.dtype).max
        colour = np.rint(np.minimum(colour * (np.float32(top) / np.maximum(alpha, 1)), top)).astype(array.dtype)
    return np.concatenate([colour, alpha], 2, dtype=colour.dtype) if alpha.shape[2] else colour


def _by_pillow(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        profile = image.info.get("icc_profile") or b""
        if image.mode == "LAB" or (image.mode == "CMYK" and profile):
            source = ImageCms.createProfile("LAB") if image.mode == "LAB" else BytesIO(profile)
            return np.array(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        return np.array(image.convert(mode + "A" * image.has_transparency_data))
