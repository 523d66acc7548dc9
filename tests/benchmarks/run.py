"""Measures speed against the plain version, in one run.

    python -m tests.benchmarks.run [bsrgan] [realesrgan] [usrnet] [--images 200]

Prints a table; figures are never asserted on. One thread on the CPU; degradations one image at a time, USRNet in
batches.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from degradations import DEGRADATIONS, paired_crop
from models.networks.usrnet import DataTerm, psf_on_canvas
from tests.benchmarks import plain, plain_realesrgan
from tests.golden.kair.synth import synth_image
from tests.golden.training_inputs import synthetic_batch
from utils.logging import Console, table


def measured(work: Callable[[int], object], count: int, batch: int = 1) -> tuple[float, float]:
    """CPU and wall seconds per image, where a call does `batch` images."""
    for i in range(3):
        work(i)
    cpu, wall = time.process_time(), time.perf_counter()
    for i in range(count):
        work(i)
    images = count * batch
    return (time.process_time() - cpu) / images, (time.perf_counter() - wall) / images


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
    return rows_of("bsrgan 320->72 x4", slow, fast)


def realesrgan_rows(images: int) -> list[list[str]]:
    """Real-ESRGAN, 400 px in, 64 px out, scale 4, with the sharpened target: plain version and ours."""
    photos = synthetic_batch(10, 400, 400, 0)
    degradation = DEGRADATIONS.build("realesrgan", scale=4)

    def ours(i: int) -> object:
        rng = np.random.default_rng(i)
        plan = degradation.sample(rng, (400, 400)).with_crop(rng, 256)
        return paired_crop(degradation.apply(photos[i % 10][None], [plan]), [plan])

    random.seed(0)
    np.random.seed(0)
    slow = measured(lambda i: plain_realesrgan.realesrgan(photos[i % 10][None]), max(10, images // 10))
    fast = measured(ours, images)
    return rows_of("realesrgan 400->64 x4", slow, fast)


def usrnet_rows(images: int) -> list[list[str]]:
    """USRNet's eight data steps of 96 px HR patches, batch 16, kernels of 25 taps: with and without gradients."""
    batch, side = 16, 96
    generator = torch.Generator().manual_seed(0)
    kernel = torch.rand(batch, 25, 25, generator=generator)
    kernel /= kernel.sum((1, 2), keepdim=True)
    alphas = [torch.full((batch, 1, 1, 1), 0.5 / 2**i) for i in range(8)]

    def ours(lq: Tensor, scale: int) -> Tensor:
        term = DataTerm.of(lq, psf_on_canvas(kernel, (side, side)), scale)
        x = F.interpolate(lq, scale_factor=scale, mode="nearest")
        for alpha in alphas:
            x = term.step(x, alpha)
        return x

    rows = []
    for scale in (1, 2, 3, 4):
        lq = torch.rand(batch, 3, side // scale, side // scale, generator=generator)
        work = {
            "": lambda solve, lq=lq, scale=scale: solve(lq, scale),
            " + backward": lambda solve, lq=lq, scale=scale: solve(lq.requires_grad_(), scale).sum().backward(),
        }
        for what, once in work.items():
            slow, fast = (
                measured(lambda _, once=once, solve=solve: once(solve), max(5, images // batch), batch)
                for solve in (lambda lq, scale: plain.usrnet_data_steps(lq, kernel, alphas, scale), ours)
            )
            rows += rows_of(f"usrnet 8 data steps x{scale}{what}", slow, fast)
    return rows


def rows_of(what: str, slow: tuple[float, float], fast: tuple[float, float]) -> list[list[str]]:
    """The two lines of a measurement from (CPU, wall) seconds per image."""
    return [
        [what, who, f"{1 / cpu:.1f}", f"{1 / wall:.1f}", f"{slow[0] / cpu:.1f}"]
        for who, (cpu, wall) in (("plain", slow), ("ours", fast))
    ]


MEASUREMENTS = {"bsrgan": bsrgan_rows, "realesrgan": realesrgan_rows, "usrnet": usrnet_rows}


def main() -> None:
    """Runs the named measurements, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", metavar="|".join(MEASUREMENTS), help="what to measure; all if none is named")
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args()
    if unknown := set(args.what) - set(MEASUREMENTS):
        parser.error(f"nothing to measure is named {', '.join(sorted(unknown))}; known: {', '.join(MEASUREMENTS)}")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = [row for name in args.what or MEASUREMENTS for row in MEASUREMENTS[name](args.images)]
    Console().info(table(["what", "version", "images/s (CPU time)", "images/s (wall)", "times plain"], rows))


if __name__ == "__main__":
    main()
