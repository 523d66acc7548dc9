"""Restore image files: an array as it was read, files read, restored and written at the same time, their places."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.restoring.restorer import Restorer, unit_range
from models.restoring.tiling import Rows
from models.restoring.transparency import filled_from_within, put_back_hidden
from utils.images.bands import read_in_bands, why_not_in_bands
from utils.images.encoders import Form
from utils.images.files import (
    BANDED_SUFFIXES,
    PROFILE_SUFFIXES,
    ImageError,
    Picture,
    from_tensor,
    is_image_name,
    list_images,
    read_bytes,
    read_header,
    read_picture,
    sound_header,
    to_uint8,
    to_uint16,
    why_not_held,
    write_bands,
    write_image,
)
from utils.logging import Console
from utils.options.fields import OptionError
from utils.processes.threads import one_ahead

# --- arrays ----------------------------------------------------------------------------------------------------------


AlphaBy = Literal["resize", "network"]


def restore_array(
    restorer: Restorer,
    image: np.ndarray,
    alpha: np.ndarray | None = None,
    gray: bool = False,
    alpha_by: AlphaBy = "resize",
    outscale: float | None = None,
    fill_hidden: bool = True,
) -> np.ndarray:
    """Restore an image as it was read, in its own depth and form.

    Args:
        image: (h, w, 3), uint8 or uint16.
        alpha: (h, w) of the same dtype; resized, or restored by the network as a gray image.
        gray: whether the three channels are one; the result is luma then.
        outscale: factor by which the result is larger than the image (sides rounded down, at least 1 pixel) where it
            is not to be the network's. Resized before rounding to integers, by a bicubic that averages when it
            shrinks: Real-ESRGAN's Lanczos filter on rounded values does not, and fine texture turns into stripes.
        fill_hidden: whether colours that transparent pixels hide stay out of those that are seen: the network gets an
            image that is filled from within, and what is wholly transparent in the result has its own colours again.
            Without it the rim takes on the hidden colour, as in the released Real-ESRGAN.

    Only the image and the result are held as a whole, as integers, where `outscale` is the network's own scale.

    Returns:
        (H, W) gray or (H, W, 3); with alpha (H, W, 2) or (H, W, 4); in the dtype of `image`.
    """
    size = enlarged(image.shape[:2], restorer.scale if outscale is None else outscale)
    own_size = size == tuple(side * restorer.scale for side in image.shape[:2])

    def restored(pixels: Tensor) -> Iterable[Tensor]:
        bands = restorer.bands(pixels)
        return bands if own_size else [_resized(torch.cat(list(bands), -2), size)]

    colours = 1 if gray else 3
    result = np.empty((*size, colours + (alpha is not None)), image.dtype)
    filled = image if alpha is None or not fill_hidden else filled_from_within(image, alpha)
    pixels = torch.from_numpy(filled).permute(2, 0, 1)[None]
    _fill(result[..., :colours], _rows(restored(pixels), image.dtype, luma=gray))
    if alpha is not None:
        by_network, opacity = alpha_by == "network", torch.from_numpy(alpha)
        bands = (
            restored(opacity.expand(1, 3, -1, -1)) if by_network else [_resized(unit_range(opacity[None, None]), size)]
        )
        _fill(result[..., colours:], _rows(bands, image.dtype, luma=by_network))
        put_back_hidden(result, image, filled, alpha)
    return result[..., 0] if result.shape[2] == 1 else result


def enlarged(size: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """Return the sides of a result: rounded down, at least 1 pixel."""
    return tuple(max(1, int(side * factor + 1e-6)) for side in size)


def _rows(bands: Iterable[Tensor], dtype: np.dtype, luma: bool) -> Iterator[np.ndarray]:
    """Turn bands (1, C, n, w) into (n, w, C) of uint8 or uint16, or into their luma (n, w, 1)."""
    quantise = to_uint16 if dtype == np.uint16 else to_uint8
    for band in bands:
        values = quantise(from_tensor(band[0]))
        yield _luma(values)[..., None] if luma else values


def _fill(out: np.ndarray, bands: Iterable[np.ndarray]) -> None:
    row = 0
    for values in bands:
        out[row : row + len(values)] = values
        row += len(values)


def _resized(image: Tensor, size: tuple[int, ...]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image.clamp(0, 1), size=size, mode="bicubic", antialias=True)


def _luma(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(rgb.dtype)


# --- files -----------------------------------------------------------------------------------------------------------


LARGE = 2**26
"""Results of more pixels go to their file while they are made, and their images are read meanwhile, if they can be."""


def restore_files(
    files: Mapping[Path, Path],
    restorer: Restorer,
    console: Console,
    alpha_by: AlphaBy = "resize",
    outscale: float | None = None,
    colour: Literal["keep", "srgb"] = "keep",
) -> Iterator[bool]:
    """Restore image files (source: target) by `restore_array`, and say of each whether it could be done.

    While an image is restored, threads read the next and write the last. Large ones are held in bands alone; what
    cannot be done so is held as a whole, and the console is told. If anything fails, says what of which file, and
    writes nothing. Results carry the colour profile of their image; with `colour` srgb, or where the format has none,
    they are converted to sRGB.
    """

    def read(source: Path, target: Path, _: object) -> Given:
        given = _read(source, restorer, console)
        picture = given.picture
        if picture.pages > 1:
            console.warn(f"{source}: has {picture.pages} pages, of which the first is restored")
        size = enlarged(given.size, outscale or restorer.scale)
        problem = why_not_held(target.suffix.lower(), size, picture.pixels.itemsize > 1, picture.alpha is not None)
        if problem is not None:
            raise ValueError(f"{source}: {problem}; use --ext png")
        return given if colour == "keep" and _carries(target, picture) else given.srgb()

    def restore(source: Path, target: Path, given: Given) -> tuple[np.ndarray, Picture] | Literal["written"]:
        picture, size = given.picture, enlarged(given.size, outscale or restorer.scale)
        if size[0] * size[1] > LARGE:
            if (why := _why_whole(target, picture, outscale not in (None, restorer.scale))) is None:
                write_restored(target, restorer, given)
                return "written"
            console.warn(f"{source}: its result of {size[0]}x{size[1]} pixels is held as a whole, since {why}")
        form = (given.pixels(), picture.alpha, picture.gray)
        return restore_array(restorer, *form, alpha_by=alpha_by, outscale=outscale), picture

    def write(_source: Path, target: Path, result: tuple[np.ndarray, Picture] | Literal["written"]) -> object:
        if result != "written":
            write_image(target, result[0], profile=result[1].profile, cicp=result[1].cicp)
        return True

    def careful(work: Callable[[Path, Path, Any], object]) -> Callable[[Job], Job]:
        def done(job: Job) -> Job:
            source, target, given = job
            return source, target, None if given is None else _attempt(work, source, target, given, console)

        return done

    jobs = ((source, target, True) for source, target in files.items())
    restored = map(careful(restore), one_ahead(careful(read), jobs))
    yield from (done is not None for _, _, done in one_ahead(careful(write), restored))


@dataclass(frozen=True)
class Given:
    """An image file to restore.

    Attributes:
        picture: what was read of it: all, or where `rest` gives more, its first rows.
        size: (h, w) of all.
        rest: the rows that are read while the image is restored, from top to bottom.
    """

    picture: Picture
    size: tuple[int, int]
    rest: Iterator[Picture] | None = None

    def srgb(self) -> Given:
        """Return it converted to sRGB. Raises ImageError for colours that cannot be, later those of `rest`."""
        rest = None if self.rest is None else (picture.srgb() for picture in self.rest)
        return replace(self, picture=self.picture.srgb(), rest=rest)

    def bands(self) -> Iterator[np.ndarray]:
        """Give the pixels, (n, w, 3), once."""
        return (picture.pixels for picture in chain([self.picture], self.rest or ()))

    def pixels(self) -> np.ndarray:
        """Return all of them, once."""
        return self.picture.pixels if self.rest is None else np.concatenate(list(self.bands()))


def _read(source: Path, restorer: Restorer, console: Console) -> Given:
    """Read a file: a large one, as far as possible, while it is restored. Raises ImageError."""
    size = None
    with suppress(ImageError):  # which reading tells better
        size = read_header(source).size
    if size is not None and size[0] * size[1] * restorer.scale**2 > LARGE:
        header = sound_header(read_bytes(source), source)
        why = why_not_in_bands(header, source) if restorer.takes_rows else "it is not restored in tiles as it stands"
        if why is None:
            rest = read_in_bands(source, header)
            return Given(next(rest), size, rest)
        if size[0] * size[1] > LARGE:
            console.warn(f"{source}: {size[0]}x{size[1]} pixels are read as a whole, since {why}")
    picture = read_picture(source)
    return Given(picture, picture.pixels.shape[:2])


def _why_whole(target: Path, picture: Picture, resized: bool) -> str | None:
    """Return why a result cannot go to its file in bands, or None if it can."""
    if resized:
        return "--outscale resizes it"
    if picture.alpha is not None:
        return "it has alpha"
    if target.suffix.lower() not in BANDED_SUFFIXES:
        return f"{target.suffix} is written as a whole; {' and '.join(BANDED_SUFFIXES)} are not"
    return None


def write_restored(target: Path, restorer: Restorer, given: Given) -> None:
    """Restore an image without alpha as `restore_array` does, and write it meanwhile, holding bands alone."""
    picture, size = given.picture, tuple(side * restorer.scale for side in given.size)
    whole = given.rest is None
    image = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None] if whole else Rows(given.size, given.bands())
    rows = _rows(restorer.bands(image), picture.pixels.dtype, luma=picture.gray)
    shape = size if picture.gray else (*size, 3)
    form = Form(shape, picture.pixels.dtype, picture.profile, picture.cicp)
    write_bands(target, form, (row[..., 0] if picture.gray else row for row in rows))


def _carries(target: Path, picture: Picture) -> bool:
    """Tell whether a result can have the colours of its image."""
    kind = target.suffix.lower()
    if kind == ".webp" and picture.profile[16:20] == b"GRAY":  # it has no gray
        return False
    return kind in PROFILE_SUFFIXES and (bool(picture.profile) or not picture.cicp or kind == ".png")


def unwritable(files: Mapping[Path, Path], factor: float) -> dict[Path, str]:
    """Return the images (source: target) whose results cannot be written, with the reason, as far as headers tell."""
    problems = {}
    for source, target in files.items():
        try:
            header = read_header(source)
        except ImageError:
            continue  # whoever reads it says so
        size = enlarged(header.upright or (1, 1), factor)
        problem = why_not_held(target.suffix.lower(), size, header.highest > 255, header.alpha)
        if problem is not None:
            problems[source] = f"{source}: {problem}; use --ext png"
    return problems


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


def restoration_targets(
    inputs: Sequence[Path], out: Path, suffix: str = "", ext: str = "png", console: Console | None = None
) -> dict[Path, Path]:
    """Return where the result of each image goes: `out` alone for a single image, else below it, as the inputs lie.

    Where names differ by their endings alone (a.png, a.jpg), the ending becomes a part of the name (a_png, a_jpg). Of
    several inputs, one that holds no images stands for itself, and fails when it is read. The console is told what is
    left out.

    Raises OptionError if a result would replace an input or another result, the only folder holds no images, or `out`
    is the name of an image and cannot be one.
    """
    names_a_file = is_image_name(out.name) and not out.is_dir()
    if names_a_file and len(inputs) == 1 and not inputs[0].is_dir():
        if (problem := why_not_held(out.suffix.lower(), (1, 1), deep=False, alpha=False)) is not None:
            raise OptionError(f"-o {out}: {problem}")
        targets = {inputs[0]: out}
    elif names_a_file:
        raise OptionError(f"-o {out}: names an image, and there may be several results; give a folder")
    elif out.is_file():
        raise OptionError(
            f"-o {out}: is a file; give a folder, or for one image a name with its ending, such as out.png"
        )
    else:
        places = {
            source: place for path in inputs for source, place in _images_of(path, out, console, len(inputs) == 1)
        }
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


def _images_of(path: Path, out: Path, console: Console | None, alone: bool) -> list[tuple[Path, Path]]:
    """Return the images of an input, with their places below `out`. What lies in `out` already is no input."""
    if not path.is_dir():
        return [(path, Path(path.name))]
    results = out.resolve() if out.resolve() != path.resolve() else None
    try:
        listing = list_images(path)
    except OSError as error:
        if alone or console is None:
            raise
        console.error(str(error))
        return [(path, Path(path.name))]
    if console is not None and listing.remark:
        console.warn(listing.remark)
    images = [
        file for file in listing.files if results is None or not Path(os.path.realpath(file)).is_relative_to(results)
    ]
    if not images and alone:
        raise OptionError(f"{path}: holds no images")
    return [(file, file.relative_to(path)) for file in images] or [(path, Path(path.name))]


def _identity(path: Path) -> tuple[int, int] | str:
    """Return what is equal for two paths to one file, through links too."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else str(path)
