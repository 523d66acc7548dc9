"""`python -m models.ablating` as real processes: killed, it goes on, and nothing is trained twice."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models.ablating.runs import Submitted, Work, conduct, prepare, read_table
from models.ablating.study import load_study
from tests.helpers import ROOT
from tests.run.tiny import PATIENCE, environment, write_options
from tests.unit.test_ablation_study import tree_of
from utils.logging import Console, table

LONG = 60
"""Iterations: enough to be killed amid them."""


def start(options: Path, runs: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "models.ablating", "--opt", str(options), "--runs", str(runs), "--device", "cpu"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment(), start_new_session=True, **pipes)


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=3 * PATIENCE)
    assert process.returncode == 0, out
    return out


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.01)


def options_of(folder: Path, *variants: str) -> Path:
    tree = tree_of(folder, seeds=[0], budget={"iterations": LONG})
    tree["variants"] = {name: tree["variants"][name] for name in variants}
    tree["logger"] |= {"save_every": 5, "keep_last": 2}
    return write_options(folder / "ablation.yml", tree)


@pytest.mark.slow
def test_killed_twice_and_with_a_variant_more_it_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    once, runs = tmp_path / "once", tmp_path / "runs"
    first = start(options_of(tmp_path, "full", "no_jpeg"), runs)
    wait_for(first, runs / "tiny" / "full-s0" / "checkpoints" / "psnr_00000005")
    os.kill(first.pid, signal.SIGKILL)  # its run goes on alone, and is waited for
    first.wait()
    second = start(tmp_path / "ablation.yml", runs, "--jobs", "2")
    wait_for(second, runs / "tiny" / "no_jpeg-s0" / "checkpoints" / "psnr_00000005")
    os.kill(second.pid, signal.SIGTERM)
    out, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 75 and "the same command goes on" in out
    out = finish(start(options_of(tmp_path, "full", "no_jpeg", "weak"), runs))
    assert "no_jpeg-s0 is finished" in out and "weak-s0 is finished" in out
    finish(start(tmp_path / "ablation.yml", once))
    assert (runs / "tiny" / "report.md").read_text() == (once / "tiny" / "report.md").read_text()
    for variant in ("full", "no_jpeg", "weak"):  # every run was begun once and then resumed, if at all
        log = (runs / "tiny" / "logs" / f"{variant}-s0.log").read_text()
        assert log.count("starts from fresh weights") == 1
        trainings = [line for line in log.splitlines() if line.startswith("$ ") and "train.py" in line]
        assert len(trainings) - log.count("resuming from") <= 1  # a test that was stopped is made again
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}
    assert re.search(r"3 runs, 3 of them finished", finish(start(tmp_path / "ablation.yml", runs)))
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}


@pytest.mark.slow
def test_a_failure_ends_a_variant_and_not_the_experiment(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, seeds=[0, 1], budget={"iterations": 2})
    tree["variants"] = {"full": {}, "broken": {"data.train.pictures.root": str(tmp_path / "other")}}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "0.png").write_bytes((tmp_path / "train" / "0.png").read_bytes()[:200])
    process = start(write_options(tmp_path / "ablation.yml", tree), tmp_path / "runs")
    out, _ = process.communicate(timeout=3 * PATIENCE)
    assert process.returncode == 1
    assert "broken-s0" in out and "in a row could not be used" in out
    assert "full-s1 is finished" in out
    page = (tmp_path / "runs" / "tiny" / "report.html").read_text()
    assert "broken" in page and "left out, since broken-s0 failed" in page


@pytest.mark.slow
def test_runs_go_to_a_batch_system_through_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    study = load_study(options_of(tmp_path, "full", "no_jpeg"), ["budget.iterations=2"], tmp_path / "runs")
    crew = Submitted(tmp_path / "jobs", "local", {"timeout_min": 10}, None)
    assert conduct(study, prepare(study, "cpu"), crew, Console()) == {}
    assert not prepare(study, "cpu")


def test_failures_are_told_with_their_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(options_of(tmp_path, "full", "no_jpeg"), ["seeds=[0, 1]"], tmp_path / "runs")
    failing = {"no_jpeg-s0": "too hot"}
    monkeypatch.setattr(Work, "__call__", lambda work, environment=None: failing.get(work.run.name, ""))
    from models.ablating.runs import Here

    failed = conduct(study, prepare(study, "cpu"), Here(1, 1), Console())
    assert failed == {"no_jpeg-s0": "too hot", "no_jpeg-s1": "left out, since no_jpeg-s0 failed"}


def test_the_table_of_a_dry_run_is_read_back() -> None:
    text = table(["stage", "hours"], [["psnr", "0.25"], ["gan", "1.50"]])
    assert read_table(f"words\n{text}\ndry run", "stage") == [
        {"stage": "psnr", "hours": "0.25"},
        {"stage": "gan", "hours": "1.50"},
    ]
