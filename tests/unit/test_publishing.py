"""Files for other programs, run by these programs, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.network import NETWORKS
from models.publishing import __main__ as program
from models.publishing import bundle
from models.publishing.bundle import publish, spandrel_trouble
from models.publishing.card import card, write_card
from models.restoring.generator import LoadedGenerator
from utils.images.files import write_image
from utils.options.fields import OptionError
from utils.storage.checkpoint import Checkpoints

RRDB = {"type": "rrdbnet", "num_feat": 8, "num_block": 1, "num_grow_ch": 32}
SRVGG = {"type": "srvgg", "scale": 4, "num_feat": 8, "num_conv": 2}
DASR = {"type": "dasr", "scale": 2, "num_feat": 8, "num_group": 1, "num_block": 1, "encoder_feat": 4}
USRNET = {"type": "usrnet", "scale": 2, "n_iter": 1, "h_nc": 8, "nc": [8, 8, 8, 8], "nb": 1}
PHOTO = torch.rand(1, 3, 140, 140, generator=torch.Generator().manual_seed(0))


def generator(options: dict[str, Any]) -> LoadedGenerator:
    torch.manual_seed(0)
    return LoadedGenerator(NETWORKS.build(options).eval().requires_grad_(False), None, options)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "pth"])
@pytest.mark.parametrize("options", [{**RRDB, "scale": s} for s in (1, 2, 4)] + [SRVGG, DASR])
def test_state_dicts_are_read_by_others(options: dict[str, Any], form: bundle.Form, tmp_path: Path) -> None:
    pytest.importorskip("spandrel", reason="needs the extra `archs`")
    one = generator(options)
    (done,) = publish(one, "net", tmp_path, [form], PHOTO)
    assert done.largest <= 1e-4
    assert done.runtime == ("spandrel" if spandrel_trouble(one) is None else "PyTorch")


@pytest.mark.parametrize("options", [{**RRDB, "scale": 2}, {**RRDB, "scale": 1}, SRVGG])
def test_ncnn_runs_what_was_written(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ncnn", reason="needs the extra `publish`")
    (done,) = publish(generator(options), "net", tmp_path, ["ncnn"], PHOTO)
    assert done.largest <= 1e-4
    assert [file.name for file in done.files] == [f"net-x{options['scale']}.{end}" for end in ("param", "bin")]
    write_card(tmp_path, "net", generator(options), [done], PHOTO, "mit")
    text = (tmp_path / "README.md").read_text()
    assert "license: mit" in text and "net-x" in text and (tmp_path / "samples.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{**RRDB, "scale": s} for s in (1, 2, 4)] + [SRVGG, DASR])
def test_onnxruntime_runs_what_was_exported(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra `publish`")
    pytest.importorskip("onnxscript", reason="needs the extra `publish`")
    (done,) = publish(generator(options), "net", tmp_path, ["onnx"], PHOTO)
    assert done.largest <= 1e-4 and [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{**RRDB, "scale": 2}, SRVGG])
def test_half_precision_runs_in_onnxruntime(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra `publish`")
    pytest.importorskip("onnxscript", reason="needs the extra `publish`")
    (done,) = publish(generator(options), "net", tmp_path, ["onnx"], PHOTO, half=True)
    assert 1e-7 < done.largest <= 1e-2 and [file.name for file in tmp_path.iterdir()] == ["net-fp16.onnx"]
    onnx = pytest.importorskip("onnx", reason="needs the extra `publish`")
    kinds = {tensor.data_type for tensor in onnx.load(done.files[0]).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


def test_the_card_says_how_it_was_trained(tmp_path: Path) -> None:
    run = {
        "options": {
            "scale": 4,
            "degradation": {"type": "bsrgan", "shuffle": False, "steps": {"jpeg": {"prob": 0.25}}},
            "stages": {"psnr": {"iterations": 9}},
            "data": {"train": {"mine": {}}},
        },
        "stage": "psnr",
        "iteration": 9,
    }
    text = card("net", generator(SRVGG), [], "", "| PSNR |", run)
    assert "bsrgan, scale 4" in text and re.search(r"\| jpeg +\| jpeg +\| +0\.25 \|", text), text
    assert "## Results\n\n| PSNR |" in text and "None was stated" in text
    assert "## Results" not in card("net", generator(SRVGG), [], "mit", "", None)


def test_what_differs_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle.ncnn, "run_ncnn", lambda path, lq: torch.zeros(1, 3, *(4 * s for s in lq.shape[-2:])))
    with pytest.raises(OptionError, match="ncnn: differs from PyTorch by .* not written"):
        list(publish(generator(SRVGG), "net", tmp_path, ["ncnn"], PHOTO))
    assert not list(tmp_path.iterdir())


def test_forms_that_a_network_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="onnx: this network is told kernel"):
        list(publish(generator(USRNET), "net", tmp_path, ["onnx"], PHOTO))
    with pytest.raises(OptionError, match="ncnn: graphs of rrdbnet and srvgg are written, this network is dasr"):
        list(publish(generator(DASR), "net", tmp_path, ["ncnn"], PHOTO))
    for options, words in (
        ({**RRDB, "scale": 3}, "x3 for x2"),
        ({**RRDB, "scale": 4, "num_grow_ch": 8}, "growth"),
        (USRNET, "does not know usrnet"),
        ({**SRVGG, "act_type": "relu"}, "PReLU only"),
    ):
        assert words in (spandrel_trouble(generator(options)) or "")


def test_a_run_gives_its_name_and_files_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spandrel", reason="needs the extra `archs`")
    state = generator(SRVGG).network.state_dict()
    network = {"network_g": {"network": SRVGG}}
    checkpoints = Checkpoints(tmp_path / "runs" / "mine" / "checkpoints")
    checkpoints.save("psnr", 2, {"network_g": state, "network_g_ema": state}, {}, describe=network)
    write_image(tmp_path / "photo.png", np.full((140, 140, 3), 128, np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["publishing", "runs/mine", "--out", "release", "--to", "safetensors", "--photo", "photo.png"]
    )
    assert program.main() == 0
    written, ordinary = tmp_path / "release" / "mine.safetensors", tmp_path / "release" / "README.md"
    assert written.stat().st_mode == ordinary.stat().st_mode and "# mine\n" in ordinary.read_text()
