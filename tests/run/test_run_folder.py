"""What a run leaves in its folder, and says on the console: true, complete, and of use in the next command."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import train as program
from tests.helpers import ROOT
from tests.run.tiny import (
    Training,
    assert_equal_states,
    environment,
    final_states,
    finished,
    option_tree,
    pictures,
    train,
    write_options,
)
from utils.logging import Console, reserve, write_status
from utils.metrics import METRICS, Metric
from utils.options.fields import OptionError
from utils.options.files import load
from utils.storage.checkpoint import Checkpoints


def test_the_next_command_runs_word_for_word(tmp_path: Path) -> None:
    """Also when the folders came by `--set`; and the folder keeps what was said."""
    images = pictures(tmp_path / "my images")
    tree = option_tree(tmp_path / "nowhere", psnr=2)
    del tree["stages"]["gan"]
    sets = [f"data.{kind}.pictures.root={images}" for kind in ("train", "validation")]
    run = finished(write_options(tmp_path / "tiny.yml", tree), tmp_path / "runs", "--set", sets[0], "--set", sets[1])
    command = shlex.split(run.out.strip().splitlines()[-1])
    (tmp_path / "test.py").symlink_to(ROOT / "test.py")
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = (tmp_path / "results" / "tiny" / "results.md").read_text()
    (protocol,) = re.findall(r"protocol \w+ \(.*?\)", run.out)
    assert "psnr_00000002" in results and protocol in results  # the numbers of both compare

    kept = (run.folder / "console.log").read_text()
    assert "train.py --opt" in kept.splitlines()[0] and "my images" in kept.splitlines()[0]
    for line in run.out.splitlines():
        assert line in kept
    assert "warning: data.validation.pictures: " in kept


SMALL = sorted((ROOT / "options").glob("*/small_x2.yml"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SMALL, ids=lambda path: path.parent.name)
def test_small_recipes_train_and_their_next_command_runs(recipe: Path, tmp_path: Path) -> None:
    """Where their folders lie, as a user has them; shortened."""
    for name in ("train.py", "test.py", "options"):
        (tmp_path / name).symlink_to(ROOT / name)
    pictures(tmp_path / "datasets" / "train_hr", 6, 300, 300)
    pictures(tmp_path / "datasets" / "photos", 6, 300, 300)
    pictures(tmp_path / "datasets" / "valid_hr", 2, 192, 200)
    tree = load(recipe)
    short = {f"stages.{name}.iterations": 2 for name, stage in tree["stages"].items() if stage}
    short |= {"logger.validate_every": 100, "name": "short"}
    if "prepare" in tree:
        short["prepare.kernels.iterations"] = 4
    sets = [word for key, value in short.items() for word in ("--set", f"{key}={value}")]

    def run(command: list[str]) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    out = run([sys.executable, "train.py", "--opt", str(recipe.relative_to(ROOT)), "--device", "cpu", *sets])
    run(shlex.split(out.strip().splitlines()[-1]))
    assert (tmp_path / "results" / "short" / "results.md").is_file()


def with_a_noise_metric() -> None:
    @METRICS.register("noise")
    class Noise(Metric):
        higher_is_better, channels = False, ("rgb",)

        def __call__(self, sr: np.ndarray, gt: np.ndarray | None) -> float:
            return float(abs(sr - gt).mean())


def test_any_metric_is_measured_at_validation(tmp_path: Path) -> None:
    """In RGB and Y, also a lower one that is better, by which the best checkpoint is chosen; in log and table."""
    images = pictures(tmp_path / "images")
    tree = option_tree(images, psnr=2, luma=True, best_by="NOISE", metrics={"noise": {"type": "noise"}})
    del tree["stages"]["gan"]
    options = write_options(tmp_path / "tiny.yml", tree)
    run = finished(options, tmp_path / "runs", before=with_a_noise_metric)
    line = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0])
    numbers = ("PSNR", "SSIM", "NOISE", "PSNR Y", "SSIM Y")
    assert [name for name in line if "/" in name] == [f"pictures/{name}" for name in numbers]
    assert "| PSNR Y |" in (run.folder / "results.md").read_text().replace("  ", " ")
    wrong = train(options, tmp_path / "wrong", "--set", "logger.best_by=PSNR_Y", before=with_a_noise_metric)
    assert wrong.code == 1 and "expected one of PSNR, SSIM" in wrong.err


def test_a_network_that_is_not_finite_is_said_at_validation(tmp_path: Path) -> None:
    """Not scored by a number that the rounding of NaN makes up, and no checkpoint is the best by it."""
    images = pictures(tmp_path / "images")
    tree = option_tree(images, psnr=8, validate_every=2, save_every=2, print_every=1)
    tree["stages"]["psnr"]["optim_g"] = {"lr": 1e38}
    run = train(write_options(tmp_path / "tiny.yml", tree), tmp_path / "runs", "--stage", "psnr")
    assert run.code == 1 and "Traceback" not in run.err
    assert "the network gives values that are not finite for images of data.validation.pictures" in run.err
    assert "RuntimeWarning" not in run.err and run.status["state"] == "failed"
    assert not list((run.folder / "checkpoints").glob("psnr_*"))


def test_a_second_run_on_the_same_folder(tmp_path: Path) -> None:
    """While the first is there it is refused, with nothing touched; a dry run is not; afterwards nothing is left."""
    tree = option_tree(pictures(tmp_path / "images"), psnr=400, save_every=100)
    del tree["stages"]["gan"]
    options = write_options(tmp_path / "tiny.yml", tree)
    first = Training(options, tmp_path / "runs").until("psnr_00000100")
    first.stop(signal.SIGSTOP)
    try:
        for command in ((), ("--resume", "none", "--set", "data.batch_size=4")):
            second = train(options, tmp_path / "runs", *command)
            assert second.code == 1 and second.out == "" and len(second.err.splitlines()) == 1
            assert f"pid {first.process.pid}, started " in second.err and "choose another name" in second.err
        assert finished(options, tmp_path / "runs", "--dry-run").out.rstrip().endswith("nothing is left behind")
        assert first.status["state"] == "running" and first.status["pid"] == first.process.pid
    finally:
        first.stop(signal.SIGCONT)
        assert first.wait() == 0, first.err
    console, saved = (first.folder / "console.log").read_text(), final_states(first.folder, ["psnr"])
    assert console.count("train.py --opt") == 1
    later = finished(options, tmp_path / "runs")
    assert "nothing is left to train: the run is finished" in later.out and later.status["state"] == "finished"
    assert (first.folder / "console.log").read_text().startswith(console)
    assert_equal_states(final_states(first.folder, ["psnr"]), saved)


def test_too_many_workers_are_warned_of_once(tmp_path: Path) -> None:
    many = ("--dry-run", "--set", f"data.workers={(os.cpu_count() or 1) + 1}")
    run = finished(write_options(tmp_path / "tiny.yml", option_tree(pictures(tmp_path / "images"))), tmp_path, *many)
    assert run.err.count("are more than this machine has cores for") == 1 and "DataLoader" not in run.err


def interrupt_loading() -> None:
    def load_experiment(*given: object) -> None:
        raise KeyboardInterrupt

    program.load_experiment = load_experiment  # type: ignore[assignment]


def test_ctrl_c_at_any_moment_is_no_page(tmp_path: Path) -> None:
    """While PyTorch is imported nothing is said, later one word; a training run saves (tests/run/test_train.py)."""
    options = write_options(tmp_path / "tiny.yml", option_tree(pictures(tmp_path / "images")))
    early = Training(options, tmp_path / "runs", "--dry-run", command=("train.py",))
    time.sleep(1)
    early.stop(signal.SIGINT)
    assert early.wait() in (-signal.SIGINT, 130) and early.err in ("", "error: interrupted\n")
    late = train(options, tmp_path / "runs", "--dry-run", before=interrupt_loading)
    assert late.code == 130 and late.err == "error: interrupted\n"


def test_moved_images_are_known_again(tmp_path: Path) -> None:
    """By number, names and content: others of the same names are refused as before. Paths may name variables."""
    tree = option_tree(pictures(tmp_path / "images"), psnr=2)
    del tree["stages"]["gan"]
    tree["data"]["train"]["pictures"]["root"] = "${PICTURES}/images"
    options = write_options(tmp_path / "tiny.yml", tree)
    with pytest.raises(OptionError, match=r"data.train.pictures.root: \$\{PICTURES\} is not set"):
        load(options)
    os.environ["PICTURES"] = str(tmp_path)
    try:
        finished(options, tmp_path / "runs")
        shutil.copytree(tmp_path / "images", tmp_path / "elsewhere" / "images")
        os.environ["PICTURES"] = str(tmp_path / "elsewhere")
        moved = finished(options, tmp_path / "runs", "--set", "stages.psnr.iterations=4")
        assert "stage psnr is made longer" in moved.out
        pictures(tmp_path / "other" / "images", height=64)
        os.environ["PICTURES"] = str(tmp_path / "other")
        other = train(options, tmp_path / "runs", "--set", "stages.psnr.iterations=6")
        assert other.code == 1 and "data.train.pictures.root: was" in other.err
    finally:
        del os.environ["PICTURES"]


def test_how_a_run_ended_is_written_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_status(tmp_path, Console(), "running")
    reserve(tmp_path)
    honest = Path.replace

    def full(self: Path, target: Path) -> Path:
        if (tmp_path / ".reserve").exists():
            raise OSError(28, "No space left on device")
        return honest(self, target)

    monkeypatch.setattr(Path, "replace", full)
    write_status(tmp_path, Console(), "failed", "the disk is full")
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"


def test_a_failed_save_names_the_space_left_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save("psnr", 1, {"network_g": {}}, {})

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.storage.checkpoint.write_durably", full)
    with pytest.raises(
        OSError, match=r"psnr_00000002 could not be saved: No space .*MiB are free .*kept: psnr_00000001"
    ):
        checkpoints.save("psnr", 2, {"network_g": {}}, {})
