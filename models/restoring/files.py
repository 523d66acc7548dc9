"""Restores image files: where results go, and reading, restoring and writing at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from models.restoring.restorer import Restorer, restore_array
from utils.images.files import ALPHA_SUFFIXES, DEEP_SUFFIXES, image_files, is_image_name, read_image_alpha, write_image
from utils.logging import Console
from utils.options.fields import OptionError
from utils.processes.threads import one_ahead


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
