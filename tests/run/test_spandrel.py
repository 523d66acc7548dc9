"""Architectures that spandrel knows and we do not: restored, benchmarked, fine-tuned, read by spandrel again."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.network import NETWORKS
from models.networks.spandrel import SpandrelNetwork
from models.restoring.generator import load_generator
from tests import programs
from tests.helpers import ROOT
from utils.images.files import read_image, write_image
from utils.options.fields import OptionError

spandrel = pytest.importorskip("spandrel", reason="needs the extra `archs`")
ARCHITECTURES = ("SwinIR", "SAFMN", "SPAN", "RCAN")


def made(name: str) -> nn.Module:
    """A small x4 network of spandrel's own class, its weights random."""
    from spandrel.architectures.RCAN import RCAN
    from spandrel.architectures.SAFMN import SAFMN
    from spandrel.architectures.SPAN import SPAN
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    match name:
        case "SwinIR":
            few = {"depths": [2, 2], "embed_dim": 12, "num_heads": [2, 2], "mlp_ratio": 2}
            return SwinIR(upscale=4, upsampler="nearest+conv", img_size=64, window_size=8, **few)
        case "SAFMN":
            return SAFMN(dim=8, n_blocks=1, ffn_scale=2.0, upscaling_factor=4)
        case "SPAN":
            return SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=4)
        case _:
            return RCAN(scale=4, n_resgroups=1, n_resblocks=1, n_feats=16)


def call(program: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return programs.call(program, *arguments, "--device", "cpu", cwd=cwd, timeout=400)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_file_is_read_as_it_was_made(name: str, tmp_path: Path) -> None:
    network = made(name).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "a.pth")
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    lq = torch.rand(1, 3, 40, 48)
    for path in (tmp_path / "a.pth", tmp_path / "a.safetensors"):
        generator = load_generator(path)
        given = lq.clone()
        with torch.no_grad():
            assert torch.equal(generator.network(given), network(lq.clone()))
            assert generator.network(lq[..., :37, :39]).shape == (1, 3, 148, 156)
        assert torch.equal(given, lq), "the input is changed"
        assert list(generator.network.state_dict()) == list(network.state_dict())


def test_restored_and_measured_by_test_py(tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "in" / "a.png", photo)
    network = made("SwinIR").eval()
    torch.save({"params_ema": network.state_dict()}, tmp_path / "theirs.pth")
    done = call("test", "-i", "in", "-o", "out", "--weights", "theirs.pth", cwd=tmp_path)
    assert done.returncode == 0 and "theirs: SwinIR x4, as spandrel reads theirs.pth" in done.stdout, done.stderr
    with torch.no_grad():
        expected = network(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0)
    difference = read_image(tmp_path / "out" / "a.png") / 255 - expected.clamp(0, 1).numpy()
    assert np.abs(difference).max() < 0.51 / 255
    done = call("test", "--data", "one=in", "-o", "numbers", "--weights", "theirs.pth", cwd=tmp_path)
    assert done.returncode == 0 and "theirs" in (tmp_path / "numbers" / "results.md").read_text(), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SPAN"])
def test_fine_tuned_by_train_py(name: str, tmp_path: Path, photo: np.ndarray) -> None:
    """What comes out is what went in, trained: read by test.py from the run alone, and by spandrel."""
    state = made(name).state_dict()
    save_file(state, tmp_path / "theirs.safetensors")
    write_image(tmp_path / "photos" / "a.png", photo.repeat(3, 0).repeat(3, 1))
    sets = (
        *("network_g.file=theirs.safetensors", "name=mine", "data.train.hr.root=photos", "data.validation=null"),
        *("data.crop_size=64", "data.gt_size=32", "data.batch_size=2", "data.workers=0", "stages.gan.iterations=3"),
        *("stages.gan.losses.perceptual=null", "stages.gan.network_d.num_feat=4"),
        "degradation={type: bicubic}", "stages.gan.losses.l1.target=plain",
    )  # fmt: skip
    options = [word for text in sets for word in ("--set", text)]
    done = call("train", "--opt", ROOT / "options/realesrgan/finetune_spandrel.yml", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "starts from the weights of theirs.safetensors" in done.stdout
    trained = tmp_path / "runs" / "mine" / "checkpoints" / "gan_00000003" / "network_g_ema.safetensors"
    after = load_file(trained)
    assert list(after) == sorted(state) and any(not torch.equal(after[key], state[key]) for key in state)
    (tmp_path / "theirs.safetensors").unlink()
    ours, theirs = load_generator(trained).network, spandrel.ModelLoader("cpu").load_from_file(trained).model.eval()
    lq = torch.rand(1, 3, 24, 32)
    with torch.no_grad():
        assert torch.equal(ours(lq), theirs(lq))
    assert load_generator(trained).network.scale == 4


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(made("SAFMN").state_dict(), tmp_path / "x4.pth")
    with pytest.raises(OptionError, match=r"network_g: spandrel takes .*x4.pth for SAFMN x4, expected x2"):
        NETWORKS.build({"type": "spandrel", "file": str(tmp_path / "x4.pth")}, where="network_g", scale=2)
    torch.save({"a.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(OptionError, match=r"other.pth: .*--opt FILE.*spandrel \S+ knows no network .*a\.weight"):
        load_generator(tmp_path / "other.pth")
    # spandrel 0.4.2 takes an RRDBNet of scale 3 for one of scale 2
    rrdb = NETWORKS.build({"type": "rrdbnet", "scale": 3, "num_feat": 8, "num_block": 1})
    torch.save(rrdb.state_dict(), tmp_path / "x3.pth")
    with pytest.raises(OptionError, match=r"x3.pth for ESRGAN x2, expected x3"):
        SpandrelNetwork(str(tmp_path / "x3.pth"), scale=3)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(OptionError, match=r"spandrel may know .*x4.pth, but it is not installed; pip install .*archs"):
        load_generator(tmp_path / "x4.pth")


def test_weights_of_both_kinds(tmp_path: Path) -> None:
    raw = made("SAFMN").state_dict()
    torch.save({"params": raw, "params_ema": {k: v + 1 for k, v in raw.items()}}, tmp_path / "both.pth")
    for weights, more in (("raw", 0), ("ema", 1)):
        network = SpandrelNetwork(str(tmp_path / "both.pth"), weights=weights)  # type: ignore[arg-type]
        key = next(iter(raw))
        assert torch.equal(network.state_dict()[key], raw[key] + more)
    assert json.dumps(list(network.state_dict())) == json.dumps(list(raw))
