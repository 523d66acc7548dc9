"""What a machine lacks is said in a line before anything runs."""

from pathlib import Path

import pytest
import torch

from tests.programs import call
from tests.run.tiny import option_tree, pictures, write_options
from utils import machine
from utils.machine import half_ratio, need_compiler, slow_half
from utils.options.fields import OptionError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_half_precision_is_measured_and_warned_of_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.01 < half_ratio(torch.bfloat16) < 100
    monkeypatch.setattr(machine, "half_ratio", lambda dtype: 7.77 if dtype is torch.bfloat16 else 0.3)
    assert "bf16: a small convolution takes 7.8 times as long" in (slow_half(torch.bfloat16, CPU) or "")
    for dtype, device in ((torch.float16, CPU), (torch.float32, CPU), (torch.bfloat16, GPU)):
        assert slow_half(dtype, device) is None


@pytest.mark.parametrize(("device", "variable", "name"), [(CPU, "CXX", "g++"), (GPU, "CC", "gcc")])
def test_a_compiler_is_looked_for_where_it_will_be(
    device: torch.device, variable: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OptionError, match=rf"here: torch.compile needs a compiler, and {name.replace('+', '.')}"):
        need_compiler(device, "here")
    for place, given in ((tmp_path / name, None), (tmp_path / "mine", tmp_path / "mine")):
        place.touch(0o755)
        if given is not None:
            (tmp_path / name).unlink()
            monkeypatch.setenv(variable, str(given))
        need_compiler(device, "here")


def test_training_without_one_ends_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = option_tree(pictures(tmp_path / "images", 2))
    tree["performance"] = {"compile": "default"}
    options = write_options(tmp_path / "tiny.yml", tree)
    monkeypatch.setenv("CXX", "no-such-compiler")
    run = call("train", "--opt", options, "--runs", tmp_path / "runs", cwd=tmp_path)
    assert run.returncode == 1 and not (tmp_path / "runs").exists()
    assert run.stderr.count("\n") == 1 and "error: performance.compile: torch.compile needs a compiler" in run.stderr


def test_restoring_without_one_ends_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(tmp_path / "images", 1)
    monkeypatch.setenv("CXX", "no-such-compiler")
    run = call("test", "-i", images, "-o", "out", "--weights", "bicubic", "--scale", "2", "--compile", cwd=tmp_path)
    assert run.returncode == 1 and not (tmp_path / "out").exists()
    assert run.stderr.count("\n") == 1 and "error: --compile: torch.compile needs a compiler" in run.stderr
