"""The results of a benchmark as files: Markdown for people, CSV for spreadsheets, JSON for programs."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.benchmarking.benchmark import Measure, Scores, SetResult, formatted
from models.benchmarking.figures import latex_table
from utils.logging import table
from utils.storage.files import replace_text

Checkpoints = Mapping[str, Mapping[str, Any]]
"""Facts about each checkpoint by its name in the tables: `file`, `network`."""


def write_results(
    folder: Path, name: str, results: Sequence[SetResult], measure: Measure, checkpoints: Checkpoints
) -> str:
    """Write `results` as .md, .csv, .json and .tex, and the means alone as `summary.csv`; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(name, results, measure, checkpoints)
    replace_text(folder / "results.md", text)
    replace_text(folder / "results.csv", comma_separated(results, measure))
    replace_text(folder / "summary.csv", summary(results, measure))
    replace_text(folder / "results.tex", latex(name, results, measure))
    content = as_tree(name, results, measure, checkpoints)
    replace_text(folder / "results.json", json.dumps(content, indent=1, allow_nan=False, default=str) + "\n")
    return text


def markdown(name: str, results: Sequence[SetResult], measure: Measure, checkpoints: Checkpoints) -> str:
    """Return one table per set, with the protocol, then what the checkpoints are."""
    parts = [f"# {name}", f"Measured by {measure}."]
    for result in results:
        columns = [column for column in measure.columns if column in result.columns]
        means = {row: result.means(row) for row in result.scores}
        rows = [[row, *(formatted(of_row[column], column) for column in columns)] for row, of_row in means.items()]
        count = len(next(iter(result.scores.values())))
        parts.append(f"## {result.name}\n\n{count} images, x{result.scale}, low-quality images {result.origin}.")
        parts += [table([result.name, *columns], rows), *result.remarks]
    if checkpoints:
        rows = [[name, _network(about["network"]), about["file"]] for name, about in checkpoints.items()]
        parts += ["## Checkpoints", table(["name", "network", "file"], rows)]
    return "\n\n".join(parts) + "\n"


def _network(options: Mapping[str, Any]) -> str:
    return ", ".join([str(options["type"]), *(f"{k} {v}" for k, v in options.items() if k != "type")])


def comma_separated(results: Sequence[SetResult], measure: Measure) -> str:
    """Return a line per set, checkpoint and image, and one for the mean, whose image is empty.

    Numbers that need a ground truth are empty where there is none.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["set", "scale", "checkpoint", "image", *measure.columns])
    for result in results:
        for row, images in result.scores.items():
            for image, scores in [*images.items(), ("", result.means(row))]:
                writer.writerow([result.name, result.scale, row, image, *(scores.get(c, "") for c in measure.columns)])
    return out.getvalue()


def summary(results: Sequence[SetResult], measure: Measure) -> str:
    """Return a line per set and checkpoint, with the means."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["set", "scale", "checkpoint", "images", *measure.columns])
    for result in results:
        for row, images in result.scores.items():
            means = result.means(row)
            writer.writerow([result.name, result.scale, row, len(images), *(means.get(c, "") for c in measure.columns)])
    return out.getvalue()


def latex(name: str, results: Sequence[SetResult], measure: Measure) -> str:
    """Return a table per set for \\input, the best number of each column bold; the protocol stands in a comment."""
    parts = [f"% {name}: measured by {measure}\n% \\usepackage{{booktabs}}\n"]
    for result in results:
        columns = [column for column in measure.columns if column in result.columns]
        means = {row: result.means(row) for row in result.scores}
        best = {
            c: (max if measure.higher_is_better(c) else min)(of_row[c] for of_row in means.values()) for c in columns
        }
        rows = [[row, *(formatted(of_row[c], c) for c in columns)] for row, of_row in means.items()]
        marks = [[of_row[c] == best[c] for c in columns] for of_row in means.values()]
        parts.append(latex_table([f"{result.name} x{result.scale}", *columns], rows, marks))
    return "\n".join(parts)


def as_tree(name: str, results: Sequence[SetResult], measure: Measure, checkpoints: Checkpoints) -> dict[str, Any]:
    """Return everything, for JSON. A number that is not finite (the PSNR of identical images) becomes null."""

    def plain(scores: Scores) -> dict[str, float | None]:
        return {column: value if math.isfinite(value) else None for column, value in scores.items()}

    sets = [
        {
            "name": result.name,
            "scale": result.scale,
            "low_quality": result.origin,
            "remarks": result.remarks,
            "rows": {
                row: {"mean": plain(result.means(row)), "images": {image: plain(s) for image, s in images.items()}}
                for row, images in result.scores.items()
            },
        }
        for result in results
    ]
    protocols = {channels: str(protocol) for channels, protocol in measure.protocols.items()}
    return {"name": name, "protocols": protocols, "checkpoints": dict(checkpoints), "sets": sets}
