"""Image files and the arrays and tensors that they become.

Arrays are (H, W, 3) RGB, uint8 or uint16; tensors are (3, H, W) float32 in [0, 1].
"""

import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.images.colour import cicp_profile, is_srgb, to_srgb
from utils.images.decoders import decoded
from utils.images.encoders import Form, write_encoded
from utils.images.header import IMAGE_SUFFIXES, Header, parse_header
from utils.storage.files import looked_in

_WRITE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
DEEP_SUFFIXES = (".png", ".tif", ".tiff")  # can hold 16 bits
ALPHA_SUFFIXES = (".png", ".tif", ".tiff", ".webp")
BANDED_SUFFIXES = DEEP_SUFFIXES  # are written from top to bottom
PROFILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
_LARGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".png": 1_000_000}  # of the libraries that write them
_HEAD = 2**18  # bytes; sizes stand behind EXIF and colour profiles, of at most 64 KiB a piece
_TURNS_OF_LINKS = 100
_RECORDS = ("run.lock", ".prepared.jsonl")  # what data.prepare leaves beside its images
_SHOWN = 5  # names in a message


class ImageError(OSError):
    """A file that cannot be read as an image. The message names the file and the reason."""


# --- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """An image as its file means it, upright, with what it takes to write another one in the same form.

    Attributes:
        name: the file, for messages.
        pixels: (H, W, 3) RGB, uint8 or uint16 as stored, contiguous. Gray becomes three equal channels, palettes are
            resolved; colours are not multiplied by alpha.
        alpha: (H, W) of the same dtype, or None.
        gray: whether the file is gray.
        profile: ICC profile of the colours, also where PNG's cICP or AVIF's colour box says them; empty for sRGB. Of
            sBIT, gAMA, cHRM, text and other remarks of a file nothing is made.
        cicp: the four bytes of cICP, or empty.
        pages: images in the file; this is the first.
    """

    name: str
    pixels: np.ndarray
    alpha: np.ndarray | None = None
    gray: bool = False
    profile: bytes = b""
    cicp: bytes = b""
    pages: int = 1

    def srgb(self) -> "Picture":
        """Return it converted to sRGB. Raises ImageError for colours that cannot be."""
        try:
            profile = self.profile or (cicp_profile(self.cicp) if self.cicp else b"")
            pixels = to_srgb(self.pixels, profile)
        except (RuntimeError, ValueError) as error:
            advice = "where they are sRGB's after all, take out what says otherwise: convert IN +profile icc OUT"
            raise ImageError(f"{self.name}: its colours cannot be converted to sRGB ({error}); {advice}") from error
        return replace(self, pixels=pixels, profile=b"", cicp=b"")


def read_image(path: str | Path, max_megapixels: float = 400) -> np.ndarray:
    """Read an image file as sRGB, for training and measuring: alpha is dropped, EXIF orientation is applied.

    Returns:
        (H, W, 3), uint8 or uint16 as stored, contiguous.

    Raises:
        ImageError: the file is missing, empty, cut off, damaged, not an image, holds anything but 8 or 16 bits
            (float TIFF), has colours that are not converted, or is larger than `max_megapixels` (found before decoding
            where the header tells).
    """
    return read_picture(path, max_megapixels).srgb().pixels


def read_image_alpha(path: str | Path, max_megapixels: float = 400) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Read as `read_image`, with its alpha (H, W) of the same dtype or None, and whether the file is gray."""
    picture = read_picture(path, max_megapixels).srgb()
    return picture.pixels, picture.alpha, picture.gray


def decode_image(data: bytes, name: str | Path, max_megapixels: float = 400) -> np.ndarray:
    """Decode as `read_image`, from the bytes of a file. `name` stands in messages for where they come from."""
    return decode_picture(data, name, max_megapixels).srgb().pixels


def read_picture(path: str | Path, max_megapixels: float = 400) -> Picture:
    """Read an image file in its own colours. Raises ImageError as `read_image` does."""
    return decode_picture(read_bytes(path), path, max_megapixels)


def decode_picture(data: bytes, name: str | Path, max_megapixels: float = 400) -> Picture:
    """Decode as `read_picture`, from the bytes of a file."""
    header = sound_header(data, name, max_megapixels)
    try:
        image = decoded(data, header)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        text = f"this {header.kind.upper()} file is not read ({reason}); if other programs show it, save it as PNG"
        raise ImageError(f"{name}: {reason if reason.startswith(('holds', 'has')) else text}") from error
    _check_size(name, image.shape[:2], max_megapixels)
    if header.size is not None and sorted(image.shape[:2]) != sorted(header.size):
        raise ImageError(f"{name}: its header says {header.size}, its pixels are {image.shape[:2]} (height, width)")
    return picture_of(name, image, header)


def sound_header(data: bytes, name: str | Path, max_megapixels: float = 400) -> Header:
    """Return what the bytes of a whole file say of it. Raises ImageError where it is known from that to be no image, to
    be damaged or too large."""
    if not data:
        raise ImageError(f"{name}: the file is empty")
    header = parse_header(data)
    if header.size is not None:
        _check_size(name, header.size, max_megapixels)
    if header.damage is not None:
        raise ImageError(f"{name}: {header.damage}")
    return header


def read_header(path: str | Path) -> Header:
    """Read what a file says of itself, from its head where that tells. Raises ImageError if it cannot be read."""
    try:
        header = parse_header(_head(Path(path)))
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    return header if header.size is not None else parse_header(read_bytes(path))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def read_bytes(path: str | Path) -> bytes:
    """Read a file. Raises ImageError if it cannot be read."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file{looked_in(path)}") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: this is a directory, not an image file, or one without images") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    return data


def _check_size(path: str | Path, size: tuple[int, ...], max_megapixels: float) -> None:
    megapixels = size[0] * size[1] / 1e6
    if megapixels > max_megapixels:
        raise ImageError(
            f"{path}: {size[0]}x{size[1]} is {megapixels:.6g} megapixels, above the limit of {max_megapixels:g}"
        )


def picture_of(name: str | Path, image: np.ndarray, header: Header) -> Picture:
    """Make a picture of what was decoded of a file."""
    image = _upright(image if image.ndim == 3 else image[..., None], header.orientation)
    channels = image.shape[2]
    alpha = np.ascontiguousarray(image[..., -1]) if channels in (2, 4) else None
    pixels, gray = np.ascontiguousarray(image[..., : 3 if channels > 2 else 1]), channels <= 2 or header.gray
    pixels = pixels if channels > 2 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    profile = header.profile if header.profile[16:20] in ((b"RGB ", b"GRAY") if gray else (b"RGB ",)) else b""
    cicp = header.cicp if header.kind == "png" or not profile else b""
    if cicp:
        profile = b""
        with suppress(ValueError):  # colours that a PNG can carry, and nothing convert
            profile = cicp_profile(cicp)
    return Picture(str(name), pixels, alpha, gray, profile, cicp, header.pages)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image as its EXIF orientation says: mirrored at the diagonal, then upside down, then left to right."""
    image = image.swapaxes(0, 1) if orientation >= 5 else image
    return image[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


# --- listing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """The images of a folder, sorted, and the names of what else is there, by their ending or what else tells."""

    root: Path
    files: list[Path]
    others: Mapping[str, Sequence[str]]

    @property
    def remark(self) -> str:
        """What is left out and why, or nothing."""
        count = sum(map(len, self.others.values()))
        kinds = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in sorted(self.others.items()))
        files = "1 file is" if count == 1 else f"{count} files are"
        return f"{self.root}: {files} left out, not images by their names: {kinds}" * bool(count)


def changes(headers: Iterable[tuple[str, Header]]) -> list[str]:
    """Say what data sets and preparation leave out of images or change in them, as far as (name, header) tell.

    Returns:
        A sentence for each kind of change, with the number of images and some of their names.
    """
    found, total = dict[str, list[str]](), 0
    for name, header in headers:
        total += 1
        for change in change_kinds(header):
            found.setdefault(change, []).append(name)
    return [f"{len(names)} of {total} images {change} ({_some(names)})" for change, names in found.items()]


def change_kinds(header: Header) -> Iterator[str]:
    """Say what data sets and preparation leave out of an image or change in it, as sentences about several."""
    if header.alpha:
        yield "have alpha, which is dropped: colours are taken as stored, also where nothing is seen"
    if header.pages > 1:
        yield "have several pages, of which the first is taken"
    with suppress(RuntimeError, ValueError):  # whoever reads it says so
        profile = header.profile or (cicp_profile(header.cicp) if header.cicp else b"")
        if header.mode in ("CMYK", "LAB") or (profile[16:20] in (b"RGB ", b"GRAY") and not is_srgb(profile)):
            yield "have colours of their own (a profile, CMYK, CIELAB), which are converted to sRGB"


def headers(paths: Iterable[str | Path]) -> Iterator[tuple[str, Header]]:
    """Read the headers of image files, by their paths. What cannot be read is left out."""
    for path in paths:
        with suppress(ImageError):
            yield str(path), read_header(path)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)


def list_images(root: str | Path) -> Listing:
    """List all image files under a folder, at any depth, by their endings, or by content where there is no ending.

    What starts with a dot, pipes and devices are left out; links are followed: a folder and a link to it come out. Of
    what is left out, the files that a preparation keeps beside its images are not named.

    Raises:
        NotADirectoryError: `root` is no folder.
        OSError: a folder may not be listed, or links lead round in too many ways.
    """
    root = Path(root)
    if not root.is_dir():
        found = "this is a file, not a folder" if root.exists() else f"no such folder{looked_in(root)}"
        raise NotADirectoryError(f"{root}: {found}")

    def refuse(error: OSError) -> None:
        raise OSError(f"{error.filename}: this folder cannot be listed ({error.strerror})") from error

    found, others, visits = list[Path](), dict[str, list[str]](), Counter[str]()
    above: dict[str, frozenset[str]] = {str(root): frozenset()}
    for folder, inner, files in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in (known := above.pop(folder, frozenset[str]())):  # a link that leads back
            inner.clear()
            continue
        visits[real] += 1
        if visits[real] > _TURNS_OF_LINKS:
            raise OSError(f"{folder}: links lead here in more than {_TURNS_OF_LINKS} ways; remove some of them")
        hidden = [name for name in inner if name.startswith(".")]
        inner[:] = sorted(set(inner) - set(hidden))
        above.update({os.path.join(folder, name): known | {real} for name in inner})
        for path in (Path(folder, name) for name in (*hidden, *files) if name not in _RECORDS):
            if (kind := _kind_left_out(path)) is None:
                found.append(path)
            else:
                others.setdefault(kind, []).append(path.name)
    return Listing(root, sorted(found), others)


def _kind_left_out(path: Path) -> str | None:
    """Return what a file is that is no image by its name or content, or None if it is one."""
    if path.name.startswith("."):
        return "hidden"
    if path.exists() and not path.is_file():
        return "no regular files"
    if is_image_name(path.name):
        return None
    with suppress(OSError):
        if not path.suffix and parse_header(_head(path)).kind:
            return None
    return path.suffix.lower() or "without an ending"


def image_files(root: str | Path) -> list[Path]:
    """Return the files of `list_images`."""
    return list_images(root).files


def is_image_name(name: str) -> bool:
    """Return whether a file name has an accepted suffix, in any case, and is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


# --- writing ---------------------------------------------------------------------------------------------------


def write_image(
    path: str | Path, array: np.ndarray, quality: int = 95, profile: bytes = b"", cicp: bytes = b""
) -> None:
    """Write an image in the format that its suffix names. The file is whole or absent: written aside, then renamed.

    Args:
        path: where to; missing parent folders are made.
        array: gray (H, W) or RGB (H, W, 3); with alpha (H, W, 2) or (H, W, 4); uint8 or uint16.
        quality: of JPEG, 1 to 100. All other formats are written without loss.
        profile: ICC profile of the colours, for formats of `PROFILE_SUFFIXES`.
        cicp: four bytes for PNG's cICP; other formats go without.

    Raises:
        ValueError: the format is unknown or cannot hold this array.
        OSError: the disk refuses.
    """
    write_bands(path, Form(array.shape, array.dtype, profile, cicp), [array], quality)


def write_bands(path: str | Path, form: Form, bands: Iterable[np.ndarray], quality: int = 95) -> None:
    """Write as `write_image` an image that comes in bands from top to bottom: (n, W) or (n, W, 2 to 4), any n.

    Formats of `BANDED_SUFFIXES` hold no more of it than a band. Raises what the bands raise, too.
    """
    path = Path(path)
    _check_writable(path, form)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("wb") as file:
            write_encoded(file, path.suffix.lower(), form, bands, quality)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def encode_image(name: str | Path, array: np.ndarray) -> bytes:
    """Return the bytes of the file that `write_image` writes. Raises ValueError as it does."""
    form, buffer = Form(array.shape, array.dtype), BytesIO()
    _check_writable(Path(name), form)
    write_encoded(buffer, Path(name).suffix.lower(), form, [array])
    return buffer.getvalue()


def _check_writable(path: Path, form: Form) -> None:
    if form.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: found values of {form.dtype}, expected uint8 or uint16 (see to_uint8, to_uint16)")
    if 0 in form.shape or not (len(form.shape) == 2 or (len(form.shape) == 3 and form.channels in (2, 3, 4))):
        raise ValueError(f"{path}: found an array {form.shape}, expected (H, W) or (H, W, 2, 3 or 4)")
    deep = form.dtype == np.uint16
    if (problem := why_not_held(path.suffix.lower(), form.shape[:2], deep, form.alpha)) is not None:
        raise ValueError(f"{path}: {problem}")


def why_not_held(suffix: str, size: tuple[int, ...], deep: bool, alpha: bool) -> str | None:
    """Return why a format cannot hold an image of this size (H, W), with 16 bits, with alpha; or None if it can."""
    if suffix not in _WRITE_SUFFIXES:
        return f"cannot write the format {suffix!r}; known: {', '.join(_WRITE_SUFFIXES)}"
    if deep and suffix not in DEEP_SUFFIXES:
        return f"has 16 bits, which {suffix} cannot hold (8 bits); write it as one of {', '.join(DEEP_SUFFIXES)}"
    if alpha and suffix not in ALPHA_SUFFIXES:
        return f"has alpha, which {suffix} cannot hold (no alpha); write it as one of {', '.join(ALPHA_SUFFIXES)}"
    if max(size) > (limit := _LARGEST_SIDE.get(suffix, 2**31 - 1)):
        return f"{size[0]}x{size[1]} is too large for {suffix}, which has at most {limit} pixels a side"
    return None


# --- conversions -----------------------------------------------------------------------------------------------


def to_float(array: np.ndarray) -> np.ndarray:
    """Return float32 in [0, 1]: uint8 over 255, uint16 over 65535; floats are taken to be there already.

    Always a new array. Raises ValueError for another dtype.
    """
    if array.dtype in (np.uint8, np.uint16):
        return np.divide(array, np.float32(np.iinfo(array.dtype).max), dtype=np.float32)
    if array.dtype.kind != "f":
        raise ValueError(f"found values of {array.dtype}, expected uint8, uint16 or float")
    return array.astype(np.float32)


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Return floats clipped to [0, 1], times 255, rounded half to even."""
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


def to_uint16(array: np.ndarray) -> np.ndarray:
    """Return floats clipped to [0, 1], times 65535, rounded half to even."""
    return np.rint(np.clip(array, 0, 1) * 65535).astype(np.uint16)


def to_tensor(array: np.ndarray) -> Tensor:
    """Copy (H, W, C) of uint8, uint16 or float into a contiguous tensor (C, H, W), float32 in [0, 1]."""
    if array.ndim != 3:
        raise ValueError(f"found an array {array.shape}, expected (H, W, C)")
    return torch.from_numpy(np.ascontiguousarray(to_float(array).transpose(2, 0, 1)))


def from_tensor(image: Tensor) -> np.ndarray:
    """Bring a tensor (C, H, W) on any device into a contiguous float32 array (H, W, C). Values are not clipped."""
    if image.ndim != 3:
        raise ValueError(f"found a tensor {tuple(image.shape)}, expected (C, H, W): one image, not a batch")
    return np.ascontiguousarray(image.detach().to("cpu", torch.float32).numpy().transpose(1, 2, 0))


# --- names ---------------------------------------------------------------------------------------------------


def image_names(sources: Sequence[str]) -> list[str]:
    """Return unique short names of images: the file's without its ending, with folders or the ending where needed."""
    paths = [Path(source) for source in sources]
    short = [path.stem for path in paths]
    if len(set(short)) == len(short):
        return short
    common = os.path.commonpath([path.parent for path in paths])
    full = [str(path.relative_to(common)) for path in paths]
    stems = [str(Path(name).with_suffix("")) for name in full]
    return [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, full, strict=True)]
