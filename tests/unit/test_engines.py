"""Networks computed by other programs give what PyTorch gives, whole and in tiles, or are refused."""

import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.network import NETWORKS, Network
from models.publishing import engines
from models.publishing.engines import on_engine
from models.restoring.generator import LoadedGenerator
from models.restoring.restorer import Restorer
from utils.options.fields import OptionError

RRDBNET = {"type": "rrdbnet", "scale": 4, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
UNSHUFFLING = {**RRDBNET, "scale": 2, "upsampling": "unshuffle"}
SRVGG = {"type": "srvgg", "scale": 2, "num_feat": 8, "num_conv": 2}
GRAY = {**SRVGG, "num_in_ch": 1, "num_out_ch": 1}
INSTALLED = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"needs the extra {name}"))
    for name in ("openvino", "ncnn")
]


def generator_of(options: dict[str, Any]) -> LoadedGenerator:
    torch.manual_seed(0)
    return LoadedGenerator(NETWORKS.build(options).eval().requires_grad_(False), None, options)


def decibels(found: Tensor, expected: Tensor) -> float:
    return float(-10 * torch.log10((found - expected).square().mean() + 1e-20))


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize("options", [RRDBNET, UNSHUFFLING, SRVGG, GRAY], ids=lambda o: f"{o['type']}_{o['scale']}")
def test_results_are_those_of_pytorch(engine: Any, options: dict[str, Any]) -> None:  # noqa: ANN401
    generator, lq = generator_of(options), torch.rand(1, 3, 37, 51)
    expected = Restorer(generator, tile=16, overlap=5)(lq)
    found = Restorer(on_engine(generator, engine), tile=16, overlap=5, batch=3)(lq)
    assert found.shape == expected.shape and decibels(found, expected) > 100
    assert decibels(Restorer(on_engine(generator, engine))(lq), Restorer(generator)(lq)) > 100


class Foreign(Network):
    """What a trace does not follow: its result depends on the size."""

    scale = 1

    def forward(self, lq: Tensor) -> Tensor:
        return lq * (2 if lq.shape[-1] > 20 else 1)


def test_what_it_computes_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an engine of the shape of ours, which needs no extra."""
    traced = torch.jit.trace(Foreign(), torch.rand(1, 3, 16, 24))
    run = lambda lq: traced(torch.from_numpy(lq)).numpy()  # noqa: E731
    monkeypatch.setattr(engines, "_openvino", lambda *_: run)
    with pytest.raises(OptionError, match="differently from PyTorch"):
        on_engine(LoadedGenerator(Foreign(), None, {"type": "foreign"}), "openvino")


@pytest.mark.parametrize("engine", ["openvino", "ncnn"])
def test_an_engine_that_is_not_installed_names_its_extra(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(OptionError, match=rf"--engine {engine}: .*pip install -e '\.\[{engine}\]'"):
        on_engine(generator_of(SRVGG), engine)


def test_networks_and_precisions_that_an_engine_lacks_are_refused() -> None:
    with pytest.raises(OptionError, match="computes in fp32, not in bf16"):
        on_engine(generator_of(SRVGG), "ncnn", "bf16")
    with pytest.raises(OptionError, match="told"):
        on_engine(generator_of({"type": "usrnet", "scale": 2, "n_iter": 1, "nc": [4, 4, 4, 4], "nb": 1}), "openvino")


@pytest.mark.skipif(find_spec("ncnn") is None, reason="needs the extra ncnn")
def test_a_network_that_ncnn_is_not_written_for_is_refused() -> None:
    with pytest.raises(OptionError, match="--engine ncnn: ncnn: graphs of rrdbnet and srvgg"):
        on_engine(generator_of({"type": "bicubic", "scale": 2}), "ncnn")


def test_arrays_keep_their_layout() -> None:
    """Channels last in, as the restorer hands tiles on; engines get them channels first."""
    seen: list[np.ndarray] = []
    network = engines.EngineNetwork(Foreign(), lambda lq: seen.append(lq) or lq)
    network(torch.rand(1, 3, 4, 5).to(memory_format=torch.channels_last))
    assert seen[0].flags.c_contiguous and seen[0].dtype == np.float32
