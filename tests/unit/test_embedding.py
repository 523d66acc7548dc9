"""What is read from embeddings: synthetic ones whose answers are known, and the report of a network from end to end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data.source import SourceEntry
from data.sources.folder import Folder
from data.validation import ValidationSet
from degradations import DEGRADATIONS
from degradations.kernels.families import anisotropic_gaussian, isotropic_gaussian
from models.embedding.__main__ import KERNELS, LEVELS, grid_plans, main
from models.embedding.probes import explained, probe_accuracy, projection, retrieval
from models.embedding.report import Samples, kernel_shape, numbers, spectra
from models.network import NETWORKS
from models.restoring.generator import load_generator
from models.training.experiment import Logger
from models.training.watch import Watcher
from utils.images.files import read_image, write_image
from utils.images.plot import figure, scatter
from utils.logging import Console
from utils.options.fields import OptionError
from utils.processes.distributed import Processes

IMAGES, KINDS, SIZE = 10, 8, 32


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# --- known answers ---------------------------------------------------------------------------------------------------


def test_separable_features_are_told_apart_entirely() -> None:
    features = 20 * noise(KINDS, SIZE) + noise(IMAGES, KINDS, SIZE, seed=1)
    assert retrieval(features) == probe_accuracy(features) == 1


def test_a_probe_sees_past_the_images_where_neighbours_do_not() -> None:
    """Each image is somewhere else in most directions; the degradation shows in the others."""
    where = np.broadcast_to(noise(IMAGES, 1, SIZE), (IMAGES, KINDS, SIZE))
    features = np.concatenate([where, noise(KINDS, 4, seed=1) + 0.1 * noise(IMAGES, KINDS, 4, seed=2)], 2)
    assert probe_accuracy(features) > 0.95 > 0.7 > retrieval(features)


def test_random_features_give_chance() -> None:
    features = noise(40, KINDS, 4)
    assert retrieval(features) == pytest.approx(1 / KINDS, abs=0.03)
    assert probe_accuracy(features) == pytest.approx(1 / KINDS, abs=0.08)  # 0.018 is a standard deviation, 6 penalties
    assert -0.02 < (explained(features, noise(KINDS, 1, seed=1)) or -1) < 0.03


def test_neighbours_are_of_other_images() -> None:
    """Kinds lie on a line, one beside the other, and on a far parallel one for the other image."""
    kind, image = np.meshgrid(np.arange(KINDS), [0, 100])
    assert retrieval(np.stack([kind, image], 2).astype(np.float64)) == 1


def test_a_linear_relation_is_explained() -> None:
    targets = noise(KINDS, 2)
    features = targets @ noise(2, SIZE, seed=1) + 0.01 * noise(IMAGES, KINDS, SIZE, seed=2)
    assert (explained(features, targets) or 0) > 0.999
    assert explained(features, np.ones((KINDS, 1))) is None and explained(features[:, :0], targets[:0]) is None


def test_angles_are_those_of_kernels_that_have_one() -> None:
    """Features that hold cos 2θ and sin 2θ explain the angle; 179 degrees are beside 1."""
    angle = np.array([1.0, 45, 90, 135, 179, np.nan, np.nan, np.nan])
    doubled = np.radians(2 * np.nan_to_num(angle))
    features = np.stack([np.cos(doubled), np.sin(doubled)], 1) + 0.01 * noise(IMAGES, KINDS, 2)
    features[:, 5:] += noise(IMAGES, 3, 2, seed=1)
    found = numbers(features, {"angle": angle, "noise": np.zeros(KINDS)})
    assert (found["R2 angle"] or 0) > 0.99 and found["R2 noise"] is None


def test_projection_finds_the_plane_and_keeps_its_signs() -> None:
    plane = noise(IMAGES, KINDS, 2) @ noise(2, SIZE, seed=1)
    points, shares = projection(plane)
    assert points.shape == (IMAGES * KINDS, 2) and shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(projection(plane.copy())[0], points)
    np.testing.assert_allclose(projection(-plane)[0], -points, atol=1e-9)


# --- degradations ----------------------------------------------------------------------------------------------------


def test_kernel_shapes_are_their_parameters() -> None:
    angles = [10.0, 100.0, 179.0]
    made = [anisotropic_gaussian(41, np.radians(degrees), 3.0**2, 1.5**2) for degrees in angles]
    wide, narrow, angle = kernel_shape(np.stack([*made, isotropic_gaussian(41, 2.0)]))
    np.testing.assert_allclose(wide, [3, 3, 3, 2], rtol=1e-3)
    np.testing.assert_allclose(narrow, [1.5, 1.5, 1.5, 2], rtol=1e-3)
    np.testing.assert_allclose(angle[:3], angles, atol=1e-3)
    assert np.isnan(angle[3])


def test_the_grid_is_what_the_samples_went_through() -> None:
    degradation, plans = grid_plans(2, 64)
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    samples = Samples.make(iter(images), degradation, plans)
    assert [of_one.shape for of_one in samples.lq] == [(24, 3, 32, 32)] * 2
    np.testing.assert_allclose(samples.truth["noise"], LEVELS * len(KERNELS), atol=1e-4)
    np.testing.assert_allclose(samples.truth["wide"], np.repeat([2 * k[0] for k in KERNELS], 3), rtol=0.08)
    np.testing.assert_allclose(samples.truth["angle"][12:], np.repeat([0, 45, 90, 135], 3), atol=0.01)
    assert np.isnan(samples.truth["angle"][:12]).all()
    flat = Samples.make(iter([torch.full((3, 64, 64), 0.5)] * 2), degradation, plans).lq
    assert not torch.equal(flat[0][1], flat[1][1]), "the same noise on every image would give it away"


def test_spectra_tell_a_wave_by_its_frequency() -> None:
    x = torch.arange(48) * (2 * np.pi)
    waves = [0.5 + 0.2 * torch.cos(x * cycles / 48).expand(3, 48, 48) for cycles in (3, 12, 23)]
    assert spectra([torch.stack(waves)])[0].argmax(1).tolist() == [1, 7, 15]  # in bins of 1.5 cycles, from above 0


def test_scatter_colours_by_value() -> None:
    points = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    with figure(3, 3) as drawn:
        axes = drawn.add_subplot()
        scatter(axes, "t", points, np.array([0.0, 90.0, np.nan]), "angle", period=180)
        drawn.canvas.draw()
    [unknown], (low, high) = (of_kind.get_facecolors()[:, :3] for of_kind in axes.collections)
    assert low[0] > 0.8 > 0.4 > max(low[1:]), "0 is red"
    assert min(high[1:]) > 0.8 > 0.4 > high[0], "half way round is cyan"
    assert len(set(unknown.tolist())) == 1, "what has no value is gray"


# --- from end to end -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small random dasr, and six images of smooth noise."""
    root = tmp_path_factory.mktemp("embedding")
    options = {"type": "dasr", "scale": 2, "num_feat": 4, "num_group": 1, "num_block": 1, "encoder_feat": 4}
    torch.save(NETWORKS.build(options).state_dict(), root / "dasr.pth")
    torch.save(NETWORKS.build({"type": "srvgg", "scale": 2, "num_feat": 8}).state_dict(), root / "srvgg.pth")
    for i in range(6):
        coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(i))
        image = torch.nn.functional.interpolate(coarse, size=(80, 90), mode="bicubic").clamp(0, 1)[0]
        write_image(root / "data" / f"{i}.png", (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    return root


def run(root: Path, *more: str, weights: str = "dasr.pth", data: str = "data") -> int:
    where = ["--weights", str(root / weights), "--data", str(root / data), "--out", str(root / "out")]
    return main([*where, "--crop", "32", *more])


def test_report(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place) == 0
    result = json.loads((place / "out" / "embedding.json").read_text())
    assert list(result["numbers"]) == ["encoder", "untrained encoder", "power spectrum, 16 bins", "chance"]
    columns = ["retrieval", "probe accuracy", "R2 wide", "R2 narrow", "R2 angle", "R2 noise"]
    assert all(list(numbers) == columns for numbers in result["numbers"].values())
    spectrum, chance = result["numbers"]["power spectrum, 16 bins"], result["numbers"]["chance"]
    assert spectrum["probe accuracy"] > 3 * chance["probe accuracy"] and spectrum["R2 noise"] > 0.5
    assert len(result["degradations"]["wide"]) == 24 and result["degradations"]["angle"][0] is None
    height, width, _ = read_image(place / "out" / "embedding.png").shape
    assert height > width > 900, "three rows of three panels"
    assert "| power spectrum, 16 bins |" in capsys.readouterr().out
    assert run(place) == 0 and json.loads((place / "out" / "embedding.json").read_text()) == result


def options_file(place: Path, degradation: dict[str, Any], scale: int = 2) -> str:
    (place / "options.json").write_text(json.dumps({"scale": scale, "degradation": degradation}))
    return str(place / "options.json")


def test_degradations_of_an_option_file(place: Path) -> None:
    """Round kernels without noise have neither angles nor levels to explain, and bsrgan tells nothing of itself."""
    assert run(place, "--opt", options_file(place, {"type": "gaussian"}), "--degradations", "5") == 0
    result = json.loads((place / "out" / "embedding.json").read_text())
    assert result["numbers"]["encoder"]["R2 angle"] is result["numbers"]["encoder"]["R2 noise"] is None
    widths = result["degradations"]["wide"]
    assert len(set(widths)) == 5 and min(widths) >= 0 and max(widths) < 4.1
    assert run(place, "--opt", options_file(place, {"type": "bsrgan"}), "--degradations", "3") == 0
    result = json.loads((place / "out" / "embedding.json").read_text())
    assert list(result["numbers"]["encoder"]) == ["retrieval", "probe accuracy"] and result["degradations"] == {}


def test_errors(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*more: str, **where: str) -> str:
        assert run(place, *more, **where) == 1
        return capsys.readouterr().err

    assert "srvgg has no encoder" in refused(weights="srvgg.pth")
    write_image(place / "few" / "a.png", np.zeros((80, 80, 3), np.uint8))
    assert "found 1 images to use, expected 4 or more" in refused(data="few")
    assert "0.png: 90x80 is smaller than the 96x96" in refused("--crop", "48")
    assert "found 4, but the network has scale 2" in refused("--opt", options_file(place, {"type": "gaussian"}, 4))
    assert "starts from given" in refused("--opt", options_file(place, {"type": "none"}))
    wrapped = {"type": "gaussian", "steps": {"blur": {"border": "wrap", "size": 65}}}
    assert "a crop of 64x64 does not do" in refused("--opt", options_file(place, wrapped))


def test_validation_reports_on_request(place: Path, tmp_path: Path) -> None:
    source, cpu = Folder(str(place / "data"), max_images=4), torch.device("cpu")
    dasr = load_generator(place / "dasr.pth").network

    def validated(network: nn.Module, folder: Path, **entry: Any) -> Path:  # noqa: ANN401
        made = DEGRADATIONS.build("gaussian", scale=2)
        valid = ValidationSet("hr", SourceEntry(source, **entry), made, seed=0, scale=2)
        folder.mkdir()
        watcher = Watcher(Logger(tensorboard=False), [valid], folder, Processes(0, 1, 0, cpu), Console(rank=1))
        watcher.validate("joint", 7, network, cpu, int)
        watcher.close()
        return folder / "embedding" / "hr_joint_00000007"

    assert not validated(dasr, tmp_path / "without").parent.exists()
    written = validated(dasr, tmp_path / "run", crop=64, embedding=5)
    assert read_image(written / "embedding.png").shape[1] > 900
    result = json.loads((written / "embedding.json").read_text())
    assert result["images"] == 4 and len(result["degradations"]["wide"]) == 5
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["hr/embedding probe accuracy"] == result["numbers"]["encoder"]["probe accuracy"]
    again = validated(dasr, tmp_path / "again", crop=64, embedding=5)
    assert json.loads((again / "embedding.json").read_text()) == result, "the same degradations of the same crops"
    with pytest.raises(OptionError, match="0.png: 90x80 is smaller than the 96x96"):
        validated(dasr, tmp_path / "large", embedding=5)
