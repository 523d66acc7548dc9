"""Measures speed against the plain version, in one run.

    python -m tests.benchmarks.run [--images 200]

Prints a table; figures are never asserted on. One thread, images one at a time on the CPU.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from degradations import DEGRADATIONS, paired_crop
from tests.benchmarks import plain
from tests.golden.kair.synth import synth_image
from utils.logging import Console, table


def measured(work: Callable[[int], object], count: int) -> tuple[float, float]:
    """CPU and wall seconds per call."""
    for i in range(3):
        work(i)
    cpu, wall = time.process_time(), time.perf_counter()
    for i in range(count):
        work(i)
    return (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count


def bsrgan_rows(images: int) -> list[list[str]]:
    """BSRGAN, 320 px in, 72 px out, scale 4: plain version and ours, drawing included."""
    photos = [synth_image(1000 + i) for i in range(10)]
    arrays = [np.float32(photo / 255) for photo in photos]
    tensors = [torch.from_numpy(photo.transpose(2, 0, 1).copy()) for photo in photos]
    degradation = DEGRADATIONS.build("bsrgan", scale=4)

    def ours(i: int) -> object:
        rng = np.random.default_rng(i)
        plan = degradation.sample(rng, (320, 320)).with_crop(rng, 288)
        return paired_crop(degradation.apply(tensors[i % 10][None].float() / 255, [plan]), [plan])

    random.seed(0)
    np.random.seed(0)
    slow = measured(lambda i: plain.bsrgan(arrays[i % 10]), max(20, images // 4))
    fast = measured(ours, images)
    return [
        ["bsrgan 320->72 x4", who, f"{1 / cpu:.1f}", f"{1 / wall:.1f}", f"{slow[0] / cpu:.1f}"]
        for who, (cpu, wall) in (("plain", slow), ("ours", fast))
    ]


def main() -> None:
    """Runs all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    images = parser.parse_args().images
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = bsrgan_rows(images)
    Console().info(table(["what", "version", "images/s (CPU time)", "images/s (wall)", "times plain"], rows))


if __name__ == "__main__":
    main()
