"""USRNet against values from running the released code: every intermediate, the data module alone, key manifests."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.networks.usrnet import DataTerm, data_step, psf_on_canvas
from models.weights.guess import guess_network
from tests.golden.test_networks import arrays, assert_close, filled, manifest, published_state, shapes_on_meta

ENTRIES, VALUES = manifest("kair/usrnet.json"), arrays("kair/usrnet.npz")
RUNS = [(name, run) for name in ("usrnet_0", "usrnet_1", "usrnet_2") for run in ENTRIES[name]["runs"]]


def value(name: str) -> Tensor:
    return torch.from_numpy(VALUES[name])


def options(name: str) -> dict[str, Any]:
    return {"type": "usrnet", "scale": 4, **ENTRIES[name]["config"]}


@pytest.mark.parametrize(("name", "run"), RUNS, ids=[run["prefix"] for _, run in RUNS])
def test_output_and_all_intermediates(name: str, run: dict[str, Any]) -> None:
    network: Any = filled(options(name), ENTRIES[name]["keys"])
    prefix, scale = run["prefix"], run["sf"]
    hyper, data, prior = [], [], []

    def record_prior(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        data.append(inputs[0][:, :3])
        prior.append(output)

    network.h.register_forward_hook(lambda _, __, output: hyper.append(output))
    network.p.register_forward_hook(record_prior)
    lq, kernel, sigma = value(f"{prefix}x"), value(f"{prefix}k")[:, 0], value(f"{prefix}sigma").flatten()
    with torch.no_grad():
        output = network(lq, kernel, sigma, scale)
    assert len(prior) == ENTRIES[name]["config"]["n_iter"]
    found = {"ab": hyper[0], "d0": data[0], "p0": prior[0], "d1": data[1], "d_last": data[-1], "out": output}
    for part, tensor in found.items():
        assert_close(tensor, VALUES[f"{prefix}{part}"])


@pytest.mark.parametrize("name", [name for name in VALUES if name.endswith("otf_ri")])
def test_transfer_function(name: str) -> None:
    expected = torch.view_as_complex(value(name).contiguous())[0]
    height, width = expected.shape[-2:]
    psf = psf_on_canvas(value(name.replace("otf_ri", "k"))[:1, 0], (height, width))
    assert (torch.fft.fft2(psf) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["data_0", "data_1", "data_2", "data_3"])
def test_data_module_alone(name: str) -> None:
    scale, alpha = ENTRIES[name]["sf"], ENTRIES[name]["alpha"]
    lq, x, kernel = value(f"{name}_y"), value(f"{name}_x"), value(f"{name}_k")[:, 0]
    assert_close(data_step(x, lq, kernel, alpha, scale), VALUES[f"{name}_z"])
    term = DataTerm.of(lq, psf_on_canvas(kernel, (x.shape[-2], x.shape[-1])), scale)
    assert_close(term.step(x, torch.full((2, 1, 1, 1), alpha)), VALUES[f"{name}_z"])
    # The released runs gave a batch one kernel; another beside it must not matter.
    mixed = data_step(x, lq, torch.stack((kernel[0], kernel[0].flip(0).roll(1))), alpha, scale)
    assert_close(mixed[:1], VALUES[f"{name}_z"][:1])
    assert (mixed[1] - value(f"{name}_z")[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "parameters"), [("usrnet_full", 17_016_016), ("usrnet_tiny", 590_332)])
def test_manifest(name: str, parameters: int) -> None:
    shapes, found = shapes_on_meta(options(name))
    assert shapes == ENTRIES[name]["keys"]
    assert found == ENTRIES[name]["params"] == parameters


@pytest.mark.parametrize("name", ["usrnet_0", "usrnet_1", "usrnet_2", "usrnet_tiny"])
def test_published_weights_tell_their_options(name: str) -> None:
    guess = guess_network(published_state(ENTRIES[name]["keys"]))
    # Activations without weights leave no trace; all published models have ReLU.
    expected = {**options(name), "act_mode": "BR" if name == "usrnet_2" else "R"}
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in guess.items()} == expected
    filled(guess, ENTRIES[name]["keys"])
