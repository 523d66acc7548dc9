"""A sample depends on (seed, stage, number) alone: not on workers, ranks, batches, or where it is degraded."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from data.ahead import loader_options
from data.sampler import StepSampler
from data.training import Mix, TrainingSet, degrade
from degradations import Batch
from models.training.experiment import check_experiment, load_experiment
from tests.run.lives import apart
from tests.run.tiny import option_tree, pictures, write_options
from train import Trainer
from utils.logging import Console
from utils.options.fields import OptionError
from utils.processes import distributed

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

CPU = torch.device("cpu")
SEED, BATCH, STEPS = 3, 4, 3
Hashes = dict[int, str]


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """Two weighted sources, one with a degradation of its own, so that batches are mixed."""
    options = option_tree(pictures(tmp_path / "images"))
    other = pictures(tmp_path / "others", 3, 40, 33)
    options["data"]["batch_size"] = BATCH
    options["data"]["train"]["others"] = {
        "type": "folder",
        "root": str(other),
        "weight": 0.5,
        "degradation": {"type": "bicubic"},
    }
    return options


def training_set(tree: Mapping[str, Any], in_worker: bool = True) -> TrainingSet:
    experiment = check_experiment(tree)
    mix = Mix.build(experiment.data.train, experiment.degradation.component(scale=2), 2)
    return TrainingSet(mix, experiment.data, seed=SEED, stage="psnr", batch_size=BATCH, in_worker=in_worker, views=1)


def fingerprints(dataset: TrainingSet, batch: Batch, numbers: Sequence[int]) -> Hashes:
    """By sample number: the bits of the low-quality image and of every target, the plan, and the path."""
    batch = degrade(batch, dataset.mix.degradations, CPU)
    found = {}
    for i, number in enumerate(numbers):
        digest = hashlib.sha256(batch.lq[i].contiguous().numpy().tobytes())
        for name in sorted(batch.targets):
            digest.update(batch.targets[name][i].contiguous().numpy().tobytes())
        digest.update(f"{batch.plans[i].to_json()} {batch.paths[i]}".encode())
        found[number] = digest.hexdigest()
    return found


def drawn(dataset: TrainingSet, batches: Sequence[list[int]] | StepSampler, workers: int = 0) -> Hashes:
    """The fingerprints of all samples that a loader gives."""
    loader = DataLoader(dataset, batch_sampler=batches, **loader_options(workers, CPU))
    found: Hashes = {}
    for numbers, samples in zip(list(batches), loader, strict=True):
        found |= fingerprints(dataset, samples, numbers)
    return found


@pytest.fixture
def expected(tree: dict[str, Any]) -> Hashes:
    """What one process without workers draws in a few steps."""
    found = drawn(training_set(tree), StepSampler(BATCH, 1, STEPS))
    assert len(found) == len(set(found.values())) == BATCH * STEPS  # each number has a sample of its own
    return found


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(tree: dict[str, Any], expected: Hashes, workers: int) -> None:
    assert drawn(training_set(tree), StepSampler(BATCH, 1, STEPS), workers) == expected


def test_where_it_is_degraded_changes_nothing(tree: dict[str, Any], expected: Hashes) -> None:
    """`where: worker` and `where: device` on the CPU."""
    dataset = training_set(tree, in_worker=False)
    assert drawn(dataset, StepSampler(BATCH, 1, STEPS), 2) == expected


def test_the_composition_of_batches_changes_nothing(tree: dict[str, Any], expected: Hashes) -> None:
    """Micro-batches, single samples, another order, and a start in the middle."""
    dataset = training_set(tree)
    assert drawn(dataset, StepSampler(BATCH, 1, STEPS, accumulate=2)) == expected
    assert drawn(dataset, StepSampler(BATCH, 1, STEPS, accumulate=4)) == expected
    assert drawn(dataset, [list(range(BATCH * STEPS))[::-1]]) == expected
    later = drawn(dataset, StepSampler(BATCH, 3, STEPS))
    assert later == {number: expected[number] for number in range(2 * BATCH, 3 * BATCH)}


def test_ranks_share_the_same_samples(tree: dict[str, Any], expected: Hashes) -> None:
    for ranks in (2, 4):
        shares = [drawn(training_set(tree), StepSampler(BATCH, 1, STEPS, rank, ranks)) for rank in range(ranks)]
        assert sum(len(share) for share in shares) == len(expected)
        assert {number: value for share in shares for number, value in share.items()} == expected


def test_another_seed_or_stage_is_another_sample(tree: dict[str, Any], expected: Hashes) -> None:
    dataset = training_set(tree)
    dataset.stage = "gan"
    assert not set(drawn(dataset, StepSampler(BATCH, 1, STEPS)).values()) & set(expected.values())
    dataset = training_set(tree)
    dataset.seed = SEED + 1
    assert not set(drawn(dataset, StepSampler(BATCH, 1, STEPS)).values()) & set(expected.values())


def draw_as_a_rank(options: str, folder: str) -> None:
    """Writes the fingerprints of three steps of the trainer's own batches."""
    processes = distributed.start("cpu")
    experiment, tree = load_experiment(Path(options))
    trainer = Trainer(experiment, tree, processes, Path(folder) / "run", Console(processes.rank))
    trainer.enter("psnr", None)
    found = []
    for micros in trainer.batches(STEPS):
        for samples in micros:
            found += fingerprints(trainer, samples, range(len(samples.plans))).values()
    (Path(folder) / f"{processes.rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.stop()


def test_the_trainer_of_two_gloo_processes_draws_what_one_draws(
    tree: dict[str, Any], expected: Hashes, tmp_path: Path
) -> None:
    """The trainer's own batches, in real processes, over all micro-batches of three steps."""
    tree["seed"], tree["stages"]["psnr"]["accumulate"] = SEED, 2
    options = write_options(tmp_path / "options.yml", tree)
    apart(draw_as_a_rank, options, tmp_path, ranks=2)
    shares = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    half = BATCH // 2  # each rank has a contiguous share of every step
    joined = [shares[rank][step * half + i] for step in range(STEPS) for rank in (0, 1) for i in range(half)]
    assert joined == [expected[number] for number in range(BATCH * STEPS)]


# --- files that cannot be read ---------------------------------------------------------------------------------


def spoil(images: Path) -> set[str]:
    """Cuts one of the pictures short and removes another; returns their paths."""
    (images / "0.png").write_bytes((images / "0.png").read_bytes()[:200])
    (images / "1.png").unlink()
    return {str(images / "0.png"), str(images / "1.png")}


def mishaps(dataset: TrainingSet, workers: int, steps: int = 6) -> tuple[Hashes, list[tuple[int, str]]]:
    """Fingerprints, and (step, path) of every file that was replaced."""
    sampler = StepSampler(BATCH, 1, steps)
    loader = DataLoader(dataset, batch_sampler=sampler, **loader_options(workers, CPU))
    found, missed = {}, []
    for step, (numbers, samples) in enumerate(zip(sampler, loader, strict=True)):
        found |= fingerprints(dataset, samples, numbers)
        missed += [(step, path) for path, reason in samples.mishaps if Path(path).name in reason]
    return found, missed


def test_a_replacement_is_the_same_for_any_number_of_workers(tree: dict[str, Any], tmp_path: Path) -> None:
    """A corrupt and a vanished file: another image is drawn in their place, and they are named."""
    dataset = training_set(tree)
    whole, none = mishaps(dataset, 0)
    assert not none
    spoiled = spoil(tmp_path / "images")
    found, missed = mishaps(dataset, 0)
    assert {path for _, path in missed} == spoiled
    assert mishaps(dataset, 1) == mishaps(dataset, 4) == (found, missed)
    # Samples of sound files are what they were; the others are different ones.
    assert 0 < sum(found[number] != whole[number] for number in whole) <= len(missed)


def test_a_set_without_any_usable_image_is_an_error(tree: dict[str, Any], tmp_path: Path) -> None:
    dataset = training_set(tree)
    for path in [*(tmp_path / "images").iterdir(), *(tmp_path / "others").iterdir()]:
        path.write_bytes(b"")
    with pytest.raises(OptionError, match="could not be used"):
        dataset.sample(0)


def test_small_images_are_mirrored_or_left_out(tree: dict[str, Any], tmp_path: Path) -> None:
    small = pictures(tmp_path / "others", 2, 20, 25)  # the third stays large enough
    dataset = training_set(tree)
    assert not mishaps(dataset, 0)[1]
    dataset.options = replace(dataset.options, small_images="skip")
    found, missed = mishaps(dataset, 0)
    assert missed and all(Path(path).parent == small for _, path in missed)
    assert len(found) == 6 * BATCH


def test_the_parent_outlives_its_workers_quickly(tree: dict[str, Any]) -> None:
    """A loader left in the middle ends its workers without waiting for their time-outs."""
    loader = DataLoader(training_set(tree), batch_sampler=StepSampler(BATCH, 1, 1000), **loader_options(2, CPU))
    batches = iter(loader)
    next(batches)
    pids = [worker.pid for worker in batches._workers]  # type: ignore[attr-defined]
    begun = time.monotonic()
    del batches
    assert time.monotonic() - begun < 4
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
