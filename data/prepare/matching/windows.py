"""Windows of photographs, and windows of the same size that degradations make of good images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from data.prepare.matching.distances import Traced
from data.prepare.matching.traces import SMALLEST, traces
from data.prepare.work import Failure, parallel
from degradations import Degradation, Plan
from utils.images.files import ImageError, from_tensor, headers, read_image, to_tensor, to_uint8
from utils.logging import Console
from utils.options.fields import OptionError
from utils.seeding import generator, sample_stream

STREAM = "match"
PER_PHOTO = 4
"""Windows of a photograph, where it is that large."""
LARGEST = 192
"""Pixels of a side of a window, beyond which there is little to learn from an image."""
_GRID = 8


def common_window(photos: Sequence[Path], good: Sequence[Path], scale: int) -> int:
    """Return the side of the largest window, of 64 to 192 pixels, for which nine in ten images have room on both sides.

    What an image shows moves its traces less, the more of it is seen. Good images need `scale` times as many pixels.
    """
    sides = (
        [min(header.size) // by for _, header in headers(paths) if header.size]
        for paths, by in ((photos, 1), (good, scale))
    )
    room = min((float(np.quantile(side, 0.1, method="lower")) for side in sides if side), default=0.0)
    return int(np.clip(room // _GRID * _GRID, SMALLEST, LARGEST))


@dataclass
class Measured:
    """Windows of a folder: their traces, a few to look at, and the plans by which they were made."""

    traced: Traced
    shown: list[np.ndarray]
    plans: list[Plan] = field(default_factory=list)


def measure_photos(paths: Sequence[Path], window: int, workers: int, console: Console, shown: int = 6) -> Measured:
    """Measure windows of photographs. Raises OptionError if fewer than two photographs are of use."""
    found, bad = {}, 0
    with console.progress(len(paths), desc="photos") as progress:
        for path, result in parallel(partial(_of_photo, window), paths, workers):
            progress.update()
            if isinstance(result, Failure):
                bad += 1
                console.error(f"left out: {result.reason}")
            else:
                found[path] = result
    if len(found) < 2:
        raise OptionError(
            f"{len(found)} of {len(paths)} photographs are of use, expected 2 or more; --window {window} may be smaller"
        )
    kept = [found[path] for path in paths if path in found]  # in order, whoever was first
    images = np.repeat(np.arange(len(kept)), [len(values) for values, _ in kept])
    windows = [window for _, window in kept[:: max(1, len(kept) // shown)]]
    return Measured(Traced(np.concatenate([values for values, _ in kept]), images), windows[:shown])


def _of_photo(window: int, path: Path) -> tuple[np.ndarray, np.ndarray] | Failure:
    try:
        image = _eight_bits(read_image(path))
    except ImageError as error:
        return Failure(path, str(error))
    if min(image.shape[:2]) < window:
        height, width = image.shape[:2]
        return Failure(path, f"{path}: {height}x{width} is smaller than the window of {window} pixels")
    rng = generator(0, STREAM, path.name)
    count = min(PER_PHOTO, (image.shape[0] // window) * (image.shape[1] // window))
    windows = [_cut(image, window, 1, rng) for _ in range(count)]
    return np.stack([traces(one) for one in windows]), windows[0]


def _eight_bits(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.uint8 else np.rint(image / 257).astype(np.uint8)


def _cut(image: np.ndarray, window: int, scale: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a window for a degradation by `scale` at random. The grid of a JPEG stays where it is."""
    side = window * scale
    top, left = (int(rng.integers((length - side) // _GRID + 1)) * _GRID for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def measure_degraded(
    degradations: Mapping[str, Degradation],
    paths: Sequence[Path],
    window: int,
    count: int,
    workers: int,
    console: Console,
    seed: int = 0,
    shown: int = 6,
) -> dict[str, Measured]:
    """Degrade `count` windows of good images by each degradation, the same places for those of one scale, and measure.

    Raises OptionError if no image is large enough.
    """
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), count)).astype(int))]
    each = -(-count // len(chosen))
    task = partial(_degraded, dict(degradations), window, each, seed)
    found: dict[Path, dict[str, list[tuple[np.ndarray, np.ndarray, Plan]]]] = {}
    with console.progress(len(chosen), desc="degraded") as progress:
        for (_, path), result in parallel(task, list(enumerate(chosen)), workers):
            progress.update()
            if isinstance(result, Failure):
                console.error(f"left out: {result.reason}")
            else:
                found[path] = result
    if not found:
        largest = window * max(degradation.scale for degradation in degradations.values())
        raise OptionError(f"no image of --gt is of use: they need sides of {largest} pixels, or a smaller --window")
    kept = [found[path] for path in chosen if path in found]
    images = np.repeat(np.arange(len(kept)), each)
    results = {}
    for name in degradations:
        made = [one for of_image in kept for one in of_image[name]]
        values = np.stack([value for value, _, _ in made])
        looked_at = [image for _, image, _ in made[:: max(1, len(made) // shown)]][:shown]
        results[name] = Measured(Traced(values, images), looked_at, [plan for _, _, plan in made])
    return results


def _degraded(
    degradations: Mapping[str, Degradation], window: int, each: int, seed: int, item: tuple[int, Path]
) -> dict[str, list[tuple[np.ndarray, np.ndarray, Plan]]] | Failure:
    number, path = item
    try:
        image = _eight_bits(read_image(path))
    except ImageError as error:
        return Failure(path, str(error))
    least = window * max(degradation.scale for degradation in degradations.values())
    if min(image.shape[:2]) < least:
        height, width = image.shape[:2]
        return Failure(path, f"{path}: {height}x{width} is too small, expected {least} or more a side")
    return {
        name: [(traces(lq), lq, plan) for lq, plan in _made(degradation, image, window, number * each, each, seed)]
        for name, degradation in degradations.items()
    }


def _made(
    degradation: Degradation, image: np.ndarray, window: int, first: int, count: int, seed: int
) -> Iterator[tuple[np.ndarray, Plan]]:
    for number in range(first, first + count):
        rng = sample_stream(seed, STREAM, number)
        gt = to_tensor(_cut(image, window, degradation.scale, rng))[None]
        plan = degradation.sample(rng, (gt.shape[-2], gt.shape[-1]))
        lq = degradation.apply(gt, [plan]).lq[0]
        yield to_uint8(from_tensor(lq)), plan
