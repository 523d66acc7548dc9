"""Restoring arrays and files: sizes, depths, alpha, padding, mixtures of weights, and tiles that fail."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.network import NETWORKS, Network
from models.restoring.files import restore_array, restore_files
from models.restoring.generator import LoadedGenerator, bicubic_generator, interpolate
from models.restoring.restorer import Restorer
from utils.images.files import read_image_alpha, write_image
from utils.logging import Console
from utils.options.fields import OptionError

RRDBNET = {"type": "rrdbnet", "scale": 4, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
UNSHUFFLING = {**RRDBNET, "scale": 2, "upsampling": "unshuffle"}
SRVGG = {"type": "srvgg", "scale": 2, "num_feat": 8, "num_conv": 2}


def generator_of(options: dict[str, Any], seed: int = 0) -> LoadedGenerator:
    torch.manual_seed(seed)
    return LoadedGenerator(NETWORKS.build(options).eval().requires_grad_(False), None, options)


def noise(height: int, width: int, dtype: type = np.uint8, high: int | None = None) -> np.ndarray:
    high = np.iinfo(dtype).max if high is None else high
    return np.random.default_rng(0).integers(0, high, (height, width, 3), dtype, endpoint=True)


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha_by", ["resize", "network"])
@pytest.mark.parametrize(
    ("size", "outscale", "expected"),
    [
        ((37, 45), 2.5, (92, 112)),  # Real-ESRGAN's size
        ((37, 45), 1.0, (37, 45)),
        ((100, 20), 1.15, (115, 23)),  # 114.99999999999999 in floating point
        ((1, 7), 0.4, (1, 2)),
        ((3, 1), 6, (18, 6)),
    ],
)
def test_any_scale_gives_the_exact_size(
    size: tuple[int, int],
    outscale: float,
    expected: tuple[int, int],
    alpha_by: Any,  # noqa: ANN401
) -> None:
    apply, image = Restorer(bicubic_generator(4)), np.full((*size, 3), 51, np.uint8)
    result = restore_array(apply, image, image[..., 0], alpha_by=alpha_by, outscale=outscale)
    assert result.shape == (*expected, 4) and (result == 51).all(), "constants stay constant"


def test_the_networks_own_scale_is_not_resized() -> None:
    apply, image = Restorer(generator_of(SRVGG)), noise(9, 11)
    np.testing.assert_array_equal(restore_array(apply, image, outscale=2.0), restore_array(apply, image))
    assert (restore_array(apply, image, outscale=1.9)[-1, -1] > 0).any()


def test_shrinking_averages() -> None:
    """A checkerboard becomes gray, without the stripes of a filter that skips pixels."""
    board = np.indices((48, 48)).sum(0) % 2 * np.uint8(255)
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    result = restore_array(Restorer(bicubic_generator(1)), image, outscale=0.3).astype(int)
    assert abs(result[2:-2, 2:-2] - 127.5).max() < 12


@pytest.mark.parametrize("options", [RRDBNET, UNSHUFFLING, SRVGG], ids=lambda o: f"{o['type']}_{o['scale']}")
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1)])
@pytest.mark.parametrize("tiles", [{}, {"tile": 4, "overlap": 1}, {"tile": 4, "overlap": 6, "tile_mode": "context"}])
def test_thin_images(options: dict[str, Any], size: tuple[int, int], tiles: dict[str, Any]) -> None:
    apply = Restorer(generator_of(options), pre_pad=5, self_ensemble=True, **tiles)
    assert restore_array(apply, noise(*size)).shape == (size[0] * apply.scale, size[1] * apply.scale, 3)


def test_padding_is_seen_and_cut_off() -> None:
    seen: list[tuple[int, ...]] = []
    generator = generator_of(RRDBNET)
    generator.network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    lq = torch.rand(1, 3, 6, 7)
    padded = Restorer(generator, pre_pad=30)(lq)
    assert seen == [(1, 3, 36, 37)] and padded.shape == (1, 3, 24, 28)
    whole = Restorer(generator)(lq)
    assert torch.allclose(padded[..., :4, :4], whole[..., :4, :4], atol=1e-4) and not torch.allclose(padded, whole)


# --- depth, gray and alpha -----------------------------------------------------------------------------------------


def test_a_dark_image_of_16_bits_stays_dark(tmp_path: Path) -> None:
    """The depth is the file's, whatever its values: 200 of 65535 is no gray level of 255."""
    write_image(tmp_path / "dark.png", noise(8, 9, np.uint16, high=200))
    image, alpha, gray = read_image_alpha(tmp_path / "dark.png")
    result = restore_array(Restorer(bicubic_generator(2)), image, alpha, gray)
    assert result.dtype == np.uint16 and image.max() < 256 and 100 < result.max() < 300
    assert len(np.unique(result)) > 100


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("alpha_by", ["resize", "network"])
def test_what_is_transparent_stays_so(alpha_by: Any, gray: bool) -> None:  # noqa: ANN401
    apply, image = Restorer(bicubic_generator(2)), noise(8, 9)
    result = restore_array(apply, image, np.zeros((8, 9), np.uint8), gray, alpha_by)
    plain = restore_array(apply, image, None, gray)
    np.testing.assert_array_equal(result[..., :-1], plain[..., None] if gray else plain)
    assert not result[..., -1].any()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("options", [RRDBNET, UNSHUFFLING, SRVGG], ids=lambda o: f"{o['type']}_{o['scale']}")
def test_half_precision_on_the_cpu(options: dict[str, Any], precision: Any) -> None:  # noqa: ANN401
    generator, image = generator_of(options), noise(12, 14)
    half = restore_array(Restorer(generator, precision=precision), image).astype(int)
    assert abs(half - restore_array(Restorer(generator), image)).max() <= 4


@pytest.mark.parametrize("options", [RRDBNET, UNSHUFFLING, SRVGG], ids=lambda o: f"{o['type']}_{o['scale']}")
@pytest.mark.parametrize("tile_mode", ["blend", "context"])
def test_tiles_in_batches_are_as_one_by_one(options: dict[str, Any], tile_mode: Any) -> None:  # noqa: ANN401
    generator, lq = generator_of(options), torch.rand(1, 3, 21, 70)
    tiles = {"tile": 16, "overlap": 5, "tile_mode": tile_mode}
    sr = Restorer(generator, **tiles, batch=4)(lq)
    torch.testing.assert_close(sr, Restorer(generator, **tiles)(lq), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compiled_networks_restore_the_same() -> None:
    lq = torch.rand(1, 3, 21, 40)
    plain = Restorer(generator_of(SRVGG), tile=16, overlap=5)(lq)
    torch.testing.assert_close(Restorer(generator_of(SRVGG), tile=16, overlap=5, compile=True)(lq), plain)


# --- mixtures of weights -------------------------------------------------------------------------------------------


def saved(network: Network, path: Path) -> Path:
    torch.save({"params": network.state_dict()}, path)
    return path


def test_weights_are_mixed_linearly(tmp_path: Path) -> None:
    a, b = generator_of(SRVGG), generator_of(SRVGG, seed=1)
    before = {key: value.clone() for key, value in a.network.state_dict().items()}
    file = saved(b.network, tmp_path / "b.pth")
    for strength in (1.0, 0.25, 0.0):
        mixed = interpolate(a, file, strength).network.state_dict()
        for (key, value), other in zip(before.items(), b.network.state_dict().values(), strict=True):
            torch.testing.assert_close(mixed[key], strength * value + (1 - strength) * other, rtol=0, atol=1e-7)
            assert 0 < strength < 1 or torch.equal(mixed[key], value if strength else other), "exact at both ends"
    assert all(torch.equal(value, before[key]) for key, value in a.network.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    for options in ({**SRVGG, "num_conv": 3}, {**SRVGG, "num_feat": 4}, RRDBNET):
        file = saved(generator_of(options).network, tmp_path / "other.pth")
        with pytest.raises(OptionError, match=r"other\.pth: does not fit the network"):
            interpolate(generator_of(SRVGG), file, 0.5)


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("a kernel failed"), torch.OutOfMemoryError("of memory")])
@pytest.mark.parametrize("tile_mode", ["blend", "context"])
def test_a_failing_tile_names_the_image_and_leaves_nothing(
    error: Exception,
    tile_mode: Any,  # noqa: ANN401
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The released tool pastes the pixels of the tile before."""
    generator, tiles = generator_of(SRVGG), []

    def fail_at_the_third(_: object, inputs: tuple[Tensor]) -> None:
        tiles.append(inputs[0])
        if len(tiles) == 3:
            raise error

    generator.network.register_forward_pre_hook(fail_at_the_third)
    write_image(tmp_path / "photo.png", noise(20, 20))
    apply = Restorer(generator, tile=8, overlap=2, tile_mode=tile_mode)
    files = {tmp_path / "photo.png": tmp_path / "out.png"}
    assert list(restore_files(files, apply, Console())) == [False]
    assert len(tiles) == 3 and not (tmp_path / "out.png").exists()
    message = capsys.readouterr().err
    assert "photo.png: " in message and ("a kernel failed" in message or "--tile" in message)


def test_images_are_told_of_one_by_one_and_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reading, restoring and writing overlap: what fails in one of them is that image's, and the others go on."""
    images = [noise(6, 5 + i) for i in range(5)]
    for i, image in enumerate(images):
        write_image(tmp_path / f"{i}.png", image)
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / "blocked").write_text("a file, so no folder")
    files = {tmp_path / f"{i}.png": tmp_path / ("blocked" if i == 3 else "out") / f"{i}.png" for i in range(5)}
    apply = Restorer(generator_of(SRVGG))
    assert list(restore_files(files, apply, Console())) == [True, False, True, False, True]
    errors = capsys.readouterr().err
    assert errors.count("error") == 2 and "1.png" in errors and "3.png" in errors
    for i in (0, 2, 4):
        found = read_image_alpha(tmp_path / "out" / f"{i}.png")[0]
        np.testing.assert_array_equal(found, restore_array(apply, images[i]))


def test_values_that_are_not_finite_are_no_image() -> None:
    network = NETWORKS.build({"type": "srvgg", "scale": 2, "num_feat": 4, "num_conv": 1})
    torch.nn.init.constant_(next(network.parameters()), float("inf"))
    with pytest.raises(ValueError, match="not finite in fp32; try a checkpoint from before"):
        Restorer(LoadedGenerator(network.eval(), None, {}))(torch.rand(1, 3, 4, 4))
