"""CONTRIBUTING's files, pasted as they stand into a copy of the repository: found, tested and trained with."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.run.tiny import environment, option_tree, pictures, write_options

BLOCK = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.DOTALL)


def run(copy: Path, *arguments: str) -> str:
    """The output of a Python command in the copy, which must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with what CONTRIBUTING adds to it."""
    copied = tmp_path_factory.mktemp("copy") / "repository"
    shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns(".git", ".ci", "runs", "results", "__pycache__"))
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(blocks) == 6
    for path, text in blocks:
        assert not (copied / path).exists()
        (copied / path).write_text(text, encoding="utf-8")
    return copied


@pytest.mark.slow
def test_what_is_pasted_passes_the_contract_tests(copy: Path) -> None:
    names = "plain_sr or log_l1 or brighten or soft or pngs or mae"
    out = run(copy, "-m", "pytest", "tests/contract", "-k", names, "-n", "0")
    assert (found := re.search(r"(\d+) passed", out)) and int(found[1]) >= 25, out


@pytest.mark.slow
def test_what_is_pasted_trains_and_is_in_the_schema(copy: Path, tmp_path: Path) -> None:
    run(copy, "train.py", "--schema")
    schema = (copy / "options" / "schema.json").read_text(encoding="utf-8")
    assert all(f'"{name}"' in schema for name in ("plain_sr", "log_l1", "brighten", "soft", "pngs"))
    images = pictures(tmp_path / "images")
    tree = option_tree(images, psnr=2)
    tree["network_g"] = {"type": "plain_sr", "num_feat": 4}
    tree["degradation"] = {"type": "soft", "steps": {"light": {"type": "brighten", "gain_range": [0.8, 1.0]}}}
    tree["data"]["train"] = {"mine": {"type": "pngs", "root": str(images)}}
    tree["stages"] = {"psnr": {**tree["stages"]["psnr"], "losses": {"log": {"type": "log_l1"}}}}
    options = write_options(tmp_path / "mine.yml", tree)
    run(copy, "train.py", "--opt", str(options), "--runs", str(tmp_path / "runs"), "--device", "cpu")
    weights = tmp_path / "runs" / "tiny" / "checkpoints" / "psnr_00000002"
    measuring = ["--data", f"a={images}", "--metrics", "mae", "-o", str(tmp_path / "out")]
    assert "mae" in run(copy, "test.py", "--weights", str(weights), *measuring).lower()
