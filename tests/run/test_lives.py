"""A run of many short lives: killed in the middle of saves, stopped and continued by another number of ranks."""

import hashlib
import json
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from tests.run.lives import apart, live, training
from tests.run.tiny import PREEMPTED, assert_equal_states, final_states, option_tree, pictures, write_options
from utils.storage.checkpoint import Checkpoints, find_damage, load

# --- kill -9 in a save -----------------------------------------------------------------------------------------

KILLS, POINTS = 10, 14
"""Each kill comes at another of so many points of a save: before its n-th fsync, or right after the save."""


def doom(point: int) -> None:
    """Lets this process be killed during its second save, before the fsync with this number."""
    honest_sync, honest_save, saves, syncs = os.fsync, Checkpoints.save, [0], [0]

    def sync(descriptor: int) -> None:
        if saves[0] == 2:
            if syncs[0] == point:
                os.kill(os.getpid(), signal.SIGKILL)
            syncs[0] += 1
        honest_sync(descriptor)

    def save(self: Checkpoints, *arguments: Any, **more: Any) -> Path:  # noqa: ANN401
        saves[0] += 1
        path = honest_save(self, *arguments, **more)
        if saves[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    os.fsync, Checkpoints.save = sync, save  # type: ignore[method-assign]


def killed_in_saves(options: str, runs: str) -> list[dict[str, Any]]:
    """Lives a run through ten kills to its end, and says what each of them left behind."""
    folder, found = Path(runs) / "tiny" / "checkpoints", []
    for point in [*random.Random(5).sample(range(POINTS), KILLS), None]:

        def work(point: int | None = point) -> int:
            if point is not None:
                doom(point)
            return training(["--opt", options, "--runs", runs])

        [status] = live(work, Path(runs) / "log")
        told: list[str] = []
        newest = Checkpoints(folder, warn=told.append).newest()
        assert newest is not None
        latest = folder / (folder / "latest").read_text().strip()
        about = {"status": status, "newest": load(newest).meta["number"], "latest": load(latest).meta["number"]}
        left = sorted(path.name for aside in folder.glob(".tmp-*") for path in [aside, *aside.glob("*")])
        found.append({**about, "told": told, "damage": find_damage(latest), "left": left})
    live(lambda: training(["--opt", options, "--runs", f"{runs}_undisturbed"]), Path(runs) / "log")
    return found


def test_kill_9_at_ten_moments_of_a_save_loses_nothing(tmp_path: Path) -> None:
    """The checkpoint before stays `latest`, nothing half-written is taken for one, and the run ends bit for bit as an
    undisturbed one."""
    runs = tmp_path / "runs"
    runs.mkdir()
    tree = option_tree(pictures(tmp_path / "images"), psnr=14, gan=14, save_every=1)
    tree["data"]["workers"] = 0
    found = apart(killed_in_saves, write_options(tmp_path / "tiny.yml", tree), runs)
    assert [life["status"] for life in found] == [-signal.SIGKILL] * KILLS + [0], (runs / "log").read_text()
    numbers = [life["newest"] for life in found]
    for before, life in zip([0, *numbers], found[:KILLS], strict=False):
        assert life["newest"] - before in (1, 2)  # the first save, and the second if the kill came late
        assert life["newest"] - life["latest"] in (0, 1)  # killed before the name was written
        assert life["damage"] is None and not life["told"]
    assert len({tuple(name.rpartition("_")[0] or name for name in life["left"]) for life in found}) >= 4, found
    ends = [final_states(Path(folder) / "tiny") for folder in (runs, f"{runs}_undisturbed")]
    assert_equal_states(*ends)


# --- another number of ranks -----------------------------------------------------------------------------------


def watched(arguments: Sequence[str], samples: Path, stop_after: int | None = None) -> int:
    """Trains, writes down which samples each step has seen, and lets a signal reach the last rank alone."""
    honest, rank = train.Trainer.train_step, int(os.environ["RANK"])

    def step(self: train.Trainer, micros: Any) -> Any:  # noqa: ANN401
        values = honest(self, micros)
        lq = [image for micro in micros for image in micro.lq]
        line = {"step": self.iteration, "rank": rank, "lq": [hashlib.sha256(x.numpy()).hexdigest() for x in lq]}
        with samples.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.iteration == stop_after and rank == self.processes.world_size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return values

    train.Trainer.train_step = step
    return training(arguments)


def ranks_come_and_go(options: str, runs: str) -> dict[str, list[int]]:
    """One run as 2, 1 and 2 ranks, then 3 that cannot share its batch; the same run in one go as one; each
    alternative's exit statuses."""

    def go(name: str, ranks: int, stop_after: int | None = None) -> list[int]:
        folder = Path(runs) / name
        folder.mkdir(exist_ok=True)
        arguments = ["--opt", options, "--runs", str(folder), "--stage", "psnr"]
        return live(lambda: watched(arguments, folder / "samples", stop_after), folder / "log", ranks)

    lives = {"first": go("changing", 2, 2), "second": go("changing", 1, 4)}
    lives["too many"] = go("changing", 3)
    return {**lives, "last": go("changing", 2), "whole": go("whole", 1), "more than images": go("four", 4)}


def samples_of(folder: Path) -> list[list[str]]:
    """The samples of each step, in order."""
    lines = [json.loads(line) for line in (folder / "samples").read_text().splitlines()]
    steps = sorted({line["step"] for line in lines})
    by_rank = [sorted((line["rank"], line["lq"]) for line in lines if line["step"] == step) for step in steps]
    return [[sample for _, share in shares for sample in share] for shares in by_rank]


def test_the_number_of_ranks_may_change_at_a_resume(tmp_path: Path) -> None:
    """2, 1 and 2 ranks see the samples of one and learn what it learns; 4 ranks share 3 images; 3 ranks cannot share a
    batch of 4. Workers exit 75 when one of them is told to stop."""
    tree = option_tree(pictures(tmp_path / "images", 3), psnr=6, save_every=50)
    tree["data"] |= {"workers": 0, "batch_size": 4}
    found = apart(ranks_come_and_go, write_options(tmp_path / "tiny.yml", tree), tmp_path)
    logs = {name: (tmp_path / name / "log").read_text() for name in ("changing", "whole", "four")}
    assert found["first"] == [PREEMPTED] * 2 and found["second"] == [PREEMPTED], logs["changing"]
    assert found["too many"] == [1] * 3
    refusal = "stages.psnr: a batch of 4 does not divide among 3 processes with 1 micro-batches each"
    assert logs["changing"].count(refusal) == 1 and "Traceback" not in logs["changing"]
    assert [found[name] for name in ("last", "whole", "more than images")] == [[0, 0], [0], [0] * 4], logs
    assert logs["changing"].count("resuming from") == 2, "three ranks are refused before they look for a checkpoint"

    assert samples_of(tmp_path / "changing") == samples_of(tmp_path / "whole") == samples_of(tmp_path / "four")
    assert [len(set(step)) for step in samples_of(tmp_path / "whole")] == [4] * 6
    ends = [load(tmp_path / name / "tiny" / "checkpoints" / "psnr_00000006") for name in ("changing", "whole", "four")]
    for key, value in ends[1].networks["network_g"].items():
        for other in (ends[0], ends[2]):
            torch.testing.assert_close(other.networks["network_g"][key], value, rtol=1e-4, atol=1e-6)


# --- ranks change nothing --------------------------------------------------------------------------------------

WITHIN = {"float64": 1e-9, "float32": 1e-5}


class Exact(train.Trainer):
    """A trainer whose stage computes in float64, losses included, and which keeps its first gradients."""

    dtype = torch.float64

    def enter(self, name: str, resume: Any = None) -> None:  # noqa: ANN401
        honest_build, honest_degrade = train.build_stage, train.degrade

        def build(*arguments: Any) -> Any:  # noqa: ANN401
            stage = honest_build(*arguments)
            for network in stage.networks.values():
                network.to(self.dtype)
            return stage

        def degrade(*arguments: Any) -> Any:  # noqa: ANN401
            batch = honest_degrade(*arguments)
            batch.lq = batch.lq.to(self.dtype)
            batch.targets = {key: value.to(self.dtype) for key, value in batch.targets.items()}
            return batch

        train.build_stage, train.degrade = build, degrade
        if self.dtype == torch.float64:
            honest_float = torch.Tensor.float  # losses are taken in float32: here only of what is not deeper
            torch.Tensor.float = lambda x: x if x.dtype == torch.float64 else honest_float(x)  # type: ignore[method-assign]
        super().enter(name, resume)


def learned(options: str, folder: str) -> None:
    """Writes what 1, 2 and 4 ranks have for gradients after one step and for weights after twenty, in both depths."""

    def work(ranks: int, dtype: torch.dtype, steps: int) -> int:
        from models.training.experiment import load_experiment
        from utils.logging import Console
        from utils.processes import distributed

        processes = distributed.start("cpu")
        experiment, tree = load_experiment(options)
        Exact.dtype = dtype
        trainer = Exact(experiment, tree, processes, Path(folder) / "run", Console(processes.rank))
        trainer.enter("gan")
        batches = trainer.batches(steps)
        found = {}
        for _ in range(steps):
            trainer.train_step(next(batches))
            for name, network in trainer.stage.networks.items():
                found |= {f"{name}.{key}": value.clone() for key, value in network.state_dict().items()}
                if trainer.iteration == 1:
                    gradients = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
                    found |= {f"gradient {name}.{key}": value.clone() for key, value in gradients.items()}
        if processes.is_main:
            torch.save(found, Path(folder) / f"{ranks}_{str(dtype).removeprefix('torch.')}.pt")
        distributed.barrier()
        distributed.stop()
        return 0

    for dtype, steps in ((torch.float64, 20), (torch.float32, 1)):
        for ranks in (1, 2, 4):
            assert live(lambda r=ranks, d=dtype, s=steps: work(r, d, s), Path(folder) / "log", ranks) == [0] * ranks


@pytest.fixture(scope="module")
def by_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a GAN with global batch normalisation and a relativistic loss over the whole batch."""
    folder = tmp_path_factory.mktemp("ranks")
    tree = option_tree(pictures(folder / "images"), gan=20)
    tree["data"] |= {"workers": 0, "batch_size": 4, "validation": {}}
    gan = tree["stages"]["gan"]
    gan["network_d"] |= {"norm": "batch", "batch_norm": "global", "n_layers": 2}
    gan["losses"]["gan"] = {"type": "gan", "kind": "ragan", "gather_means": True, "detach_means": False}
    del gan["init_from"]
    try:
        apart(learned, write_options(folder / "tiny.yml", tree), folder)
    except AssertionError as error:
        raise AssertionError((folder / "log").read_text()) from error
    return folder


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ranks_learn_what_one_process_learns(by_ranks: Path, dtype: str, ranks: int) -> None:
    """Weights and running statistics after 20 steps in float64 agree to 1e-9, the first step's gradients in float32 to
    1e-5; relative to the tensor's largest value, of gradients to the network's."""
    one, several = (torch.load(by_ranks / f"{n}_{dtype}.pt", weights_only=True) for n in (1, ranks))
    names = [name for name in one if dtype == "float64" or name.startswith("gradient")]
    assert len(names) > (30 if dtype == "float64" else 12) and any("running_var" in name for name in one)
    for name in names:
        alike = [name] if not name.startswith("gradient") else [n for n in one if n.startswith(name.partition(".")[0])]
        largest = max(float(one[n].abs().max()) for n in alike)
        difference = float((one[name] - several[name]).abs().max()) / largest
        assert difference < WITHIN[dtype], f"{name}: {difference:.1e}"
