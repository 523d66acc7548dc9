"""Distances between folders of images by their traces, and how sure they are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 400
INTERVAL = (2.5, 97.5)  # percent


@dataclass(frozen=True)
class Traced:
    """Traces (n, traces) of windows, and which image each window is of (n,), numbered from 0."""

    values: np.ndarray
    image: np.ndarray

    def spread(self) -> np.ndarray:
        """Return the spread of each trace, as robust as quartiles, and comparable with a standard deviation."""
        low, high = np.quantile(self.values, [0.25, 0.75], axis=0)
        return (high - low) / 1.349


@dataclass(frozen=True)
class Estimate:
    """A number and the interval in which 95 % of the resamples of both folders' images lie."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> "Estimate":
        low, high = np.percentile(resampled, INTERVAL)
        return cls(float(value), float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """How far a candidate is from the photographs.

    Attributes:
        total: energy distance of all traces together (Székely and Rizzo, 2013), 0 for equal distributions.
        traces: of each trace alone, Wasserstein's distance in units of the trace's spread over what is depicted.
        nearest: the share of resamples in which this candidate is the nearest of all.
    """

    total: Estimate
    traces: tuple[Estimate, ...]
    nearest: float


def compare(photos: Traced, candidates: dict[str, Traced], seed: int = 0) -> dict[str, Comparison]:
    """Compare photographs with candidates, the nearest first; images, not windows, are resampled, on both sides."""
    rng = np.random.default_rng(seed)
    metric, units = whitening(photos, candidates), _units(photos, candidates)
    own = _weights(photos, rng)
    totals, results = {}, {}
    for name, candidate in candidates.items():
        theirs = _weights(candidate, rng)
        totals[name] = _energy(photos, candidate, metric, own, theirs)
        alone = [
            _wasserstein(photos.values[:, i] / unit, candidate.values[:, i] / unit, own, theirs)
            for i, unit in enumerate(units)
        ]
        results[name] = tuple(Estimate.of(distances[0], distances[1:]) for distances in alone)
    names = sorted(totals, key=lambda name: float(totals[name][0]))
    nearest = np.stack([totals[name][1:] for name in names]).argmin(0)
    return {
        name: Comparison(
            Estimate.of(totals[name][0], totals[name][1:]), results[name], float((nearest == place).mean())
        )
        for place, name in enumerate(names)
    }


def nearest(photos: Traced, candidates: dict[str, Traced]) -> str:
    """Return the name of the candidate of the least energy distance, as `compare` ranks them, without intervals."""
    metric, rng = whitening(photos, candidates), np.random.default_rng(0)
    own = _weights(photos, rng)[:1]
    distances = {n: _energy(photos, c, metric, own, _weights(c, rng)[:1])[0] for n, c in candidates.items()}
    return min(distances, key=lambda name: float(distances[name]))


def whitening(photos: Traced, candidates: dict[str, Traced]) -> Callable[[np.ndarray], np.ndarray]:
    """Return what turns traces (n, traces) into numbers without correlation and of spread 1 within a folder, around 0.

    What differs between images of one folder is mostly what they show: traces that it moves much count little.
    """
    folders = [photos, *candidates.values()]
    units = _units(photos, candidates)
    covariance = np.mean([np.cov(_clipped(f) / units, rowvar=False) for f in folders], axis=0)
    covariance += 0.05 * np.eye(len(units))  # few images: nothing is without spread
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    middle = np.mean([np.median(folder.values, axis=0) for folder in folders], axis=0)
    return lambda values: (values - middle) / units @ root.T


def _clipped(folder: Traced) -> np.ndarray:
    """Return traces without their outliers, beyond three spreads or so of the middle."""
    low, middle, high = np.quantile(folder.values, [0.05, 0.5, 0.95], axis=0)
    return folder.values.clip(middle + 2 * (low - middle) - 1e-9, middle + 2 * (high - middle) + 1e-9)


def _units(photos: Traced, candidates: dict[str, Traced]) -> np.ndarray:
    """Return the unit of each trace: the median over the folders of its spread within one."""
    return np.median([folder.spread() for folder in (photos, *candidates.values())], axis=0) + 1e-3


def _weights(folder: Traced, rng: np.random.Generator) -> np.ndarray:
    """Return weights (1 + RESAMPLES, n) of windows that sum to 1: first all images alike, then drawn with replacement.

    The windows of an image share its weight.
    """
    images, counts = np.unique(folder.image, return_counts=True)
    drawn = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), RESAMPLES)
    per_image = np.vstack([np.ones(len(images)), drawn]) / len(images)
    places = np.searchsorted(images, folder.image)
    return per_image[:, places] / counts[places]


def _energy(
    photos: Traced,
    candidate: Traced,
    metric: Callable[[np.ndarray], np.ndarray],
    own: np.ndarray,
    theirs: np.ndarray,
) -> np.ndarray:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'| (1 + RESAMPLES,), without the pairs of an image with itself."""
    x, y = metric(photos.values), metric(candidate.values)
    between = ((own @ _apart(x, y)) * theirs).sum(1)
    return 2 * between - _within(photos, x, own) - _within(candidate, y, theirs)


def _apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squared, 0))


def _within(folder: Traced, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    other = folder.image[:, None] != folder.image
    summed = ((weights @ (_apart(x, x) * other)) * weights).sum(1)
    pairs = ((weights @ other.astype(float)) * weights).sum(1)
    return summed / np.maximum(pairs, 1e-9)


def _wasserstein(x: np.ndarray, y: np.ndarray, own: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the area between the two distribution functions (1 + RESAMPLES,)."""
    both = np.concatenate([x, y])
    order = np.argsort(both, kind="stable")
    steps = np.concatenate([own, -theirs], axis=1)[:, order]
    return np.abs(np.cumsum(steps, axis=1)[:, :-1]) @ np.diff(both[order])
