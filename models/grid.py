"""Benchmarks over a grid of settings, printed as the papers print them: a number per row, method and column."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.benchmark import (
    BICUBIC,
    BenchmarkOptions,
    Grid,
    Measure,
    benchmark_sets,
    check_benchmark,
    run_set,
)
from models.restore import Generator, Restorer
from utils import options as option_files
from utils.distributed import Processes
from utils.fields import OptionError
from utils.files import replace_text
from utils.logging import Console, table

Cells = dict[tuple[str, str], BenchmarkOptions]
"""The benchmark of each (row, column)."""


@dataclass(frozen=True)
class GridResult:
    """What a grid gave on one data set: numbers by (row, method, column). `images`: how many images the set has."""

    name: str
    images: int
    numbers: dict[tuple[str, str, str], float]


def grid_cells(tree: Mapping[str, Any], grid: Grid, source: str) -> Cells:
    """Checks the benchmark of every cell before any is run. Raises OptionsError naming row and column."""
    cells = {}
    for row, of_row in grid.rows.items():
        for column, of_column in grid.columns.items():
            own: dict[str, Any] = {key: value for key, value in tree.items() if key != "grid"}
            for path, value in {**of_row, **of_column}.items():
                own = option_files.override(own, path, value)
            cells[row, column] = check_benchmark(own, f"{source}, row {row!r}, column {column!r}")
    return cells


def baseline_restorers(
    options: BenchmarkOptions, restorer: Callable[[Generator], Restorer]
) -> dict[str, dict[str, Restorer]]:
    """What is to be tried as each baseline of a benchmark, at its scale."""
    return {
        name: {text: restorer(generator) for text, generator in baseline.generators(options.scale).items()}
        for name, baseline in options.baselines.items()
    }


def run_grid(
    cells: Cells,
    grid: Grid,
    generators: Mapping[str, Generator],
    restorer: Callable[[Generator], Restorer],
    measure: Measure,
    processes: Processes,
    console: Console,
) -> list[GridResult]:
    """Measures bicubic, the baselines and every generator that knows the cell's scale, on every set."""
    if grid.number not in measure.columns:
        raise OptionError(f"grid.number: found {grid.number!r}, but measured are {', '.join(measure.columns)}")
    restorers = {name: restorer(generator) for name, generator in generators.items()}
    found: dict[str, GridResult] = {}
    with console.progress(len(cells), desc="cells") as progress:
        for (row, column), cell in cells.items():
            fitting = {name: r for name, r in restorers.items() if r.scale == cell.scale or "scale" in r.conditions}
            lines = baseline_restorers(cell, restorer)
            for tested in benchmark_sets(cell):
                silent = Console(rank=1)  # a bar per cell would be a hundred bars
                result = run_set(tested, fitting, measure, None, processes, silent, lines, smoothing_too=False)
                of_set = found.setdefault(result.name, GridResult(result.name, len(result.scores[BICUBIC]), {}))
                for method in result.scores:
                    of_set.numbers[row, method, column] = result.means(method)[grid.number]
            progress.update()
    return list(found.values())


def with_published(result: GridResult, grid: Grid) -> GridResult:
    """The result with the paper's numbers beside it, where name and number of images say that the set is the same."""
    published = grid.published
    if published is None or (published.data.lower(), published.images) != (result.name.lower(), result.images):
        return result
    more = {
        (row, f"{method} (published)", column): number
        for row, methods in published.rows.items()
        for method, numbers in methods.items()
        for column, number in zip(grid.columns, numbers, strict=True)
    }
    return replace(result, numbers={**result.numbers, **more})


def write_grid(folder: Path, name: str, results: list[GridResult], grid: Grid, measure: Measure) -> str:
    """Writes `results.md` and `results.json`; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# {name}", f"{grid.number}, measured by {measure}."]
    for result in (with_published(result, grid) for result in results):
        methods = list(dict.fromkeys(method for _, method, _ in result.numbers))
        rows = []
        for row in grid.rows:
            for method in methods:
                numbers = [result.numbers.get((row, method, column)) for column in grid.columns]
                if any(number is not None for number in numbers):
                    rows.append([row, method, *("-" if number is None else f"{number:.2f}" for number in numbers)])
        parts += [f"## {result.name}\n\n{result.images} images.", table([result.name, "method", *grid.columns], rows)]
    text = "\n\n".join(parts) + "\n"
    replace_text(folder / "results.md", text)
    cells = [
        {"set": result.name, "row": row, "method": method, "column": column, grid.number: number}
        for result in results
        for (row, method, column), number in result.numbers.items()
    ]
    replace_text(folder / "results.json", json.dumps({"name": name, "cells": cells}, indent=1) + "\n")
    return text
