"""What can be said of a run beforehand: that all of it works, what it will cost, and where the time goes."""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from degradations import Batch
from models.stages.stage import Stage, StageSettings
from models.training.experiment import Experiment
from utils.logging import Console, memory_mb, table
from utils.processes import distributed

WARM_UP = 5
"""Iterations before anything is timed: memory is set aside, kernels are chosen and compiled."""


class Run(Protocol):
    """What is used of train.py's Trainer."""

    experiment: Experiment
    console: Console
    device: torch.device
    stage: Stage
    settings: StageSettings

    def enter(self, name: str, resume: None) -> None: ...
    def batches(self, total: int) -> Generator[list[Batch]]: ...
    def train_step(self, micros: Sequence[Batch]) -> dict[str, Tensor]: ...
    def validate(self) -> None: ...
    def save(self, final: bool) -> None: ...


def try_out(make: Callable[[Path], Run], stage: str | None, profile: int, kept: Path) -> None:
    """Do a dry run, or profile a stage (by default the first) over some iterations and write the trace to `kept`.
    Nothing else is left behind."""
    with distributed.temporary_folder() as folder:
        with distributed.together():
            run = make(folder)
        if profile:
            profile_stage(run, stage or next(iter(run.experiment.stages)), profile, kept)
        else:
            dry_run(run)


def dry_run(run: Run) -> None:
    """Do two steps of each stage, of which the second is timed, and one validation; print what the run will cost."""
    rows = []
    for name in run.experiment.stages:
        run.enter(name, None)
        with closing(run.batches(3)) as batches:
            run.train_step(next(batches))
            seconds, _ = timed_step(run, batches)
        parameters = [f"{sum(p.numel() for p in net.parameters()):,}" for net in run.stage.networks.values()]
        run.save(final=True)
        total, memory = run.settings.iterations, f"{max(memory_mb().values()):,.0f}"
        hours = f"{seconds * total / 3600:.2f}"
        rows.append([name, " + ".join(parameters), f"{seconds:.2f}", f"{total:,}", hours, memory])
    run.validate()
    run.console.info(table(["stage", "parameters", "s/iteration", "iterations", "hours", "memory MB"], rows))
    run.console.info("dry run: everything was built and run once; nothing is left behind")


def timed_step(run: Run, batches: Generator[list[Batch]]) -> tuple[float, float]:
    """Return the seconds of the next iteration until the device is done, and those of them that it waited for data."""
    start = time.perf_counter()
    micros = next(batches)
    waited = time.perf_counter() - start
    run.train_step(micros)
    synchronise(run.device)
    return time.perf_counter() - start, waited


def profile_stage(run: Run, name: str, steps: int, folder: Path) -> None:
    """Profile iterations of a stage: write a trace for https://ui.perfetto.dev and print where the time goes.

    Achieved operations per second count convolutions and matrix products, as PyTorch's own counter does, and stand
    beside what the device reaches in one large matrix product of the stage's precision.
    """
    from torch.utils.flop_counter import FlopCounterMode  # loads Triton, which takes a second

    for earlier in takewhile(lambda other: other != name, run.experiment.stages):  # for what is handed over
        run.enter(earlier, None)
        run.save(final=True)
    run.enter(name, None)
    with closing(run.batches(WARM_UP + 1 + 2 * steps)) as batches:
        for _ in range(WARM_UP):
            run.train_step(next(batches))
        # Uncompiled, since of graphs that are replayed the counter sees nothing.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            run.train_step(next(batches))
        synchronise(run.device)
        times = [timed_step(run, batches) for _ in range(steps)]  # without the profiler, which slows things down
        gpu = run.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
        with torch.profiler.profile(activities=activities) as profiler:
            traced, _ = (sum(column) for column in zip(*(timed_step(run, batches) for _ in range(steps)), strict=True))
    seconds, waited = (sum(column) for column in zip(*times, strict=True))
    trace = folder / f"profile_{name}.json.gz"
    if run.console.is_main:
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
    order = f"self_{'device' if gpu else 'cpu'}_time_total"
    run.console.info(profiler.key_averages().table(sort_by=order, row_limit=10, max_name_column_width=60))
    flops, rate = counter.get_total_flops() * steps / seconds, matrix_rate(run.device, run.settings.dtype(run.device))
    lines = [
        f"stage {name}: {1000 * seconds / steps:.1f} ms/iteration, {waited / seconds:.1%} of it waiting for data",
        f"{flops / 1e12:.3f} TFLOP/s, {100 * flops / rate:.0f} % of the {rate / 1e12:.3f} of a large matrix product",
    ]
    if gpu:
        spans = [(event.time_range.start, event.time_range.end) for event in of_device(profiler.events() or (), gpu)]
        lines.append(f"the GPU has nothing to do for {100 * (1 - covered(spans) / 1e6 / traced):.1f} % of the time")
    run.console.info("\n".join([*lines, f"trace: {trace} (open it at https://ui.perfetto.dev)"]))


def of_device(events: Iterable[Any], gpu: bool) -> list[Any]:
    """Return the device's own events: of a GPU its kernels, without the operators that launched them, which have the
    same time once more."""
    kind = DeviceType.CUDA if gpu else DeviceType.CPU
    return [event for event in events if event.device_type == kind and not event.is_user_annotation]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return how much time spans (start, end) take together; where streams overlap it counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations per second of a large matrix product, the best of several."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        synchronise(device)
        start = time.perf_counter()
        torch.mm(a, a)
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
