"""Restore image files: an array as it was read, files read, restored and written at the same time, their places."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.restoring.restorer import Restorer, unit_range
from models.restoring.transparency import filled_from_within, put_back_hidden
from utils.images.files import (
    ALPHA_SUFFIXES,
    DEEP_SUFFIXES,
    from_tensor,
    image_files,
    is_image_name,
    read_image_alpha,
    to_uint8,
    to_uint16,
    write_image,
)
from utils.logging import Console
from utils.options.fields import OptionError
from utils.processes.threads import one_ahead

# --- arrays ----------------------------------------------------------------------------------------------------------


def restore_array(
    restorer: Restorer,
    image: np.ndarray,
    alpha: np.ndarray | None = None,
    gray: bool = False,
    alpha_by: Literal["resize", "network"] = "resize",
    outscale: float | None = None,
) -> np.ndarray:
    """Restores an image as it was read, in its own depth and form.

    Args:
        image: (h, w, 3), uint8 or uint16.
        alpha: (h, w) of the same dtype; resized, or restored by the network as a gray image.
        gray: whether the three channels are one; the result is luma then.
        outscale: factor by which the result is larger than the image (sides rounded down, at least 1 pixel) where it
            is not to be the network's. Resized before rounding to integers, by a bicubic that averages when it
            shrinks: Real-ESRGAN's Lanczos filter on rounded values does not, and fine texture turns into stripes.

    Colours that transparent pixels hide stay out of those that are seen: the network gets an image that is filled from
    within, and what is wholly transparent in the result has its own colours again.

    Only the image and the result are held as a whole, as integers, where `outscale` is the network's own scale.

    Returns:
        (H, W) gray, (H, W, 3) or (H, W, 4) with alpha (also of a gray image: OpenCV writes no gray with alpha), in the
        dtype of `image`.
    """
    factor = restorer.scale if outscale is None else outscale
    size = tuple(max(1, int(side * factor + 1e-6)) for side in image.shape[:2])
    own_size = size == tuple(side * restorer.scale for side in image.shape[:2])

    def restored(pixels: Tensor) -> Iterable[Tensor]:
        bands = restorer.bands(pixels)
        return bands if own_size else [_resized(torch.cat(list(bands), -2), size)]

    result = np.empty((*size, (1 if gray else 3) if alpha is None else 4), image.dtype)
    filled = image if alpha is None else filled_from_within(image, alpha)
    _fill(result[..., :3], restored(torch.from_numpy(filled).permute(2, 0, 1)[None]), luma=gray)
    if alpha is not None:
        by_network, opacity = alpha_by == "network", torch.from_numpy(alpha)
        bands = (
            restored(opacity.expand(1, 3, -1, -1)) if by_network else [_resized(unit_range(opacity[None, None]), size)]
        )
        _fill(result[..., 3:], bands, luma=by_network)
        put_back_hidden(result, image, filled, alpha)
    return result[..., 0] if result.shape[2] == 1 else result


def _fill(out: np.ndarray, bands: Iterable[Tensor], luma: bool) -> None:
    """Writes bands (1, C, n, w), from top to bottom, into (h, w, D) of uint8 or uint16."""
    quantise, row = to_uint16 if out.dtype == np.uint16 else to_uint8, 0
    for band in bands:
        values = quantise(from_tensor(band[0]))
        out[row : row + len(values)] = _luma(values)[..., None] if luma else values
        row += len(values)


def _resized(image: Tensor, size: tuple[int, ...]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image.clamp(0, 1), size=size, mode="bicubic", antialias=True)


def _luma(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(rgb.dtype)


# --- files -----------------------------------------------------------------------------------------------------------


def restore_files(
    files: Mapping[Path, Path],
    restorer: Restorer,
    console: Console,
    alpha_by: Literal["resize", "network"] = "resize",
    outscale: float | None = None,
) -> Iterator[bool]:
    """Restores image files (source: target) by `restore_array`, and says of each whether it could be done.

    While an image is restored, threads read the next and write the last. If anything fails, says what of which file,
    and writes nothing.
    """

    def read(source: Path, target: Path, _: object) -> tuple[Any, ...]:
        image, alpha, gray = read_image_alpha(source)
        deep, kind = image.dtype.itemsize > 1, target.suffix.lower()
        if (deep and kind not in DEEP_SUFFIXES) or (alpha is not None and kind not in ALPHA_SUFFIXES):
            found = "16 bits" if deep else "alpha"
            raise ValueError(f"{source}: has {found}, which {kind} cannot hold; use --ext png")
        return image, alpha, gray

    def restore(_source: Path, _target: Path, image: tuple[Any, ...]) -> object:
        return restore_array(restorer, *image, alpha_by=alpha_by, outscale=outscale)

    def write(_source: Path, target: Path, result: Any) -> object:  # noqa: ANN401
        write_image(target, result)
        return True

    def careful(work: Callable[[Path, Path, Any], object]) -> Callable[[Job], Job]:
        def done(job: Job) -> Job:
            source, target, given = job
            return source, target, None if given is None else _attempt(work, source, target, given, console)

        return done

    jobs = ((source, target, True) for source, target in files.items())
    restored = map(careful(restore), one_ahead(careful(read), jobs))
    yield from (done is not None for _, _, done in one_ahead(careful(write), restored))


Job = tuple[Path, Path, Any]
"""An image file, where its result goes, and what is made of it so far; None after a failure."""


def _attempt(
    work: Callable[[Path, Path, Any], object], source: Path, target: Path, given: object, console: Console
) -> object | None:
    try:
        return work(source, target, given)
    except torch.OutOfMemoryError:
        console.error(f"{source}: the device has too little memory for it; use --tile, such as --tile 256")
    except (OSError, ValueError, RuntimeError) as error:
        console.error(str(error) if str(source) in str(error) else f"{source}: {error}")
    return None


def restoration_targets(inputs: Sequence[Path], out: Path, suffix: str = "", ext: str = "png") -> dict[Path, Path]:
    """Where the result of each image goes: `out` alone for a single image, else below it, in the inputs' structure.

    Where names differ by their endings alone (a.png, a.jpg), the ending becomes a part of the name (a_png, a_jpg).
    Raises OptionError if a result would replace an input or another result, or a folder holds no images.
    """
    if len(inputs) == 1 and not inputs[0].is_dir() and is_image_name(out.name) and not out.is_dir():
        targets = {inputs[0]: out}
    else:
        places = {source: place for path in inputs for source, place in _images_of(path, out)}
        plain = [place.with_suffix("") for place in places.values()]
        targets = {}
        for (source, place), stem in zip(places.items(), plain, strict=True):
            name = stem.name if plain.count(stem) == 1 else place.name.replace(".", "_")
            targets[source] = out / place.with_name(f"{name}{suffix}.{ext}")
    known, taken = {_identity(source) for source in targets}, {}
    for source, target in targets.items():
        if target.exists() and _identity(target) in known:
            raise OptionError(
                f"{target}: the result of {source} would replace an input; choose another -o or a --suffix"
            )
        if target in taken:
            raise OptionError(f"{target}: would be the result of {taken[target]} and of {source}; restore them apart")
        taken[target] = source
    return targets


def _images_of(path: Path, out: Path) -> list[tuple[Path, Path]]:
    """The images of an input, with their places below `out`. What lies in `out` already is no input."""
    if not path.is_dir():
        return [(path, Path(path.name))]
    results = out.resolve() if out.resolve() != path.resolve() else None
    found = [file for file in image_files(path) if results is None or not file.resolve().is_relative_to(results)]
    if not found:
        raise OptionError(f"{path}: holds no images")
    return [(file, file.relative_to(path)) for file in found]


def _identity(path: Path) -> tuple[int, int] | str:
    """Equal for two paths to one file, through links too."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else str(path)
