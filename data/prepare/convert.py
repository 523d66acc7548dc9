"""Folders of images to folders of images: the common part of `tiles` and `multiscale`."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.prepare.work import Failure, Record, named_images, parallel, refuse_inside, stamp
from utils.images.files import ImageError, read_picture, write_image
from utils.logging import Console
from utils.storage.lock import RunLock

RECORD = ".prepared.jsonl"
_SHOWN = 5  # remarks, each with the images that it is of


class Job(Protocol):
    """What is made of one image. A frozen dataclass: it travels to workers, and its fields go into the record."""

    def outputs(self, image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what to append to the image's name, with the image to write there."""
        ...

    def remark(self, image: np.ndarray) -> str:
        """Return what the report should say about this image, or nothing."""
        ...


@dataclass(frozen=True)
class Converted:
    """What came out of one image: the names of its files without ending, a remark, its stamp before it was read."""

    written: list[str]
    remark: str
    stamp: list[int]


def convert(job: Job, source: Path, out: Path, strip: str, workers: int, console: Console) -> int:
    """Apply a job to all images of a folder; goes on where an earlier call was stopped.

    Gray images stay gray, colours become sRGB, alpha is dropped, the depth stays. Everything is written as PNG.

    Returns:
        How many images could not be used; each is named on the console.

    Raises:
        OptionError: there are no images, names clash, or `out` holds results of other settings or lies in `source`.
        OSError: the disk refuses, or a worker died.
    """
    refuse_inside(out, source)
    names = named_images(source, strip, console)
    settings = {"kind": type(job).__name__.lower(), **asdict(job), "strip": strip}  # type: ignore[call-overload]
    with RunLock(out), Record(out / RECORD, settings) as record:
        todo = [(n, path) for n, path in names.items() if not _complete(record.done(n, path), out)]
        for name, _ in todo:  # of a source that has changed, and may now give fewer
            for old in record.entries.get(name, {}).get("written", []):
                (out / f"{old}.png").unlink(missing_ok=True)
        failed: set[str] = set()
        progress = console.progress(len(names), initial=len(names) - len(todo), desc=str(settings["kind"]))
        with progress:
            for (name, _), result in parallel(partial(convert_one, job, out), todo, workers):
                if isinstance(result, Failure):
                    failed.add(name)
                    console.error(f"left out: {result.reason}")
                else:
                    record.add(name, result.stamp, written=result.written, remark=result.remark)
                progress.update()
        entries = [record.entries[name] for name in names if name not in failed]
    remarked: dict[str, list[str]] = {}
    for entry in entries:
        remarked.setdefault(entry["remark"], []).append(str(names[entry["name"]]))
    remarked.pop("", None)
    for remark, (first, *others) in list(remarked.items())[:_SHOWN]:
        more = f" and {len(others)} more" if others else ""
        console.info(f"{first}{more}: {remark}")
    if rest := sum(map(len, list(remarked.values())[_SHOWN:])):
        console.info(f"and the like of {rest} images of other sizes; {out / RECORD} names them")
    total = sum(len(entry["written"]) for entry in entries)
    was = len(names) - len(todo)
    console.info(f"{out}: {total} images of {len(entries)} files, {was} done before, {len(failed)} unusable")
    return len(failed)


def _complete(entry: dict[str, Any] | None, out: Path) -> bool:
    # Files appear under their names whole, so it is enough that they are there.
    return entry is not None and all((out / f"{name}.png").is_file() for name in entry["written"])


def convert_one(job: Job, out: Path, item: tuple[str, Path]) -> Converted | Failure:
    """Write what is made of an image, by its name and path."""
    name, path = item
    before = stamp(path)
    try:
        picture = read_picture(path).srgb()
    except ImageError as error:
        return Failure(path, str(error))
    image = picture.pixels[..., 0] if picture.gray else picture.pixels
    written = []
    for suffix, array in job.outputs(image):
        write_image(out / f"{name}{suffix}.png", array)
        written.append(f"{name}{suffix}")
    return Converted(written, job.remark(image), before)
