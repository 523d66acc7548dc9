"""What is measured of an embedding, and how it is written down: for `models.embedding` and for validation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.source import Source
from data.validation import END_OF_SCHEDULES, ValidationSet
from degradations import Degradation, Plan
from models.embedding.probes import explained, probe_accuracy, projection, retrieval
from utils.images.files import to_tensor, write_image
from utils.images.plot import figure, pixels, scatter
from utils.logging import table
from utils.options.fields import OptionError
from utils.seeding import generator as stream
from utils.storage.files import replace_text

MIN_IMAGES, MAX_IMAGES = 4, 20
CROP = 48
"""Side of crops in low-quality pixels."""
BINS = 16
MIN_CROP = 2 * BINS  # a smaller one has no frequency in the lowest bin
SPECTRUM = f"power spectrum, {BINS} bins"
ROUND = 1.05  # kernels whose widths differ by less than this factor have no orientation


# --- what is degraded, and how ---------------------------------------------------------------------------------------


def drawn_plans(degradation: Degradation, scale: int, side: int, count: int, seed: int) -> list[Plan]:
    """Draw `count` plans for ground truths of `side` pixels. Raises OptionError if the degradation does not fit."""
    if degradation.starts_from_lq:
        raise OptionError("degradation: this one starts from given low-quality images; expected one that makes them")
    plans = []
    for number in range(count):
        rng = stream(seed, "embedding", number)
        shared = {**degradation.draw_shared(rng), "scale": scale}
        try:
            plans.append(degradation.sample(rng, (side, side), END_OF_SCHEDULES, shared))
        except ValueError as error:
            raise OptionError(f"degradation: a crop of {side}x{side} does not do: {error}; use a larger one") from error
    return plans


def crops(source: Source, count: int, side: int) -> Iterator[Tensor]:
    """Yield centres (3, side, side) of the first `count` images. Raises OptionError for too few or too small ones."""
    if len(source) < MIN_IMAGES:
        raise OptionError(
            f"found {len(source)} images to use, expected {MIN_IMAGES} or more, since probes are tested on other "
            f"images than they learn from (the first: {source.name(0)})"
        )
    for index in range(min(len(source), count)):
        image = source.read(index)
        top, left = ((length - side) // 2 for length in image.shape[:2])
        if min(top, left) < 0:
            raise OptionError(
                f"{source.name(index)}: {image.shape[1]}x{image.shape[0]} is smaller than the {side}x{side} that the "
                "crop takes at this scale; use a smaller crop, or larger images"
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
        """Apply every plan to every image, each time with noise of its own."""
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
    """Return widths and orientation of kernels (K, k, k) by their second moments, each (K,).

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
    """Return what an encoder says of each sample, (N, K, d). Raises OptionError if that is not finite."""
    device = next(encoder.parameters()).device
    vectors = torch.stack([encoder(of_one.to(device))[0].cpu() for of_one in lq]).double().numpy()
    if not np.isfinite(vectors).all():
        raise OptionError("the embedding holds values that are not finite: the weights are of a run that diverged")
    return vectors


def spectra(lq: Sequence[Tensor]) -> np.ndarray:
    """Return the line to beat, (N, K, 16): logarithms of the radial power spectrum from 0 to half the sampling rate."""
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


def numbers(features: np.ndarray, truth: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Return all numbers of features (N, K, d). Angles are regressed as cos 2θ and sin 2θ, of kernels with one."""
    measured: dict[str, float | None] = {"retrieval": retrieval(features), "probe accuracy": probe_accuracy(features)}
    for name, values in truth.items():
        has = np.isfinite(values)
        doubled = values[has] * pi / 90
        targets = np.stack([np.cos(doubled), np.sin(doubled)], 1) if name == "angle" else values[has, None]
        measured[f"R2 {name}"] = explained(features[:, has], targets)
    return measured


# --- the report ------------------------------------------------------------------------------------------------------


def picture(features: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draw a row of scatter plots for each kind of features, coloured by what is told of kernel and noise."""
    captions = {"wide": "wider width, px", "angle": "angle in degrees, gray: round", "noise": "noise, 8-bit levels"}
    colours = {text: truth[name] for name, text in captions.items() if name in truth}
    colours = colours or {"degradation": np.arange(next(iter(features.values())).shape[1], dtype=np.float64)}
    with figure(3.2 * len(colours), 3.6 * len(features)) as drawn:
        grid = drawn.subplots(len(features), len(colours), squeeze=False)
        for row, (name, values) in zip(grid, features.items(), strict=True):
            points, (first, second) = projection(values)
            for axes, (caption, of_kind) in zip(row, colours.items(), strict=True):
                period = 180 if caption == captions["angle"] else None
                scatter(axes, name, points, np.tile(of_kind, len(values)), caption, period)
                axes.set(xlabel=f"PC 1: {first:.0%} of variance", ylabel=f"PC 2: {second:.0%}")
        return pixels(drawn)


def write_report(
    folder: Path,
    samples: Samples,
    features: Mapping[str, np.ndarray],
    **facts: Any,  # noqa: ANN401
) -> tuple[dict[str, dict[str, float | None]], str]:
    """Write embedding.png and embedding.json, which holds the facts too. Return the numbers of each kind of features
    and of chance, and a table of them."""
    kinds = len(samples.lq[0])
    measured = {name: numbers(values, samples.truth) for name, values in features.items()}
    measured["chance"] = {name: 0.0 if name.startswith("R2") else 1 / kinds for name in measured["encoder"]}
    rows = [[name, *("-" if v is None else f"{v:.3f}" for v in values.values())] for name, values in measured.items()]
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / "embedding.png", picture(features, samples.truth))
    told = {name: [None if np.isnan(v) else round(float(v), 4) for v in of] for name, of in samples.truth.items()}
    result = {**facts, "images": len(samples.lq), "numbers": measured, "degradations": told}
    replace_text(folder / "embedding.json", json.dumps(result, indent=1) + "\n")
    return measured, table(["features", *measured["encoder"]], rows)


def validation_report(folder: Path, encoder: nn.Module, valid: ValidationSet, count: int) -> dict[str, float | None]:
    """Write how well an encoder tells `count` draws of a validation set's degradation apart, always the same ones, on
    the centres of its first images; returns the encoder's numbers."""
    side = (valid.entry.crop or CROP * valid.scale) // valid.scale * valid.scale
    plans = drawn_plans(valid.degradation, valid.scale, side, count, valid.seed)
    samples = Samples.make(crops(valid.entry.source, MAX_IMAGES, side), valid.degradation, plans)
    features = {"encoder": embeddings(encoder, samples.lq), SPECTRUM: spectra(samples.lq)}
    return write_report(folder, samples, features)[0]["encoder"]
