"""Measures all that wants a GPU, in one call of a few minutes on a bare machine.

    python -m tests.benchmarks.gpu [PART ...] [--minutes 9] [--out DIR] [--photos DIR] [--set5 DIR]

Parts, in this order: `tests` (pytest -m gpu), `degradation` (images/s of every pipeline), `steps` (of the full-size
recipes, beside plain ones, with their share of what the card multiplies in bf16), `restoring` (x4plus in fp32, bf16,
compiled) and `training` (bicubic x4 on --photos until Set5 is at 31 dB or time is up). Each is a process of its own
and leaves DIR/PART.json and DIR/PART.log, also where it is stopped; it may take its share of what time is left.

A bare machine needs torch 2.11 or later with torchvision, and wheels of: numpy, opencv-python-headless, scipy, pyyaml,
pydantic, safetensors, pillow, tqdm, lmdb, pytest. `--device cpu --tiny` tries it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from tests.benchmarks import degradation, restoring, steps
from tests.benchmarks.measuring import facts
from tests.helpers import ROOT, SHARED
from utils.logging import Console
from utils.options.arguments import Arg, parse
from utils.options.fields import Positive
from utils.storage.files import replace_text

PIPELINES = ("realesrgan", "bsrgan", "bsrgan_plus", "classical", "gaussian", "isp")
SHARES = {"tests": 2.0, "degradation": 1.5, "steps": 3.0, "restoring": 1.5, "training": 3.0}
"""Of the time that is left, when a part's turn comes, it may take its share of its own and all later parts'."""
GOAL = 31.0
"""dB on Set5, as the training's own validation measures it."""


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    parts: Annotated[tuple[str, ...], Arg("PART", positional=True)] = ()
    minutes: Positive = 9.0
    """For all parts together."""
    out: Annotated[Path, Arg("DIR")] = Path("runs/gpu")
    """Where results are kept."""
    photos: Annotated[Path, Arg("DIR")] = SHARED / "data" / "bsds" / "train"
    """Photographs to train on."""
    set5: Annotated[Path, Arg("DIR")] = SHARED / "data" / "benchmarks" / "Set5"
    """Images to measure the training on."""
    device: str = "cuda"
    """cuda, or cpu to try it."""
    tiny: bool = False
    """Smallest sizes, which measure nothing."""
    alone: bool = False
    """Do the one part in this process."""

    def __post_init__(self) -> None:
        if unknown := {*self.parts} - {*SHARES}:
            raise ValueError(f"nothing is called {', '.join(sorted(unknown))}; parts: {', '.join(SHARES)}")


def main() -> None:
    """Runs the parts one after the other."""
    args, console = parse(Arguments, prog="python -m tests.benchmarks.gpu", description=__doc__), Console()
    if args.alone:
        PARTS[args.parts[0]](args)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    end, waiting = time.monotonic() + 60 * args.minutes, list(args.parts or SHARES)
    while waiting:
        part = waiting[0]
        seconds = max(1.0, (end - time.monotonic()) * SHARES[part] / sum(SHARES[name] for name in waiting))
        waiting.pop(0)
        console.info(f"{part}: {run(part, args, seconds)}")


def run(part: str, args: Arguments, seconds: float) -> str:
    """Run one part for at most so many seconds, and say how it went."""
    how = [f"--minutes={seconds / 60}", f"--device={args.device}", *["--tiny"] * args.tiny]
    where = [f"--out={args.out}", f"--photos={args.photos}", f"--set5={args.set5}"]
    command = [sys.executable, "-m", "tests.benchmarks.gpu", part, "--alone", *how, *where]
    start = time.monotonic()
    with (args.out / f"{part}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            status = process.wait(seconds)
            ended = "done" if status == 0 else f"failed with status {status}, see {log.name}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
            process.wait()
            ended = "stopped as its time was up; what it had measured is kept"
    return f"{ended} ({time.monotonic() - start:.0f} s)"


def keep(args: Arguments, part: str, rows: list[dict[str, Any]]) -> None:
    """Write what a part has measured so far."""
    replace_text(args.out / f"{part}.json", json.dumps({**facts(torch.device(args.device)), "rows": rows}, indent=1))


def tests(args: Arguments) -> None:
    """The tests of devices, among them those that hold device and CPU degradations against each other."""
    chosen = ["-m", "gpu"]
    if args.tiny:
        chosen = [
            "-m",
            "not gpu and not slow",
            "tests/contract/test_degradations.py",
            "-k",
            "devices_equal and bicubic",
        ]
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", *chosen]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = run.stdout.splitlines()
    sys.stdout.write(run.stdout + run.stderr)
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    keep(
        args,
        "tests",
        [{"status": run.returncode, "summary": said[-1] if said else run.stderr[-500:], "failed": failed}],
    )


def degradations(args: Arguments) -> None:
    """Images per second, drawing included."""
    device, rows = torch.device(args.device), list[dict[str, Any]]()
    sizes, names = ((1, 2), PIPELINES[-1:]) if args.tiny else ((32, 1, 128), PIPELINES)
    for batch in sizes:
        for name in names:
            rate = per_second(*degradation.ours(name, batch, device), device, 0.01 if args.tiny else 2)
            rows.append({"what": name, "batch": batch, "images_per_second": rate})
            keep(args, "degradation", rows)


def training_steps(args: Arguments) -> None:
    """Steps of recipes, plain and ours, with and without degrading; and what share of the card's rate ours reach."""
    device, rows = torch.device(args.device), list[dict[str, Any]]()
    rows.append({"what": "product of matrices, bf16", "tflops": matrix_rate(device, 256 if args.tiny else 8192)})
    for recipe in steps.SMALL[-1:] if args.tiny else steps.FULL:
        rows += [asdict(row) for row in steps.rows(recipe, 1 if args.tiny else 10, device, arithmetic=True)]
        keep(args, "steps", rows)


def restored(args: Arguments) -> None:
    """Megapixels per second from file to file."""
    rows = restoring.rows(1 if args.tiny else 2, torch.device(args.device), args.tiny)
    keep(args, "restoring", [asdict(row) for row in rows])


def training(args: Arguments) -> None:
    """A real training; its curve is what its own log says."""
    if not (args.photos.is_dir() and args.set5.is_dir()):
        keep(args, "training", [{"skipped": f"{args.photos} or {args.set5} is missing; name them by --photos, --set5"}])
        return
    iterations = 2 if args.tiny else int(60 * args.minutes * 30)
    network = {"num_feat": 4, "num_conv": 1} if args.tiny else {"num_feat": 64, "num_conv": 16}
    changes = {
        "name": args.out.resolve() / "training",
        "scale": 4,
        **{f"network_g.{key}": value for key, value in network.items()},
        "degradation.where": "device",
        "data.train.hr.root": args.photos.resolve(),
        "data.validation.hr.root": args.set5.resolve(),
        "data.crop_size": 32 if args.tiny else 192,
        "data.batch_size": 2 if args.tiny else 32,
        "data.workers": 0 if args.tiny else 8,
        "stages.psnr.iterations": iterations,
        "stages.psnr.schedule.warmup": min(100, iterations - 1),
        "logger.validate_every": max(1, iterations // 10),
        "logger.save_every": iterations,
        "logger.tensorboard": "false",
    }
    given = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "train.py", "--opt", "options/bicubic/small_x2.yml", *given]
    ended = subprocess.Popen(command, cwd=ROOT)
    log = args.out / "training" / "metrics.jsonl"
    while True:
        status = ended.poll()
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        reached = [line for line in lines if line.get("hr/PSNR", 0) >= GOAL]
        keep(args, "training", [{"status": status, "reached": reached[:1], "log": lines}])
        if status is not None:
            return
        time.sleep(1)


PARTS: dict[str, Callable[[Arguments], None]] = {
    "tests": tests,
    "degradation": degradations,
    "steps": training_steps,
    "restoring": restored,
    "training": training,
}


def per_second(work: Callable[[int], object], amount: float, device: torch.device, seconds: float) -> float:
    """Return how much is done in a second by the clock, after a call to warm up."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    work(0)
    wait()
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < seconds:
        calls += 1
        work(calls)
        wait()
    return calls * amount / (time.perf_counter() - start)


def matrix_rate(device: torch.device, side: int) -> float:
    """Return the 10^12 multiplications and additions a second of a product of square matrices in bf16."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 * per_second(lambda _: a @ b, 1, device, 0.5) / 1e12


if __name__ == "__main__":
    main()
