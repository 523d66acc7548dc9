"""Measuring one way of doing something against a plain one, by turns in one run."""

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.logging import table
from utils.storage.files import replace_text

Work = tuple[Callable[[int], object], float]
"""What is done in call i, and how much of what is counted it does."""

ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """A measurement. Rates are units per second, of processor time (on a GPU: none) and by the clock."""

    what: str
    version: str
    unit: str
    by_cpu: float | None
    by_clock: float
    times_plain: float


def against(what: str, unit: str, plain: Work, ours: Mapping[str, Work], calls: int, device: torch.device) -> list[Row]:
    """Rows of the plain version and of ours: the mean of three rounds each, by turns, after a call to warm up.

    `calls` are those of a round of ours; the plain version does about as much by the clock, or one call. They compare
    by processor time, which other work on the machine leaves alone, on a GPU by the clock.
    """
    versions = {"plain": plain, **ours}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in versions}
    for name, (work, amount) in versions.items():
        spent[name].append(_seconds(work, amount, range(1), device))
    first = {name: seconds[0][1] * versions[name][1] for name, seconds in spent.items()}
    longest = calls * max(value for name, value in first.items() if name != "plain")
    counts = {name: calls if name != "plain" else max(1, round(longest / first[name])) for name in versions}
    for number in range(ROUNDS):
        for name, (work, amount) in versions.items():
            mine = range(number * counts[name], (number + 1) * counts[name])  # random work differs from call to call
            spent[name].append(_seconds(work, amount, mine, device))
    means = {name: [sum(column) / ROUNDS for column in zip(*rounds[1:], strict=True)] for name, rounds in spent.items()}
    gpu = device.type == "cuda"
    return [
        Row(what, name, unit, None if gpu else 1 / cpu, 1 / clock, means["plain"][gpu] / (clock if gpu else cpu))
        for name, (cpu, clock) in means.items()
    ]


def _seconds(work: Callable[[int], object], amount: float, calls: range, device: torch.device) -> tuple[float, float]:
    """Seconds of processor time and by the clock for one of what is counted."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    cpu, clock = time.process_time(), time.perf_counter()
    for i in calls:
        work(i)
    wait()
    done = len(calls) * amount
    return (time.process_time() - cpu) / done, (time.perf_counter() - clock) / done


def facts(device: torch.device) -> dict[str, str]:
    """What figures depend on: date, device, threads and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{device.type}: {name}",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def text_of(rows: list[Row]) -> str:
    """The rows as a table."""
    cells = [
        [row.what, row.version, row.unit, *(_number(r) for r in (row.by_cpu, row.by_clock)), f"{row.times_plain:.2f}"]
        for row in rows
    ]
    return table(["what", "version", "per second", "(CPU time)", "(clock)", "times plain"], cells)


def _number(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.4g}"


def write_json(path: Path, rows: list[Row], device: torch.device) -> None:
    """Rows and facts."""
    replace_text(path, json.dumps({**facts(device), "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
