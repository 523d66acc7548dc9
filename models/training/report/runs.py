"""What run folders tell: how far they are, their curves, and where their options differ."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.metrics import METRICS
from utils.options import files as option_files
from utils.options.fields import OptionError

Points = dict[int, float]
"""Iteration over all stages → value."""

POINTS = 500
"""A curve of more is shown as the means of as many parts."""
SPEED = {"speed": "iterations per second", "wait_share": "share of the time that waits for data"}
MEMORY = {"ram": "memory, MiB", "ram_peak": "memory at most, MiB", "cuda_peak": "GPU memory at most, MiB"}


@dataclass(frozen=True)
class RunRecord:
    """A run: its words about itself, the first and the last iteration of each stage, and the curves of its log."""

    name: str
    folder: Path
    options: Mapping[str, Any]
    status: Mapping[str, Any]
    stages: Mapping[str, tuple[int, int]]
    curves: Mapping[str, Points]

    @property
    def done(self) -> int:
        """Return the last iteration that the log tells of."""
        return max((max(points) for points in self.curves.values()), default=0)

    @property
    def total(self) -> int:
        """Return the iterations of all stages."""
        return max((end for _, end in self.stages.values()), default=0)


def is_run(folder: Path) -> bool:
    """Return whether train.py wrote a log here."""
    return (folder / "metrics.jsonl").is_file() and (folder / "options.yml").is_file()


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read run folders, each once. Raises OptionError where there is none."""
    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    if not folders:
        raise OptionError("found no run, expected folders with metrics.jsonl and options.yml, such as runs/*")
    common = Path(os.path.commonpath([folder.parent for folder in folders]))
    return [read_run(folder, str(folder.relative_to(common))) for folder in folders]


def read_run(folder: Path, name: str) -> RunRecord:
    """Read a run folder. Raises OptionError for option or status files that are none."""
    options = option_files.load(folder / "options.yml")
    stages, start = dict[str, tuple[int, int]](), 0
    for stage, entry in options["stages"].items():
        if entry is not None:
            stages[stage] = (start, start + int(entry["iterations"]))
            start = stages[stage][1]
    status = folder / "status.json"
    told = option_files.load(status) if status.is_file() else {"state": "unknown", "reason": ""}
    curves = read_curves(folder, {stage: first for stage, (first, _) in stages.items()})
    return RunRecord(name, folder, options, told, stages, curves)


def read_curves(folder: Path, starts: Mapping[str, int]) -> dict[str, Points]:
    """Return all numbers of a run's log by name; iterations count on from stage to stage. What is not finite, and half
    a line at the end, are left out."""
    found: dict[str, Points] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        stage, iteration, _ = (entry.pop(key) for key in ("stage", "iteration", "time"))
        for name, value in entry.items():
            if stage in starts and value is not None and math.isfinite(value):
                # Where a stage ends and the next begins, the end counts.
                found.setdefault(name, {}).setdefault(starts[stage] + iteration, value)
    return found


def subject(name: str) -> str:
    """Return what a logged number is about."""
    if name == "lr" or name.startswith("lr_"):
        return "Learning rate"
    if name in SPEED or name in MEMORY:
        return "Speed and memory"
    return "Validation" if "/" in name else "Losses"


def higher_is_better(name: str, options: Mapping[str, Any]) -> bool | None:
    """Return the direction of a validation number such as `Set5/PSNR Y`; None where only the metric's network knows."""
    metric = name.rpartition("/")[2].split(" ")[0].lower()
    chosen = (options.get("logger") or {}).get("metrics") or {}
    entry = next((entry for key, entry in chosen.items() if key.lower() == metric), metric)
    kind = entry["type"] if isinstance(entry, Mapping) else entry
    known = METRICS.get(kind) if kind in METRICS.names() and kind != "pyiqa" else None
    return None if known is None else bool(getattr(known, "higher_is_better", True))


def thinned(points: Points) -> tuple[list[int], list[float]]:
    """Return a curve with at most POINTS points: of more, means of neighbours."""
    x = np.array(sorted(points))
    y = np.array([points[i] for i in x.tolist()])
    if len(x) > POINTS:
        parts = np.array_split(np.arange(len(x)), POINTS)
        x, y = np.array([x[part[-1]] for part in parts]), np.array([y[part].mean() for part in parts])
    return x.tolist(), [float(f"{value:.6g}") for value in y]


def differing_options(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Return the options that are not the same in all runs, each with its value in every run, `–` where it is unset."""
    flat = [_flat(run.options) for run in runs]
    paths = dict.fromkeys(path for own in flat for path in own if path != "name")
    table = {path: [own.get(path, "–") for own in flat] for path in paths}
    return {path: values for path, values in table.items() if len(set(values)) > 1}


def _flat(tree: Mapping[str, Any], where: str = "") -> dict[str, str]:
    found = {}
    for key, value in tree.items():
        path = f"{where}{key}"
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{path}.")
        else:
            found[path] = value if isinstance(value, str) else "removed" if value is None else json.dumps(value)
    return found
