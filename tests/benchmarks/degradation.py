"""Degradation, drawing included: images per second by pipeline and batch size."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from degradations import DEGRADATIONS, paired_crop
from tests.benchmarks import plain, plain_realesrgan
from tests.benchmarks.elsewhere import Elsewhere
from tests.benchmarks.measuring import ROUNDS, Row, Work, against
from tests.golden.training_inputs import synthetic_batch
from tests.helpers import ROOT

PHOTOS, PLAIN = 8, 16
"""Images that are degraded, and images in a call of the plain version: their costs differ widely."""

TURN = 4
"""Calls until the other checkout has its turn."""

SIZES = {"bsrgan": (320, 288), "bsrgan_plus": (320, 288), "realesrgan": (400, 256), "classical": (96, 96)}
"""Side of the ground truth given to a pipeline, and of what is left of it; of others 192."""
GAUSSIANS = {"type": "classical", "steps": {"blur": {"type": "shifted_gaussian_blur"}}}
"""The classical pipeline without motion, which the plain version leaves out."""


ISP = {"type": "pipeline", "steps": {"isp": {"type": "isp"}, "fit": {"type": "every_nth"}}}
"""The camera step alone, but for the cheapest way to the final size."""


def ours(name: str, batch: int, device: torch.device) -> Work:
    """Draw and apply a pipeline at x4, a batch a call."""
    side, kept = SIZES.get(name, (192, 192))
    degradation = DEGRADATIONS.build({"classical": GAUSSIANS, "isp": ISP}.get(name, name), scale=4)
    stored = (synthetic_batch(PHOTOS, side, side, 0) * 255).round().to(torch.uint8).contiguous()
    chosen = torch.arange(batch) % PHOTOS

    def work(i: int) -> object:
        rngs = [np.random.default_rng(i * batch + n) for n in range(batch)]
        plans = [degradation.sample(rng, (side, side)).with_crop(rng, kept) for rng in rngs]
        return paired_crop(degradation.apply(stored[chosen].to(device).float() / 255, plans), plans)

    return work, batch


def rows(name: str, calls: int, device: torch.device) -> list[Row]:
    """A pipeline at x4 in batches of several sizes."""
    side, kept = SIZES.get(name, (192, 192))
    photos = synthetic_batch(PHOTOS, side, side, 0)
    arrays = [np.ascontiguousarray(photo.permute(1, 2, 0).numpy()) for photo in photos]
    by_hand: dict[str, Callable[[int], object]] = {
        "bsrgan": lambda i: plain.bsrgan(arrays[i % PHOTOS]),
        "bsrgan_plus": lambda i: plain.bsrgan_plus(arrays[i % PHOTOS]),
        "realesrgan": lambda i: plain_realesrgan.realesrgan(photos[i % PHOTOS][None]),
        "classical": lambda i: plain.classical(arrays[i % PHOTOS]),
        "gaussian": lambda i: plain.gaussian(arrays[i % PHOTOS]),
    }
    random.seed(0)
    np.random.seed(0)
    sizes = (1, 8, 32) if device.type == "cpu" else (1, 32, 128)
    versions = {f"batch {batch}": ours(name, batch, device) for batch in sizes}
    once = by_hand[name]
    plainly: Work = (lambda i: [once(i * PLAIN + n) for n in range(PLAIN)], PLAIN)
    return against(f"{name} {side}->{kept // 4}", "images", plainly, versions, calls, device)


def rows_against(name: str, checkout: Path, calls: int) -> Iterator[Row]:
    """Compare a pipeline, one photograph a call, with that of another checkout, whose rates count as plain.

    Both work in processes of their own, for the same photographs and draws, on one thread. They take turns every few
    calls, since what else runs on the machine slows whoever is at work.
    """
    side, kept = SIZES.get(name, (192, 192))
    options = {"classical": GAUSSIANS, "isp": ISP}.get(name, name)
    versions = {"there": checkout, "here": ROOT}
    working = {version: Elsewhere(place, options, side, kept) for version, place in versions.items()}
    for process in working.values():
        process.seconds(range(1000, 1008))  # to warm up
    total = ROUNDS * calls
    turns = [range(first, min(first + TURN, total)) for first in range(0, total, TURN)]
    spent: dict[str, list[tuple[float, float]]] = {version: [] for version in versions}
    for turn in turns:
        for version, process in working.items():
            spent[version] += [process.seconds(turn)] * len(turn)
    means = {version: [sum(c) / total for c in zip(*each, strict=True)] for version, each in spent.items()}
    for version, (cpu, clock) in means.items():
        yield Row(f"{name} {side}->{kept // 4}", version, "images", 1 / cpu, 1 / clock, means["there"][0] / cpu)
