"""A finished run made longer: what goes on, what starts anew, and that nothing claims what did not happen."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.run.tiny import (
    Training,
    assert_equal_states,
    final_states,
    finished,
    option_tree,
    pictures,
    train,
    write_options,
)
from utils.options.files import load
from utils.storage.checkpoint import Checkpoints, read_meta


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"))


def options_of(folder: Path, images: Path, psnr: int, gan: int = 0, schedule: Any = None) -> Path:  # noqa: ANN401
    """An option file of one stage, or of two."""
    tree = option_tree(images, psnr, max(gan, 1), print_every=1, validate_every=4)
    tree["data"]["workers"] = 0
    if schedule is not None:
        tree["stages"]["psnr"]["schedule"] = schedule
    if not gan:
        del tree["stages"]["gan"]
    return write_options(folder / f"{psnr}_{gan}.yml", tree)


def rates(run: Training) -> dict[tuple[str, int], float]:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "lr" in line]
    by_iteration = {(line["stage"], line["iteration"]): line["lr"] for line in logged}
    assert len(by_iteration) == len(logged), "an iteration is logged twice"
    return by_iteration


@pytest.mark.slow
def test_a_longer_stage_and_what_follows_it_end_as_in_one_go(images: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    finished(options_of(tmp_path, images, 6, 3), runs)
    longer = finished(options_of(tmp_path, images, 10, 3), runs)
    assert "stage psnr is made longer, from 6 to 10 iterations; its schedule goes on as it was" in longer.out
    assert "stage gan, trained from the shorter one, is trained anew afterwards" in longer.out
    whole = finished(options_of(tmp_path, images, 10, 3), tmp_path / "whole")
    assert_equal_states(final_states(longer.folder), final_states(whole.folder))
    assert rates(longer) == rates(whole)
    (replaced,) = (longer.folder / "replaced").iterdir()
    assert str(replaced) in longer.out
    assert [path.name for path in replaced.iterdir()] == ["gan_00000003"]
    assert "nothing is left to train" in finished(options_of(tmp_path, images, 10, 3), runs).out
    alone = finished(options_of(tmp_path, images, 12, 3), runs, "--stage", "psnr")
    assert "stage gan, trained from the shorter one, stays as it is" in alone.out
    assert alone.status["reason"] == "stage psnr"


@pytest.mark.slow
def test_a_schedule_over_the_whole_stage_is_not_stretched_unasked(images: Path, tmp_path: Path) -> None:
    """`--extend` starts it anew; after a kill in the longer part it goes on as it began there."""
    runs, cosine = tmp_path / "runs", {"type": "cosine", "floor": 0.1}
    first = finished(options_of(tmp_path, images, 4, schedule=cosine), runs)
    options = options_of(tmp_path, images, 8, schedule=cosine)
    refused = train(options, runs)
    assert refused.code == 1 and "--extend" in refused.err and "Traceback" not in refused.err
    assert load(first.folder / "options.yml")["stages"]["psnr"]["iterations"] == 4
    longer = finished(options, runs, "--extend", "--set", "logger.save_every=6")
    assert "its schedule starts anew" in longer.out
    by_iteration = rates(longer)
    assert [by_iteration["psnr", i + 4] for i in range(1, 5)] == [by_iteration["psnr", i] for i in range(1, 5)]
    assert load(first.folder / "options.yml")["stages"]["psnr"]["iterations"] == 8
    assert "nothing is left to train" in finished(options, runs, "--extend").out

    expected = final_states(longer.folder, ["psnr"])
    (longer.folder / "checkpoints" / "psnr_00000008").rename(tmp_path / "gone")
    again = finished(options, runs)
    assert "stage psnr, iteration 6" in again.out and "made longer" not in again.out
    assert_equal_states(final_states(again.folder, ["psnr"]), expected)


def test_nothing_is_claimed_that_did_not_happen(images: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = finished(options_of(tmp_path, images, 6), runs)
    shorter = finished(options_of(tmp_path, images, 3), runs, "--resume-anyway")
    assert "nothing is left to train" in shorter.out
    assert load(run.folder / "options.yml")["stages"]["psnr"]["iterations"] == 6
    metas = {path.parent.name: read_meta(path.parent) for path in run.folder.glob("checkpoints/*/meta.json")}
    assert {name: meta["metrics_iteration"] for name, meta in metas.items()} == {"psnr_00000005": 4, "psnr_00000006": 6}


def test_the_best_checkpoint_is_one_that_was_judged(tmp_path: Path) -> None:
    """The scores of iteration 4 say nothing of the weights of iteration 5."""
    checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=1, metric="PSNR")
    for iteration, scored_at, psnr in ((4, 4, 20.0), (5, 4, 30.0), (6, 6, 10.0)):
        metrics, meta = {"PSNR": psnr}, {"metrics_iteration": scored_at}
        checkpoints.save("psnr", iteration, {"network_g": {}}, {}, metrics=metrics, meta=meta)
    assert sorted(path.name for path in tmp_path.glob("psnr_*")) == ["psnr_00000004", "psnr_00000006"]
