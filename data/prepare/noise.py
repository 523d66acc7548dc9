"""Flat tiles of photographs, whose deviation from their mean is taken for the camera's noise (RealSR)."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data.prepare.lmdb import RECORD as DATABASE_RECORD
from data.prepare.lmdb import write_database
from data.prepare.section import NoisePatches
from data.prepare.work import Failure, Record, named_images, parallel, refuse_inside, stamp
from data.sources.lmdb import META
from degradations.steps.real_noise import PLAN, SHEET, STATISTICS
from utils.images.files import ImageError, read_image, read_image_alpha, write_image
from utils.images.sheet import judged
from utils.logging import Console, counted, first_few, table
from utils.options.fields import OptionError
from utils.storage.files import replace_text
from utils.storage.lock import RunLock

VERSION = 3
_RECORD, _ASIDE = ".measured.jsonl", ".patches"
_SIGMA, _REACH = 5.0, 20  # pixels; what is smoother counts as light, not as noise or texture
_CLIPPED = 0.1  # of the rule variance: the largest share of clipped pixels
_SHOWN, _CONTRAST = 36, 4  # of the sheet: tiles of each kind, and how much stronger they are shown
Patches = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Tile:
    """A window of an image by its upper left corner; `flaw` is why it is left out, or empty."""

    top: int
    left: int
    variance: float
    mean: float
    flaw: str = ""


def tiles_of(settings: NoisePatches, image: np.ndarray) -> list[Tile]:
    """Return all tiles of an image (H, W) or (H, W, 3), uint8 or uint16, row by row."""
    levels = image if image.dtype == np.uint8 else np.rint(image / 257).astype(np.uint8)
    gray = np.asarray(Image.fromarray(levels).convert("L"))
    measured = gray
    if settings.rule == "quantile":
        measured = gray - cv2.GaussianBlur(gray.astype(np.float64), (0, 0), _SIGMA)
    clipped = ((image == 0) | (image == np.iinfo(image.dtype).max)).reshape(*gray.shape, -1).any(axis=2)
    tiles = []
    for top in _starts(settings, gray.shape[0]):
        for left in _starts(settings, gray.shape[1]):
            window = np.s_[top : top + settings.side, left : left + settings.side]
            variance, mean = float(np.var(measured[window])), float(np.mean(gray[window]))
            constant = bool(gray[window].min() == gray[window].max())
            tiles.append(Tile(top, left, variance, mean, _flaw(settings, variance, mean, constant, clipped[window])))
    return tiles


def _starts(settings: NoisePatches, length: int) -> range:
    return range(0, length - settings.side + (not settings.released), settings.stride or settings.side)


def _flaw(settings: NoisePatches, variance: float, mean: float, constant: bool, clipped: np.ndarray) -> str:
    low, high = settings.means
    if settings.rule == "variance" and not variance < settings.max_variance:
        return "variance"
    if not low < mean <= high:
        return "mean"
    if settings.rule == "variance" and settings.released:
        return ""
    most = _CLIPPED if settings.rule == "variance" else 0
    return "constant" if constant else "saturated" if clipped.mean() > most else ""


def chosen_tiles(settings: NoisePatches, measured: Mapping[str, list[Tile]]) -> dict[str, list[Tile]]:
    """Return the tiles of each image, those left out by their rank with the flaw `variance`, too."""
    if settings.rule == "variance":
        return dict(measured)
    variances = sorted(tile.variance for tiles in measured.values() for tile in tiles if not tile.flaw)
    count = min(len(variances), round(settings.flattest * sum(map(len, measured.values()))))
    limit = variances[count - 1] if count else -1.0
    return {
        name: [t if t.flaw or t.variance <= limit else replace(t, flaw="variance") for t in tiles]
        for name, tiles in measured.items()
    }


def collect_noise(job: NoisePatches, source: Path, out: Path, workers: int, console: Console) -> int:
    """Collect a pool of noise patches from the images of a folder; goes on where an earlier call was stopped.

    Patches are crops as they are, or by the rule quantile without their light (see `patch_of`), NAME_000.png and so on,
    or the same in a database if `out` ends in .lmdb.
    statistics.json, written last, has source, top, left, variance and mean of each; sheet.png shows some, and some of
    those left out. Gray images stay gray, alpha is dropped, the depth stays.

    Returns:
        How many images could not be used; each is named on the console.

    Raises:
        OptionError: there are no images, no tile passes, or `out` has results of other settings or lies in `source`.
        OSError: the disk refuses, or a worker died.
    """
    refuse_inside(out, source)
    names = named_images(source, console=console)
    folder = out / _ASIDE if out.suffix == ".lmdb" else out
    with RunLock(out):
        measured, failed = _measured(job, names, out, workers, console)
        tiles = chosen_tiles(job, measured)
        _report(job, tiles, names, console)
        patches: Patches = {}
        for name, of_one in tiles.items():
            for index, tile in enumerate(tile for tile in of_one if not tile.flaw):
                about = {key: value for key, value in asdict(tile).items() if key != "flaw"}
                about |= {"source": str(names[name]), "size": job.side, "flattened": job.rule == "quantile"}
                patches[f"{name}_{index:03}"] = about
        _write(patches, out, folder, workers)
        write_image(out / SHEET, _sheet(tiles, names, job))
    failed += write_database(folder, out, "", workers, console) if folder != out else 0
    replace_text(out / STATISTICS, json.dumps({"rule": asdict(job), "patches": patches}, indent=1) + "\n")
    shutil.rmtree(out / _ASIDE, ignore_errors=True)
    console.info(f"{out}: {len(patches)} patches of {job.side}x{job.side}; look at {out / SHEET}")
    return failed


def _measured(
    job: NoisePatches, names: dict[str, Path], out: Path, workers: int, console: Console
) -> tuple[dict[str, list[Tile]], int]:
    """Return the tiles of every readable image, and how many images are not."""
    with Record(out / _RECORD, {"kind": "noise", "version": VERSION, **asdict(job)}) as record:
        todo = [(name, path) for name, path in names.items() if record.done(name, path) is None]
        failed = set()
        with console.progress(len(names), initial=len(names) - len(todo), desc="noise") as progress:
            for (name, _), result in parallel(partial(_measure, job), todo, workers):
                if isinstance(result, Failure):
                    failed.add(name)
                    console.error(f"left out: {result.reason}")
                else:
                    record.add(name, result[0], tiles=[[*asdict(tile).values()] for tile in result[1]])
                progress.update()
        by_name = {name: record.entries[name]["tiles"] for name in names if name not in failed}
    return {name: [Tile(*values) for values in tiles] for name, tiles in by_name.items()}, len(failed)


def _measure(job: NoisePatches, item: tuple[str, Path]) -> tuple[list[int], list[Tile]] | Failure:
    before = stamp(item[1])
    try:
        return before, tiles_of(job, stored(item[1]))
    except ImageError as error:
        return Failure(item[1], str(error))


def stored(path: Path) -> np.ndarray:
    """Return (H, W) of a gray file, (H, W, 3) of another."""
    image, _, gray = read_image_alpha(path)
    return image[..., 0] if gray else image


def _report(job: NoisePatches, by_name: Mapping[str, list[Tile]], names: Mapping[str, Path], console: Console) -> None:
    """Count by reason. Raises OptionError if nothing passes."""
    counts = Counter(tile.flaw or "accepted" for tiles in by_name.values() for tile in tiles)
    small = [str(names[name]) for name, tiles in by_name.items() if not tiles]
    if small:
        many = counted(len(small), "image is", "images are")
        console.warn(f"{many} too small for a tile of {job.side}, try a smaller size: {first_few(small)}")
    if not counts["accepted"]:
        why = ", ".join(f"{count} by {flaw}" for flaw, count in counts.most_common())
        other = "a larger `flattest`" if job.rule == "quantile" else "the rule `quantile`"
        raise OptionError(
            f"no tile of {len(by_name)} images passes ({why or 'none is large enough'}); a smaller size, other limits "
            f"or {other} may find some"
        )
    console.info(table(["tiles", "count"], [[kind, n] for kind, n in [*counts.most_common(), ("all", counts.total())]]))


def _write(patches: Patches, out: Path, folder: Path, workers: int) -> None:
    """Write the patches that are not there yet, and remove those of an earlier plan."""
    plan = out / PLAN
    old: Patches = json.loads(plan.read_text(encoding="utf-8")) if plan.exists() else {}
    if folder != out and old != patches:  # a database cannot tell which of its images are old
        for name in ("data.mdb", "lock.mdb", META, DATABASE_RECORD):
            (out / name).unlink(missing_ok=True)
    for name in old:
        if patches.get(name) != old[name]:
            (folder / f"{name}.png").unlink(missing_ok=True)
    (out / STATISTICS).unlink(missing_ok=True)
    replace_text(plan, json.dumps(patches))
    todo: dict[str, list[tuple[Path, int, int, int, bool]]] = {}
    for name, about in patches.items():
        if not (file := folder / f"{name}.png").exists():
            where = (about["top"], about["left"], about["size"], about["flattened"])
            todo.setdefault(about["source"], []).append((file, *where))
    for _ in parallel(_cut, list(todo.items()), workers):
        pass


def _cut(item: tuple[str, list[tuple[Path, int, int, int, bool]]]) -> None:
    image = stored(Path(item[0]))
    for file, top, left, size, flattened in item[1]:
        write_image(file, patch_of(image, top, left, size, flattened))


def patch_of(image: np.ndarray, top: int, left: int, side: int, flattened: bool) -> np.ndarray:
    """Cut a window out of an image (H, W) or (H, W, 3). `flattened`, its light is taken out of each channel, that is
    its blur but for the mean: as noise, which is repeated over an image, it would be stripes."""
    window = image[top : top + side, left : left + side]
    if not flattened:
        return window
    above, before = min(top, _REACH), min(left, _REACH)
    around = image[top - above : top + side + _REACH, left - before : left + side + _REACH].astype(np.float32)
    light = cv2.GaussianBlur(around, (0, 0), _SIGMA)[above : above + side, before : before + side]
    flat = window - light + light.mean((0, 1))
    return np.rint(flat).clip(0, np.iinfo(image.dtype).max).astype(image.dtype)


def _sheet(by_name: Mapping[str, list[Tile]], names: Mapping[str, Path], job: NoisePatches) -> np.ndarray:
    """Return some accepted and some rejected tiles from all over the data set, in strengthened contrast."""
    cells = []
    for accepted in (True, False):
        some = [(name, tile) for name, tiles in by_name.items() for tile in tiles if (not tile.flaw) == accepted]
        for name, tile in some[:: max(1, math.ceil(len(some) / _SHOWN))]:
            flattened = accepted and job.rule == "quantile"
            window = patch_of(read_image(names[name]), tile.top, tile.left, job.side, flattened)
            levels = window / (np.iinfo(window.dtype).max / 255)
            strong = levels.mean((0, 1)) + _CONTRAST * (levels - levels.mean((0, 1)))
            about = f"{tile.flaw} {Path(name).name} var {tile.variance:.3g} mean {tile.mean:.0f}"
            cells.append((np.rint(strong).clip(0, 255).astype(np.uint8), about, accepted))
    return judged(cells, columns=12)
