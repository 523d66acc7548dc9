"""Every registered network against the `Network` protocol.

A new network is tested with its own defaults (and scale 2, where it takes one). A line in CASES makes it small, or says
which sizes of images it takes.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.network import NETWORKS, Network
from utils.options.components import OptionsError


@dataclass(frozen=True)
class Case:
    """A small network. `size` is the (height, width) of an image; `refused` sizes it must refuse, with the message.

    `idle` is a pattern of parameters that get no gradient from the output of a new network: they serve another loss, or
    stand behind a weight that starts at 0.
    """

    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (16, 24)
    refused: tuple[tuple[tuple[int, int], str], ...] = ()
    idle: str = "none"


PROJECTION = r"E\.encoder_q\.mlp\..*"
CASES: dict[str, Case] = {
    "bicubic": Case({"scale": 4}),
    "cdsr": Case(
        {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4, "encoder_feat": 4, "num_code": 8},
        (13, 25),
        idle=rf"{PROJECTION}|G\..*\.sf_attn\.(query|key|value)_conv\..*",
    ),
    "closed_form": Case({"scale": 2}),
    "dasr": Case(
        {"scale": 2, "num_feat": 8, "num_group": 1, "num_block": 1, "encoder_feat": 4}, (15, 18), idle=PROJECTION
    ),
    "msrresnet": Case({"scale": 2, "num_feat": 8, "num_block": 1}),
    "patchgan": Case({"num_feat": 4}, (40, 32), (((16, 40), "sides of at least 24"),)),
    "rrdbnet": Case(
        {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}, refused=(((16, 23), "multiples of 2"),)
    ),
    "srvgg": Case({"scale": 2, "num_feat": 8, "num_conv": 2}),
    "unet_sn": Case({"num_feat": 4}, refused=(((16, 20), "multiples of 8"),)),
    "usrnet": Case({"scale": 2, "n_iter": 2, "h_nc": 8, "nc": [8, 8, 12, 12], "nb": 1}, (15, 24)),
    "vgg_disc": Case({"num_feat": 4, "input_size": 96}, (96, 96), (((96, 128), "expected 96x96"),)),
}

VARIANTS = [
    *[("rrdbnet", {"scale": scale, "upsampling": "steps"}) for scale in (1, 2, 3, 4, 8)],
    *[("rrdbnet", {"scale": scale, "upsampling": "unshuffle"}) for scale in (1, 2, 4)],
    *[("patchgan", {"norm": norm}) for norm in ("instance", "spectral", "batchspectral", "instancespectral", "none")],
    ("patchgan", {"padding": 2, "n_layers": 1}),
    *[("vgg_disc", {"input_size": size}) for size in (128, 192, 256)],
    ("vgg_disc", {"norm": "spectral", "bias": True}),
    ("unet_sn", {"skip_connection": False}),
    *[("srvgg", {"scale": 3, "act_type": act}) for act in ("relu", "leakyrelu")],
    *[("msrresnet", {"scale": scale}) for scale in (3, 4)],
    *[("usrnet", {"scale": scale, "nb": 2}) for scale in (1, 3, 4)],
    ("usrnet", {"act_mode": "L", "downsample_mode": "avgpool", "upsample_mode": "pixelshuffle"}),
    ("usrnet", {"act_mode": "BR", "upsample_mode": "upconv", "init": "identity"}),
    *[(name, {"scale": scale}) for name in ("dasr", "cdsr") for scale in (3, 4)],
    *[(name, {"batch_norm": "global"}) for name in ("dasr", "cdsr")],
    ("cdsr", {"attend": "paper"}),
    ("cdsr", {"pixels": "detail"}),
    ("cdsr", {"pixels": "relative_detail"}),
    ("closed_form", {"scale": 4, "start": "bicubic", "prior": "flat"}),
    ("closed_form", {"scale": 3, "start": "nearest"}),
]


FOLDER = TemporaryDirectory()


@cache
def file_of_safmn() -> str:
    """A file that spandrel reads, of the network that it calls SAFMN."""
    safmn = pytest.importorskip("spandrel.architectures.SAFMN", reason="needs the extra `archs`")
    path = Path(FOLDER.name) / "safmn.safetensors"
    save_file(safmn.SAFMN(dim=8, n_blocks=1, ffn_scale=2.0, upscaling_factor=2).state_dict(), path)
    return str(path)


def case_of(name: str) -> Case:
    if name in CASES:
        return CASES[name]
    if name == "spandrel":
        return Case({"file": file_of_safmn()})
    return Case({"scale": 2} if "scale" in signature(NETWORKS.get(name)).parameters else {})


def build(name: str, **options: Any) -> Network:  # noqa: ANN401
    torch.manual_seed(0)
    return NETWORKS.build({"type": name, **case_of(name).options, **options})


def image_of(size: tuple[int, int]) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def conditions_of(network: Network, first: int = 0) -> dict[str, Any]:
    """What the network wants to know besides the image, by the shapes of DESIGN section 3, from sample `first` on."""
    known: dict[str, Any] = {
        "kernel": torch.full((2, 5, 5), 1 / 25)[first:],
        "sigma": torch.full((2,), 0.05)[first:],
        "scale": network.scale,
    }
    return {name: known[name] for name in network.conditions}


def check_output(network: Network, image: Tensor, output: Tensor) -> None:
    assert torch.isfinite(output).all()
    if network.role == "generator":
        height, width = image.shape[-2:]
        assert output.shape == (2, 3, height * network.scale, width * network.scale)
    else:
        assert output.shape[0] == 2
        assert network.scale == 1


def test_table_names_only_registered_networks() -> None:
    assert set(CASES) <= set(NETWORKS.names())


@pytest.mark.parametrize("name", NETWORKS.names())
def test_shape_and_gradient(name: str) -> None:
    network, image = build(name), image_of(case_of(name).size).requires_grad_()
    output = network(image, **conditions_of(network))
    check_output(network, image, output)
    weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(2))
    (output * weights).sum().backward()
    reached = {key: parameter.grad for key, parameter in network.named_parameters()}
    unreached = [key for key, grad in reached.items() if grad is None or not grad.abs().sum() > 0]
    assert unreached == [key for key in reached if re.fullmatch(case_of(name).idle, key)]
    assert image.grad is not None and torch.isfinite(image.grad).all() and image.grad.abs().sum() > 0


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_shape_of_variants(name: str, options: dict[str, Any]) -> None:
    network = build(name, **options)
    side = options.get("input_size", 96 if name == "vgg_disc" else 32)
    image = image_of((side, side))
    with torch.no_grad():
        check_output(network, image, network(image, **conditions_of(network)))


@pytest.mark.parametrize("name", NETWORKS.names())
def test_bfloat16_autocast(name: str) -> None:
    network, image = build(name), image_of(case_of(name).size)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(image, **conditions_of(network))
        loss = output.float().square().mean()
    check_output(network, image, output)
    if list(network.parameters()):
        loss.backward()
    for key, parameter in network.named_parameters():
        idle = re.fullmatch(case_of(name).idle, key)
        assert idle or (parameter.grad is not None and torch.isfinite(parameter.grad).all()), key
    for key, buffer in network.named_buffers():
        assert torch.isfinite(buffer).all() and buffer.dtype != torch.bfloat16, key


@pytest.mark.parametrize("name", NETWORKS.names())
def test_state_dict_round_trip(name: str) -> None:
    network, image = build(name), image_of(case_of(name).size)
    with torch.no_grad():
        network(image, **conditions_of(network))  # moves running statistics and singular vectors
    torch.manual_seed(5)
    other = NETWORKS.build({"type": name, **case_of(name).options})
    other.load_state_dict(network.state_dict())
    given = conditions_of(network)
    with torch.no_grad():
        assert torch.equal(network.eval()(image, **given), other.eval()(image, **given))


@pytest.mark.parametrize("name", NETWORKS.names())
def test_evaluation_changes_nothing_and_keeps_samples_apart(name: str) -> None:
    network, image = build(name).eval(), image_of(case_of(name).size)
    given = conditions_of(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        both = network(image, **given)
        second = network(image[1:], **conditions_of(network, first=1))
    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-5 * float(both.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS.names())
def test_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(OptionsError, match=r"network_g\.nmu_feat: unknown option"):
        NETWORKS.build({"type": name, **case_of(name).options, "nmu_feat": 4}, where="network_g")


@pytest.mark.parametrize(("name", "size", "message"), [(n, s, m) for n, c in CASES.items() for s, m in c.refused])
def test_impossible_size_is_refused(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        build(name)(image_of(size))


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_smallest_patchgan_image_works(padding: int, n_layers: int) -> None:
    network: Any = build("patchgan", padding=padding, n_layers=n_layers, norm="instance")
    side = network.smallest_side
    assert network(image_of((side, side))).numel() >= 2
    with pytest.raises(ValueError, match="patchgan"):
        network(image_of((side - 1, side)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "rrdbnet", "scale": 3, "upsampling": "unshuffle"}, "scale 3 is unknown with upsampling 'unshuffle'"),
        ({"type": "rrdbnet", "scale": 5}, "scale 5 is unknown"),
        ({"type": "msrresnet", "scale": 8}, "scale 8 is unknown, expected one of"),
        ({"type": "dasr", "scale": 6}, "scale 6 is unknown, expected one of"),
        ({"type": "srvgg", "scale": 2, "num_in_ch": 4, "num_out_ch": 3}, "equal numbers"),
        ({"type": "usrnet", "scale": 2, "in_nc": 3}, r"in_nc to be out_nc \+ 1"),
        ({"type": "usrnet", "scale": 2, "nc": [2, 8, 8, 8], "init": "identity"}, "expected 3 or more"),
    ],
)
def test_constructor_refuses_with_the_option_path(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"network_g: .*{message}"):
        NETWORKS.build(options, where="network_g")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NETWORKS.names())
def test_cuda_equals_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network, image = build(name).eval(), image_of(case_of(name).size)
    given = conditions_of(network)
    with torch.no_grad():
        expected = network(image, **given)
        moved = {key: value.cuda() if isinstance(value, Tensor) else value for key, value in given.items()}
        found = network.cuda()(image.cuda(), **moved).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
