"""Networks against values from running the released code: outputs, parameter counts and key manifests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.network import NETWORKS
from models.weights.key_styles import canonical
from models.weights.load import load_weights
from tests.golden.kair.synth import frozen_value, rand_image

HERE = Path(__file__).parent
RELATIVE_ERROR = 1e-4


def manifest(file: str) -> dict[str, Any]:
    return json.loads((HERE / file).read_text())


def arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(HERE / file) as held:
        return {name: held[name] for name in held.files}


def published_state(keys: dict[str, list[int]]) -> dict[str, Tensor]:
    """Weights by the frozen rule, under the published names."""
    return {
        name: torch.tensor(0) if name.endswith("num_batches_tracked") else torch.from_numpy(frozen_value(name, shape))
        for name, shape in keys.items()
    }


def filled(options: dict[str, Any], keys: dict[str, list[int]]) -> nn.Module:
    network = NETWORKS.build(options)
    report = load_weights(network, published_state(keys))
    assert report.complete
    return network.eval()


def assert_close(found: Tensor, expected: np.ndarray) -> None:
    """The largest difference, relative to the largest expected value, is small."""
    reference = torch.from_numpy(expected)
    assert found.shape == reference.shape
    error = (found.detach() - reference).abs().max() / reference.abs().max()
    assert error < RELATIVE_ERROR, f"relative error {error:.2e}"


def shapes_on_meta(options: dict[str, Any]) -> tuple[dict[str, list[int]], int]:
    """Canonical key → shape, and the number of parameters, without memory for the weights."""
    with torch.device("meta"):
        network = NETWORKS.build(options)
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    return shapes, sum(parameter.numel() for parameter in network.parameters())


def canonical_shapes(keys: dict[str, list[int]]) -> dict[str, list[int]]:
    published = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    return {key: list(value.shape) for key, value in canonical(published).items()}


# --- generators ------------------------------------------------------------------------------------------------


def kair_rrdbnet(config: dict[str, Any]) -> dict[str, Any]:
    # Quirk of the released code: scale factors other than 4 give x2.
    scale = 4 if config.get("sf", config.get("upscale")) == 4 else 2
    return {
        "type": "rrdbnet",
        "scale": scale,
        "upsampling": "steps",
        "num_in_ch": config["in_nc"],
        "num_out_ch": config["out_nc"],
        "num_feat": config.get("nf", config.get("nc")),
        "num_block": config["nb"],
        "num_grow_ch": config.get("gc", 32),
    }


@pytest.mark.parametrize("name", ["rrdbnet_0", "rrdbnet_1", "rrdbnet_2", "rrdb_0"])
def test_kair_rrdbnet(name: str) -> None:
    entry, values = manifest("kair/rrdbnet.json")[name], arrays("kair/rrdbnet.npz")
    network = filled(kair_rrdbnet(entry["config"]), entry["keys"])
    with torch.no_grad():
        assert_close(network(torch.from_numpy(values[f"{name}_in"])), values[f"{name}_out"])


@pytest.mark.parametrize("name", ["rrdb_1", "rrdb_2"])
def test_kair_rrdb_with_other_upsampling_is_refused(name: str) -> None:
    """Pixel-shuffle and transposed forms are other networks: their weights must not load by accident."""
    entry = manifest("kair/rrdbnet.json")[name]
    network = NETWORKS.build(kair_rrdbnet(entry["config"]))
    with pytest.raises(ValueError, match="does not fit the network"):
        load_weights(network, published_state(entry["keys"]))


@pytest.mark.parametrize("name", ["rrdbnet_full_sf4", "rrdbnet_full_sf2", "rrdb_full_x4"])
def test_kair_rrdbnet_manifest(name: str) -> None:
    entry = manifest("kair/rrdbnet.json")[name]
    shapes, parameters = shapes_on_meta(kair_rrdbnet(entry["config"]))
    assert shapes == canonical_shapes(entry["keys"])
    assert parameters == entry["params"]


def basicsr_options(arch: str, config: dict[str, Any]) -> dict[str, Any]:
    names = {
        "RRDBNet": "rrdbnet",
        "SRVGGNetCompact": "srvgg",
        "UNetDiscriminatorSN": "unet_sn",
        "VGGStyleDiscriminator": "vgg_disc",
    }
    options = {("scale" if key == "upscale" else key): value for key, value in config.items()}
    return {"type": names[arch], **options}


def realesrgan_generators() -> list[str]:
    entries = manifest("realesrgan/networks.json").items()
    return [name for name, entry in entries if entry["arch"] != "UNetDiscriminatorSN"]


@pytest.mark.parametrize("name", realesrgan_generators())
def test_realesrgan_generators(name: str) -> None:
    entry, values = manifest("realesrgan/networks.json")[name], arrays("realesrgan/networks.npz")
    network = filled(basicsr_options(entry["arch"], entry["config"]), entry["keys"])
    with torch.no_grad():
        assert_close(network(torch.from_numpy(values[f"{name}_in"])), values[f"{name}_eval"])


@pytest.mark.parametrize("name", sorted(manifest("realesrgan/full_manifests.json")))
def test_realesrgan_manifest(name: str) -> None:
    entry = manifest("realesrgan/full_manifests.json")[name]
    shapes, parameters = shapes_on_meta(basicsr_options(entry["arch"], entry["config"]))
    assert shapes == entry["keys"]
    assert parameters == entry["params"]


def test_realesrgan_x4plus_at_full_size() -> None:
    entry = manifest("realesrgan/full_manifests.json")["RealESRGAN_x4plus"]
    values = arrays("realesrgan/x4plus_full.npz")
    network = filled(basicsr_options(entry["arch"], entry["config"]), entry["keys"])
    with torch.no_grad():
        assert_close(network(torch.from_numpy(values["x"])), values["y"])


def test_realsr_rrdbnet() -> None:
    entry, values = manifest("realsr/rrdbnet.json"), arrays("realsr/rrdbnet.npz")
    network = filled(kair_rrdbnet({**entry["config"], "sf": 4}), entry["keys"])
    with torch.no_grad():
        assert_close(network(torch.from_numpy(values["x"])), values["y"])


# --- discriminators --------------------------------------------------------------------------------------------

KAIR_VGG = {"type": "vgg_disc", "bias": True, "first_activation": False, "momentum": 0.9, "eps": 1e-4}
KAIR_FULL = {
    "Discriminator_PatchGAN": {"type": "patchgan", "norm": "spectral", "padding": 2, "bias": True, "max_feat": 512},
    "Discriminator_UNet": {"type": "unet_sn"},
    "Discriminator_VGG_96": {**KAIR_VGG, "input_size": 96},
    "Discriminator_VGG_128": {**KAIR_VGG, "input_size": 128},
    "Discriminator_VGG_192": {**KAIR_VGG, "input_size": 192},
    "Discriminator_VGG_128_SN": {"type": "vgg_disc", "norm": "spectral", "bias": True},
}


def kair_discriminator(config: dict[str, Any]) -> dict[str, Any]:
    names = {"input_nc": "num_in_ch", "ndf": "num_feat", "norm_type": "norm", "n_layers": "n_layers"}
    given = {names[key]: value for key, value in config.items() if key != "cls"}
    return {**KAIR_FULL[config["cls"]], **given}


def discriminators() -> list[str]:
    return [name for name in manifest("kair/discriminators.json") if not name.endswith("_full")]


@pytest.mark.parametrize("name", discriminators())
def test_kair_discriminators(name: str) -> None:
    entry, values = manifest("kair/discriminators.json")[name], arrays("kair/discriminators.npz")
    network = filled(kair_discriminator(entry["config"]), entry["keys"])
    image = torch.from_numpy(values[f"{name}_in"])
    with torch.no_grad():
        assert_close(network(image), values[f"{name}_eval"])
        network.train()
        third = [network(image) for _ in range(3)][-1]
        assert_close(third, values[f"{name}_train3"])
        assert_close(network.eval()(image), values[f"{name}_eval_after3"])


@pytest.mark.parametrize("name", sorted(KAIR_FULL))
def test_kair_discriminator_manifest(name: str) -> None:
    entry = manifest("kair/discriminators.json")[f"{name}_full"]
    shapes, parameters = shapes_on_meta(KAIR_FULL[name])
    assert shapes == canonical_shapes(entry["keys"])
    assert parameters == entry["params"]


def check_two_training_passes(network: nn.Module, image: Tensor, values: dict[str, np.ndarray], name: str) -> None:
    """Evaluation, two training passes with the buffers after the first, evaluation again."""
    with torch.no_grad():
        assert_close(network(image), values[f"{name}_eval"])
        assert_close(network.train()(image), values[f"{name}_train"])
        state = network.state_dict()
        prefix = f"{name}_after_"
        stored = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
        assert stored
        for key, value in stored.items():
            assert_close(state[key], value)
        assert_close(network(image), values[f"{name}_train2"])
        assert_close(network.eval()(image), values[f"{name}_eval_after"])


@pytest.mark.parametrize("name", ["unet_skip1", "unet_skip0"])
def test_realesrgan_unet(name: str) -> None:
    entry, values = manifest("realesrgan/networks.json")[name], arrays("realesrgan/networks.npz")
    network = filled(basicsr_options(entry["arch"], entry["config"]), entry["keys"])
    check_two_training_passes(network, torch.from_numpy(values[f"{name}_in"]), values, name)


@pytest.mark.parametrize(("name", "seed"), [("vgg128", 258), ("vgg256", 386)])
def test_basicsr_vggstyle(name: str, seed: int) -> None:
    entry, values = manifest("realesrgan/vggstyle.json")[name], arrays("realesrgan/vggstyle.npz")
    network = filled(basicsr_options(entry["arch"], entry["config"]), entry["keys"])
    side = entry["config"]["input_size"]
    check_two_training_passes(network, torch.from_numpy(rand_image(seed, 2, 3, side, side)), values, name)


def test_realsr_nlayer() -> None:
    entry, values = manifest("realsr/nlayer_discriminator.json"), arrays("realsr/nlayer_discriminator.npz")
    config = entry["config"]
    options = {"type": "patchgan", "num_feat": config["ndf"], "n_layers": config["n_layers"]}
    network = filled(options, entry["keys"])
    image = torch.from_numpy(values["x"])
    with torch.no_grad():
        assert_close(network(image), values["eval"])
        assert_close(network.train()(image), values["train"])
    assert_close(network.state_dict()["model.3.running_mean"], values["train_running_mean"])
    assert_close(network.state_dict()["model.3.running_var"], values["train_running_var"])


def test_realsr_vgg() -> None:
    entry, values = manifest("realsr/discriminator_vgg_128.json"), arrays("realsr/discriminator_vgg_128.npz")
    network = filled({"type": "vgg_disc", "num_feat": entry["config"]["nf"]}, entry["keys"])
    with torch.no_grad():
        assert_close(network(torch.from_numpy(values["x"])), values["eval"])
