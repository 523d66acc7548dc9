"""DASR and CDSR against values from running the released code: encoders, blocks, whole networks, key manifests."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.network import NETWORKS
from models.networks import cdsr, dasr
from models.restoring.restorer import ensemble
from models.weights.guess import guess_network
from models.weights.load import load_weights
from tests.golden.test_networks import arrays, assert_close, manifest, published_state, shapes_on_meta

CONTRASTIVE = ("E.encoder_k.", "E.queue")
RELEASED = [(name, scale) for name in ("dasr", "cdsr") for scale in (2, 3, 4)]


def released_keys(name: str, scale: int) -> dict[str, list[int]]:
    return manifest(f"cdsr/{name}_full_x{scale}.json")["keys"]


def in_a_file(keys: dict[str, list[int]]) -> dict[str, list[int]]:
    """What the released code saves."""
    return {key: shape for key, shape in keys.items() if not key.startswith(CONTRASTIVE)}


def frozen(module: nn.Module) -> Any:  # noqa: ANN401
    """The module in evaluation mode, with weights by the frozen rule under its own names."""
    module.load_state_dict(published_state({key: list(value.shape) for key, value in module.state_dict().items()}))
    return module.eval().requires_grad_(False)


def frozen_network(name: str, scale: int) -> Any:  # noqa: ANN401
    network = NETWORKS.build({"type": name, "scale": scale})
    state = published_state(released_keys(name, scale))
    if name == "dasr":  # as the goldens were made: mean shift as constructed, and a trunk that does not overflow
        state |= {key: value for key, value in network.state_dict().items() if "_mean." in key}
        state["G.compress.0.weight"] *= 0.125
    report = load_weights(network, state)
    assert report.complete
    return network.eval().requires_grad_(False)


# --- keys and sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scale"), RELEASED)
def test_keys_shapes_and_parameter_counts(name: str, scale: int) -> None:
    entry, keys = manifest(f"cdsr/{name}_full_x{scale}.json"), released_keys(name, scale)
    shapes, parameters = shapes_on_meta({"type": name, "scale": scale})
    assert shapes == in_a_file(keys)
    assert parameters == entry["trainable"]
    frozen_ones = 24 if name == "dasr" else 0  # the mean shift, a buffer of ours
    expected = {"dasr": {2: 5_821_595, 3: 6_006_235, 4: 5_969_307}, "cdsr": {2: 13_232_558, 3: 13_241_213}}
    assert parameters + frozen_ones == expected[name].get(scale, 13_253_330)
    with torch.device("meta"):
        encoder: Any = NETWORKS.build({"type": name, "scale": scale}).encoder
    of_encoder = sum(parameter.numel() for parameter in encoder.parameters())
    assert of_encoder == {"dasr": 1_278_784, "cdsr": 2_934_592}[name]
    assert parameters + frozen_ones + of_encoder == entry["parameters"]  # with the key encoder


@pytest.mark.parametrize("with_key_encoder", [False, True])
@pytest.mark.parametrize(("name", "scale"), RELEASED)
def test_released_files_are_found_and_load(name: str, scale: int, with_key_encoder: bool) -> None:
    keys = released_keys(name, scale)
    shapes = keys if with_key_encoder else in_a_file(keys)
    held = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    guess = guess_network(held)
    assert (guess["type"], guess["scale"]) == (name, scale)
    with torch.device("meta"):
        report = load_weights(NETWORKS.build(guess), held)
        defaults = NETWORKS.build({"type": name, "scale": scale})
    assert load_weights(defaults, held).complete
    assert report.complete and report.missing == report.unexpected == []
    assert report.set_aside == [key for key in held if key.startswith(CONTRASTIVE)]
    assert ("contrastive training" in str(report)) == with_key_encoder


# --- DASR --------------------------------------------------------------------------------------------------------


def test_dasr_encoder() -> None:
    values, encoder = arrays("cdsr/dasr_encoder.npz"), frozen(dasr.Encoder(64, "local"))
    lq = torch.from_numpy(values["x"]) / 255
    assert_close(encoder.E[:6](255 * lq)[:1, :8], values["first6_eval"])
    for found, part in zip(encoder(lq), ("fea", "out"), strict=True):
        assert_close(found, values[part])
    for found, part in zip(encoder.train()(lq), ("fea_train", "out_train"), strict=True):
        assert_close(found, values[part])
    assert_close(encoder.E[1].running_mean, values["rm1_after"])
    assert_close(encoder.E[1].running_var, values["rv1_after"])


@pytest.mark.parametrize(
    ("part", "module"),
    [
        ("ca", dasr.ChannelAttention(64, 8)),
        ("da_conv", dasr.DAConv(64)),
        ("dab", dasr.DABlock(64)),
        ("dag", dasr.DAGroup(64, 5)),
    ],
)
def test_dasr_blocks(part: str, module: nn.Module) -> None:
    values = arrays("cdsr/dasr_blocks.npz")
    x, code = (torch.from_numpy(values[name]) for name in "xe")
    assert_close(frozen(module)(x, code), values[part])


def recorded(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Filled with the first output of each module."""
    outputs: dict[str, Tensor] = {}

    def record(module: nn.Module, _: object, output: Tensor) -> None:
        outputs.setdefault(names[module], output)

    names = {module: name for name, module in modules.items()}
    for module in names:
        module.register_forward_hook(record)
    return outputs


@pytest.mark.parametrize("scale", [2, 4])
def test_dasr(scale: int) -> None:
    values, network = arrays(f"cdsr/dasr_full_x{scale}.npz"), frozen_network("dasr", scale)
    generator = network.G
    outputs = recorded({"compressed": generator.compress, "head": generator.head, "group0": generator.body[0]})
    lq = torch.from_numpy(values["x"]) / 255
    assert_close(255 * network(lq), values["sr"])
    assert_close(network.encoder(lq)[0], values["fea"])
    assert_close(outputs["compressed"], values["compressed"])
    assert_close(outputs["head"][:, :8], values["head"])
    assert_close(outputs["group0"][:, :8], values["group0"])
    assert_close(255 * network(lq, torch.from_numpy(values["emb_in"])), values["sr_emb"])


def test_dasr_self_ensemble() -> None:
    values, network = arrays("cdsr/dasr_selfensemble_x2.npz"), frozen_network("dasr", 2)
    assert_close(255 * ensemble(network, torch.from_numpy(values["x"]) / 255), values["y"])


# --- CDSR --------------------------------------------------------------------------------------------------------


def test_cdsr_encoder() -> None:
    values, encoder = arrays("cdsr/cdsr_encoder.npz"), frozen(cdsr.PatchEncoder(64, 1024, "local"))
    inputs: list[Tensor] = []
    encoder.mlp1.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    outputs = recorded({"mlp1": encoder.mlp1, "csc_q": encoder.fc_q})
    lq = torch.from_numpy(values["x"])
    for found, part in zip(encoder(lq), ("fea", "out"), strict=True):
        assert_close(found, values[part])
    for found, part in zip(inputs[0].chunk(2, 1), ("pixel_pooled", "patch_pooled"), strict=True):
        assert_close(found, values[part])
    for part, found in outputs.items():
        assert_close(found, values[part])
    assert_close(encoder.code_weights(outputs["mlp1"]), values["csc_softmax"])
    for found, part in zip(encoder.train()(lq), ("fea_train", "out_train"), strict=True):
        assert_close(found, values[part])


def test_cdsr_codebook() -> None:
    values, encoder = arrays("cdsr/cdsr_csc.npz"), frozen(cdsr.PatchEncoder(64, 1024, "local"))
    weights = encoder.code_weights(torch.from_numpy(values["query_in"]))
    embedding = weights @ encoder.feature_bank.weight
    assert_close(weights, values["softmax"])
    assert_close(embedding, values["out"])
    assert_close(encoder.mlp(embedding), values["mlp_out"])


def test_cdsr_attention() -> None:
    values, attention = arrays("cdsr/cdsr_blocks.npz"), frozen(cdsr.ChannelCrossAttention(64))
    attention.gamma.fill_(0.7)
    # The golden was made with the arguments the other way round.
    pooled, code = torch.from_numpy(values["e"]), torch.from_numpy(values["x"])[:, :, 0, 0]
    assert_close(attention(code, pooled), values["cma_gamma07"])
    assert_close(attention(code[:1], pooled[:1]), values["cma_gamma07_b1"])


@pytest.mark.parametrize(
    ("part", "module", "code"),
    [
        ("dqa", cdsr.DomainQueryConv(64, "released"), "e"),
        ("fuseblk", dasr.DABlock(64, lambda n: cdsr.DomainQueryConv(n, "released")), "e"),
        ("sft", cdsr.SFTLayer(64, 256, "released"), "para"),
        ("rrdb_sft", cdsr.RRDBSFT(64, 32, 256, "released"), "para"),
    ],
)
def test_cdsr_blocks(part: str, module: nn.Module, code: str) -> None:
    values = arrays("cdsr/cdsr_blocks.npz")
    assert_close(frozen(module)(torch.from_numpy(values["x"]), torch.from_numpy(values[code])), values[part])


def test_paper_attends_to_the_channels_by_the_attended_code() -> None:
    """`gamma` 1.3: the released form meets the golden, the paper's differs; without attention both are one."""
    values = arrays("cdsr/cdsr_blocks.npz")
    x, code = (torch.from_numpy(values[name]) for name in "xe")
    released, paper = (frozen(cdsr.DomainQueryConv(64, attend)) for attend in ("released", "paper"))
    for module in (released, paper):
        module.sf_attn.gamma.fill_(1.3)
    assert_close(released(x, code), values["dqa_gamma1.3"])
    attended = released.sf_attn(code, x.mean((2, 3)))
    expected = released(x, code) - released.ca(x, code) + released.ca(x, attended)
    assert (expected - released(x, code)).abs().max() > 0.1
    torch.testing.assert_close(paper(x, code), expected, rtol=1e-4, atol=1e-4)
    for module in (released, paper):
        module.sf_attn.gamma.zero_()
    assert torch.equal(paper(x, code), released(x, code))


@pytest.mark.parametrize("scale", [2, 4])
def test_cdsr(scale: int) -> None:
    values, network = arrays(f"cdsr/cdsr_full_x{scale}.npz"), frozen_network("cdsr", scale)
    generator = network.G
    outputs = recorded({"compressed": generator.compress, "block0": generator.RRDB_trunk[0]})
    lq = torch.from_numpy(values["x"]) / 255
    assert_close(255 * network(lq), values["sr"])
    assert_close(network.encoder(lq)[0], values["fea"])
    assert_close(outputs["compressed"], values["compressed"])
    assert_close(outputs["block0"][:, :8], values["block0"])
    assert_close(network(lq, torch.from_numpy(values["emb_in"])), values["sr_emb"])
