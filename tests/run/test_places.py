"""What a relative path means: a place below the folder in which the command runs; `base:` one beside its file."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.programs import call
from tests.run.tiny import environment, option_tree, pictures, write_options


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder in which somebody has images, an option file and the one that it inherits from."""
    pictures(tmp_path / "home" / "images")
    tree = option_tree(Path("images"), psnr=2)
    del tree["stages"]["gan"]
    write_options(tmp_path / "home" / "files" / "below.yml", tree)
    (tmp_path / "home" / "files" / "mine.yml").write_text("base: below.yml\n", encoding="utf-8")
    return tmp_path / "home"


@pytest.mark.slow
def test_a_run_is_where_one_stands_and_so_is_its_next_command(home: Path) -> None:
    """The repository may lie elsewhere; what is printed runs as printed."""
    (home / "repository").symlink_to(ROOT)
    command = [sys.executable, "repository/train.py", "--opt", "files/mine.yml", "--device", "cpu"]
    piped = {"cwd": home, "env": environment(), "capture_output": True, "text": True}
    done = subprocess.run(command, check=False, **piped)
    assert done.returncode == 0, done.stderr
    assert (home / "runs" / "tiny" / "checkpoints").is_dir()
    following = shlex.split(done.stdout.strip().splitlines()[-1])
    assert following[:4] == ["python", "repository/test.py", "--opt", "runs/tiny/options.yml"]
    done = subprocess.run([sys.executable, *following[1:]], check=False, **piped)
    assert done.returncode == 0 and (home / "results" / "tiny" / "results.md").is_file(), done.stderr


def test_from_elsewhere_a_relative_path_is_refused_with_the_place_it_was_looked_for_in(home: Path) -> None:
    away = home.parent / "away"
    away.mkdir()
    looked = f" in {away}, where relative paths start"
    device = ("--device", "cpu")
    refused = call("train", "--opt", "../home/files/mine.yml", *device, cwd=away)
    assert refused.returncode == 1 and f"root: images: no such folder{looked}" in refused.stderr
    moved = [f"data.{kind}.pictures.root=../home/images" for kind in ("train", "validation")]
    sets = ("--set", moved[0], "--set", moved[1])
    resumed = call("train", "--opt", "../home/files/mine.yml", *sets, "--resume", "old", *device, cwd=away)
    assert resumed.returncode == 1 and f"old cannot be used: there is no such folder{looked}" in resumed.stderr

    def restored(*arguments: str) -> str:
        done = call("test", *arguments, *device, cwd=away)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        return done.stderr

    images, bicubic = str(home / "images"), ("--weights", "bicubic", "--scale", "2")
    assert f"one.png: there is no such file{looked}" in restored("-i", "one.png", "-o", "out", *bicubic)
    assert f"net.pth: no such file{looked}" in restored("-i", images, "-o", "out", "--weights", "net.pth")
    assert "runs/tiny: this run has no checkpoint yet" in restored("-i", images, "-o", "out", "--weights", "runs/tiny")
