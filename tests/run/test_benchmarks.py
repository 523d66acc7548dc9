"""The benchmarks run; what they measure is not judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.gpu import SHARES
from tests.helpers import ROOT
from tests.run.tiny import environment, pictures


@pytest.mark.slow
def test_every_kind_of_benchmark_runs(tmp_path: Path) -> None:
    kinds = ("gaussian", "bicubic/small_x2", "restoring", "loading")
    command = [sys.executable, "-m", "tests.benchmarks.run", *kinds, "--calls", "1", "--json", str(tmp_path / "r.json")]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["device"].startswith("cpu") and found["torch"]
    compared: dict[str, list[str]] = {}
    for row in found["rows"]:
        compared.setdefault(row["what"], []).append(row["version"])
        assert row["by_clock"] > 0 and (row["times_plain"] == 1 or row["version"] != "plain")
    assert len(compared) == 7 and all(versions[0] == "plain" and len(versions) > 1 for versions in compared.values())
    assert all(what in run.stdout for what in compared)


@pytest.mark.slow
def test_a_checkout_is_compared_with_another() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.run", "isp", "--calls", "1", "--against", str(ROOT)]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("isp 192->48") == 2, "there and here"


@pytest.mark.slow
def test_what_wants_a_gpu_is_tried_on_the_cpu(tmp_path: Path) -> None:
    """Every part leaves its figures; one whose time is up ends, with all that it has started."""
    for folder in ("photos", "set5"):
        pictures(tmp_path / folder)
    data = ["--photos", str(tmp_path / "photos"), "--set5", str(tmp_path / "set5")]
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--device", "cpu", "--tiny", *data]
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "all"), "--minutes", "30"],
        cwd=ROOT,
        env=environment(),
        text=True,
        capture_output=True,
    )
    assert run.returncode == 0 and run.stdout.count("done") == 5, run.stdout + run.stderr
    rows = {part: json.loads((tmp_path / "all" / f"{part}.json").read_text())["rows"] for part in SHARES}
    assert rows["tests"][0]["status"] == rows["training"][0]["status"] == 0
    assert all(row["images_per_second"] > 0 for row in rows["degradation"])
    assert {"ours", "ours, degrading", "ours, arithmetic"} < {row.get("version") for row in rows["steps"]}
    assert rows["restoring"] and sum("hr/PSNR" in line for line in rows["training"][0]["log"]) == 3
    run = subprocess.run(
        [*command, "training", "--out", str(tmp_path / "cut"), "--minutes", "0.02"],
        cwd=ROOT,
        env=environment(),
        text=True,
        capture_output=True,
    )
    assert run.returncode == 0 and "its time was up" in run.stdout
