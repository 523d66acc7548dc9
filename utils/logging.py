"""What a run tells: the console, the progress line, metrics on disk, TensorBoard, status.json, memory in use."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shlex
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np
import torch
from tqdm import tqdm

from utils.boards import Board, tag
from utils.storage.files import replace_text


class Console:
    """Lines for people: information to stdout, warnings and errors to stderr.

    Only the main process speaks, except for errors, which may happen on any rank and then name it.
    """

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.is_main = rank == 0
        self._told: set[str] = set()
        self._log: Path | None = None

    def keep(self, path: Path) -> None:
        """Append all that is said from now on to a file too, as far as the disk allows, below the command line."""
        self._log = path
        self._keep(f"$ {shlex.join(sys.argv)}")

    def _say(self, text: str, file: TextIO) -> None:
        _print(text, file)
        self._keep(text)

    def _keep(self, text: str) -> None:
        if self._log is not None:
            with suppress(OSError), self._log.open("a", encoding="utf-8", errors="backslashreplace") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def info(self, text: str) -> None:
        """Print something worth reading."""
        if self.is_main:
            self._say(text, sys.stdout)

    def warn(self, text: str, once: str | None = None) -> None:
        """Print something to look at; with a key `once`, only the first time that key is used."""
        if self.is_main and once not in self._told:
            self._say(f"warning: {text}", sys.stderr)
        if once is not None:
            self._told.add(once)

    def error(self, text: str) -> None:
        """Say why the run ends."""
        self._say(f"error: {text}" if self.is_main else f"error (rank {self.rank}): {text}", sys.stderr)

    def progress(self, total: int, initial: int = 0, desc: str = "", every_seconds: float = 30) -> Progress:
        """Return a progress bar on a terminal, a line every so often elsewhere, nothing on other ranks."""
        return Progress(total, initial, desc, every_seconds, self.is_main, self._say)


def _print(text: str, file: TextIO) -> None:
    with tqdm.external_write_mode(file=file):  # lifts a progress bar out of the way
        try:
            print(text, file=file, flush=True)  # noqa: T201
        except UnicodeEncodeError:  # a file name that is no text, or letters that this terminal lacks
            print(text.encode(file.encoding, "backslashreplace").decode(file.encoding), file=file, flush=True)  # noqa: T201


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table with aligned columns; columns of numbers are right-aligned."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [headers, *rows]]
    if any(len(row) != len(headers) for row in cells):
        raise ValueError(f"found rows of {sorted({len(row) for row in cells})} cells, expected {len(headers)}")
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(headers))]
    right = [bool(rows) and all(_is_number(row[i]) for row in cells[1:]) for i in range(len(headers))]
    rule = ["-" * (width - 1) + ":" if flush else "-" * width for width, flush in zip(widths, right, strict=True)]
    lines = [
        " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)) for row in cells
    ]
    return "\n".join(f"| {line} |" for line in [lines[0], " | ".join(rule), *lines[1:]])


def first_few(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """Return names for a sentence: all, or the first few and dots.

    >>> first_few(["a", "b", "c"], 2)
    'a, b, ...'
    """
    return between.join([*names[:most], *["..."] * (len(names) > most)])


def counted(count: int, one: str, many: str) -> str:
    """Return a number with the words that go with it.

    >>> counted(1, "file is", "files are"), counted(2, "file is", "files are")
    ('1 file is', '2 files are')
    """
    return f"{count} {one if count == 1 else many}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("", "-", "—")
    return True


class Progress:
    """How far a loop is, how fast, and which share of its time it waits for data.

    `speed` (iterations per second) and `wait_share` are of the time since the line was last shown.
    """

    def __init__(
        self,
        total: int,
        initial: int,
        desc: str,
        every_seconds: float,
        visible: bool,
        say: Callable[[str, TextIO], None],
    ) -> None:
        self.total, self.done, self.desc = total, initial, desc
        self.speed, self.wait_share = 0.0, 0.0
        self._visible, self._say = visible, say
        terminal = visible and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=initial, desc=desc, dynamic_ncols=True, unit="it") if terminal else None
        self._every = 1.0 if terminal else every_seconds
        self._waited, self._shown_at, self._shown_done = 0.0, time.monotonic(), initial
        self._began = (self._shown_at, initial)
        self._values: dict[str, object] = {}
        self._all_waited, self._mark = 0.0, (time.monotonic(), initial, 0.0)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = time.monotonic()
        try:
            yield
        finally:
            waited = time.monotonic() - start
            self._waited += waited
            self._all_waited += waited

    def rates(self) -> dict[str, float]:
        """Return `speed` and `wait_share` since the last call, for a log that keeps its own rhythm."""
        then, done, waited = self._mark
        self._mark = (time.monotonic(), self.done, self._all_waited)
        elapsed = max(self._mark[0] - then, 1e-9)
        share = min(1.0, (self._all_waited - waited) / elapsed)
        return {"speed": (self.done - done) / elapsed, "wait_share": share}

    def update(self, steps: int = 1, **values: object) -> None:
        """Count steps; `values` are shown beside the speed, floats with four digits."""
        self.done += steps
        self._values = values or self._values
        if self._bar is not None:
            self._bar.update(steps)
        if time.monotonic() - self._shown_at >= self._every:
            self._show()

    def close(self) -> None:
        """Show the last state and end the line."""
        if self.done > self._shown_done:
            self._show()
        if self._bar is not None:
            self._bar.close()

    def _show(self) -> None:
        now = time.monotonic()
        elapsed = max(now - self._shown_at, 1e-9)
        self.speed = (self.done - self._shown_done) / elapsed
        self.wait_share = min(1.0, self._waited / elapsed)
        self._waited, self._shown_at, self._shown_done = 0.0, now, self.done
        shown = [f"data wait {self.wait_share:.0%}"] if self._all_waited else []
        shown += [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self._values.items()]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(shown))
        elif self._visible:
            slow = f"{1 / self.speed:.2f} s/it" if self.speed > 0 else "0 it/s"
            rate = f"{self.speed:.2f} it/s" if self.speed >= 1 else slow
            # By the mean since the start: what is slow now and then, such as a validation, belongs to the whole.
            mean = (self.done - self._began[1]) / max(now - self._began[0], 1e-9)
            left = tqdm.format_interval((self.total - self.done) / mean) if mean > 0 else "?"
            share = f"{self.done}/{self.total} ({self.done / max(1, self.total):.0%})"
            self._say(", ".join([f"{self.desc}: {share}".removeprefix(": "), rate, f"{left} left", *shown]), sys.stdout)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class MetricsLog:
    """Numbers over iterations: metrics.jsonl in the run folder, and boards where wanted.

    A line of metrics.jsonl is a JSON object: stage, iteration, time (Unix seconds) and the values; a value that is
    not finite is null.
    """

    def __init__(self, folder: str | Path, boards: Sequence[Board] = ()) -> None:
        self.folder, self.boards = Path(folder), boards
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "metrics.jsonl"
        self._end_last_line()
        self._file = self.path.open("a", encoding="utf-8")

    def _end_last_line(self) -> None:
        # A kill may have left half a line; the next one must not be glued to it.
        if self.path.exists() and not (content := self.path.read_bytes()).endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)

    def resume(self, stage: str, iteration: int) -> None:
        """Cut what this stage logged beyond the iteration it resumes from, so that curves are continuous."""
        for board in self.boards:
            board.resume(stage, iteration)
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _keep(line, stage, iteration)]
        replace_text(self.path, "".join(f"{line}\n" for line in kept))
        self._file.close()  # only now: on a full disk the log goes on in the old file
        self._file = self.path.open("a", encoding="utf-8")

    def scalars(self, stage: str, iteration: int, values: Mapping[str, float], losses: Collection[str] = ()) -> None:
        """Log numbers by name; `losses` are the names of those that are minimised."""
        numbers = {name: float(value) for name, value in values.items()}
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        line = {"stage": stage, "iteration": iteration, "time": round(time.time(), 3), **plain}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for board in self.boards:
            board.scalars(stage, iteration, {tag(name, name in losses): value for name, value in numbers.items()})

    def image(self, stage: str, iteration: int, name: str, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3), uint8, of a validation set."""
        for board in self.boards:
            board.image(stage, iteration, tag(f"{name}/samples"), picture)

    def close(self) -> None:
        """Write out everything."""
        self._file.close()
        for board in self.boards:
            board.close()


def _keep(line: str, stage: str, iteration: int) -> bool:
    try:
        entry = json.loads(line)
        return entry["stage"] != stage or entry["iteration"] <= iteration
    except (ValueError, KeyError, TypeError):
        return False


_RESERVE = ".reserve"


def reserve(folder: Path) -> None:
    """Keep a few kilobytes of the disk, so that how a run ended can be written when it is full."""
    with suppress(OSError):
        (folder / _RESERVE).write_bytes(bytes(2**13))


def write_status(folder: str | Path, console: Console, state: str, reason: str = "") -> None:
    """Replace status.json of a run folder: state, reason, time, host, pid. Only the main process writes; a failure
    is warned of."""
    if not console.is_main:
        return
    about = {"state": state, "reason": reason, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
    about |= {"host": socket.gethostname(), "pid": os.getpid()}
    status, text = Path(folder) / "status.json", json.dumps(about, indent=1) + "\n"
    try:
        try:
            replace_text(status, text)
        except OSError:
            (Path(folder) / _RESERVE).unlink(missing_ok=True)
            replace_text(status, text)
    except OSError as error:
        console.warn(f"{folder}: status.json cannot be written: {error}")


def memory_mb() -> dict[str, float]:
    """Return memory of this process in MiB: `ram`, `ram_peak`, and on CUDA `cuda_peak` (allocated by PyTorch)."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    memory = {"ram_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    statm = Path("/proc/self/statm")
    if statm.exists():
        memory["ram"] = int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
        # ru_maxrss survives exec, so it may be the launcher's; VmHWM is this program's own, in KiB.
        peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        memory["ram_peak"] = int(peak[1]) / 1024 if peak else memory["ram_peak"]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        memory["cuda_peak"] = torch.cuda.max_memory_allocated() / 2**20
    return memory
