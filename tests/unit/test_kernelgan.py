"""KernelGAN beyond the goldens: what is ours, and what makes a kernel bad."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from degradations.kernelgan.estimate import (
    Crops,
    Generators,
    KernelGAN,
    Pace,
    ReleasedPace,
    Training,
    estimate_kernels,
    finished,
    start_at_bicubic,
)
from degradations.kernelgan.losses import Spectra, bicubic_kernel, downscaled, noise_power
from degradations.kernelgan.shape import (
    centre_of_mass,
    flaws,
    irregularity,
    moved_to_centre,
    outlying,
    twice_applied,
)
from degradations.kernels.families import elliptic
from tests.benchmarks.kernel_recovery import PlainGenerator, halved, true_kernel

QUICK = KernelGAN(scale=2, iterations=4)


def scene(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """Noise with the amplitude 1/f of natural images, uint8 RGB."""
    rng = np.random.default_rng(seed)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    radius[0, 0] = np.inf
    gray = np.fft.ifft2(np.fft.fft2(rng.standard_normal((height, width))) / radius).real
    return (128 + 40 * gray / gray.std()).clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def seeded(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


# --- estimation ------------------------------------------------------------------------------------------------------


def test_the_composed_kernel_is_the_network_layer_by_layer() -> None:
    network, plain = Generators(seeded(2)).double(), PlainGenerator().double()
    image = torch.rand(2, 3, 64, 64, generator=seeded(1)[0]).double()
    weights = list(network.weights)
    for weight in weights:
        weight.data *= 10  # of outputs near 1
    downscaled(image, network()).square().sum().backward()
    for i in range(2):
        plain.zero_grad()
        for layer, weight in zip(plain.layers, weights, strict=True):
            layer.get_parameter("weight").data.copy_(weight[i])
        expected = plain(image[i : i + 1])
        assert torch.allclose(
            downscaled(image, network())[i], expected[0], rtol=0, atol=1e-6 * float(expected.detach().abs().max())
        )
        expected.square().sum().backward()
        for layer, weight in zip(plain.layers, weights, strict=True):
            theirs = layer.get_parameter("weight").grad
            assert theirs is not None and weight.grad is not None
            assert (weight.grad[i] - theirs).abs().max() < 1e-6 * theirs.abs().max()


def trained(images: list[np.ndarray], released: bool) -> torch.Tensor:
    """Kernels after three steps in float64; in float32 the adversaries make 1e-3 of roundings of 1e-7."""
    crops = [Crops(image, KernelGAN(released=released), "") for image in images]
    pace = ReleasedPace(len(crops)) if released else Pace(len(crops), 3)
    spectra = None if released else Spectra([c.values for c in crops])
    training = Training([c.generator for c in crops], pace, spectra)
    training.network_g.double(), training.network_d.double()
    training.network_d.directions = [u.double() for u in training.network_d.directions]
    for i in range(3):
        parts = zip(*(c.take(i) for c in crops), strict=True)
        training.step(i, *(torch.stack(part).double() for part in parts))
    return training.network_g().detach()


@pytest.mark.parametrize("released", [False, True])
def test_images_do_not_depend_on_their_batch(released: bool) -> None:
    images = [scene(0), scene(1, 64, 70), scene(2)]
    for image, found in zip(images, trained(images, released), strict=True):
        (alone,) = trained([image], released)
        assert (found - alone).abs().max() < 1e-6 * alone.abs().max()


def test_everything_random_comes_from_seed_and_content() -> None:
    first, again = (estimate_kernels([scene(0)], QUICK)[0] for _ in range(2))
    other = estimate_kernels([scene(0)], KernelGAN(scale=2, iterations=4, seed=1))[0]
    assert np.array_equal(first.raw, again.raw)
    assert not np.allclose(first.raw, other.raw, rtol=0, atol=1e-6)


def test_estimates_are_aligned_for_their_scale() -> None:
    done: list[int] = []
    (found,) = estimate_kernels([scene(0)], KernelGAN(scale=4, iterations=3), progress=done.append)
    assert done == [1, 2, 3] and set(found.losses) >= {"total", "gan", "spectrum"}
    assert found.kernel.dtype == np.float64 and found.kernel.shape == (33, 33)
    assert found.kernel.sum() == pytest.approx(1) and centre_of_mass(found.kernel) == pytest.approx(16 + 1.5, abs=0.05)
    assert np.abs(found.raw - bicubic_kernel().numpy()).max() < 0.05, "it starts at the bicubic kernel"


@pytest.mark.parametrize("released", [False, True])
def test_a_generator_without_a_kernel_gives_a_bad_one(released: bool) -> None:
    for worst in (-1.0, np.nan, np.inf, -np.inf):
        some = bicubic_kernel().numpy().copy()
        some[4, 5] = worst
        for raw in (np.full((13, 13), worst), *([] if np.isfinite(worst) else [some])):
            assert flaws(finished(raw, KernelGAN(scale=2, released=released)), 2) == ["spread"]


def test_a_network_that_explodes_leaves_the_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, started = estimate_kernels([scene(0)], QUICK)[0], start_at_bicubic

    def broken(networks: Generators) -> None:
        started(networks)
        networks.weights[0].data[1:] = np.nan

    monkeypatch.setattr("degradations.kernelgan.estimate.start_at_bicubic", broken)
    found, lost = estimate_kernels([scene(0), scene(1)], QUICK)
    assert np.abs(found.raw - alone.raw).max() < 5e-4  # a batch of two rounds otherwise, by the processor
    assert flaws(lost.kernel, 2) == ["spread"] and outlying([found.losses["total"], lost.losses["total"]])[1]


def test_released_noise_accumulates_and_its_kernel_is_one_step_old() -> None:
    crops, released = (Crops(scene(0), KernelGAN(released=r), "") for r in (False, True))
    for crop, moves in ((crops, False), (released, True)):
        before = crop.image.clone()
        crop.take(0)
        assert torch.equal(before, crop.image) != moves
    raw = [estimate_kernels([scene(0)], KernelGAN(scale=2, iterations=n, released=True))[0].raw for n in (1, 2)]
    with torch.no_grad():
        initial = Generators([Crops(scene(0), KernelGAN(scale=2, iterations=1, released=True), "").generator])()[0]
    assert np.array_equal(raw[0], initial.numpy()) and not np.array_equal(raw[1], raw[0])


@pytest.mark.parametrize("angle", [0.6, 2.2])
def test_the_spectrum_knows_width_and_direction(angle: float) -> None:
    image = halved(scene(3, 512, 512), true_kernel(2.4, 1.2, angle))
    candidates = {
        "true": true_kernel(2.4, 1.2, angle),
        "turned": true_kernel(2.4, 1.2, angle + np.pi / 2),
        "isotropic": true_kernel(1.7, 1.7, 0),
        "what a plain comparison would choose": true_kernel(2.4 * 0.75**0.5, 1.2 * 0.75**0.5, angle),
        "bicubic": bicubic_kernel().numpy(),
    }
    losses = Spectra([image / 255]).loss(torch.from_numpy(np.stack(list(candidates.values()))).float())
    assert list(candidates)[int(losses.argmin())] == "true", dict(zip(candidates, losses.tolist(), strict=True))


@pytest.mark.parametrize("correlated", [0, 0.6])
def test_noise_does_not_narrow_what_the_spectrum_says(correlated: float) -> None:
    """Half of the scene is flat, and shows the noise."""
    image = halved(scene(3, 512, 512), true_kernel(1.5, 1.5, 0))
    image[:, 128:] = 120
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(image.shape), (correlated, correlated, 0))
    noise *= 6 / noise.std()
    image = (image + noise).round().clip(0, 255).astype(np.uint8) / 255
    gray = np.array([0.299, 0.587, 0.114])
    assert 0.8 < noise_power(image @ gray, 64).mean() / (noise / 255 @ gray).var() < 1.25
    sigmas = np.arange(0.6, 3, 0.1)
    losses = Spectra([image]).loss(torch.from_numpy(np.stack([true_kernel(s, s, 0) for s in sigmas])).float())
    assert sigmas[int(losses.argmin())] == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize(
    ("image", "real_image", "said"),
    [
        (np.zeros((63, 90, 3), np.uint8), True, "image 1: found 63x90 pixels, expected at least 64x64"),
        (np.zeros((83, 90, 3), np.uint8), False, "image 1: found 83x90 pixels, expected at least 84x84"),
        (np.zeros((90, 90), np.uint8), True, r"image 1: found uint8 of shape \(90, 90\), expected 8-bit RGB"),
        (np.zeros((90, 90, 3)), True, "image 1: found float64"),
    ],
)
def test_images_that_are_refused(image: np.ndarray, real_image: bool, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        estimate_kernels([scene(0), image], KernelGAN(real_image=real_image))


def test_a_flat_image_is_no_error() -> None:
    (found,) = estimate_kernels([np.full((64, 64, 3), 7, np.uint8)], QUICK)
    assert np.isfinite(found.kernel).all()


# --- flaws -----------------------------------------------------------------------------------------------------------


def test_flaws() -> None:
    good = moved_to_centre(true_kernel(2.2, 1.0, 0.6), 2)
    assert flaws(good, 2) == []
    assert flaws(elliptic(33, 0.6, 9, 4, shift=-1.5), 4) == []
    assert flaws(good, 4) == ["off_centre"]
    assert flaws(np.pad(good, ((0, 4), (2, 2))), 2) == ["off_centre"]
    wide = 0.85 * good
    wide[1, :], wide[-1, :] = 0.075 / 17, 0.075 / 17
    assert flaws(wide, 2) == ["spread"]
    narrow = moved_to_centre(true_kernel(1.0, 1.0, 0), 2)
    assert flaws(np.roll(narrow, 3, axis=1) + np.roll(narrow, -3, axis=1), 2) == ["split"]
    # Any Gaussian is regular, a hill with a lower one beside it is not; applied twice, neither changes sides.
    assert irregularity(good) < 0.02
    for nothing in (np.full((3, 3), np.nan), np.zeros((3, 3))):
        assert irregularity(nothing) == math.inf
    lower = (good + 0.45 * np.roll(good, (4, -3), axis=(0, 1))) / 1.45
    bumpy = moved_to_centre(lower, 2)
    assert flaws(bumpy, 2) == ["irregular"] and flaws(twice_applied(good), 4) == []
    assert flaws(moved_to_centre(twice_applied(bumpy), 4), 4) == ["irregular"]


def test_outlying_losses() -> None:
    assert outlying([1.0, 1.1, 0.9, 1.05, 2.0, float("nan")]).tolist() == [False] * 4 + [True] * 2
    assert outlying([float("nan")]).tolist() == [True]
