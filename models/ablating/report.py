"""What there is to tell of an experiment, apart from how it is written down: scores, differences, curves, draws."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.overlap import content_digest
from data.validation import ValidationSet
from models.ablating.statistics import Difference, compare, holm, in_words
from models.benchmarking.benchmark import BICUBIC, SMOOTHED, BenchmarkSet, Measure, SetResult
from utils.seeding import generator


@dataclass(frozen=True)
class Scores:
    """One number on one set. `values` by row: (seeds, images); `seeds` tells which. `photographs`: of which each image
    is, where several may be of one."""

    set_name: str
    number: str
    images: list[str]
    seeds: dict[str, list[int]]
    values: dict[str, np.ndarray]
    higher_is_better: bool = True
    photographs: Sequence[Hashable] | None = None

    @property
    def is_in_db(self) -> bool:
        """Return whether this is a PSNR."""
        return self.number.startswith("PSNR")

    def text(self, value: float, sign: bool = False) -> str:
        """Return a value with as many digits as are read."""
        return f"{value:{'+' if sign else ''}.{2 if self.is_in_db else 4}f}"

    def difference_by_image(self, row: str, baseline: str) -> np.ndarray:
        """Return row minus baseline for each image, the mean over the seeds that both have."""
        variant, base = self._paired(row, baseline)
        return (variant - base).mean(axis=0)

    def compared(self, baseline: str, over_seeds: bool = True) -> dict[str, Difference]:
        """Return every other row against the baseline, with Holm's correction over them."""
        found = {}
        for row in (row for row in self.values if row != baseline and baseline in self.values):
            variant, base = self._paired(row, baseline)
            if len(variant):
                rng = generator("bootstrap", self.set_name, self.number)
                found[row] = compare(variant, base, rng, self.photographs, self.higher_is_better, over_seeds)
        corrected = holm([difference.p for difference in found.values()])
        return {row: dataclasses.replace(d, p_holm=p) for (row, d), p in zip(found.items(), corrected, strict=True)}

    def _paired(self, row: str, baseline: str) -> tuple[np.ndarray, np.ndarray]:
        common = [seed for seed in self.seeds[row] if seed in self.seeds[baseline]]
        variant, base = (
            self.values[name][[self.seeds[name].index(seed) for seed in common]] for name in (row, baseline)
        )
        return variant, base


@dataclass(frozen=True)
class Curve:
    """A number at validations, by row: iterations over all stages, and values (seeds, iterations)."""

    iterations: dict[str, list[int]]
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Report:
    """Rows (variants, or checkpoints), compared with one of them, the baseline.

    `judge_by` is the number of the verdicts, `smallest` the smallest difference in it worth knowing. `changes`: by row
    what it has otherwise, as (option, the baseline's, its own). `pictures`: by row and set the folder of its restored
    images. `drawn`: by row the steps of many plans, as `degradations.drawn` takes them. `states`: words about rows that
    are not whole. With `over_seeds` False differences are told for these trainings alone.
    """

    name: str
    baseline: str
    rows: list[str]
    scores: list[Scores]
    sets: list[BenchmarkSet]
    protocol: str
    judge_by: str
    smallest: float = 0.1
    over_seeds: bool = True
    changes: Mapping[str, Sequence[tuple[str, str, str]]] = field(default_factory=dict)
    pictures: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    drawn: Mapping[str, Sequence[Sequence[tuple[str, Mapping[str, Any]]]]] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    def judged(self) -> list[Scores]:
        """Return the scores by which is judged: one number on every set that has it."""
        return [scores for scores in self.scores if scores.number == self.judge_by]

    def notes(self) -> list[str]:
        """Return what else belongs below: images left out, rows that are not whole, sets with repeats."""
        counts = {s.set_name: (len(s.images), len(set(s.photographs or s.images))) for s in self.scores}
        repeats = [
            f"{name}: {images} images of {photographs} photographs; what is made of one counts as one witness"
            for name, (images, photographs) in counts.items()
            if photographs < images
        ]
        return [*self.remarks, *repeats, *(f"{row}: {text}" for row, text in self.states.items())]

    def effect(self, scores: Scores, difference: Difference) -> float:
        """Return the difference worth knowing: as said for the judged number, else half of what is uncertain now."""
        if scores.number == self.judge_by:
            return self.smallest
        return float(f"{max(difference.high - difference.low, 1e-6) / 4:.1g}")

    def words(self, scores: Scores, difference: Difference) -> str:
        """Return what may be said of a difference."""
        effect = self.effect(scores, difference)
        return in_words(difference, effect, scores.number, scores.higher_is_better)

    def verdicts(self) -> list[str]:
        """Return a sentence for each set and row."""
        return [
            f"{scores.set_name}, {scores.number}: {row} against {self.baseline}: {self.words(scores, difference)}"
            for scores in self.judged()
            for row, difference in scores.compared(self.baseline, self.over_seeds).items()
        ]


def photographs(tested: BenchmarkSet) -> dict[str, Hashable]:
    """Return by image the photograph it is of: `repeats` of one, and equal files, are of the same."""
    if not isinstance(tested.valid, ValidationSet):
        return {image: image for image in tested.images}
    source = tested.valid.entry.source
    paths = [source.path(index) for index in range(len(source))]
    of = [index if path is None else content_digest(path) for index, path in enumerate(paths)]
    return {image: of[number % len(of)] for number, image in enumerate(tested.images)}


def report_of_results(
    name: str, sets: Sequence[BenchmarkSet], results: Sequence[SetResult], measure: Measure, folder: Path
) -> Report:
    """Return the report of checkpoints, from their results and the images written to `folder`: compared with the first
    checkpoint, or with bicubic if there is one alone."""
    rows = list(results[0].scores)
    checkpoints = [row for row in rows if row not in (BICUBIC, SMOOTHED)]
    scores, remarks = [], [f"{result.name}: {remark}" for result in results for remark in result.remarks]
    for tested, result in zip(sets, results, strict=True):
        of = photographs(tested)
        for number in result.columns:
            images = [
                i for i in result.scores[rows[0]] if all(np.isfinite(s[i][number]) for s in result.scores.values())
            ]
            if left_out := [image for image in result.scores[rows[0]] if image not in images]:
                remarks.append(f"{result.name}, {number}: {', '.join(left_out)}: without a finite score, left out")
            if images:
                values = {r: np.array([[s[i][number] for i in images]]) for r, s in result.scores.items()}
                higher = measure.higher_is_better(number)
                seeds, own = {row: [0] for row in values}, [of[i] for i in images]
                scores.append(Scores(result.name, number, images, seeds, values, higher, own))
    return Report(
        name=name,
        baseline=checkpoints[0] if len(checkpoints) > 1 else BICUBIC,
        rows=list(dict.fromkeys(row for result in results for row in result.scores)),
        scores=scores,
        sets=list(sets),
        protocol=str(measure),
        judge_by=measure.columns[0],
        over_seeds=False,
        pictures={row: {result.name: folder / result.name / row for result in results} for row in rows},
        remarks=remarks,
    )


def deviation(values: np.ndarray) -> float:
    """Return how far the means of seeds lie apart: their standard deviation, NaN for one."""
    means = values.mean(axis=1)
    return float(means.std(ddof=1)) if len(means) > 1 else float("nan")
