"""Benchmarks over a grid of settings, printed as the papers print them: a number per row, method and column."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from models.benchmarking.benchmark import (
    BICUBIC,
    BenchmarkOptions,
    Contest,
    Grid,
    Measure,
    SetResult,
    benchmark_sets,
    check_benchmark,
    formatted,
    run_set,
)
from models.restoring.generator import LoadedGenerator
from models.restoring.nonblind import Assumption
from models.restoring.restorer import Restorer
from utils.logging import Console, table
from utils.metrics.evaluate import mean_scores
from utils.options import files as option_files
from utils.options.fields import OptionError
from utils.processes.distributed import Processes
from utils.storage.files import replace_text

Cells = dict[tuple[str, str], list[BenchmarkOptions]]
"""The benchmarks that each (row, column) is the mean of; the column is empty in a grid without columns."""
Build = Callable[[LoadedGenerator, Assumption | None], Restorer]
"""A restorer of a generator, with what it is told where the images do not say."""


_OF_ALL = ("name", "metrics", "protocol", "weights", "grid")  # taken from the file once, not by each cell


@dataclass(frozen=True)
class GridResult:
    """What a grid gave on one data set: numbers by (row, method, column), each the mean over `images` restored ones."""

    name: str
    images: int
    numbers: dict[tuple[str, str, str], float]


def grid_cells(tree: Mapping[str, Any], grid: Grid, source: str) -> Cells:
    """Check the benchmark of every cell before any is run. Raises OptionsError naming row and column."""
    cells = {}
    for row, of_row in grid.rows.items():
        if of_row is None:
            continue
        for column, of_column in (grid.columns or {"": {}}).items():
            place = f"{source}, row {row!r}" + (f", column {column!r}" if column else "")
            overrides = {**of_row, **of_column}
            if beside := [path for path in overrides if path.partition(".")[0] in _OF_ALL]:
                raise OptionError(f"{place}: {beside[0]}: is the same for all cells; expected it beside `grid`")
            cells[row, column] = []
            for chosen in product(*map(_each, overrides.values())):
                own: dict[str, Any] = {key: value for key, value in tree.items() if key != "grid"}
                for path, value in zip(overrides, chosen, strict=True):
                    own = option_files.override(own, path, value)
                cells[row, column].append(check_benchmark(own, place))
    return cells


def _each(value: Any) -> list[Any]:  # noqa: ANN401
    """Return the values of an override: those of `{each: [...]}`, over which a cell is the mean, or the one."""
    return value["each"] if isinstance(value, dict) and isinstance(value.get("each"), list) else [value]


def check_layout(grid: Grid, measure: Measure) -> None:
    """Raise OptionError if the grid asks for what is not measured, or published numbers do not fit it."""
    if grid.columns and grid.number not in measure.columns:
        raise OptionError(f"grid.number: found {grid.number!r}, but measured are {', '.join(measure.columns)}")
    columns = list(grid.columns) or measure.columns
    for name, published in grid.published.items():
        for row, methods in published.rows.items():
            if row not in grid.rows or any(len(numbers) != len(columns) for numbers in methods.values()):
                text = f"expected a row of the grid, and a number or null for each of {', '.join(columns)}"
                raise OptionError(f"grid.published.{name}.rows.{row}: {text}")


def baseline_restorers(options: BenchmarkOptions, build: Build) -> dict[str, dict[str, Restorer]]:
    """Return what is to be tried as each baseline of a benchmark, at its scale."""
    return {
        name: {text: build(generator, options.assume) for text, generator in baseline.generators(options.scale).items()}
        for name, baseline in options.baselines.items()
    }


def run_grid(
    cells: Cells,
    grid: Grid,
    generators: Mapping[str, LoadedGenerator],
    build: Build,
    measure: Measure,
    processes: Processes,
    console: Console,
) -> list[GridResult]:
    """Measure bicubic, the baselines and every generator that knows the cell's scale, on every set."""
    check_layout(grid, measure)
    silent = Console(rank=1)  # a bar per benchmark would be a hundred bars

    def results(options: BenchmarkOptions) -> list[SetResult]:
        restorers = {name: build(generator, options.assume) for name, generator in generators.items()}
        fitting = {name: r for name, r in restorers.items() if r.scale == options.scale or "scale" in r.conditions}
        contest = Contest(fitting, baseline_restorers(options, build))
        sets = benchmark_sets(options)
        return [run_set(tested, contest, measure, processes, silent, smoothing=False) for tested in sets]

    of_sets: dict[str, GridResult] = {}
    with console.progress(len(cells), desc="cells") as progress:
        for (row, column), benchmarks in cells.items():
            for parts in zip(*map(results, benchmarks), strict=True):  # of one set
                images = sum(len(part.scores[BICUBIC]) for part in parts)
                of_set = of_sets.setdefault(parts[0].name, GridResult(parts[0].name, images, {}))
                for method in parts[0].scores:
                    means = mean_scores([part.means(method) for part in parts])
                    of_cell = {column: means[grid.number]} if grid.columns else means
                    of_set.numbers.update({(row, method, key): value for key, value in of_cell.items()})
            progress.update()
    return list(of_sets.values())


def with_published(result: GridResult, grid: Grid, columns: Sequence[str]) -> GridResult:
    """Return the result with the paper's numbers beside it, where name and number of images are the same."""
    published = {name.lower(): numbers for name, numbers in grid.published.items()}.get(result.name.lower())
    if published is None or published.images != result.images:
        return result
    more = {
        (row, f"{method} (published)", column): number
        for row, methods in published.rows.items()
        for method, numbers in methods.items()
        for column, number in zip(columns, numbers, strict=True)
        if number is not None and grid.rows[row] is not None
    }
    return replace(result, numbers={**result.numbers, **more})


def write_grid(folder: Path, name: str, results: list[GridResult], grid: Grid, measure: Measure) -> str:
    """Write `results.md` and `results.json`; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    # What is called what: the number in each column.
    columns = dict.fromkeys(grid.columns, grid.number) or {number: number for number in measure.columns}
    parts = [f"# {name}", f"{grid.number}, measured by {measure}." if grid.columns else f"Measured by {measure}."]
    for result in (with_published(result, grid, list(columns)) for result in results):
        methods = list(dict.fromkeys(method for _, method, _ in result.numbers))
        rows = []
        for row in grid.rows:
            for method in methods:
                cells = {column: result.numbers.get((row, method, column)) for column in columns}
                if any(number is not None for number in cells.values()):
                    texts = ["-" if n is None else formatted(n, columns[column]) for column, n in cells.items()]
                    rows.append([row, method, *texts])
        parts += [f"## {result.name}\n\n{result.images} images.", table([result.name, "method", *columns], rows)]
    text = "\n\n".join(parts) + "\n"
    replace_text(folder / "results.md", text)
    cells = [
        {"set": result.name, "row": row, "method": method, "column": column, columns[column]: number}
        for result in results
        for (row, method, column), number in result.numbers.items()
    ]
    replace_text(folder / "results.json", json.dumps({"name": name, "cells": cells}, indent=1) + "\n")
    return text
