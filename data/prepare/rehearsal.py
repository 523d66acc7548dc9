"""The steps of a `prepare:` section tried on a few images: what all will cost, and stand-ins for their results."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.prepare.convert import convert_one
from data.prepare.hr import trims
from data.prepare.kernels import usable
from data.prepare.noise import chosen_tiles, stored, tiles_of
from data.prepare.section import CleanHr, NoisePatches, Prepare
from data.prepare.steps import sources, steps
from data.prepare.work import Failure, cores, named_images
from degradations.kernelgan.estimate import estimate_kernels
from degradations.kernelgan.settings import KernelGAN
from utils.images.files import ImageError, write_image
from utils.logging import Console, table
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import Processes

TRIED = 4
"""Images of each folder that are looked at."""
_ITERATIONS = 4  # of a kernel's estimate; the first is not timed


def rehearse(settings: Prepare, scale: int, folder: Path, processes: Processes, console: Console) -> None:
    """Fill a folder as `prepare` would fill `out`, from a few images, and print what the whole is going to cost.

    Results that are up to date stand for themselves. What was estimated in a few iterations blurs wrongly, and noise
    of any images stands for that of flat ones: enough for trying a training, not for training. All ranks call it, after
    `check`.

    Raises:
        OptionError: none of the images tried can be used.
    """
    with distributed.together():
        if not processes.is_main:
            return
        rows = []
        for step in steps(settings, scale, processes, console):
            place = folder / step.name
            if step.is_done():
                place.symlink_to(step.folder.resolve(), target_is_directory=True)
                rows.append([step.name, "is up to date", "0"])
                continue
            place.mkdir()
            if step.name == "kernels" and settings.kernels is not None:
                paths = _spread(sources(settings)["source"])
                rows.append(_kernels(settings.kernels, paths, settings.batch, place, processes))
            elif step.name == "noise" and settings.noise is not None:
                rows.append(_noise(settings.noise, _spread(sources(settings)["source"]), place))
            elif settings.hr is not None:
                rows.append(_hr(settings.hr, scale, sources(settings), place))
        console.info(table(["prepare", "what", "minutes"], rows))


def _spread(folder: Path) -> tuple[int, list[Path]]:
    """Return how many images there are, and some from all over the list."""
    paths = list(named_images(folder).values())
    return len(paths), [paths[i * len(paths) // min(TRIED, len(paths))] for i in range(min(TRIED, len(paths)))]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def _readable(paths: Sequence[Path], read: Callable[[Path], np.ndarray]) -> list[np.ndarray]:
    """Return the images that can be used. Raises OptionError if none can."""
    images, reasons = [], []
    for path in paths:
        try:
            images.append(read(path))
        except ImageError as error:
            reasons.append(str(error))
    if not images:
        raise OptionError(f"prepare.source: none of the {len(paths)} images tried can be used: {'; '.join(reasons)}")
    return images


def _kernels(
    settings: KernelGAN, found: tuple[int, list[Path]], batch: int, place: Path, processes: Processes
) -> list[str]:
    count, paths = found
    some = _readable(paths, lambda path: usable(path, settings))
    batch = min(batch, -(-count // processes.world_size))
    images = [some[i % len(some)] for i in range(batch)]
    ends: list[float] = []
    estimates = estimate_kernels(
        images, replace(settings, iterations=_ITERATIONS), processes.device, lambda _: ends.append(time.perf_counter())
    )
    content = io.BytesIO()
    np.savez(content, kernels=estimates[0].kernel[None], accepted=np.ones(1, bool), scale=np.array(settings.scale))
    (place / f"kernels_x{settings.scale}.npz").write_bytes(content.getvalue())
    batches = -(-count // (batch * processes.world_size))
    seconds = (ends[-1] - ends[0]) / (_ITERATIONS - 1) * settings.steps * batches
    return ["kernels", f"{count} images, {settings.steps} iterations", _minutes(seconds)]


def _noise(settings: NoisePatches, found: tuple[int, list[Path]], place: Path) -> list[str]:
    count, paths = found
    began = time.perf_counter()
    images = _readable(paths, stored)
    tiles = {str(i): tiles_of(settings, image) for i, image in enumerate(images)}
    seconds = (time.perf_counter() - began) / len(paths) * count / cores()
    passing = sum(not tile.flaw for of_one in chosen_tiles(settings, tiles).values() for tile in of_one)
    grain = np.random.default_rng(0).normal(128, 4, (settings.side, settings.side, 3))
    write_image(place / "stand_in.png", np.rint(grain).clip(0, 255).astype(np.uint8))
    about = f"{count} images, {passing} tiles of {settings.side}x{settings.side} in the {len(images)} looked at"
    return ["noise", about, _minutes(seconds)]


def _hr(settings: CleanHr, scale: int, folders: dict[str, Path], place: Path) -> list[str]:
    total, seconds, size = 0, 0.0, 0.0
    for name, trim in trims(settings, scale, folders).items():
        count, paths = _spread(folders[name])
        began = time.perf_counter()
        made = [convert_one(trim, place / name, (str(number), path)) for number, path in enumerate(paths)]
        failures = [one.reason for one in made if isinstance(one, Failure)]
        if len(failures) == len(made):
            raise OptionError(f"prepare.{name}: none of the {len(made)} images tried can be used: {failures[0]}")
        seconds += (time.perf_counter() - began) / len(paths) * count / cores()
        size += sum(file.stat().st_size for file in (place / name).glob("*.png")) / len(paths) * count
        total += count
    return ["hr", f"{total} images, {size / 1e6:,.0f} MB", _minutes(seconds)]
