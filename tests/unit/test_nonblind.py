"""What non-blind networks are told, and what becomes of images whose borders are not periodic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import skimage.data
import torch
from torch import Tensor

from models.benchmarking.benchmark import RealImages
from models.network import NETWORKS
from models.restoring.files import restore_array
from models.restoring.generator import LoadedGenerator, at_scale
from models.restoring.nonblind import Assumption, extended, wrap_extension
from models.restoring.restorer import Restorer
from utils.images.files import write_image
from utils.options.fields import OptionError

USRNET = {"type": "usrnet", "scale": 2, "n_iter": 2, "h_nc": 8, "nc": [8, 8, 8, 8], "nb": 1}
CLOSED_FORM = {"type": "closed_form", "scale": 2, "alpha": 1e-3}
BLIND = {"type": "srvgg", "scale": 2, "num_feat": 4, "num_conv": 1}


def generator_of(options: dict[str, Any]) -> LoadedGenerator:
    torch.manual_seed(0)
    return LoadedGenerator(NETWORKS.build(options).eval().requires_grad_(False), None, options)


def kernels(path: Path, count: int = 3) -> Path:
    """A file of Gaussians of different widths."""
    x = np.arange(7) - 3
    rows = [np.exp(-0.5 * (x / (0.5 + 0.3 * i)) ** 2) for i in range(count)]
    np.save(path, np.array([np.outer(row, row) / row.sum() ** 2 for row in rows]).reshape(-1, 7, 7))
    return path


# --- the extension ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (2, 1, 9), (1, 3, 2, 5), (3, 2, 4)])
def test_any_shape_is_extended(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape)
    larger = wrap_extension(image, (shape[-2] + 2, shape[-1] + 5))
    assert larger.shape == (*shape[:-2], shape[-2] + 2, shape[-1] + 5) and larger.dtype == image.dtype
    assert torch.equal(larger[..., : shape[-2], : shape[-1]], image)
    assert image.min() - 1e-6 <= larger.min() and larger.max() <= image.max() + 1e-6, "harmonic: no new extremes"
    flat = wrap_extension(torch.full(shape, 0.3), (shape[-2] + 2, shape[-1] + 5))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3))


def test_channels_do_not_mix() -> None:
    image = torch.rand(4, 9, 7)
    whole = wrap_extension(image, (16, 16))
    assert all(torch.equal(whole[i], wrap_extension(image[i], (16, 16))) for i in range(4))


@pytest.mark.parametrize("size", [(9, 9), (8, 12), (12, 8), (6, 12)])
def test_less_than_two_pixels_more_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"8x7 to extend to {size[0]}x{size[1]}.*2 more pixels"):
        wrap_extension(torch.rand(8, 7), size)


def test_larger_kernels_get_more_room() -> None:
    """At least as much as a kernel reaches, so that it does not reach the opposite side."""
    assert extended(torch.rand(1, 3, 20, 21), 2, 25).shape[-2:] == (28, 32)
    assert extended(torch.rand(1, 3, 20, 21), 2, 61).shape[-2:] == (36, 40)


# --- borders and tiles -----------------------------------------------------------------------------------------------


def degraded(scale: int, width: float, noise_level: float) -> tuple[Tensor, Tensor, Assumption]:
    """A photograph, its blurred, decimated and noisy image, and what made it."""
    assume = Assumption(width=width, noise_level=noise_level)
    kernel = assume.conditions(scale)["kernel"].double().numpy()
    gt = skimage.data.astronaut()[: 384 // scale * scale].transpose(2, 0, 1) / 255
    lq = scipy.ndimage.convolve(gt, kernel, mode="mirror")[:, ::scale, ::scale]
    lq += np.random.default_rng(0).normal(0, noise_level / 255, lq.shape)
    return torch.from_numpy(gt).float()[None], torch.from_numpy(lq).float()[None], assume


@pytest.mark.parametrize(("scale", "width"), [(2, 0.7), (2, 1.2), (3, 1.5)])
def test_the_frame_of_an_image_is_as_good_as_its_centre(scale: int, width: float) -> None:
    """16 pixels of frame lose less than 1 dB against the same pixels in the centre of a larger photograph, and the
    centre nothing. Without the extension the frame loses several dB."""
    gt, lq, assume = degraded(scale, width, noise_level=2.55)
    top, left, height, width_ = 48, 60, 252, 276
    apply = Restorer(generator_of({**CLOSED_FORM, "scale": scale}), assume=assume)
    part = lq[..., top // scale : (top + height) // scale, left // scale : (left + width_) // scale]
    cut = (..., slice(top, top + height), slice(left, left + width_))
    frame = torch.ones(height, width_, dtype=torch.bool)
    frame[16:-16, 16:-16] = False

    def psnr(sr: Tensor, where: Tensor) -> float:
        return float(-10 * (sr.clamp(0, 1) - gt[cut])[..., where].square().mean().log10())

    whole, own, periodic = apply(lq)[cut], apply(part), apply(part, assume.conditions(scale))
    assert psnr(own, frame) > psnr(whole, frame) - 1
    assert psnr(own, ~frame) == pytest.approx(psnr(whole, ~frame), abs=0.1)
    assert psnr(periodic, frame) < psnr(own, frame) - 2


@pytest.mark.parametrize(("tile_mode", "worst"), [("blend", 15), ("context", 35)])
def test_tiles_are_extended(tile_mode: Any, worst: int) -> None:  # noqa: ANN401
    """Also where the image is periodic: side by side, unextended tiles would differ from the whole by 26 and 65 levels
    at their seams. With an overlap nothing is left of them."""
    _, lq, assume = degraded(2, 0.7, noise_level=2.55)
    lq, generator, given = lq[..., :120, :110], generator_of(CLOSED_FORM), assume.conditions(2)
    whole = Restorer(generator, tile=0)(lq, given)
    for overlap, limit in ((0, worst), (16, 1.2)):
        tiled = Restorer(generator, tile=64, overlap=overlap, tile_mode=tile_mode)(lq, given)
        assert 0 < float((whole - tiled)[..., 40:-40, 40:-40].abs().max()) * 255 < limit


# --- what the network is told ----------------------------------------------------------------------------------------


def test_what_comes_with_an_image_wins() -> None:
    generator, lq = generator_of(USRNET), torch.rand(1, 3, 20, 14)
    given: dict[str, Any] = {"kernel": torch.rand(1, 5, 5).softmax(-1) / 5, "sigma": torch.tensor([0.1]), "scale": 3}
    expected = generator.network(lq, **given)
    apply = Restorer(generator, assume=Assumption(width=2.0, noise_level=20))
    torch.testing.assert_close(apply(lq, given), expected)  # also not extended
    assert expected.shape[-2:] == (60, 42) and apply(lq).shape[-2:] == (40, 28)
    assumed = Assumption(width=2.0, noise_level=20).conditions(3)
    filled = apply(lq, {"kernel": given["kernel"], "scale": 3})
    torch.testing.assert_close(filled, generator.network(lq, **{**given, "sigma": assumed["sigma"]}))
    seen = extended(lq, 3, 25)
    torch.testing.assert_close(apply(lq, {"scale": 3}), generator.network(seen, **assumed, scale=3)[..., :60, :42])


def test_real_images_tell_the_scale(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((5, 7, 3), np.uint8))
    item = RealImages("real", str(tmp_path), scale=3)[0]
    assert item.batch.conditions(("kernel", "sigma", "scale")) == {"scale": 3}


def test_padded_images_are_extended() -> None:
    generator, lq = generator_of(CLOSED_FORM), torch.rand(1, 3, 20, 14)
    conditions = Assumption(width=1).conditions(2)
    padded = torch.nn.functional.pad(lq, (0, 6, 0, 6), mode="reflect")
    expected = generator.network(extended(padded, 2, 25), **conditions)[..., :40, :28]
    torch.testing.assert_close(Restorer(generator, pre_pad=6)(lq, conditions), expected)


def test_gaussians_and_files(tmp_path: Path) -> None:
    path = kernels(tmp_path / "k.npy")
    for scale in (1, 2, 3, 4):
        told = Assumption(width=1.2, noise_level=5.1).conditions(scale)
        kernel = told["kernel"][0].double()
        at = torch.arange(25.0, dtype=torch.float64)
        assert float(told["sigma"][0]) == pytest.approx(0.02) and float(kernel.sum()) == pytest.approx(1)
        for axis in (0, 1):
            assert float(kernel.sum(axis) @ at) == pytest.approx(12 - (scale - 1) / 2, abs=1e-4)
        given = Assumption(path=str(path), index=2).conditions(scale)["kernel"][0]
        torch.testing.assert_close(given.double(), torch.from_numpy(np.load(path)[2]), rtol=0, atol=1e-7)
    assert str(Assumption(width=1.5)) == "a Gaussian of width 1.5, noise level 0"
    assert str(Assumption(path=str(path), index=2, noise_level=2.55)) == f"kernel 2 of {path}, noise level 2.55"


def test_half_precision_leaves_non_blind_networks_alone() -> None:
    lq = torch.rand(1, 3, 12, 16)
    full, half = (Restorer(generator_of(USRNET), precision=p, assume=Assumption(width=1)) for p in ("fp32", "bf16"))
    assert torch.equal(full(lq), half(lq))


def test_gray_networks_and_the_nominal_scale() -> None:
    gray = generator_of({**USRNET, "in_nc": 2, "out_nc": 1})
    lq, assume = torch.rand(1, 3, 12, 16), Assumption(width=1, noise_level=3)
    channels = [Restorer(gray, assume=assume)(lq[:, i : i + 1].expand(-1, 3, -1, -1)) for i in range(3)]
    torch.testing.assert_close(Restorer(gray, assume=assume)(lq), torch.cat([sr[:, :1] for sr in channels], 1))
    threefold = at_scale(gray, 3)
    image = np.zeros((7, 9, 3), np.uint8)
    assert restore_array(Restorer(threefold, assume=assume), image).shape == (21, 27, 3)
    assert gray.network.scale == 2 and threefold.options["scale"] == 3
    assert all(
        torch.equal(a, b) for a, b in zip(gray.network.parameters(), threefold.network.parameters(), strict=True)
    )
    with pytest.raises(OptionError, match="--scale 3: this network has scale 2 and no other"):
        at_scale(generator_of(BLIND), 3)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_wrong_combinations_are_refused() -> None:
    with pytest.raises(OptionError, match="needs kernel and sigma with each image.*--kernel-width W.*assume"):
        Restorer(generator_of(USRNET))(torch.rand(1, 3, 8, 8), {"scale": 2})
    with pytest.raises(OptionError, match="--kernel-width.*blind"):
        Restorer(generator_of(BLIND), assume=Assumption(width=1))
    with pytest.raises(OptionError, match="--self-ensemble"):
        Restorer(generator_of(USRNET), assume=Assumption(width=1), self_ensemble=True)


def test_a_kernel_larger_than_the_image(tmp_path: Path) -> None:
    apply = Restorer(generator_of(CLOSED_FORM), assume=Assumption(width=1))
    with pytest.raises(ValueError, match="kernel of 25x25 .* high-resolution image of 24x"):
        apply(torch.rand(1, 3, 3, 40))
    np.save(tmp_path / "large.npy", np.full((101, 101), 1 / 101**2))
    apply = Restorer(generator_of(CLOSED_FORM), assume=Assumption(path=str(tmp_path / "large.npy")))
    with pytest.raises(ValueError, match="kernel of 101x101 .* high-resolution image of 96x"):
        apply(torch.rand(1, 3, 20, 40))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "found neither, expected either the width of a Gaussian or a file of kernels"),
        ({"width": 1, "path": "k.npy"}, "found both"),
        ({"width": 1, "index": 1}, "index 1 without a file"),
        ({"path": "k.npy", "index": 3}, "found index 3, but k.npy holds 3 kernels"),
        ({"path": "none.npy"}, "holds no kernels"),
        ({"path": "other.mat"}, "other.mat"),
        ({"path": "absent.npy"}, "absent.npy: found no file"),
    ],
)
def test_wrong_assumptions(
    arguments: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kernels(Path("k.npy"))
    kernels(Path("none.npy"), count=0)
    scipy.io.savemat("other.mat", {"a": np.zeros(3), "b": np.zeros(3)})
    with pytest.raises(ValueError, match=words):
        Assumption(**arguments)


def test_a_scale_that_no_gaussian_is_made_for() -> None:
    with pytest.raises(ValueError, match="found scale 13, expected 1 to 12"):
        Assumption(width=1).conditions(13)


def test_arguments_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kernels(Path("k.npy"))
    kernels(Path("odd:1.npy"))
    assert Assumption.of_arguments(None, None, None) is None
    assert Assumption.of_arguments(1.5, None, None) == Assumption(width=1.5)
    assert Assumption.of_arguments(None, "k.npy:0", 3.0) == Assumption(path="k.npy", index=0, noise_level=3.0)
    assert Assumption.of_arguments(None, "k.npy:2", None) == Assumption(path="k.npy", index=2)
    assert Assumption.of_arguments(None, "odd:1.npy:1", None) == Assumption(path="odd:1.npy", index=1)
    with pytest.raises(OptionError, match="--kernel: found no index, but odd:1.npy holds 3 kernels"):
        Assumption.of_arguments(None, "odd:1.npy", None)
    np.save("one.npy", np.full((3, 3), 1 / 9))
    assert Assumption.of_arguments(None, "one.npy", None) == Assumption(path="one.npy")
    with pytest.raises(OptionError, match="--kernel-width, --kernel: found neither"):
        Assumption.of_arguments(None, None, 2.0)
