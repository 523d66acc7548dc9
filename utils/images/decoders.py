"""The pixels of each format, by the library that reads it right."""

from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from utils.images.header import Header

_FLAT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "LAB", "YCbCr")  # of 8 bits

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it cannot read is in our messages


def decoded(data: bytes, header: Header) -> np.ndarray:
    """Decode an image file.

    Returns:
        (H, W), or (H, W, 2 to 4) with channels in the order gray or RGB, then alpha; uint8 or uint16 over the whole of
        its range; as stored, not yet upright. Of CMYK and CIELAB sRGB is made.

    Raises:
        Exception: whatever the library raises.
    """
    if header.kind == "tiff" and header.mode not in ("CMYK", "LAB", "YCbCr"):
        array = _by_tifffile(data, header)
    elif header.kind == "avif" and header.pages > 1 and header.highest == 255:
        array = _by_pillow(data, header)  # the first frame alone, which imagecodecs 2026.3 cannot
    elif header.kind in ("avif", "jpeg2000") or (header.special and header.kind in ("jpeg", "png")):
        array = _by_imagecodecs(data, header)
    elif data.startswith(b"P7"):
        array = _pam(data, header)
    elif header.mode != "CMYK" and header.kind in ("png", "jpeg", "webp", "pnm"):
        array = _by_opencv(data + b"\n" * header.special)  # it misses the end of a plain PNM that ends in a number
    else:
        array = _by_pillow(data, header)
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
    scaled = header.kind in ("tiff", "pnm", "avif", "jpeg2000", "jpeg") and header.mode not in ("palette", "CMYK")
    if not scaled or header.highest == top:
        return array
    return np.rint(np.minimum(np.arange(top + 1), header.highest) * (top / header.highest)).astype(array.dtype)[array]


def _by_opencv(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.size == 0:
        raise ValueError("OpenCV gives no reason")
    if image.ndim == 3 and image.shape[2] in (3, 4):
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return image


def _pam(data: bytes, header: Header) -> np.ndarray:
    """Decode Netpbm's PAM, whose red and blue OpenCV 5.0 exchanges."""
    values = np.frombuffer(data.partition(b"ENDHDR\n")[2], ">u2" if header.highest > 255 else "u1")
    height, width = header.size or (0, 0)
    array = values.reshape(height, width, -1).astype(values.dtype.newbyteorder("="))
    return array[..., 0] if array.shape[2] == 1 else array


def _by_imagecodecs(data: bytes, header: Header) -> np.ndarray:
    import imagecodecs

    if header.kind == "avif":
        if header.pages > 1:
            raise ValueError(f"has {header.pages} frames of more than 8 bits, of which none is read")
        return imagecodecs.avif_decode(data)
    if header.kind == "jpeg2000":
        return imagecodecs.jpeg2k_decode(data)
    if header.kind == "png":
        return imagecodecs.png_decode(data)
    if header.mode == "CMYK":
        raise ValueError("a CMYK image of more than 8 bits is not converted; save it as RGB")
    return imagecodecs.jpeg8_decode(data)


def _by_tifffile(data: bytes, header: Header) -> np.ndarray:
    from tifffile import TiffFile

    with TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        if header.mode == "?" or not header.highest:
            raise ValueError(
                f"has the colours {page.photometric!s}, {page.bitspersample} bits, which are not converted"
            )
        if page.samplesperpixel > 4 or page.imagedepth > 1:
            layers = f" in {page.imagedepth} layers" * (page.imagedepth > 1)
            raise ValueError(f"has {page.samplesperpixel} channels{layers}; gray, RGB and RGBA are supported")
        array = page.asarray(maxworkers=1)
        if page.photometric == 3 and page.colormap is not None:
            return (np.moveaxis(page.colormap, 0, -1)[array] >> 8).astype(np.uint8)
        premultiplied = bool(page.extrasamples) and int(page.extrasamples[0]) == 1
        array = np.moveaxis(array, 0, -1) if page.planarconfig == 2 and array.ndim == 3 else array
        array = array.astype(np.uint8) if array.dtype == bool else array
        if page.photometric == 0 and array.dtype.kind == "u":
            array = (header.highest - array).astype(array.dtype)
    return _divided(array) if premultiplied and array.dtype.kind == "u" and array.ndim == 3 else array


def _divided(array: np.ndarray) -> np.ndarray:
    """Divide colours by the alpha they were multiplied by, as well as the depth tells; opaque ones are exact."""
    top = np.iinfo(array.dtype).max
    colour = array[..., :-1] * (np.float32(top) / np.maximum(array[..., -1:], 1))
    return np.concatenate([np.rint(np.minimum(colour, top)).astype(array.dtype), array[..., -1:]], -1)


def _by_pillow(data: bytes, header: Header) -> np.ndarray:
    try:
        opened = Image.open(BytesIO(data))
    except UnidentifiedImageError as error:
        bits = header.highest.bit_length()
        raise ValueError(f"has the colours {header.mode}, {bits} bits, in a form that is not converted") from error
    with opened as image:
        if image.mode not in _FLAT_MODES:
            raise ValueError(f"holds values of mode {image.mode}; 8 bit images are supported")
        profile = image.info.get("icc_profile") or b""
        if image.mode == "LAB" or (image.mode == "CMYK" and profile):
            source = ImageCms.createProfile("LAB") if image.mode == "LAB" else BytesIO(profile)
            made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return np.array(made)
        gray = image.mode in ("1", "L", "LA")
        return np.array(
            image.convert(("LA" if gray else "RGBA") if image.has_transparency_data else "L" if gray else "RGB")
        )
