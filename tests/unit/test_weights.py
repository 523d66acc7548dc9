"""Reading weights: layouts, key styles, strictness, and files that must not be trusted."""

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.network import NETWORKS
from models.weights.guess import guess_network
from models.weights.key_styles import canonical
from models.weights.load import load_weights, read_weights
from tests.helpers import GOLDEN
from utils.options.fields import OptionError

SMALL = {"num_feat": 8, "num_block": 2, "num_grow_ch": 4}


def rrdbnet(**options: Any) -> nn.Module:  # noqa: ANN401
    return NETWORKS.build({"type": "rrdbnet", "scale": 4, **SMALL, **options})


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(network: nn.Module, state: dict[str, Tensor]) -> bool:
    mine = network.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[key], value) for key, value in state.items())


# --- key styles: the inverse renaming is written out here, independently ---------------------------------------


def to_esrgan(key: str) -> str:
    key = re.sub(r"^body\.(\d+)\.rdb", r"RRDB_trunk.\1.RDB", key)
    for new, old in {"conv_body": "trunk_conv", "conv_up": "upconv", "conv_hr": "HRconv"}.items():
        key = key.replace(new, old)
    return key


def to_sequential(key: str, steps: int, blocks: int, conv5: str = "conv5") -> str:
    position = {"conv_first": 0, "conv_up1": 3, "conv_up2": 6, "conv_hr": 3 * steps + 2, "conv_last": 3 * steps + 4}
    top, _, rest = key.partition(".")
    if top == "body":
        key = re.sub(r"body\.(\d+)\.rdb(\d)\.conv([1-4])\.", r"model.1.sub.\1.RDB\2.conv\3.0.", key)
        return re.sub(r"body\.(\d+)\.rdb(\d)\.conv5\.", rf"model.1.sub.\1.RDB\2.{conv5}.", key)
    return f"model.1.sub.{blocks}.{rest}" if top == "conv_body" else f"model.{position[top]}.{rest}"


@pytest.mark.parametrize(("scale", "steps"), [(4, 2), (2, 1), (1, 0)])
@pytest.mark.parametrize("style", ["canonical", "esrgan", "sequential", "sequential_old", "module"])
def test_rrdbnet_styles(scale: int, steps: int, style: str) -> None:
    origin = rrdbnet(scale=scale, upsampling="steps")
    rename = {
        "canonical": lambda key: key,
        "esrgan": to_esrgan,
        "sequential": lambda key: to_sequential(key, steps, 2),
        "sequential_old": lambda key: to_sequential(key, steps, 2, conv5="conv5.0"),
        "module": lambda key: f"module.{key}",
    }[style]
    published = {rename(key): value for key, value in state_of(origin).items()}
    network = rrdbnet(scale=scale, upsampling="steps")
    report = load_weights(network, published)
    assert report.complete
    assert bool(report.renamed) == (style not in ("canonical", "module"))
    assert equal(network, state_of(origin))


def to_child(key: str) -> str:
    _, number, rest = key.split(".")
    child, part = (0, int(number)) if int(number) < 2 else ((int(number) + 1) // 3, (int(number) + 1) % 3)
    return f"model.child{child}.{part}.{rest}"


@pytest.mark.parametrize("norm", ["batch", "spectral", "instancespectral"])
def test_patchgan_children(norm: str) -> None:
    options = {"type": "patchgan", "num_feat": 4, "n_layers": 4, "norm": norm, "bias": True, "padding": 2}
    origin, network = NETWORKS.build(options), NETWORKS.build(options)
    published = {to_child(key): value for key, value in state_of(origin).items()}
    assert load_weights(network, published).complete
    assert equal(network, state_of(origin))


def test_vgg_features() -> None:
    options = {"type": "vgg_disc", "num_feat": 4, "input_size": 96, "bias": True}
    origin, network = NETWORKS.build(options), NETWORKS.build(options)
    order = [f"{kind}{level}_{half}" for level in range(5) for half in (0, 1) for kind in ("conv", "bn", "act")]
    order = [name for name in order if name not in ("bn0_0", "act0_0")]
    position = {name: f"features.{number}" for number, name in enumerate(order)}
    position |= {"linear1": "classifier.0", "linear2": "classifier.2"}
    published = {f"{position[key.split('.')[0]]}.{key.split('.')[1]}": v for key, v in state_of(origin).items()}
    assert load_weights(network, published).complete
    assert equal(network, state_of(origin))


def test_vgg_spectral() -> None:
    options = {"type": "vgg_disc", "num_feat": 4, "norm": "spectral", "bias": True}
    origin, network = NETWORKS.build(options), NETWORKS.build(options)
    position = {f"conv{level}_{half}": f"conv{2 * level + half}" for level in range(5) for half in (0, 1)}
    position |= {"linear1": "linear0", "linear2": "linear1"}
    published = {f"{position[key.split('.')[0]]}.{key.split('.')[1]}": v for key, v in state_of(origin).items()}
    assert load_weights(network, published).complete
    assert equal(network, state_of(origin))


@pytest.mark.parametrize("options", [{"type": "unet_sn", "num_feat": 4}, {"type": "srvgg", "scale": 2, "num_conv": 2}])
def test_networks_with_one_style(options: dict[str, Any]) -> None:
    origin, network = NETWORKS.build(options), NETWORKS.build(options)
    report = load_weights(network, state_of(origin))
    assert report.complete and not report.renamed
    assert equal(network, state_of(origin))


def test_own_names_win_over_a_style() -> None:
    """A network whose own keys look like another style's is loaded by its own names."""

    def foreign() -> nn.Module:
        trunk = nn.Sequential(nn.ModuleDict({"RDB1": nn.ModuleDict({"conv1": nn.Conv2d(1, 1, 3)})}))
        return nn.ModuleDict({"RRDB_trunk": trunk, "HRconv": nn.Conv2d(1, 1, 3)})

    network, origin = foreign(), foreign()
    report = load_weights(network, state_of(origin))
    assert report.complete and not report.renamed


# --- released Real-ESRGAN files -----------------------------------------------------------------------------------

RELEASED: dict[str, Any] = json.loads((GOLDEN / "realesrgan" / "full_manifests.json").read_text())
LAYOUTS = (("params_ema",), ("params",), ("params", "params_ema"), ())


def released(name: str, entries: tuple[str, ...]) -> dict[str, Any]:
    """What such a file holds, without memory for the weights; the entry to be taken has the right shapes."""
    state = {key: torch.empty(shape, device="meta") for key, shape in RELEASED[name]["keys"].items()}
    return {entry: state if entry == entries[-1] else {} for entry in entries} or state


def on_meta(options: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS.build(options)


@pytest.mark.parametrize("entries", LAYOUTS, ids=lambda entries: "+".join(entries) or "bare")
@pytest.mark.parametrize("name", [name for name in RELEASED if "Discriminator" not in name])
def test_released_generators_are_found(name: str, entries: tuple[str, ...]) -> None:
    config, held = dict(RELEASED[name]["config"]), released(name, entries)
    config["scale"] = config.pop("upscale", None) or config["scale"]
    guess = guess_network(read_weights(held))
    assert {key: guess[key] for key in config} == config
    report = load_weights(on_meta(guess), held)
    assert report.complete and not report.renamed and str(report) == "every weight fits"


@pytest.mark.parametrize("entries", [("params",), ()], ids=["params", "bare"])
def test_the_released_discriminator_is_loaded_but_not_taken_for_a_generator(entries: tuple[str, ...]) -> None:
    held = released("UNetDiscriminatorSN_64", entries)
    assert load_weights(on_meta({"type": "unet_sn"}), held).complete
    with pytest.raises(OptionError, match="known: rrdbnet, srvgg"):
        guess_network(read_weights(held))


def test_x4_in_x2_says_what_was_dropped() -> None:
    """Real-ESRGAN's x2plus starts from x4plus, whose first convolution sees other channels."""
    wide = on_meta({"type": "rrdbnet", "scale": 2, "upsampling": "unshuffle"})
    report = load_weights(wide, released("RealESRGAN_x4plus", ("params_ema",)), strict=False)
    assert str(report) == (
        "what fits by name and shape was taken\n  of another shape, dropped (1):\n"
        "    conv_first.weight: file [64, 3, 3, 3], network [64, 12, 3, 3]"
    )
    origin, network = rrdbnet(), rrdbnet(scale=2, upsampling="unshuffle")
    fresh = state_of(network)["conv_first.weight"]
    load_weights(network, {"params_ema": state_of(origin)}, strict=False)
    assert equal(network, {**state_of(origin), "conv_first.weight": fresh})


def test_the_report_names_what_is_missing_and_unknown() -> None:
    report = load_weights(rrdbnet(num_block=3), {**state_of(rrdbnet()), "odd": torch.zeros(1)}, strict=False)
    text = str(report)
    assert "missing in the file, left as it was (30):\n    body.2.rdb1.conv1.weight" in text and "and 20 more" in text
    assert "unknown to the network, dropped (1):\n    odd" in text and "another shape" not in text


# --- files and layouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefer", "expected"), [("ema", "params_ema"), ("raw", "params")])
def test_ema_or_raw(tmp_path: Path, prefer: Any, expected: str) -> None:  # noqa: ANN401
    held = {"params": state_of(rrdbnet()), "params_ema": state_of(rrdbnet())}
    torch.save(held, tmp_path / "net.pth")
    network = rrdbnet()
    load_weights(network, tmp_path / "net.pth", prefer=prefer)
    assert equal(network, held[expected])


@pytest.mark.parametrize("entry", ["params_ema", "params", "state_dict", None])
@pytest.mark.parametrize("prefer", ["ema", "raw"])
def test_the_only_entry_is_taken(tmp_path: Path, entry: str | None, prefer: Any) -> None:  # noqa: ANN401
    state = state_of(rrdbnet())
    torch.save({entry: state, "iteration": 5} if entry else state, tmp_path / "net.pt")
    network = rrdbnet()
    load_weights(network, tmp_path / "net.pt", prefer=prefer)
    assert equal(network, state)


def test_safetensors(tmp_path: Path) -> None:
    state = state_of(rrdbnet())
    save_file(state, tmp_path / "net.safetensors")
    network = rrdbnet()
    load_weights(network, str(tmp_path / "net.safetensors"))
    assert equal(network, state)


def test_dtype_of_the_network_is_kept() -> None:
    network = rrdbnet()
    load_weights(network, {key: value.half() for key, value in state_of(rrdbnet()).items()})
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


# --- differences -----------------------------------------------------------------------------------------------


def test_strict_names_every_difference_and_leaves_the_network(tmp_path: Path) -> None:
    state = state_of(rrdbnet())
    state["conv_extra.weight"] = torch.zeros(1, 2)
    state["conv_last.weight"] = torch.zeros(1, 8, 3, 3)
    del state["conv_hr.bias"]
    path = tmp_path / "odd.pth"
    torch.save({"params": state}, path)
    network = rrdbnet()
    before = state_of(network)
    with pytest.raises(OptionError) as caught:
        load_weights(network, path)
    for part in (
        str(path),
        "missing in the file (1)",
        "conv_hr.bias [8]",
        "unknown to the network (1)",
        "conv_extra.weight [1, 2]",
        "conv_last.weight: file [1, 8, 3, 3], network [3, 8, 3, 3]",
        "num_out_ch: 1",
    ):
        assert part in str(caught.value)
    assert equal(network, before)


def test_strict_lists_ten_and_counts_the_rest() -> None:
    with pytest.raises(OptionError) as caught:
        load_weights(rrdbnet(num_block=3), state_of(rrdbnet()))
    text = str(caught.value)
    assert "missing in the file (30)" in text and "and 20 more" in text
    assert len(re.findall(r"body\.2\.", text)) == 10
    assert "num_block: 2" in text


def test_wrong_upsampling_form_is_explained() -> None:
    with pytest.raises(OptionError, match="upsampling: steps") as caught:
        load_weights(rrdbnet(scale=2), state_of(rrdbnet(scale=2, upsampling="steps")))
    assert "conv_first.weight: file [8, 3, 3, 3], network [8, 12, 3, 3]" in str(caught.value)


def test_lenient_takes_what_fits_by_name() -> None:
    origin, network = rrdbnet(), rrdbnet(num_out_ch=1)
    before = state_of(network)
    published = {to_esrgan(key): value for key, value in state_of(origin).items() if not key.startswith("conv_hr")}
    published["stranger.weight"] = torch.zeros(3)
    report = load_weights(network, published, strict=False)
    assert report.missing == ["conv_hr.weight", "conv_hr.bias"]
    assert report.unexpected == ["stranger.weight"]
    assert report.mismatched["conv_last.weight"] == ((3, 8, 3, 3), (1, 8, 3, 3))
    assert report.renamed["trunk_conv.weight"] == "conv_body.weight"
    after = network.state_dict()
    assert torch.equal(after["conv_body.weight"], origin.state_dict()["conv_body.weight"])
    for key in ("conv_hr.weight", "conv_last.weight"):
        assert torch.equal(after[key], before[key])


def test_never_positionally() -> None:
    """Equal shapes in equal order under other names load nothing."""
    strangers = {f"layer{number}": value for number, value in enumerate(state_of(rrdbnet()).values())}
    network = rrdbnet()
    before = state_of(network)
    report = load_weights(network, strangers, strict=False)
    assert len(report.missing) == len(before) and len(report.unexpected) == len(strangers)
    assert equal(network, before)


def test_old_batch_norm_without_counter() -> None:
    options = {"type": "patchgan", "num_feat": 4, "n_layers": 2}
    state = state_of(NETWORKS.build(options))
    load_weights(NETWORKS.build(options), {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})


# --- files that are missing, damaged or hostile ----------------------------------------------------------------


class Hostile:
    """Unpickles as a call of os.mkdir."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def check_refused(path: Path, words: str) -> None:
    network = rrdbnet()
    before = state_of(network)
    with pytest.raises(OptionError, match=words) as caught:
        load_weights(network, path)
    assert str(path) in str(caught.value)
    assert equal(network, before)


def test_missing_file(tmp_path: Path) -> None:
    check_refused(tmp_path / "none.pth", "no such file")
    check_refused(tmp_path, "is a folder")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_truncated_pickle(tmp_path: Path, share: float, legacy: bool) -> None:
    path = tmp_path / "cut.pth"
    torch.save(state_of(rrdbnet()), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    check_refused(path, "damaged")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_truncated_safetensors(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.safetensors"
    save_file(state_of(rrdbnet()), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    check_refused(path, "no whole safetensors file")


def test_text_instead_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_text("<!DOCTYPE html><html>Not Found</html>")
    check_refused(path, "damaged")


@pytest.mark.parametrize("plain", [False, True])
def test_hostile_pickle_does_not_run(tmp_path: Path, plain: bool) -> None:
    path, trap = tmp_path / "hostile.pth", tmp_path / "trap"
    held = {"params": Hostile(str(trap))}
    if plain:
        path.write_bytes(pickle.dumps(held, protocol=2))
    else:
        torch.save(held, path)
    check_refused(path, r"holds the Python object \w+\.mkdir; .* can run code")
    assert not trap.exists()


def test_file_without_weights(tmp_path: Path) -> None:
    torch.save({"iteration": 5, "optimizers": []}, tmp_path / "state.pth")
    check_refused(tmp_path / "state.pth", "holds no network weights; found entries iteration, optimizers")
    torch.save([1, 2], tmp_path / "list.pth")
    check_refused(tmp_path / "list.pth", "holds no network weights")


# --- guessing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "upsampling", "guessed"),
    [
        (4, "auto", "steps"),
        (2, "unshuffle", "unshuffle"),
        (1, "unshuffle", "unshuffle"),
        (2, "steps", "steps"),
        (1, "steps", "steps"),
        (8, "steps", "steps"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_guess_rrdbnet(scale: int, upsampling: str, guessed: str, channels: int) -> None:
    origin = rrdbnet(scale=scale, upsampling=upsampling, num_in_ch=channels, num_out_ch=channels)
    options = {"num_in_ch": channels, "num_out_ch": channels, **SMALL}
    expected = {"type": "rrdbnet", "scale": scale, "upsampling": guessed, **options}
    steps = {4: 2, 2: 1, 1: 0}.get(scale, 3) if guessed == "steps" else 2
    states = [state_of(origin)]
    if steps < 3:  # nobody has published x8 in another style
        states.append({to_esrgan(key): value for key, value in state_of(origin).items()})
        states.append({to_sequential(key, steps, 2): value for key, value in state_of(origin).items()})
    for state in states:
        assert guess_network(state) == expected
    image = torch.rand(1, channels, 8, 12)
    rebuilt = NETWORKS.build(guess_network(states[-1]))
    load_weights(rebuilt, states[-1])
    torch.testing.assert_close(rebuilt(image), origin(image))


@pytest.mark.parametrize("options", [{"scale": 4, "num_conv": 16}, {"scale": 3, "num_feat": 12, "num_conv": 1}])
def test_guess_srvgg(options: dict[str, Any], tmp_path: Path) -> None:
    origin = NETWORKS.build({"type": "srvgg", **options})
    torch.save({"params": state_of(origin)}, tmp_path / "net.pth")
    guess = guess_network(read_weights(tmp_path / "net.pth"))
    assert {key: guess[key] for key in options} == options
    assert load_weights(NETWORKS.build(guess), tmp_path / "net.pth").complete


def test_guess_gives_up_clearly() -> None:
    with pytest.raises(OptionError, match="known: rrdbnet, srvgg"):
        guess_network(state_of(NETWORKS.build({"type": "unet_sn", "num_feat": 4})))
    with pytest.raises(OptionError, match="relu or leakyrelu"):
        guess_network(state_of(NETWORKS.build({"type": "srvgg", "scale": 2, "num_conv": 2, "act_type": "relu"})))


def test_canonical_leaves_unknown_names() -> None:
    state = {"G.conv_first.weight": torch.zeros(1), "upconv1.weight": torch.zeros(1)}
    assert canonical(state).keys() == state.keys()
