"""The benchmarks run; what they measure is not judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.run.tiny import environment


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
    assert len(compared) == 6 and all(versions[0] == "plain" and len(versions) > 1 for versions in compared.values())
    assert all(what in run.stdout for what in compared)


@pytest.mark.slow
def test_a_checkout_is_compared_with_another() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.run", "isp", "--calls", "1", "--against", str(ROOT)]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("isp 192->48") == 2, "there and here"
