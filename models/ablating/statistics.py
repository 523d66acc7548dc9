"""Whether a difference between variants is more than chance: chance of the training (seeds) and of the test (images).

Scores of a variant are (seeds, images). What two variants have in common is taken out by pairing: the same image, and
the same seed, which means the same order of training images, crops and noise.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
"""What counts as chance: one difference in twenty where there is none, over all variants together."""
DRAWS = 10_000
POWER = 0.8
MOST = 1000
"""Seeds or images beyond which "more" is no advice."""


@dataclass(frozen=True)
class Difference:
    """A variant minus the baseline, in the units of the score.

    `low` to `high` holds the true difference in 95 of 100 experiments. `p` is the chance of a difference as large
    where there is none, `p_holm` the same with regard to all variants that are looked at. `improved` of `images` are
    better in the mean over seeds. `seed_deviation` and `image_deviation` are those of one seed and of one photograph,
    of which some may have given several images.
    """

    mean: float
    low: float
    high: float
    p: float
    improved: int
    images: int
    seeds: int
    seed_deviation: float
    image_deviation: float
    photographs: int
    p_holm: float = 1.0
    over_seeds: bool = True

    @property
    def is_seen(self) -> bool:
        """Return whether it is more than chance, also among all variants."""
        return self.p_holm < LEVEL and (self.seeds > 1 or not self.over_seeds)


def compare(
    variant: np.ndarray,
    baseline: np.ndarray,
    rng: np.random.Generator,
    photographs: Sequence[Hashable] | None = None,
    higher_is_better: bool = True,
    over_seeds: bool = True,
    draws: int = DRAWS,
) -> Difference:
    """Return the difference of two score arrays (seeds, images) with its interval, by a paired hierarchical bootstrap.

    Photographs are drawn with replacement, and of each draw the mean over its images is taken for every seed. Images of
    one photograph (`photographs` tells for each image of which it is; default: each of its own) are drawn together:
    ten degradations of one are no ten witnesses. Seeds are too few to be drawn so: of three, the spread among draws is
    too small by a third and its tails are cut off. Their part is drawn from Student's t with the spread that the seeds
    have in this draw of images. With one image only the interval is Student's, with equal seeds the bootstrap's; the
    deviations of images are widened by what a bootstrap of few is too narrow (Hesterberg, 2015).

    With `over_seeds` False the seeds count as they are: nothing is said of other trainings.
    """
    d = np.asarray(variant, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    seeds, images = d.shape
    mean = float(d.mean())
    known, of = np.unique([str(p) for p in photographs or range(images)], return_inverse=True)
    counts, sums = np.bincount(of), np.stack([np.bincount(of, of_seed) for of_seed in d])  # (seeds, photographs)
    chosen = rng.integers(len(known), size=(draws, len(known)))
    of_draw = counts[chosen].sum(axis=1)
    by_seed = np.stack([of_seed[chosen].sum(axis=1) / of_draw for of_seed in sums], axis=1)  # (draws, seeds)
    centre = by_seed.mean(axis=1)
    drawn = mean + (centre - mean) * _widened(len(known))
    if over_seeds and seeds > 1:
        error = by_seed.std(axis=1, ddof=1) / math.sqrt(seeds)
        drawn = drawn + error * rng.standard_t(seeds - 1, draws)
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    better = d.mean(axis=0) > 0 if higher_is_better else d.mean(axis=0) < 0
    return Difference(
        mean=mean,
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * (float(beyond) + 1) / (draws + 1)) if d.any() else 1.0,
        improved=int(better.sum()),
        images=images,
        seeds=seeds,
        seed_deviation=float(d.mean(axis=1).std(ddof=1)) if seeds > 1 else 0.0,
        image_deviation=float((sums.mean(axis=0) / counts).std(ddof=1)) if len(known) > 1 else 0.0,
        photographs=len(known),
        over_seeds=over_seeds,
    )


def _widened(count: int) -> float:
    if count < 2:
        return 0.0
    return float(stats.t.ppf(1 - LEVEL / 2, count - 1) / stats.norm.ppf(1 - LEVEL / 2)) * math.sqrt(count / (count - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for looking at all of them (Holm, 1979): the chance of even one false alarm stays below."""
    order = np.argsort(ps)
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


def seeds_needed(d: Difference, effect: float) -> int | None:
    """Return how many seeds in all would show a difference of `effect` in four experiments of five, or None if no
    number would on these images."""

    def shown(seeds: int) -> bool:
        error = math.hypot(d.seed_deviation / math.sqrt(seeds), d.image_deviation / math.sqrt(d.photographs))
        # Student's t where the seeds' part is what counts; with many seeds the difference fades.
        return effect >= error * float(stats.t.ppf(1 - LEVEL / 2, seeds - 1) + stats.t.ppf(POWER, seeds - 1))

    if d.seeds < 2:
        return None
    found = next((n for n in range(2, 100) if shown(n)), None)
    return found or next((n for n in range(100, MOST, 20) if shown(n)), None)


def in_words(d: Difference, effect: float, number: str, higher_is_better: bool = True) -> str:
    """Return what may be said of a difference, and what not."""
    unit = " dB" if number.startswith("PSNR") else ""
    digits = 2 if unit else 4
    size = f"{abs(d.mean):.{digits}f}{unit}"
    if d.is_seen:
        better = (d.mean > 0) == higher_is_better
        by = f"{'better' if better else 'worse'} by {size}"
        sure = f"95 % interval {d.low:+.{digits}f} to {d.high:+.{digits}f}"
        agreeing = d.improved if better else d.images - d.improved
        which = "" if d.over_seeds else ", of these very weights"
        return f"{by} ({sure}), on {agreeing} of {d.images} images{which}"
    if not d.over_seeds:
        return f"no difference can be seen on {d.images} images"
    if d.seeds < 2:
        return "one seed tells nothing about the chance of training; add seeds"
    corrected = " after correction for the number of variants" if d.p < LEVEL else ""
    text, needed = f"no difference can be seen{corrected}", seeds_needed(d, effect)
    wish = f"one of {effect:g}{unit}"
    if needed is None:
        return f"{text}; on these {d.photographs} photographs no number of seeds would surely show {wish}: test on more"
    if needed <= d.seeds:
        return f"{text}, and {wish} would most likely have been seen"
    more = needed - d.seeds
    return f"{text}; about {more} more seed{'s' if more > 1 else ''} would show {wish}"
