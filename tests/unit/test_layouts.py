"""What other programs wrap networks in, and files that are no state dicts at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.network import NETWORKS
from models.restoring.generator import load_generator
from models.weights.guess import guess_network
from models.weights.layouts import unwrap
from models.weights.load import load_weights, read_weights
from utils.options.fields import OptionError

State = dict[str, Tensor]
OPTIONS = {"type": "rrdbnet", "scale": 2, "num_feat": 4, "num_block": 1, "num_grow_ch": 2}
DISCRIMINATOR = {"type": "unet_sn", "num_feat": 2}


def filled(options: dict[str, Any], value: float) -> State:
    return {key: torch.full_like(weight, value) for key, weight in NETWORKS.build(options).state_dict().items()}


def prefixed(state: State, word: str) -> State:
    return {f"{word}.{key}": value for key, value in state.items()}


WANTED, OTHER, JUDGE = filled(OPTIONS, 1.0), filled(OPTIONS, 2.0), filled(DISCRIMINATOR, 3.0)
COUNTER = torch.tensor([7])

WRAPPED: dict[str, Any] = {
    "bare": WANTED,
    "params_ema": {"params": OTHER, "params_ema": WANTED},
    "params": {"params": WANTED},
    "model": {"model": WANTED, "optimizer": {"state": {0: {"exp_avg": COUNTER}}, "param_groups": []}},
    "net": {"net": WANTED, "epoch": 3},
    "model_state_dict": {"model_state_dict": WANTED, "epoch": 3, "loss": torch.tensor(0.1)},
    "generator": {"generator": WANTED, "discriminator": JUDGE},
    "g_state_dict": {"g_state_dict": WANTED, "d_state_dict": JUDGE},
    "G and D": {"D": JUDGE, "G": WANTED},
    "netG": {"netD": JUDGE, "netG": WANTED},
    "generator and its average": {"generator": OTHER, "g_ema": WANTED, "d": JUDGE},
    "deep": {"checkpoint": {"state_dict": {"network_g": WANTED}}},
    "module": prefixed(WANTED, "module"),
    "compiled": {"params": prefixed(WANTED, "_orig_mod")},
    "compiled and parallel": prefixed(WANTED, "module._orig_mod"),
    "averaged model": {**prefixed(WANTED, "module"), "n_averaged": COUNTER},
    "lightning": {"state_dict": prefixed(WANTED, "net_g"), "global_step": 3, "optimizer_states": []},
    "lightning with a loss": {"state_dict": {**prefixed(WANTED, "model"), "perceptual.vgg.0.weight": torch.ones(1)}},
    "mmagic": {
        "meta": {"iter": 5},
        "state_dict": {**prefixed(WANTED, "generator"), **prefixed(JUDGE, "discriminator"), "step_counter": COUNTER},
    },
    "mmagic with an average": {
        "state_dict": {
            **prefixed(OTHER, "generator"),
            **prefixed(JUDGE, "discriminator"),
            **prefixed(WANTED, "generator_ema"),
            "step_counter": COUNTER,
        }
    },
    "online and average": {**prefixed(OTHER, "online_model"), **prefixed(WANTED, "ema_model"), "initted": COUNTER},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_network_inside_is_found(name: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[name], tmp_path / "net.ckpt")
    found = load_generator(tmp_path / "net.ckpt").network.state_dict()
    assert found.keys() == WANTED.keys()
    assert all(torch.equal(found[key], WANTED[key]) for key in WANTED)


@pytest.mark.parametrize("name", ["params_ema", "generator and its average", "mmagic with an average"])
def test_raw_weights_beside_their_average(name: str) -> None:
    found = read_weights(WRAPPED[name], "raw")
    assert all(torch.equal(found[key], OTHER[key]) for key in OTHER)


@pytest.mark.parametrize("name", ["generator", "G and D", "netG", "mmagic", "mmagic with an average"])
def test_a_discriminator_takes_its_own_weights(name: str) -> None:
    network = NETWORKS.build(DISCRIMINATOR)
    assert load_weights(network, WRAPPED[name]).complete
    assert all(torch.equal(value, JUDGE[key]) for key, value in network.state_dict().items())


def test_safetensors_with_prefixes_and_words_of_others(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({**prefixed(OTHER, "params"), **prefixed(WANTED, "params_ema")}, path, metadata={"title": "not JSON"})
    found = load_generator(path).network.state_dict()
    assert all(torch.equal(found[key], WANTED[key]) for key in WANTED)


def test_parts_of_one_network_stay_together() -> None:
    """`model` beside `head` is a part of an unknown network, and the numbers in `model.0` are its layers."""
    for state in ({"model.a.weight": COUNTER, "head.weight": COUNTER}, {"model.0.weight": COUNTER}):
        assert unwrap(state) == state


def test_own_names_that_look_like_wrapping() -> None:
    """A network whose part is called `model` is loaded from its own file by its own names."""

    def foreign() -> nn.Module:
        return nn.ModuleDict({"model": nn.Linear(2, 2)})

    origin, network = foreign(), foreign()
    assert load_weights(network, origin.state_dict()).complete
    assert torch.equal(network.state_dict()["model.weight"], origin.state_dict()["model.weight"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DISCRIMINATOR, r"discriminator \(unet_sn\)"),
        ({"type": "vgg_disc", "num_feat": 2}, r"discriminator \(vgg_disc\)"),
        ({"type": "patchgan", "num_feat": 2}, r"discriminator \(patchgan\)"),
    ],
)
def test_discriminators_are_called_so(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    torch.save({"params": filled(options, 1.0)}, tmp_path / "net_d.pth")
    with pytest.raises(OptionError, match=rf"net_d\.pth: these are the weights of a {words}, expected a generator"):
        load_generator(tmp_path / "net_d.pth")


def test_unknown_discriminators_and_vgg() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.utils.spectral_norm(nn.Conv2d(4, 4, 3)))
    with pytest.raises(OptionError, match="of a discriminator, expected"):
        guess_network({f"main.{key}": value for key, value in chain.state_dict().items()})
    judge = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 3))
    with pytest.raises(OptionError, match="of a discriminator, expected"):
        guess_network({f"main.{key}": value for key, value in judge.state_dict().items()})
    with pytest.raises(OptionError, match="of VGG"):
        guess_network({"features.0.weight": torch.ones(4, 3, 3, 3), "classifier.6.weight": torch.ones(10, 4)})


def onnx_file(path: Path) -> None:
    """As torch.onnx writes it: the version of the format, then the producer."""
    path.write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x062.14.1:\x04test")


def script_file(path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))  # type: ignore[union-attr]


def bare_weights(path: Path) -> None:
    path.write_bytes(b"\0\0\0\0" + bytes(40))


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def archive(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), a=np.ones(3))
    path.with_suffix(".npz").rename(path)


@pytest.mark.parametrize(
    ("write", "name", "words"),
    [
        (onnx_file, "net.pth", "an ONNX model"),
        (onnx_file, "net.onnx", "an ONNX model"),
        (script_file, "net.pth", "a TorchScript model"),
        (script_file, "net.pt", "a TorchScript model"),
        (bare_weights, "net.bin", r"ncnn model without net\.param"),
        (pointer, "net.pth", "a pointer of Git LFS"),
        (archive, "net.pth", r"a zip archive \(a\.npy"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_files_are_called_what_they_are(
    write: Callable[[Path], None], name: str, words: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(OptionError, match=rf"{name}: holds no weights that can be read; it is .*{words}"):
        load_generator(tmp_path / name)


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    save_file(WANTED, tmp_path / "net.pth")
    assert load_generator(tmp_path / "net.pth").network.scale == 2
