"""Image files and the arrays and tensors that they become.

Arrays are (H, W, 3) RGB, uint8 or uint16; tensors are (3, H, W) float32 in [0, 1].
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.images.header import Header, parse_header

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_WRITE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
DEEP_SUFFIXES = (".png", ".tif", ".tiff")  # can hold 16 bits
ALPHA_SUFFIXES = (".png", ".tif", ".tiff", ".webp")

# What makes an image upright, by its EXIF orientation.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}


class ImageError(OSError):
    """A file that cannot be read as an image. The message names the file and the reason."""


# --- reading ---------------------------------------------------------------------------------------------------


def read_image(path: str | Path, max_megapixels: float = 400) -> np.ndarray:
    """Reads an image file as RGB.

    Gray becomes three equal channels, palettes are resolved, alpha is dropped, EXIF orientation is applied.

    Returns:
        (H, W, 3), uint8 or uint16 as stored, contiguous.

    Raises:
        ImageError: the file is missing, empty, cut off, damaged, not an image, holds anything but 8 or 16 bits
            (float TIFF), or is larger than `max_megapixels` (found before decoding where the header tells).
    """
    return read_image_alpha(path, max_megapixels)[0]


def read_image_alpha(path: str | Path, max_megapixels: float = 400) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """As `read_image`, with what it drops, so that a restored image can be written in the form it came in.

    Returns:
        The RGB image (H, W, 3); its alpha (H, W) of the same dtype or None; whether the file is gray.
    """
    return decode_image_alpha(_read_bytes(path), path, max_megapixels)


def decode_image(data: bytes, name: str | Path, max_megapixels: float = 400) -> np.ndarray:
    """As `read_image`, from the bytes of a file. `name` stands in messages for where they come from."""
    return decode_image_alpha(data, name, max_megapixels)[0]


def decode_image_alpha(
    data: bytes, name: str | Path, max_megapixels: float = 400
) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """As `read_image_alpha`, from the bytes of a file."""
    header = parse_header(data)
    if header.size is not None:
        _check_size(name, header.size, max_megapixels)
    if header.damage is not None:
        raise ImageError(f"{name}: {header.damage}")
    image = _decode(name, data)
    _check_size(name, image.shape[:2], max_megapixels)
    return _split(image, header)


def _read_bytes(path: str | Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: this is a directory, not an image file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not data:
        raise ImageError(f"{path}: the file is empty")
    return data


def _check_size(path: str | Path, size: tuple[int, ...], max_megapixels: float) -> None:
    megapixels = size[0] * size[1] / 1e6
    if megapixels > max_megapixels:
        raise ImageError(
            f"{path}: {size[0]}x{size[1]} is {megapixels:.6g} megapixels, above the limit of {max_megapixels:g}"
        )


def _decode(path: str | Path, data: bytes) -> np.ndarray:
    """The image as OpenCV stores it: (H, W) or (H, W, C) in BGR(A) order, not yet upright."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"{path}: OpenCV cannot decode it ({reason})") from error
    if image is None or image.size == 0:
        raise ImageError(f"{path}: OpenCV cannot decode it; it is damaged or not an image")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path}: holds {image.dtype} values; 8 and 16 bit images are supported")
    if image.ndim == 3 and image.shape[2] > 4:
        raise ImageError(f"{path}: has {image.shape[2]} channels; gray, RGB and RGBA are supported")
    return image


def _split(image: np.ndarray, header: Header) -> tuple[np.ndarray, np.ndarray | None, bool]:
    image = _UPRIGHT.get(header.orientation, lambda a: a)(image)
    channels = image.shape[2] if image.ndim == 3 else 1
    alpha = np.ascontiguousarray(image[..., -1]) if channels in (2, 4) else None
    if channels <= 2:
        light = np.ascontiguousarray(image if image.ndim == 2 else image[..., 0])
        return cv2.cvtColor(light, cv2.COLOR_GRAY2RGB), alpha, True
    rgb = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2RGB)
    if header.premultiplied and alpha is not None and rgb.dtype == np.uint8:
        rgb = _divided(rgb, alpha)
    return rgb, alpha, header.gray


def _divided(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours as they were before they were multiplied by alpha, as well as 8 bits tell; opaque ones are exact."""
    colour = rgb.astype(np.float32) * (255 / np.maximum(alpha, 1).astype(np.float32))[..., None]
    return np.rint(np.minimum(colour, 255)).astype(np.uint8)


def image_files(root: str | Path) -> list[Path]:
    """All image files under a folder, at any depth, sorted; what starts with a dot is skipped, links are followed.

    Raises NotADirectoryError if `root` is no folder, and OSError for a folder that may not be listed.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"{root}: {'this is a file, not a folder' if root.exists() else 'no such folder'}")

    def refuse(error: OSError) -> None:
        raise error

    found, visited = [], set()
    for folder, inner, files in os.walk(root, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:  # a link that leads back
            inner.clear()
            continue
        visited.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(folder, name) for name in files if is_image_name(name)]
    return sorted(found)


def is_image_name(name: str) -> bool:
    """Whether a file name has an accepted suffix, in any case, and is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


# --- writing ---------------------------------------------------------------------------------------------------


def write_image(path: str | Path, array: np.ndarray, quality: int = 95) -> None:
    """Writes an image in the format that its suffix names. The file is whole or absent: written aside, then renamed.

    Args:
        path: where to; missing parent folders are made.
        array: gray (H, W), RGB (H, W, 3) or RGBA (H, W, 4), uint8 or uint16.
        quality: of JPEG, 1 to 100. All other formats are written without loss.

    Raises:
        ValueError: the format is unknown or cannot hold this array.
        OSError: the disk refuses.
    """
    path = Path(path)
    data = encode_image(path, array, quality)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def encode_image(name: str | Path, array: np.ndarray, quality: int = 95) -> bytes:
    """The bytes of the file that `write_image` writes. Raises ValueError as it does."""
    path, suffix = Path(name), Path(name).suffix.lower()
    _check_writable(path, suffix, array)
    if array.ndim == 3:
        order = cv2.COLOR_RGB2BGR if array.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
        array = cv2.cvtColor(np.ascontiguousarray(array), order)
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix in (".jpg", ".jpeg") else []
    try:
        done, data = cv2.imencode(suffix, np.ascontiguousarray(array), flags)
    except cv2.error:
        done, data = False, np.empty(0)
    if not done:  # for example larger than the format allows
        raise ValueError(f"{path}: OpenCV cannot encode an array {array.shape} of {array.dtype} as {suffix}")
    return data.tobytes()


def _check_writable(path: Path, suffix: str, array: np.ndarray) -> None:
    if suffix not in _WRITE_SUFFIXES:
        raise ValueError(f"{path}: cannot write the format {suffix!r}; known: {', '.join(_WRITE_SUFFIXES)}")
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: found values of {array.dtype}, expected uint8 or uint16 (see to_uint8, to_uint16)")
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(f"{path}: found an array {array.shape}, expected (H, W), (H, W, 3) or (H, W, 4)")
    if array.dtype == np.uint16 and suffix not in DEEP_SUFFIXES:
        raise ValueError(f"{path}: {suffix} holds 8 bits; write 16 bits as one of {', '.join(DEEP_SUFFIXES)}")
    if array.ndim == 3 and array.shape[2] == 4 and suffix not in ALPHA_SUFFIXES:
        raise ValueError(f"{path}: {suffix} holds no alpha; write it as one of {', '.join(ALPHA_SUFFIXES)}")


# --- conversions -----------------------------------------------------------------------------------------------


def to_float(array: np.ndarray) -> np.ndarray:
    """float32 in [0, 1]: uint8 over 255, uint16 over 65535; floats are taken to be there already.

    Always a new array. Raises ValueError for another dtype.
    """
    if array.dtype in (np.uint8, np.uint16):
        return np.divide(array, np.float32(np.iinfo(array.dtype).max), dtype=np.float32)
    if array.dtype.kind != "f":
        raise ValueError(f"found values of {array.dtype}, expected uint8, uint16 or float")
    return array.astype(np.float32)


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Floats clipped to [0, 1], times 255, rounded half to even."""
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


def to_uint16(array: np.ndarray) -> np.ndarray:
    """Floats clipped to [0, 1], times 65535, rounded half to even."""
    return np.rint(np.clip(array, 0, 1) * 65535).astype(np.uint16)


def to_tensor(array: np.ndarray) -> Tensor:
    """(H, W, C) of uint8, uint16 or float to a tensor (C, H, W), float32 in [0, 1], contiguous, sharing no memory."""
    if array.ndim != 3:
        raise ValueError(f"found an array {array.shape}, expected (H, W, C)")
    return torch.from_numpy(np.ascontiguousarray(to_float(array).transpose(2, 0, 1)))


def from_tensor(image: Tensor) -> np.ndarray:
    """A tensor (C, H, W) on any device to a contiguous float32 array (H, W, C). Values are not clipped."""
    if image.ndim != 3:
        raise ValueError(f"found a tensor {tuple(image.shape)}, expected (C, H, W): one image, not a batch")
    return np.ascontiguousarray(image.detach().to("cpu", torch.float32).numpy().transpose(1, 2, 0))


# --- names ---------------------------------------------------------------------------------------------------


def image_names(sources: Sequence[str]) -> list[str]:
    """Unique short names of images: the file's without its ending, with folders or the ending where needed."""
    paths = [Path(source) for source in sources]
    short = [path.stem for path in paths]
    if len(set(short)) == len(short):
        return short
    common = _common_folder(paths)
    full = [str(path.relative_to(common)) for path in paths]
    stems = [str(Path(name).with_suffix("")) for name in full]
    return [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, full, strict=True)]


def _common_folder(paths: Sequence[Path]) -> Path:
    return next(folder for folder in paths[0].parents if all(path.is_relative_to(folder) for path in paths))
