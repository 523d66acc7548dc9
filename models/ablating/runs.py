"""The runs of an ablation: what is left to do, and who does it. Their state is their folders, and nothing else."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from models.ablating.study import Run, Study
from utils.logging import Console, table
from utils.options import files as option_files
from utils.options.fields import OptionError
from utils.processes.signals import handled
from utils.storage.checkpoint import Checkpoints
from utils.storage.files import replace_text
from utils.storage.lock import RunLock

ROOT = Path(__file__).parents[2]
POLL = 0.5
"""Seconds between looks at what goes on."""
NETWORK = "network"
"""The name of every run's network in its results: a name of a variant might be taken there."""
TESTED = "tested.yml"
"""Beside the results of a test: the option tree that they are of."""


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal asked for the end; the runs have saved."""


# --- the state of a run --------------------------------------------------------------------------------------------


def is_trained(run: Run) -> bool:
    """Return whether train.py says so, and the last checkpoint is there."""
    return read_json(run.folder / "status.json").get("state") == "finished" and final_checkpoint(run) is not None


def final_checkpoint(run: Run) -> Path | None:
    """Return the checkpoint at the end of the last stage."""
    last = list(run.iterations)[-1]
    return Checkpoints(run.folder / "checkpoints").finished(last)


def is_tested(run: Run, test: str, tree: Mapping[str, Any]) -> bool:
    """Return whether the results of this very test are there."""
    folder = run.folder / "test" / test
    stored = folder / TESTED
    return (folder / "results.csv").is_file() and stored.is_file() and option_files.load(stored) == tree


def is_finished(run: Run, study: Study) -> bool:
    """Return whether nothing is left to do."""
    return is_trained(run) and all(is_tested(run, name, test.tree) for name, test in study.tests.items())


def reached(run: Run) -> tuple[str, int]:
    """Return the stage that a run is in, and its iterations so far in all stages, as its log tells them."""
    names, lines = list(run.iterations), run.folder / "metrics.jsonl"
    try:
        with lines.open("rb") as file:
            file.seek(max(0, lines.stat().st_size - 4096))
            last = json.loads(file.read().splitlines()[-1])
        stage = str(last["stage"])
        return stage, sum(run.iterations[n] for n in names[: names.index(stage)]) + int(last["iteration"])
    except (OSError, ValueError, KeyError, IndexError):
        return names[0], 0


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file; nothing where there is none, or half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


# --- the work on one run -------------------------------------------------------------------------------------------


@dataclass
class Work:
    """What is left of one run: training, as torchrun starts it, then its tests. Called, it returns why it failed."""

    run: Run
    options: Path
    tests: dict[str, Path]
    log: Path
    images: bool
    processes: int
    device: str
    stopping: bool = False
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __call__(self, environment: Mapping[str, str] | None = None) -> str:
        """Do it. Return nothing, or a sentence about what went wrong."""
        self.stopping = False
        while not self.stopping and _is_held(self.run.folder):
            time.sleep(POLL)  # an earlier ablation was killed, but not this run of it, which goes on
        if not is_trained(self.run):
            status = self._call(environment, "train.py", "--opt", self.options, "--runs", self.run.folder.parent)
            if status != 0 or not is_trained(self.run):
                return self._reason(status)
        for name, file in self.tests.items():
            tree, out = option_files.load(file), self.run.folder / "test" / name
            if self.stopping or is_tested(self.run, name, tree):
                continue
            weights = f"{NETWORK}={final_checkpoint(self.run)}"
            more = [] if self.images else ["--no-images"]
            status = self._call(environment, "test.py", "--opt", file, "--weights", weights, "-o", out, *more)
            if status != 0:
                return self._reason(status)
            replace_text(out / TESTED, option_files.dump(tree))
        return ""

    def _call(self, environment: Mapping[str, str] | None, script: str, *arguments: object) -> int:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        command = [*launcher, str(ROOT / script), *map(str, arguments), "--device", self.device]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            self.child = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C of the terminal is ours to hand on
            )
            if self.stopping:
                self.stop()
            status = self.child.wait()
        self.child = None
        return status

    def _reason(self, status: int) -> str:
        if self.stopping:
            return "stopped"
        about = read_json(self.run.folder / "status.json")
        if about.get("state") == "failed" and not is_trained(self.run):
            return str(about["reason"])
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error")]
        return (errors or [f"it ended with status {status}"])[-1].removeprefix("error: ")

    def stop(self) -> None:
        """Ask the processes to save and end."""
        self.stopping = True
        if (child := self.child) is not None and child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)

    def checkpoint(self, *arguments: Any) -> Any:  # noqa: ANN401 - called by submitit when SLURM takes the machine back
        """End in time, and go into the queue again."""
        import submitit

        self.stop()
        if self.child is not None:
            self.child.wait()
        return submitit.helpers.DelayedSubmission(
            Work(self.run, self.options, self.tests, self.log, self.images, self.processes, self.device), *arguments
        )


def _is_held(folder: Path) -> bool:
    if not (folder / "run.lock").exists():
        return False
    try:
        RunLock(folder).release()
    except OptionError:
        return True
    return False


def prepare(study: Study, device: str) -> list[Work]:
    """Write the option files of what is left to do, and return it."""
    tests = {name: study.folder / "options" / f"test-{name}.yml" for name in study.tests}
    (study.folder / "options").mkdir(parents=True, exist_ok=True)
    for name, test in study.tests.items():
        replace_text(tests[name], option_files.dump(test.tree))
    left = []
    for run in (run for run in study.runs() if not is_finished(run, study)):
        options = study.folder / "options" / f"{run.name}.yml"
        replace_text(options, option_files.dump(run.tree))
        log = study.folder / "logs" / f"{run.name}.log"
        images = run.seed == study.options.seeds[0]
        left.append(Work(run, options, tests, log, images, study.options.processes, device))
    return left


def dry_run(study: Study, device: str) -> str:
    """Let train.py try each variant out. Return the list of runs, with parameters, iterations and hours; nothing is
    left behind.

    Raises OptionError naming a variant that cannot be trained.
    """
    costs: dict[str, tuple[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, variant in study.variants.items():
            options = Path(folder) / f"{name}.yml"
            options.write_text(option_files.dump({**variant.tree, "name": name, "seed": 0}), encoding="utf-8")
            command = [sys.executable, str(ROOT / "train.py"), "--opt", str(options), "--runs", folder]
            done = subprocess.run(
                [*command, "--dry-run", "--device", device], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise OptionError(f"variants.{name}: {done.stderr.strip().removeprefix('error: ')}")
            stages = read_table(done.stdout, "stage")
            costs[name] = ("; ".join(s["parameters"] for s in stages), sum(float(s["hours"]) for s in stages))
    rows, left = [], 0.0
    for run in study.runs():
        parameters, hours = costs[run.variant]
        finished = is_finished(run, study)
        left += 0.0 if finished else hours
        state = "finished" if finished else f"{reached(run)[1]:,} done"
        rows.append([run.name, parameters, f"{sum(run.iterations.values()):,}", f"{hours:.2f}", state])
    text, runs = table(["run", "parameters", "iterations", "hours", "state"], rows), len(rows)
    return f"{text}\n{runs} runs, {left:.2f} hours of training left, one after another; tests come on top"


def read_table(text: str, first: str) -> list[dict[str, str]]:
    """Return the lines of a table of `utils.logging.table` whose first column has this name."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "|" in line]
    start = next((i for i, cells in enumerate(lines) if cells[0] == first), len(lines))
    return [dict(zip(lines[start], cells, strict=True)) for cells in lines[start + 2 :]]


# --- who does it -----------------------------------------------------------------------------------------------------


class Doing(Protocol):
    """Work that was handed in: a future of this machine, or a job of submitit."""

    def done(self) -> bool: ...
    def result(self) -> str: ...


class Crew(Protocol):
    """Does at most `size` runs side by side."""

    size: int

    def submit(self, work: Work) -> Doing: ...
    def stop(self) -> None: ...


class Here:
    """This machine: processors and GPUs are shared out among the runs."""

    def __init__(self, size: int, processes: int) -> None:
        self.size, self._working = size, list[Work]()
        self._pool = ThreadPoolExecutor(size)
        self._shares: queue.Queue[dict[str, str]] = queue.Queue()
        for place in range(size):
            self._shares.put(share(place, size, processes))

    def submit(self, work: Work) -> Doing:
        """Start it in a thread that waits for its processes."""
        self._working.append(work)
        return self._pool.submit(self._do, work)

    def _do(self, work: Work) -> str:
        environment = self._shares.get()
        try:
            return work(environment)
        finally:
            self._shares.put(environment)
            self._working.remove(work)

    def stop(self) -> None:
        """Ask all that work to save and end."""
        for work in list(self._working):
            work.stop()


def share(place: int, places: int, processes: int) -> dict[str, str]:
    """Return the environment of one of several runs side by side: threads, and GPUs where there are some."""
    own = int(os.environ.get("OMP_NUM_THREADS", 2**30))
    cores = min(len(os.sched_getaffinity(0)), own * places * processes)
    found = {"OMP_NUM_THREADS": str(max(1, cores // (places * processes)))}
    if count := torch.cuda.device_count():
        known = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        found["CUDA_VISIBLE_DEVICES"] = ",".join(known[(place * processes + i) % count] for i in range(processes))
    return found


class Submitted:
    """A batch system, through submitit. Runs that were handed in go on when this process ends."""

    def __init__(self, folder: Path, system: str, parameters: Mapping[str, Any], size: int | None) -> None:
        try:
            import submitit
        except ImportError:
            raise OptionError("--submit needs submitit: `pip install submitit`") from None
        self.size = size or 2**30
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=system)
            self._executor.update_parameters(**{"timeout_min": 24 * 60, **parameters})
        except (RuntimeError, NameError, TypeError) as error:
            raise OptionError(f"slurm: {error}") from error
        self._jobs: list[Any] = []

    def submit(self, work: Work) -> Doing:
        """Hand it in."""
        self._jobs.append(self._executor.submit(work))
        return self._jobs[-1]

    def stop(self) -> None:
        """Take back what is not finished."""
        for job in self._jobs:
            if not job.done():
                job.cancel()


# --- all of them -----------------------------------------------------------------------------------------------------


def conduct(study: Study, todo: Sequence[Work], crew: Crew, console: Console) -> dict[str, str]:
    """Do all work that is left, and show how far it is. A failure ends a variant. Return the reasons of runs that
    failed or were left out.

    Raises Stopped when a signal asked for it.
    """
    stop, waiting, failed = threading.Event(), deque(todo), dict[str, str]()
    active: dict[str, tuple[Work, Doing]] = {}
    runs = study.runs()
    total = sum(sum(run.iterations.values()) for run in runs)

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():
            console.info(f"{signal.Signals(number).name}: the runs save and end; the same command goes on")
        stop.set()
        crew.stop()

    with handled(on_signal), console.progress(total, _behind(runs, study), study.name) as progress:
        while active or (waiting and not stop.is_set()):
            while waiting and len(active) < crew.size and not stop.is_set():
                work = waiting.popleft()
                if (other := _failed_before(work, todo, failed)) is not None:
                    failed[work.run.name] = f"left out, since {other} failed"
                    continue
                active[work.run.name] = (work, crew.submit(work))
            for name, (work, doing) in [pair for pair in active.items() if pair[1][1].done()]:
                del active[name]
                reason = _result(doing)
                if reason and stop.is_set():
                    continue
                if reason:
                    failed[name] = reason
                    console.warn(f"{name}: {reason} (see {work.log})")
                else:
                    console.info(f"{name} is finished")
            finished = len(todo) - len(waiting) - len(active) - len(failed)
            stages = (f"{name} {_doing(work.run)}" for name, (work, _) in active.items())
            about = {"finished": f"{len(runs) - len(todo) + finished} of {len(runs)} runs"}
            if failed:
                about["failed"] = str(len(failed))
            progress.update(_behind(runs, study) - progress.done, **about, now=" + ".join(stages))
            time.sleep(POLL)
    if stop.is_set():
        raise Stopped
    return failed


def _doing(run: Run) -> str:
    stage, iteration = reached(run)
    return "is tested" if is_trained(run) else f"{stage} {iteration}"


def _failed_before(work: Work, todo: Sequence[Work], failed: Mapping[str, str]) -> str | None:
    return next((w.run.name for w in todo if w.run.variant == work.run.variant and w.run.name in failed), None)


def _result(doing: Doing) -> str:
    try:
        return doing.result()
    except Exception as error:  # noqa: BLE001 - whatever a batch system raises ends this run alone
        return f"{type(error).__name__}: {error}"


def _behind(runs: Sequence[Run], study: Study) -> int:
    """Return the iterations of all runs that are behind us."""
    return sum(reached(run)[1] for run in runs)
