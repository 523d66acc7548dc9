"""From the run folders of an ablation to its report."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.ablating.report import Curve, Report, Scores, photographs
from models.ablating.runs import NETWORK, is_tested, is_trained
from models.ablating.study import Run, Study, Test
from models.training.preview import draw_plan
from models.training.report.runs import read_curves, subject
from utils.options.fields import OptionError

PLANS = 400
"""Plans in a histogram."""

Table = dict[tuple[str, str], dict[str, float]]
"""(set, number) → image → score."""


def gather(study: Study, failed: dict[str, str]) -> Report:
    """Return the report of what is finished. Raises OptionError where there is nothing yet."""
    runs = [run for run in study.runs() if is_trained(run)]
    tested = {run: {n: t for n, t in study.tests.items() if is_tested(run, n, t.tree)} for run in runs}
    scores, remarks = [], list[str]()
    for name, test in study.tests.items():
        tables = {run: read_scores(results(run, name)) for run in runs if name in tested[run]}
        scores += _scores(test, tables, remarks)
    rows = [name for name in study.variants if any(name in s.values for s in scores)]
    if study.baseline not in rows:
        raise OptionError(f"{study.folder}: no run of the baseline {study.baseline} is finished, so nothing compares")
    first = study.options.seeds[0]
    pictures = {
        run.variant: {
            s.valid.name: results(run, name).parent / s.valid.name / NETWORK
            for name in tested[run]
            for s in study.tests[name].sets
        }
        for run in runs
        if run.seed == first
    }
    return Report(
        name=study.name,
        baseline=study.baseline,
        rows=rows,
        scores=scores,
        sets=[tested for test in study.tests.values() for tested in test.sets],
        protocol="; ".join(dict.fromkeys(str(test.measure) for test in study.tests.values())),
        judge_by=study.judge_by,
        smallest=study.options.smallest,
        changes={name: changes(study, name) for name in rows},
        pictures=pictures,
        curves=curves(runs),
        drawn={name: drawn_steps(study, name) for name in rows},
        states=states(study, runs, failed),
        remarks=remarks,
    )


def results(run: Run, test: str) -> Path:
    """Return the table of a run's test."""
    return run.folder / "test" / test / "results.csv"


def read_scores(file: Path, row: str = NETWORK) -> Table:
    """Return the scores of each image from a results.csv of test.py."""
    found: Table = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            about = {key: line.pop(key) for key in ("set", "scale", "checkpoint", "image")}
            if about["checkpoint"] == row and about["image"]:
                for number, value in line.items():
                    if value:
                        found.setdefault((about["set"], number), {})[about["image"]] = float(value)
    return found


def _scores(test: Test, tables: dict[Run, Table], remarks: list[str]) -> list[Scores]:
    """Return arrays of what all runs have measured."""
    found = []
    of = {tested.valid.name: photographs(tested) for tested in test.sets}
    for key in next(iter(tables.values()), {}):
        set_name, number = key
        columns = [table[key] for table in tables.values()]
        images = [name for name in columns[0] if all(np.isfinite(column.get(name, np.nan)) for column in columns)]
        if left_out := sorted({name for column in columns for name in column} - set(images)):
            text = "without a finite score in every run (identical to the ground truth, or another image), left out"
            remarks.append(f"{set_name}, {number}: {', '.join(left_out)}: {text}")
        if not images:
            continue
        seeds: dict[str, list[int]] = {}
        values: dict[str, list[list[float]]] = {}
        for run, table in tables.items():
            seeds.setdefault(run.variant, []).append(run.seed)
            values.setdefault(run.variant, []).append([table[key][name] for name in images])
        arrays = {row: np.array(lines) for row, lines in values.items()}
        own = [of[set_name][name] for name in images]
        higher = test.measure.higher_is_better(number)
        found.append(Scores(set_name, number, images, seeds, arrays, higher, own))
    return found


def changes(study: Study, name: str) -> list[tuple[str, str, str]]:
    """Return what a variant has otherwise than the baseline: option, the baseline's value, its own."""
    base, own = study.variants[study.baseline], study.variants[name]
    paths = dict.fromkeys([*base.changes, *own.changes]) if name != study.baseline else {}
    found = [(path, _look_up(base.tree, path), _look_up(own.tree, path)) for path in paths]
    return [line for line in found if line[1] != line[2]]


def _look_up(tree: Any, path: str) -> str:  # noqa: ANN401
    for part in path.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return "default"
        tree = tree[part]
    return "removed" if tree is None else tree if isinstance(tree, str) else json.dumps(tree)


def curves(runs: Iterable[Run]) -> dict[str, Curve]:
    """Return validation scores over the iterations of all stages, by names such as `Set5/PSNR`."""
    found: dict[str, dict[str, list[dict[int, float]]]] = {}
    for run in runs:
        before, total = dict[str, int](), 0
        for stage, iterations in run.iterations.items():
            before[stage], total = total, total + iterations
        own = read_curves(run.folder, before)
        for key, points in ((key, own[key]) for key in own if subject(key) == "Validation"):
            found.setdefault(key, {}).setdefault(run.variant, []).append(points)
    return {key: _curve(by_row) for key, by_row in found.items()}


def _curve(by_row: dict[str, list[dict[int, float]]]) -> Curve:
    iterations = {row: sorted(set.intersection(*map(set, lines))) for row, lines in by_row.items()}
    values = {row: np.array([[line[i] for i in iterations[row]] for line in lines]) for row, lines in by_row.items()}
    return Curve(iterations, values)


def drawn_steps(study: Study, name: str) -> Sequence[Any]:
    """Return the steps of the first plans of a variant, as its runs with the first seed draw them."""
    experiment = study.experiments[name]
    stage, size = next(iter(experiment.stages)), (experiment.data.crop_size, experiment.data.crop_size)
    degradation = experiment.degradation.build(scale=experiment.scale)
    return [draw_plan(experiment, stage, degradation, number, size).steps for number in range(PLANS)]


def states(study: Study, trained: Sequence[Run], failed: dict[str, str]) -> dict[str, str]:
    """Return words about variants whose runs are not all there."""
    told = {}
    for name in study.variants:
        own = [run for run in study.runs() if run.variant == name]
        there = [run for run in own if run in trained]
        reasons = [f"{run.name}: {failed[run.name]}" for run in own if run.name in failed]
        if len(there) < len(own):
            told[name] = "; ".join([f"{len(there)} of {len(own)} seeds", *reasons])
    return told
