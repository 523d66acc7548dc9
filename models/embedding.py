"""How well an encoder's embedding tells degradations apart, beside an untrained encoder and a power spectrum.

    python -m models.embedding --weights runs/dasr_x4_iso/checkpoints/joint_00485000 --data HELD_OUT --out DIR
    python -m models.embedding --weights DASR_x4.pt --data HELD_OUT --opt options/dasr/x4_aniso.yml --out DIR

Crops from the centres of images that training has not seen are each degraded in the same ways: by a grid of Gaussian
kernels and noise levels, or (`--opt`) as drawn from an option file. Written are embedding.png (every crop on the first
two principal components, coloured by what was done to it) and embedding.json (the table that is printed).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.folder import Folder
from data.training import END_OF_SCHEDULES
from degradations import DEGRADATIONS, Degradation, Plan
from models.blocks import EncoderNetwork
from models.network import NETWORKS
from models.restore import Generator, load_generator, weight_files
from utils import options
from utils.arguments import whole
from utils.fields import OptionError
from utils.files import replace_text
from utils.image import to_tensor, write_image
from utils.logging import Console, table
from utils.plot import grid, scatter
from utils.probes import explained, probe_accuracy, projection, retrieval
from utils.seeding import generator as stream

MIN_IMAGES = 4
BINS = 16
MIN_CROP = 2 * BINS  # a smaller one has no frequency in the lowest bin
ROUND = 1.05  # kernels whose widths differ by less than this factor have no orientation

# Of the grid: both widths in low-quality pixels with the angle in degrees, and noise levels of 8 bits.
KERNELS = (
    *((width, width, 0) for width in (0.25, 0.5, 0.75, 1.0)),
    *((1.0, 0.4, degrees) for degrees in (0, 45, 90, 135)),
)
LEVELS = (0, 5, 15)


# --- what is degraded, and how ---------------------------------------------------------------------------------------


def grid_plans(scale: int, side: int) -> tuple[Degradation, list[Plan]]:
    """The grid of `gaussian` degradations, for ground truths of `side` pixels."""
    plans = []
    for first, second, degrees in KERNELS:
        for level in LEVELS:
            steps = {
                "blur": {"fixed": [first * scale, second * scale, degrees]},
                "noise": {"level_range": [level, level]},
            }
            degradation = DEGRADATIONS.build({"type": "gaussian", "steps": steps}, scale=scale)
            plans.append(degradation.sample(stream(len(plans), "embedding"), (side, side)))
    return DEGRADATIONS.build("gaussian", scale=scale), plans


def drawn_plans(
    tree: Mapping[str, Any], scale: int, side: int, count: int, seed: int
) -> tuple[Degradation, list[Plan]]:
    """`count` plans drawn from the degradation of an option file. Raises OptionError if it does not fit."""
    if tree.get("scale") != scale:
        raise OptionError(f"scale: found {tree.get('scale')}, but the network has scale {scale}; use its option file")
    degradation = DEGRADATIONS.build(tree.get("degradation"), where="degradation", scale=scale)
    if degradation.starts_from_lq:
        raise OptionError("degradation: this one starts from given low-quality images; expected one that makes them")
    plans = []
    for number in range(count):
        rng = stream(seed, "embedding", number)
        shared = {**degradation.draw_shared(rng), "scale": scale}
        try:
            plans.append(degradation.sample(rng, (side, side), END_OF_SCHEDULES, shared))
        except ValueError as error:
            raise OptionError(
                f"degradation: a crop of {side}x{side} does not do: {error}; use a larger --crop"
            ) from error
    return degradation, plans


def crops(folder: Path, count: int, side: int) -> Iterator[Tensor]:
    """The centres (3, side, side) of the first `count` images. Raises OptionError for too few or too small ones."""
    source = Folder(str(folder), max_images=count)
    if len(source) < MIN_IMAGES:
        raise OptionError(
            f"{folder}: found {len(source)} images to use, expected {MIN_IMAGES} or more, since probes are tested on "
            "other images than they learn from"
        )
    for index in range(len(source)):
        image = source.read(index)
        top, left = ((length - side) // 2 for length in image.shape[:2])
        if min(top, left) < 0:
            raise OptionError(
                f"{source.name(index)}: {image.shape[1]}x{image.shape[0]} is smaller than the {side}x{side} that the "
                "crop takes at this scale; use a smaller --crop, or larger images"
            )
        yield to_tensor(image[top : top + side, left : left + side])


@dataclass(frozen=True)
class Samples:
    """Low-quality crops (K, 3, h, w) of each image, and what is known of the K degradations (K,): the `wide` and the
    `narrow` width of the kernel, its `angle` and the `noise` level, as far as they are told."""

    lq: list[Tensor]
    truth: dict[str, np.ndarray]

    @classmethod
    def make(cls, images: Iterator[Tensor], degradation: Degradation, plans: Sequence[Plan]) -> Samples:
        """Applies every plan to every image, each time with noise of its own."""
        lq, truth = [], {}
        for number, image in enumerate(images):
            views = [plan.views(number + 1)[number] for plan in plans]
            degraded = degradation.apply(image.expand(len(plans), -1, -1, -1), views)
            lq.append(degraded.lq)
            if degraded.kernel is not None:
                truth |= dict(zip(("wide", "narrow", "angle"), kernel_shape(degraded.kernel.numpy()), strict=True))
            if degraded.sigma is not None:
                truth["noise"] = 255 * degraded.sigma.double().numpy()
        return cls(lq, truth)


def kernel_shape(kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Widths and orientation of kernels (K, k, k) by their second moments, each (K,).

    Returns:
        Standard deviations along the wider and the narrower axis, in pixels of the ground truth; the angle of the
        wider axis from the x axis (to the right) downwards, in degrees in [0, 180), NaN for a round kernel.
    """
    y, x = np.indices(kernels.shape[1:]).reshape(2, -1).astype(np.float64)
    weights = kernels.reshape(len(kernels), -1).astype(np.float64)
    weights = weights / weights.sum(1, keepdims=True)
    mean_x, mean_y = weights @ x, weights @ y
    xx, yy, xy = weights @ x**2 - mean_x**2, weights @ y**2 - mean_y**2, weights @ (x * y) - mean_x * mean_y
    middle, radius = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    wide, narrow = np.sqrt(np.maximum(middle + radius, 0)), np.sqrt(np.maximum(middle - radius, 0))
    angle = np.degrees(np.arctan2(2 * xy, xx - yy) / 2) % 180
    return wide, narrow, np.where(wide > ROUND * narrow, angle, np.nan)


# --- features --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def embeddings(encoder: nn.Module, lq: Sequence[Tensor]) -> np.ndarray:
    """What an encoder says of each sample, (N, K, d). Raises OptionError if that is not finite."""
    found = torch.stack([encoder(of_one)[0] for of_one in lq]).double().numpy()
    if not np.isfinite(found).all():
        raise OptionError("the embedding holds values that are not finite: the weights are of a run that diverged")
    return found


def spectra(lq: Sequence[Tensor]) -> np.ndarray:
    """The line to beat, (N, K, 16): logarithms of the radial power spectrum from 0 to half the sampling rate."""
    side = lq[0].shape[-1]
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    number = np.ceil(2 * BINS * frequency).astype(int)  # 0 is the mean alone, and corners lie beyond the last
    window = torch.from_numpy(np.outer(np.hanning(side), np.hanning(side)))  # no cross from borders that do not meet
    result = []
    for of_one in lq:
        centred = of_one.double() - of_one.double().mean((-2, -1), keepdim=True)
        power = torch.fft.fft2(centred * window).abs().square().mean(1).numpy() / side**2
        result.append(np.stack([power[:, number == b].mean(1) for b in range(1, BINS + 1)], 1))
    return np.log(np.stack(result) + 1e-10)


def untrained(trained: Generator, lq: Sequence[Tensor], seed: int) -> nn.Module:
    """The encoder of the same network with fresh weights, its batch norms with the statistics of these samples: theirs
    would be those of no images, which makes a line that is easier to beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream(seed, "weights").integers(2**31)))
        network = NETWORKS.build(trained.options)
    assert isinstance(network, EncoderNetwork)
    for module in network.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for of_one in lq:
            network.encoder(of_one)
    return network.encoder.eval()


def numbers(features: np.ndarray, truth: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """All numbers of features (N, K, d). The angle is regressed as cos 2θ and sin 2θ, of kernels that have one."""
    found: dict[str, float | None] = {"retrieval": retrieval(features), "probe accuracy": probe_accuracy(features)}
    for name, values in truth.items():
        has = np.isfinite(values)
        doubled = values[has] * pi / 90
        targets = np.stack([np.cos(doubled), np.sin(doubled)], 1) if name == "angle" else values[has, None]
        found[f"R2 {name}"] = explained(features[:, has], targets)
    return found


# --- the report ------------------------------------------------------------------------------------------------------


def picture(features: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> np.ndarray:
    """A row of scatter plots for each kind of features, coloured by width, orientation and noise as far as told."""
    captions = {"wide": "wider width, px", "angle": "angle in degrees, gray: round", "noise": "noise, 8-bit levels"}
    colours = {text: truth[name] for name, text in captions.items() if name in truth}
    rows = []
    for name, values in features.items():
        points, (first, second) = projection(values)
        kinds = colours or {"degradation": np.arange(values.shape[1], dtype=np.float64)}
        row = []
        for caption, of_kind in kinds.items():
            period = 180 if caption == captions["angle"] else None
            axes = f"PC 1: {first:.0%} of variance, PC 2: {second:.0%}"
            row.append(scatter(name, points, np.tile(of_kind, len(values)), axes, caption, period))
        rows.append(row)
    return grid(rows)


def report(args: argparse.Namespace, console: Console) -> None:
    """Makes the samples, measures all features on them, prints and writes."""
    trained = load_generator(weight_files(args.weights, "ema")[0])
    network = trained.network
    if not isinstance(network, EncoderNetwork):
        raise OptionError(f"{args.weights}: {trained.options['type']} has no encoder; expected a network such as dasr")
    side = args.crop * network.scale
    if args.opt is None:
        degradation, plans = grid_plans(network.scale, side)
    else:
        tree = options.load(args.opt, args.set)
        degradation, plans = drawn_plans(tree, network.scale, side, args.degradations, args.seed)
    samples = Samples.make(crops(args.data, args.images, side), degradation, plans)
    features: dict[str, np.ndarray] = {
        "encoder": embeddings(network.encoder, samples.lq),
        "untrained encoder": embeddings(untrained(trained, samples.lq, args.seed), samples.lq),
        f"power spectrum, {BINS} bins": spectra(samples.lq),
    }
    found = {name: numbers(values, samples.truth) for name, values in features.items()}
    found["chance"] = {name: 0.0 if name.startswith("R2") else 1 / len(plans) for name in found["encoder"]}
    rows = [[name, *("-" if v is None else f"{v:.3f}" for v in values.values())] for name, values in found.items()]
    about = f"{len(samples.lq)} images x {len(plans)} degradations, crops of {args.crop} px at x{network.scale}"
    console.info(f"{args.weights}: {about}\n\n{table(['features', *found['encoder']], rows)}")
    args.out.mkdir(parents=True, exist_ok=True)
    write_image(args.out / "embedding.png", picture(features, samples.truth))
    told = {name: [None if np.isnan(v) else round(float(v), 4) for v in of] for name, of in samples.truth.items()}
    result = {"weights": str(args.weights), "network": trained.options, "about": about, "seed": args.seed}
    result |= {"numbers": found, "degradations": told}
    replace_text(args.out / "embedding.json", json.dumps(result, indent=1) + "\n")
    console.info(f"wrote {args.out / 'embedding.png'} and {args.out / 'embedding.json'}")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.embedding", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", type=Path, required=True, metavar="PATH", help="a weight file, or a checkpoint folder of ours")
    add("--data", type=Path, required=True, metavar="FOLDER", help="images that training has not seen")
    add("--out", type=Path, required=True, metavar="DIR", help="where embedding.png and embedding.json go")
    add("--opt", type=Path, metavar="FILE", help="draw from its degradation (default: a grid of `gaussian`)")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="override an option of --opt")
    add("--images", type=whole(MIN_IMAGES), default=20, metavar="N", help="the first N (default: 20)")
    add("--degradations", type=whole(2), default=24, metavar="K", help="drawn from --opt (default: 24)")
    add("--crop", type=whole(MIN_CROP), default=48, metavar="PX", help="low-quality pixels (default: 48)")
    add("--seed", type=whole(0), default=0, help="of drawn degradations and fresh weights (default: 0)")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status."""
    args, console = arguments(given), Console()
    try:
        report(args, console)
        return 0
    except (OptionError, OSError) as error:
        console.error(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
