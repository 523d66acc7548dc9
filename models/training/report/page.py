"""What the page of several runs knows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.training.report.runs import (
    MEMORY,
    SPEED,
    RunRecord,
    differing_options,
    higher_is_better,
    subject,
    thinned,
)


def page_data(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the data of the page, for JSON: the runs, their curves by subject, and the options that differ."""
    return {
        "rows": [run.name for run in runs],
        "runs": {run.name: _about(run) for run in runs},
        "subjects": _curves(runs),
        "options": differing_options(runs),
        "titles": SPEED | MEMORY,
    }


def _about(run: RunRecord) -> dict[str, Any]:
    """Return what the table says of a run: of each validation number its last and best value."""
    speeds = list(run.curves.get("speed", {}).values())
    scores = {}
    for name, points in run.curves.items():
        if subject(name) == "Validation":
            last, higher = max(points), higher_is_better(name, run.options)
            scores[name] = {"last": points[last], "at": last}
            if higher is not None:
                best = (max if higher else min)(points, key=lambda i: points[i])  # noqa: B023 - called at once
                scores[name] |= {"best": points[best], "bestAt": best}
    stages = " → ".join(f"{name} {end - start:,}" for name, (start, end) in run.stages.items())
    return {
        "state": run.status["state"],
        "reason": run.status.get("reason", ""),
        "done": run.done,
        "total": run.total,
        "stages": stages,
        "seed": run.options.get("seed", 0),
        "speed": float(np.median(speeds)) if speeds else None,
        "scores": scores,
    }


def _curves(runs: Sequence[RunRecord]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return subject → number → run → its curve."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        for name, points in run.curves.items():
            x, y = thinned(points)
            found.setdefault(subject(name), {}).setdefault(name, {})[run.name] = {"x": x, "mean": y}
    return found
