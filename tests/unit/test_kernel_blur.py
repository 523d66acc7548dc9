"""The classical degradation's parts: what a network is told is what was done, and the image stays where it was."""

from collections import Counter
from itertools import product
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from degradations import DEGRADATIONS, STEPS, Degradation, Plan, Ragged, State, Step
from degradations.kernels.files import usrnet_kernels
from degradations.kernels.motion import motion_kernel
from degradations.operations.filters import convolve_batched
from utils.images.resize import imresize
from utils.options.fields import OptionError

BLURS: list[dict[str, Any]] = [
    {"type": "shifted_gaussian_blur"},
    {"type": "motion_blur"},
    {"type": "kernel_bank", "path": "usrnet_8", "augment": True, "align": "upper_left"},
]
blurs = pytest.mark.parametrize("options", BLURS, ids=[blur["type"] for blur in BLURS])


def step(options: dict[str, Any]) -> Step:
    return STEPS.check(options).component()


def classical(scale: int, **options: object) -> Degradation:
    return DEGRADATIONS.build({"type": "classical", **options}, scale=scale)


@blurs
@pytest.mark.parametrize("size", [(40, 33), (25, 48)])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_response_to_an_impulse_is_the_kernel_told(options: dict[str, Any], size: tuple[int, int], factor: int) -> None:
    """Anywhere in the image, since that goes round, and with the code that serves devices too."""
    blur, (y, x) = step(options), (size[0] - 2, 1)
    image = torch.zeros(1, 1, *size)
    image[..., y, x] = 1
    for seed in range(4):
        drawn = blur.sample(np.random.default_rng(seed), State(size, size, factor, factor))
        assert drawn is not None
        kernel = blur.kernel(drawn)
        assert kernel is not None and abs(kernel.sum() - 1) < 1e-9 and kernel.shape[0] == 25
        expected = np.zeros(size)
        for i, j in np.ndindex(kernel.shape):
            expected[(y + i - 12) % size[0], (x + j - 12) % size[1]] += kernel[i, j]
        for found in (blur.apply(Ragged.of(image), [drawn]), convolve_batched(Ragged.of(image), [kernel], "wrap")):
            assert np.abs(found.data[0, 0].numpy() - expected).max() < 1e-6


ALIGNED = {
    "gaussian": {"type": "shifted_gaussian_blur"},
    "bank": {"type": "kernel_bank", "path": "usrnet_8", "align": "upper_left"},
    "turned bank": {"type": "kernel_bank", "path": "off_centre.npy", "augment": True, "align": "upper_left"},
}


@pytest.mark.parametrize("name", ALIGNED)
@pytest.mark.parametrize(("scale", "lq_size"), list(product((1, 2, 3, 4), [(30, 41), (33, 32)])))
def test_image_stays_where_bicubic_leaves_it(
    name: str, scale: int, lq_size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The phases of slow periodic waves tell shifts to a hundredth of a low-quality pixel."""
    monkeypatch.chdir(tmp_path)
    np.save("off_centre.npy", np.roll(usrnet_kernels()[5], (2, 1), (0, 1)))
    height, width = (side * scale for side in lq_size)
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    gt = (0.5 + 0.2 * torch.cos(2 * pi * x + 1) + 0.2 * torch.sin(2 * pi * y))[None, None].float()
    degradation = classical(scale, steps={"blur": ALIGNED[name], "noise": None})
    for seed in range(3):
        lq = degradation.apply(gt, [degradation.sample(np.random.default_rng(seed), (height, width))]).lq
        waves, expected = torch.fft.fft2(lq)[0, 0], torch.fft.fft2(imresize(gt, 1 / scale))[0, 0]
        for place, side in (((0, 1), lq_size[1]), ((1, 0), lq_size[0])):
            assert abs((waves[place] / expected[place]).angle()) * side / (2 * pi) < 0.01


def test_what_is_drawn() -> None:
    """Half motion, half Gaussians; 1 in 9 without noise, otherwise whole levels up to 24; scales alike often."""
    degradation, rng = classical(3, scales=[1, 2, 3, 4]), np.random.default_rng(0)
    scales = Counter(degradation.draw_shared(rng)["scale"] for _ in range(2000))
    assert set(scales) == {1, 2, 3, 4} and max(scales.values()) < 600
    plans = [dict(degradation.sample(rng, (96, 96), shared={"scale": 1 + i % 4}).steps) for i in range(3000)]
    gaussians = [plan["blur"] for plan in plans if plan["blur"]["which"] == "gaussian"]
    assert 0.47 < len(gaussians) / len(plans) < 0.53
    variances = np.array([drawn["variances"] for drawn in gaussians])
    assert 0.6 <= variances.min() < 0.7 and 11.9 < variances.max() <= 12
    assert abs(variances.mean() - 6.3) < 0.2 and abs(np.corrcoef(variances.T)[0, 1]) < 0.08
    thetas = [drawn["theta"] for drawn in gaussians]
    assert 0 <= min(thetas) < 0.02 and pi - 0.02 < max(thetas) < pi
    assert {drawn["shift"] for drawn in gaussians} == {0, 0.5, 1, 1.5}
    levels = Counter(plan["noise"]["level"] for plan in plans)
    assert set(levels) == set(range(25))
    assert abs(levels[0] / 3000 - (1 / 9 + 8 / 9 / 25)) < 0.025 and 60 < levels[24] < 160


def test_gaussian_options() -> None:
    blur = step({"type": "shifted_gaussian_blur", "isotropic_prob": 1, "align": "centre", "size": 15})
    for seed in range(5):
        drawn = blur.sample(np.random.default_rng(seed), State((64, 64), (64, 64), 4, 4))
        assert drawn is not None
        kernel = blur.kernel(drawn)
        assert kernel is not None and kernel.shape == (15, 15)
        assert np.allclose(kernel, kernel[::-1]) and np.allclose(kernel, kernel.T)


def test_motion_kernels_are_kernels() -> None:
    """Of any size, never negative, spread as those of the released code (100 seeds: facts, 5, 50 and 95 %)."""
    for size in (1, 5, 11, 31):
        for seed in range(60):
            kernel = motion_kernel(np.random.default_rng(seed), size)
            assert kernel.shape == (size, size) and kernel.min() >= 0 and abs(kernel.sum() - 1) < 1e-9
    peaks = [motion_kernel(np.random.default_rng(seed)).max() for seed in range(1000)]
    assert (np.abs(np.log(np.quantile(peaks, [0.05, 0.5, 0.95]) / [0.006, 0.043, 0.102])) < [0.5, 0.2, 0.2]).all()


@pytest.mark.parametrize("name", ["classical", "srmd", "dpsr"])
def test_conditions_tell_what_was_done(name: str) -> None:
    """One kernel and one sigma for each sample, in the network's units; the image is made from them."""
    degradation = DEGRADATIONS.build(name, scale=2)
    assert degradation.conditions == ("kernel", "sigma")
    rng = np.random.default_rng(0)
    plans = [degradation.sample(rng, (64, 64)) for _ in range(8)]
    made = degradation.apply(torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)), plans)
    assert made.kernel is not None and made.kernel.shape == (8, 25, 25) and made.sigma is not None
    assert torch.allclose(made.kernel.sum((1, 2)), torch.ones(8))
    levels = [dict(plan.steps).get("noise", {"level": 0})["level"] for plan in plans]
    assert torch.allclose(made.sigma, torch.tensor(levels) / 255)


def test_noise_is_as_strong_as_told_and_not_clipped() -> None:
    degradation = classical(2, steps={"noise": {"level_range": [24, 24], "clean_prob": 0}})
    gt = torch.ones(1, 3, 192, 192)
    made = degradation.apply(gt, [degradation.sample(np.random.default_rng(0), (192, 192))])
    assert made.sigma is not None and abs(made.lq.std() / made.sigma - 1).item() < 0.02 and made.lq.max() > 1.2


def test_views_share_the_kernel() -> None:
    degradation = classical(2, steps={"blur": {"type": "motion_blur"}})
    plan = degradation.sample(np.random.default_rng(3), (64, 64))
    made = degradation.apply(torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1), plan.views(2))
    assert made.kernel is not None and torch.equal(made.kernel[0], made.kernel[1])
    assert not torch.equal(made.lq[0], made.lq[1])


def test_plan_of_another_bank_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", usrnet_kernels()[0])
    one, other = (
        classical(2, steps={"blur": {"type": "kernel_bank", "path": str(path)}})
        for path in ("usrnet_8", tmp_path / "k.npy")
    )
    plan = Plan.from_json(one.sample(np.random.default_rng(0), (64, 64)).to_json())
    gt = torch.rand(1, 3, 64, 64)
    assert torch.equal(one.apply(gt, [plan]).lq, one.apply(gt, [plan]).lq)
    hashes = [dict(d.sample(np.random.default_rng(0), (64, 64)).steps)["blur"]["bank"][:8] for d in (one, other)]
    with pytest.raises(ValueError, match=f"from the kernels {hashes[0]}, but .*k.npy holds {hashes[1]}"):
        other.apply(gt, [plan])


@blurs
def test_kernel_larger_than_the_image(options: dict[str, Any]) -> None:
    state = State((24, 40), (24, 40), 1, 1)
    with pytest.raises(ValueError, match="a kernel of 25x25 is larger than the image of 24x40"):
        step(options).sample(np.random.default_rng(0), state)
    assert step({**options, "border": "mirror"}).sample(np.random.default_rng(0), state)


def test_low_quality_image_smaller_than_the_kernel() -> None:
    """An error where the low-quality image is blurred, and none where the ground truth is."""
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="larger than the image of 16x16"):
        DEGRADATIONS.build("dpsr", scale=4).sample(rng, (64, 64))
    assert classical(4).sample(rng, (64, 64)).scale == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": {"noise": {"level_range": [-1, 5]}}}, "steps.noise.level_range.*-1"),
        ({"steps": {"blur": {"of": {"gaussian": {"variance_range": [-0.5, 2]}}}}}, "variance_range.*-0.5"),
        ({"steps": {"blur": {"of": {"gaussian": {"size": 24}}}}}, "gaussian.size: .*even"),
        ({"steps": {"blur": {"of": {"motion": {"prob": 0.6}}}}}, "sum to 1.1, expected 1"),
        ({"scales": [0]}, "scales"),
        ({"scales": [2, 60]}, "at scale 60 a kernel of 25x25 does not hold its own centre"),
        ({"steps": {"downsample": None}}, "the steps end at"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        classical(2, **options)
