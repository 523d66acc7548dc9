"""Tiny experiments for tests that run the real `train.py`: a few pictures, two small stages, seconds on one core."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from tests.helpers import ROOT
from tests.programs import Program, call, environment
from utils.options.files import dump
from utils.storage import checkpoint

PREEMPTED = 75
PATIENCE = 400
"""Seconds after which a process that has not ended counts as hanging."""


def pictures(folder: Path, count: int = 5, height: int = 48, width: int = 56) -> Path:
    """Writes smooth random PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.GaussianBlur(noise, (0, 0), 2))
    return folder


def option_tree(images: Path, psnr: int = 6, gan: int = 4, **logger: Any) -> dict[str, Any]:  # noqa: ANN401
    """The options of a small run through both stages."""
    losses = {"l1": {"type": "l1"}}
    return {
        "name": "tiny",
        "scale": 2,
        "network_g": {"type": "srvgg", "num_feat": 4, "num_conv": 1},
        "degradation": {"type": "bsrgan", "where": "worker"},
        "data": {
            "train": {"pictures": {"type": "folder", "root": str(images)}},
            "crop_size": 32,
            "gt_size": 24,
            "batch_size": 2,
            "workers": 2,
            "validation": {"pictures": {"type": "folder", "root": str(images), "max_images": 1}},
        },
        "stages": {
            "psnr": {"type": "psnr", "iterations": psnr, "losses": copy.deepcopy(losses), "ema_decay": 0.9},
            "gan": {
                "type": "gan",
                "iterations": gan,
                "init_from": {"stage": "psnr"},
                "network_d": {"type": "patchgan", "num_feat": 4, "n_layers": 1, "norm": "spectral"},
                "losses": {**losses, "gan": {"type": "gan", "weight": 0.1}},
                "ema_decay": 0.9,
            },
        },
        "logger": {"print_every": 5, "validate_every": 1000, "save_every": 5, "tensorboard": False, **logger},
    }


def write_options(path: Path, tree: Mapping[str, Any]) -> Path:
    """An option file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(tree), encoding="utf-8")
    return path


class Ended:
    """A call of `train.py` that has come to its end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.err, self.code = folder, "", "", 0

    @property
    def status(self) -> dict[str, Any]:
        """status.json."""
        return json.loads((self.folder / "status.json").read_text())


class Training(Ended):
    """A started `train.py`, in a process group of its own; a new interpreter where more is said of how it starts."""

    process: subprocess.Popen[str] | Program

    def __init__(
        self,
        options: Path,
        runs: Path,
        *arguments: str,
        ranks: int = 1,
        before: Callable[[], None] | None = None,
        **more: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(runs / "tiny")
        given = ("--opt", str(options), "--runs", str(runs), "--device", "cpu", *arguments)
        if ranks > 1:
            more["torchrun"] = ("--standalone", f"--nproc-per-node={ranks}", *more.get("torchrun", ()))
        self.process = interpreter(given, **more) if more else Program("train", *given, cwd=ROOT, before=before)

    def wait(self) -> int:
        """Waits for the end; returns the exit status and fills `out` and `err`."""
        try:
            if isinstance(self.process, Program):
                self.code, self.out, self.err = self.process.wait(PATIENCE)
            else:
                self.out, self.err = self.process.communicate(timeout=PATIENCE)
                self.code = self.process.returncode
        except subprocess.TimeoutExpired:
            self.stop(signal.SIGKILL)
            self.out, self.err = self.process.communicate()
            raise AssertionError(f"hangs; it said\n{self.out}\n{self.err}") from None
        return self.code

    def stop(self, number: int, group: bool = True) -> None:
        """Sends a signal to the process, or to all of its group as a terminal or a batch system does."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)

    def until(self, checkpoint_name: str) -> Training:
        """Waits until this checkpoint is in place."""
        deadline = time.monotonic() + PATIENCE
        while not (self.folder / "checkpoints" / checkpoint_name).is_dir():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                self.wait()
                raise AssertionError(f"ended before {checkpoint_name} was there; it said\n{self.out}\n{self.err}")
            time.sleep(0.002)
        return self


def interpreter(
    given: Sequence[str],
    torchrun: Sequence[str] = (),
    command: Sequence[str] = ("train.py",),
    launcher_module: str = "torch.distributed.run",
) -> subprocess.Popen[str]:
    """A new interpreter that runs a command with these words, under a launcher if it has words of its own."""
    launcher = ["-m", launcher_module, *torchrun] if torchrun else []
    return subprocess.Popen(
        [sys.executable, *launcher, *command, *given],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def train(options: Path, runs: Path, *arguments: str, ranks: int = 1, **more: Any) -> Ended:  # noqa: ANN401
    """Runs train.py to its end; several ranks without torchrun."""
    if ranks == 1:
        run = Training(options, runs, *arguments, **more)
        run.wait()
        return run
    given = ("--opt", options, "--runs", runs, "--device", "cpu", *arguments)
    done = call("train", *given, cwd=ROOT, timeout=PATIENCE, ranks=ranks)
    run = Ended(runs / "tiny")
    run.out, run.err, run.code = done.stdout, done.stderr, done.returncode
    return run


def finished(options: Path, runs: Path, *arguments: str, **more: Any) -> Ended:  # noqa: ANN401
    """Runs train.py to its end and demands success."""
    run = train(options, runs, *arguments, **more)
    assert run.code == 0, f"exit status {run.code}\n{run.out}\n{run.err}"
    return run


def final_states(folder: Path, stages: Sequence[str] = ("psnr", "gan")) -> dict[str, torch.Tensor]:
    """Every tensor and number of the last checkpoint of each stage: weights, averages, optimizers."""
    saved, found = checkpoint.Checkpoints(folder / "checkpoints"), {}
    for stage in stages:
        last = saved.finished(stage)
        assert last is not None, f"{folder}: stage {stage} is not finished"
        loaded = checkpoint.load(last)
        for name, value in _leaves({"networks": loaded.networks, "state": loaded.state}, stage):
            found[name] = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)
    return found


def _leaves(tree: Any, where: str) -> list[tuple[str, Any]]:  # noqa: ANN401
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else None
    if items is None:
        return [(where, tree)] if isinstance(tree, (torch.Tensor, int, float)) else []
    return [leaf for key, value in items for leaf in _leaves(value, f"{where}.{key}")]


def assert_equal_states(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    assert len(one) > 30
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} differ, such as {different[:5]}"
