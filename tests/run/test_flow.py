"""From a folder of photographs to a trained network with one command, and profiles of it."""

from pathlib import Path
from typing import Any

import pytest

from tests.run.tiny import assert_equal_states, final_states, finished, option_tree, pictures, train, write_options


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """The options of a run that prepares kernels, noise and ground truths."""
    photos, pools = pictures(tmp_path / "photos", count=3, height=96, width=104), tmp_path / "pools"
    tree = option_tree(pictures(tmp_path / "clean", count=1), psnr=3, gan=1)
    tree["prepare"] = {
        "source": str(photos),
        "out": str(pools),
        "kernels": {"scale": 2, "iterations": 2},
        "noise": {"rule": "quantile", "flattest": 0.5, "size": 16},
        "hr": {},
    }
    tree["degradation"] = {
        "type": "realsr",
        "steps": {
            "blur": {"type": "kernel_bank", "path": str(pools / "kernels"), "border": "symmetric"},
            "down": {"type": "every_nth"},
            "noise": {"type": "real_noise", "path": str(pools / "noise")},
        },
    }
    tree["data"] |= {"crop_size": 32, "gt_size": 24}
    tree["data"]["train"]["pictures"]["root"] = str(pools / "hr")
    return tree


def test_pools_are_made_once_and_then_learned_from(tree: dict[str, Any], tmp_path: Path) -> None:
    options = write_options(tmp_path / "tiny.yml", tree)
    run = finished(options, tmp_path / "runs")
    assert len(list((tmp_path / "pools/hr").rglob("*.png"))) == 3 and (tmp_path / "pools/noise/sheet.png").exists()
    again = finished(options, tmp_path / "again")
    assert again.out.count("is up to date") == 3 and "is up to date" not in run.out
    assert_equal_states(final_states(again.folder), final_states(run.folder))


def test_a_pool_that_cannot_serve_is_said_before_training(tree: dict[str, Any], tmp_path: Path) -> None:
    """Noise of 8 pixels does not cover a crop of 16; source and target are one folder."""
    options = write_options(tmp_path / "tiny.yml", tree)
    small = ("--set", "prepare.kernels=null", "--set", "degradation.steps.blur=null")
    small += ("--set", "degradation.steps.down.type=matlab_bicubic", "--set", "prepare.noise.size=8")
    run = train(options, tmp_path / "runs", *small)
    assert run.code == 1 and "a patch of 8x8 does not cover a low-quality crop of 16x16" in run.err
    assert "crop_size" in run.err and "Traceback" not in run.err

    run = train(options, tmp_path / "runs", "--set", f"prepare.target={tmp_path / 'photos'}")
    assert run.code == 1 and "same folder" in run.err and "Traceback" not in run.err
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_dry_run_tries_the_preparation_and_leaves_nothing(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["prepare"]["kernels"]["iterations"] = 100_000  # would take hours
    options = write_options(tmp_path / "tiny.yml", tree)
    before = sorted(tmp_path.rglob("*"))
    run = finished(options, tmp_path / "runs", "--dry-run")
    assert sorted(tmp_path.rglob("*")) == before
    rows = {row[0]: row for line in run.out.splitlines() if len(row := [c.strip() for c in line.split("|")[1:-1]]) > 1}
    assert rows["kernels"][1] == "3 images, 100000 iterations" and float(rows["kernels"][2]) > 1
    assert rows["noise"][1].startswith("3 images, ") and rows["hr"][1].startswith("3 images, ")
    assert rows["gan"][3] == "1" and "nothing is left behind" in run.out

    small = train(options, tmp_path / "runs", "--dry-run", "--set", "prepare.noise.size=8")
    assert small.code == 1 and "a patch of 8x8 does not cover a low-quality crop of 16x16" in small.err


def test_a_missing_file_of_a_loss_is_said_before_the_preparation(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["stages"]["gan"]["losses"]["vgg"] = {"type": "perceptual", "weights": "no/such.pth"}
    run = train(write_options(tmp_path / "tiny.yml", tree), tmp_path / "runs")
    assert run.code == 1 and "stages.gan.losses.vgg" in run.err and "no/such.pth" in run.err
    assert not (tmp_path / "pools").exists() and "prepare" not in run.out


@pytest.mark.parametrize("stage", ["psnr", "gan"])  # the second takes over what the first has not learned here
def test_a_profile_says_where_the_time_goes(tmp_path: Path, stage: str) -> None:
    options = write_options(tmp_path / "tiny.yml", option_tree(pictures(tmp_path / "images")))
    run = finished(options, tmp_path / "runs", "--profile", "2", "--stage", stage)
    for words in ("ms/iteration", "waiting for data", "TFLOP/s", "of a large matrix product"):
        assert words in run.out
    assert [path.name for path in run.folder.iterdir()] == [f"profile_{stage}.json.gz"]


@pytest.mark.slow
def test_everything_on_learns_what_everything_off_learns(tmp_path: Path) -> None:
    """Degrading ahead changes nothing at all, and may change at a resume."""
    options = write_options(tmp_path / "tiny.yml", option_tree(pictures(tmp_path / "images"), psnr=4, gan=2))
    plain = finished(options, tmp_path / "plain")
    first = ("--set", "performance.prefetch=true", "--stage", "psnr")
    finished(options, tmp_path / "ahead", *first)
    ahead = finished(options, tmp_path / "ahead", "--set", "data.workers=0")
    assert_equal_states(final_states(ahead.folder), final_states(plain.folder))
