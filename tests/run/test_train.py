"""Real `train.py` processes: what a run leaves behind, exact resume, refusals, and everything that can go wrong."""

import json
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from data.validation import ValidationItem, ValidationSet
from degradations import Batch
from models.stages.stage import Phase
from tests.run.tiny import (
    PREEMPTED,
    Training,
    assert_equal_states,
    final_states,
    finished,
    option_tree,
    pictures,
    train,
    write_options,
)
from train import Trainer
from utils.images.files import read_image
from utils.options.files import load
from utils.storage import checkpoint

LONG = {"psnr": 60, "gan": 40, "keep_last": 100}
"""Enough iterations that a signal hits in the middle; every checkpoint stays, so none is missed."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def reference(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """One uninterrupted run of both stages with two workers."""
    folder = tmp_path_factory.mktemp("reference")
    options = write_options(folder / "tiny.yml", option_tree(images, **LONG))
    return finished(options, folder / "runs")


@pytest.fixture
def options(images: Path, tmp_path: Path) -> Path:
    """The option file of the reference."""
    return write_options(tmp_path / "tiny.yml", option_tree(images, **LONG))


@pytest.fixture
def short(images: Path, tmp_path: Path) -> Path:
    """An option file for a few iterations."""
    return write_options(tmp_path / "short.yml", option_tree(images))


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def logged(folder: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Losses by stage and iteration, without what depends on the clock."""
    clocked = ("time", "speed", "wait_share", "ram", "ram_peak")
    lines = [line for line in log_of(folder) if "lr" in line]
    assert len({(line["stage"], line["iteration"]) for line in lines}) == len(lines)  # none twice
    return {(line["stage"], line["iteration"]): {k: v for k, v in line.items() if k not in clocked} for line in lines}


# --- a whole run -----------------------------------------------------------------------------------------------


def test_a_run_ends_with_table_sheet_and_the_next_command(reference: Training) -> None:
    folder = reference.folder
    assert reference.status["state"] == "finished"
    table = (folder / "results.md").read_text()
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" (")[0] for row in rows] == ["bicubic", "bicubic, smoothed", "psnr stage", "gan stage"]
    assert "protocol basicsr (RGB" in table and table.strip() in reference.out
    assert min(read_image(folder / "samples.png").shape[:2]) > 48
    command = reference.out.strip().splitlines()[-1]
    assert command.strip().startswith("python test.py --opt ")
    weights = command.split("--weights ")[1].split(" -o ")[0].split()
    assert [Path(path).parent.name for path in weights] == ["psnr_00000060", "gan_00000040"]
    for path in weights:
        assert checkpoint.read_weights(path)[1]["network"]["type"] == "srvgg"


def test_a_run_folder_tells_what_was_run(reference: Training) -> None:
    """The resolved options, and losses and validation of every stage from iteration 0."""
    folder = reference.folder
    assert load(folder / "options.yml")["stages"]["gan"]["network_d"]["type"] == "patchgan"
    lines = log_of(folder)
    for stage, last in (("psnr", 60), ("gan", 40)):
        own = [line for line in lines if line["stage"] == stage]
        assert [line["iteration"] for line in own if "pictures/PSNR" in line] == [0, last]
        assert [line["iteration"] for line in own if "l1" in line] == list(range(5, last + 1, 5))
    assert "Traceback" not in reference.err and "Warning" not in reference.err


def test_a_finished_run_says_so_and_reports_again(reference: Training, options: Path) -> None:
    (reference.folder / "results.md").unlink()
    again = finished(options, reference.folder.parent)
    assert "nothing is left to train: the run is finished" in again.out
    assert "gan stage" in (reference.folder / "results.md").read_text()


# --- exact resume ----------------------------------------------------------------------------------------------


def test_a_signal_saves_and_the_same_command_goes_on_exactly(
    reference: Training, options: Path, tmp_path: Path
) -> None:
    """SIGTERM in the psnr stage, to the whole process group; kill -9 in the gan stage."""
    runs = tmp_path / "runs"
    first = Training(options, runs).until("psnr_00000015")
    first.stop(signal.SIGTERM)
    assert first.wait() == PREEMPTED, first.err
    assert first.status["state"] == "preempted" and first.status["reason"] == "SIGTERM"
    assert "everything is saved" in first.out and "Traceback" not in first.err
    at = checkpoint.load(checkpoint.Checkpoints(first.folder / "checkpoints").newest() or "").meta
    assert at["stage"] == "psnr" and 15 <= at["iteration"] < 60

    second = Training(options, runs).until("gan_00000010")
    second.stop(signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    assert f"stage psnr, iteration {at['iteration']}" in second.out
    assert second.status["state"] == "running"

    third = finished(options, runs)
    assert "resuming from" in third.out and "the newest in the run folder" in third.out
    assert_equal_states(final_states(third.folder), final_states(reference.folder))
    assert logged(third.folder) == logged(reference.folder)


@pytest.mark.slow
def test_the_other_way_round(reference: Training, options: Path, tmp_path: Path) -> None:
    """Kill -9 twice in the psnr stage, then SIGINT to the group in the gan stage."""
    runs = tmp_path / "runs"
    for reached in ("psnr_00000005", "psnr_00000040"):
        killed = Training(options, runs).until(reached)
        killed.stop(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    stopped = Training(options, runs, command=("train.py",)).until("gan_00000005")  # SIGINT is ours from the start
    stopped.stop(signal.SIGINT)
    stopped.stop(signal.SIGINT)  # impatience does not break the save
    assert stopped.wait() == PREEMPTED, stopped.err
    assert "Traceback" not in stopped.err
    assert_equal_states(final_states(finished(options, runs).folder), final_states(reference.folder))


@pytest.mark.slow
def test_one_stage_alone_then_the_other(reference: Training, options: Path, tmp_path: Path) -> None:
    """`--stage`; a resume at a stage's end starts the next one by hand-over; other workers change nothing."""
    runs = tmp_path / "runs"
    early = train(options, runs, "--stage", "gan")
    assert early.code == 1
    assert "stages.gan.init_from: stage psnr is not finished" in early.err
    assert early.status["state"] == "failed" and "not finished" in early.status["reason"]

    first = finished(options, runs, "--stage", "psnr")
    assert not list(first.folder.glob("checkpoints/gan_*")) and not (first.folder / "results.md").exists()
    second = finished(options, runs, "--set", "data.workers=0")
    assert "stage gan starts from the ema weights of stage psnr" in second.out
    assert_equal_states(final_states(second.folder), final_states(reference.folder))


@pytest.mark.slow
def test_two_ranks_resume_exactly(images: Path, tmp_path: Path) -> None:
    """SIGTERM to torchrun and all its processes; the same command goes on to what one go gives."""
    options = write_options(tmp_path / "tiny.yml", option_tree(images, psnr=40, gan=20, keep_last=100))
    whole = Training(options, tmp_path / "whole", ranks=2)
    first = Training(options, tmp_path / "runs", ranks=2).until("psnr_00000010")
    first.stop(signal.SIGTERM, group=False)
    assert first.wait() != 0  # torchrun itself does not hand on 75
    assert first.status["state"] == "preempted", first.err
    assert whole.wait() == 0, whole.err
    second = finished(options, tmp_path / "runs", ranks=2)
    assert "resuming from" in second.out
    assert_equal_states(final_states(second.folder), final_states(whole.folder))
    assert "Warning" not in second.err.replace("OMP_NUM_THREADS", "")


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(short: Path, tmp_path: Path) -> None:
    """The same samples and the mean of the gradients: weights agree to rounding. And the same validation table, of
    three images shared out over two ranks."""
    more = ("--stage", "psnr", "--set", "data.validation.pictures.max_images=3")
    both = finished(short, tmp_path / "two", *more, ranks=2)
    one = finished(short, tmp_path / "one", *more)
    first = [(run.folder / "metrics.jsonl").read_text().splitlines()[0] for run in (both, one)]
    tables = [{k: v for k, v in json.loads(line).items() if "/" in k} for line in first]
    assert tables[0] == tables[1] and len(tables[0]) == 2
    weights = [
        checkpoint.load(run.folder / "checkpoints" / "psnr_00000006").networks["network_g"] for run in (both, one)
    ]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-4, atol=1e-6)


# --- refusals --------------------------------------------------------------------------------------------------


def test_what_is_refused_before_training(short: Path, tmp_path: Path) -> None:
    """A folder in use, a fresh start over checkpoints, changed options; and what accepts them."""
    runs = tmp_path / "runs"
    slow = Training(short, runs, "--set", "stages.psnr.iterations=100000").until("psnr_00000005")
    twice = train(short, runs)
    slow.stop(signal.SIGTERM)
    assert twice.code == 1
    assert "another run (host " in twice.err and f"pid {slow.process.pid}" in twice.err
    assert "Traceback" not in twice.err
    assert slow.wait() == PREEMPTED, slow.err

    anew = train(short, runs, "--resume", "none")
    assert anew.code == 1 and "already holds checkpoints" in anew.err

    changes = ["stages.psnr.iterations=100000", "stages.psnr.optim_g.lr=1e-3", "data.crop_size=40"]
    sets = [word for change in changes for word in ("--set", change)]
    changed = train(short, runs, *sets)
    assert changed.code == 1
    assert "stages.psnr.optim_g: was None, is {'lr': 0.001}" in changed.err
    assert "data.crop_size: was 32, is 40" in changed.err
    assert "iterations" not in changed.err
    assert changed.status["state"] == "preempted"  # nothing was touched

    reached = checkpoint.load(checkpoint.Checkpoints(changed.folder / "checkpoints").newest() or "").meta["iteration"]
    total = reached + 5
    sets[1] = f"stages.psnr.iterations={total}"
    accepted = finished(short, runs, *sets, "--resume-anyway", "--stage", "psnr")
    assert "resuming from" in accepted.out
    rates = {line["iteration"]: line["lr"] for line in log_of(accepted.folder) if "lr" in line}
    assert rates[total] == 1e-3  # the new rate, not the one inside the optimizer's state


def test_option_errors_come_all_at_once_and_without_traceback(short: Path, tmp_path: Path) -> None:
    wrong = ["data.crop_sise=3", "stages.psnr.optim_g={lr: -1}", "network_g.num_feat=two", "degradation.type=bsgran"]
    run = train(short, tmp_path / "runs", *(word for change in wrong for word in ("--set", change)))
    assert run.code == 1
    for path in ("data.crop_sise", "stages.psnr.optim_g.lr", "network_g.num_feat", "degradation.type"):
        assert path in run.err
    assert run.err.startswith("error: 4 problems in ") and "Traceback" not in run.err
    assert not (tmp_path / "runs").exists()


def test_an_error_on_two_ranks_is_said_once(short: Path, tmp_path: Path) -> None:
    """Also one that only the main process meets: the other does not wait for it."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").write_text("in the way")
    run = train(short, tmp_path / "runs", ranks=2)
    assert run.code == 1
    said = [line for line in run.err.splitlines() if line.startswith("error")]
    assert len(said) == 1 and "tiny" in said[0]
    assert 'train.py", line' not in run.err  # torchrun's own traceback is not ours


def test_a_later_stage_that_cannot_be_built_is_said_at_the_start(short: Path, tmp_path: Path) -> None:
    """Not after the first stage has trained for days."""
    change = "stages.gan.losses.gan.kind=wgan"
    run = train(short, tmp_path / "runs", "--set", change)
    assert run.code == 1 and "gradient_penalty" in run.err and "stages.gan" in run.err
    assert not list((tmp_path / "runs").rglob("psnr_*"))


# --- dry run ---------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_costs_and_leaves_nothing(short: Path, tmp_path: Path) -> None:
    run = finished(short, tmp_path / "runs", "--dry-run")
    assert not (tmp_path / "runs").exists()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in run.out.splitlines() if line.startswith("| ")]
    assert rows[0][:6] == ["stage", "parameters", "s/iteration", "iterations", "hours", "memory MB"]
    assert [row[0] for row in rows[2:]] == ["psnr", "gan"]
    assert rows[2][1] == "712" and rows[3][1].startswith("712 + ")
    assert float(rows[2][5].replace(",", "")) > 50
    assert "gan 2: pictures PSNR" in run.out  # one validation


# --- mishaps ---------------------------------------------------------------------------------------------------


def spoilt(folder: Path) -> tuple[Path, list[Path]]:
    """Options of a run whose pictures are half of them cut short, and the paths of those."""
    images = pictures(folder / "images", 6)
    bad = [images / f"{i}.png" for i in (3, 4, 5)]
    for path in bad:
        path.write_bytes(path.read_bytes()[:150])
    return write_options(folder / "tiny.yml", option_tree(images, psnr=15, gan=1)), bad


@pytest.mark.slow
def test_a_few_unreadable_files_do_not_stop_a_run(tmp_path: Path) -> None:
    options, bad = spoilt(tmp_path)
    run = finished(options, tmp_path / "runs", "--stage", "psnr")
    for path in bad:
        assert run.err.count(str(path)) == 1


def test_unreadable_files_are_named_once_and_counted(tmp_path: Path) -> None:
    """Above `data.max_unreadable` the run stops."""
    options, bad = spoilt(tmp_path)
    stopped = train(options, tmp_path / "runs", "--stage", "psnr", "--set", "data.max_unreadable=2")
    assert stopped.code == 1
    for path in bad:
        assert stopped.err.count(str(path)) == 1
    assert "3 files could not be used, more than max_unreadable (2)" in stopped.err
    assert "Traceback" not in stopped.err and stopped.status["state"] == "failed"


@pytest.mark.slow
def test_unreadable_files_count_over_all_ranks(tmp_path: Path) -> None:
    """No rank meets more than the limit, both together do; each file is named though rank 1 met it."""
    options, bad = spoilt(tmp_path)
    stopped = train(options, tmp_path / "runs", "--stage", "psnr", "--set", "data.max_unreadable=2", ranks=2)
    assert stopped.code == 1
    assert stopped.err.count("error: data: 3 files could not be used") == 1
    for path in bad:
        assert stopped.err.count(str(path)) == 1


def test_only_unusable_files_end_with_one_sentence(short: Path, tmp_path: Path) -> None:
    """A worker's error comes without the worker's traceback."""
    images = pictures(tmp_path / "images", 2)
    for path in images.iterdir():
        path.write_bytes(b"")
    change = f"data.train.pictures.root={images}"
    run = train(short, tmp_path / "runs", "--set", change)
    assert run.code == 1 and "Traceback" not in run.err
    assert run.err.count("error: ") == 1 and "images in a row could not be used" in run.err


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(images: Path, tmp_path: Path) -> None:
    """Steps without a finite gradient are skipped, their plans written down, and a stated number in a row ends it."""
    tree = option_tree(images, psnr=50, save_every=1, nonfinite_in_a_row=4)
    tree["stages"]["psnr"]["schedule"] = {"type": "multistep", "milestones": [6], "gamma": 1e33}
    run = train(write_options(tmp_path / "tiny.yml", tree), tmp_path / "runs")
    assert run.code == 1 and "Traceback" not in run.err
    assert "4 updates in a row had no finite gradient" in run.err
    assert run.err.count("going back to the newest checkpoint") == 1 and "also from the last good checkpoint" in run.err
    assert run.status["state"] == "failed" and "finite" in run.status["reason"]
    dumps = sorted(run.folder.glob("nonfinite_psnr_*_rank0.jsonl"))
    assert len(dumps) == 4
    entries = [json.loads(line) for line in dumps[0].read_text().splitlines()]
    assert len(entries) == 2 and all(Path(entry["path"]).exists() and "steps" in entry["plan"] for entry in entries)
    newest = checkpoint.Checkpoints(run.folder / "checkpoints").newest()
    assert newest is not None
    for weights in checkpoint.load(newest).networks.values():
        assert checkpoint.all_finite(weights)


def three_bad_gradients() -> None:
    honest, failures = Trainer.finish_phase, [3]

    def faulty(self: Trainer, phase: Phase, finite: torch.Tensor, batches: Sequence[Batch]) -> None:
        broken = self.iteration > 7 and failures[0] > 0
        failures[0] -= broken
        honest(self, phase, finite & (not broken), batches)

    Trainer.finish_phase = faulty


def test_a_transient_fault_is_cured_by_the_last_good_checkpoint(images: Path, tmp_path: Path) -> None:
    """Three bad gradients, as from a faulty device: the run goes back to iteration 5, and ends as if nothing was."""
    options = write_options(tmp_path / "tiny.yml", option_tree(images, psnr=12, gan=2, nonfinite_in_a_row=3))
    plain = train(options, tmp_path / "plain")
    cured = train(options, tmp_path / "cured", before=three_bad_gradients)
    assert cured.code == 0 and cured.err.count("going back to the newest checkpoint, once") == 1
    assert "iteration 5" in cured.out
    assert_equal_states(final_states(cured.folder), final_states(plain.folder))


def slow_second_validation() -> None:
    """Validation takes a minute once iteration 2 is saved, and marks each of its images."""
    plain = ValidationSet.__getitem__

    def slow(self: ValidationSet, number: int) -> ValidationItem:
        marker = Path(sys.argv[sys.argv.index("--runs") + 1]) / "validating"
        if marker.parent.joinpath("tiny/checkpoints/psnr_00000002").is_dir():
            with marker.open("a") as file:
                file.write("x")
            time.sleep(0.3)
        return plain(self, number)

    ValidationSet.__getitem__ = slow


def test_a_signal_ends_a_long_validation(images: Path, tmp_path: Path) -> None:
    """A minute of validation would outlast torchrun's patience: it is left, and the iteration it belongs to saved."""
    tree = option_tree(images, psnr=6, gan=2, save_every=2, validate_every=3)
    tree["data"]["validation"]["pictures"]["repeats"] = 120
    options = write_options(tmp_path / "tiny.yml", tree)
    run = Training(options, tmp_path / "runs", before=slow_second_validation)
    while not (tmp_path / "runs" / "validating").exists():
        assert run.process.poll() is None
        time.sleep(0.05)
    run.stop(signal.SIGTERM)
    assert run.wait() == PREEMPTED
    assert len((tmp_path / "runs" / "validating").read_text()) < 60
    assert (run.folder / "checkpoints" / "psnr_00000003").is_dir()


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))  # the state alone is larger


def test_a_full_disk_is_warned_of_and_ends_the_run_only_after_a_while(images: Path, tmp_path: Path) -> None:
    """As a full disk would, a limit on the size of files makes every save fail."""
    tree = option_tree(images, psnr=50, save_every=5, save_failures=3)
    tree["data"]["workers"] = 0  # workers hand over batches in files, too
    run = train(write_options(tmp_path / "tiny.yml", tree), tmp_path / "runs", before=_limit_files)
    assert run.code == 1 and "Traceback" not in run.err
    assert run.err.count("checkpoint not saved, training goes on") == 3
    assert "3 checkpoints in a row could not be saved" in run.err
    assert max(line["iteration"] for line in log_of(run.folder)) == 15
    assert not list(run.folder.glob("checkpoints/*psnr*"))  # not even half of one
