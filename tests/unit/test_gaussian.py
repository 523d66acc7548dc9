"""The Gaussian degradation: where the image stands, how wide the kernels are, kernels that change over the image."""

from math import pi
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from degradations import DEGRADATIONS, STEPS, Degradation, Degraded, Plan, Ragged, State
from degradations.kernels import varying
from degradations.kernels.families import anisotropic_gaussian
from degradations.kernels.varying import convolve_varying, widths_between
from degradations.operations.filters import convolve, convolve_batched
from utils.images.resize import imresize
from utils.options.fields import OptionError

CENTRED: dict[str, Any] = {
    "sigma_range": None,
    "variance_range": [0.7, 10],
    "second": "up_to_first",
    "isotropic_prob": 0,
    "align": "upper_left",
    "window": "symmetric",
    "border": "replicate",
}
"""CDSR's kernels, for images that stay where they are."""
EVERY_NTH = {"type": "every_nth"}
VARIANTS: dict[str, dict[str, Any]] = {
    "iso": {},
    "aniso": {"blur": {"isotropic_prob": 0}},
    "varying": {"blur": {"isotropic_prob": 0, "tile": 40}},
    "cdsr": {"blur": CENTRED, "downsample": EVERY_NTH},
    "varying cdsr": {"blur": {**CENTRED, "tile": 40}, "downsample": EVERY_NTH},
}


def gaussian(scale: int = 4, **steps: Any) -> Degradation:  # noqa: ANN401
    return DEGRADATIONS.build({"type": "gaussian", "steps": steps}, scale=scale)


def made(degradation: Degradation, gt: Tensor, seed: int = 0) -> Degraded:
    size = (gt.shape[-2], gt.shape[-1])
    return degradation.apply(gt, [degradation.sample(np.random.default_rng(seed + i), size) for i in range(len(gt))])


def spread(kernel: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass (x, y) from the middle, and covariance, of a kernel (k, k)."""
    k = kernel.shape[-1]
    x = np.stack(np.meshgrid(np.arange(k), np.arange(k), indexing="xy"), -1).reshape(-1, 2) - (k - 1) / 2
    weights = kernel.numpy().astype(float).ravel()
    mean = weights @ x
    return mean, (x - mean).T @ ((x - mean) * weights[:, None])


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", [*VARIANTS, "released"])
def test_where_the_image_stands(name: str, scale: int) -> None:
    """On slopes every pixel tells where in the ground truth it was taken."""
    released = {"blur": {**CENTRED, "align": "released"}, "downsample": EVERY_NTH}
    degradation = gaussian(scale, **VARIANTS.get(name, released), round=None)
    height, width = 31 * scale, 40 * scale
    y, x = torch.meshgrid(torch.arange(height) / 400, torch.arange(width) / 400, indexing="ij")
    lq = made(degradation, torch.stack([y, x, x - y])[None]).lq[0] * 400
    inner = slice(8, -8)
    shift = (scale - 1) / 2 * (-1 if name == "released" else 1)
    rows, columns = (torch.arange(side) * scale + shift for side in (31, 40))
    assert (lq[0] - rows[:, None])[inner, inner].abs().max() < 2e-3
    assert (lq[1] - columns)[inner, inner].abs().max() < 2e-3
    assert (lq[2] - (columns - rows[:, None]))[inner, inner].abs().max() < 4e-3


def test_without_width_it_is_the_bicubic() -> None:
    gt = torch.rand(2, 3, 48, 36, generator=torch.Generator().manual_seed(0))
    found = made(gaussian(4, blur={"sigma_range": [0, 0]}), gt)
    assert torch.equal(found.lq, imresize(gt, 0.25).clamp(0, 1).mul(255).round() / 255)
    # Between pixels the narrowest kernel is the mean of those that are nearest.
    for second in (0, 1e-4):
        found = made(gaussian(2, blur={**CENTRED, "fixed": [0, second, 0]}, downsample=EVERY_NTH), gt)
        assert (found.lq - torch.nn.functional.avg_pool2d(gt, 2)).abs().max() < 0.51 / 255


def test_a_fixed_kernel_goes_with_any_batch() -> None:
    """Where released code takes one image at a time."""
    degradation = gaussian(blur={"fixed": [2, 1, 30]}, round=None)
    gt = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    found = made(degradation, gt)
    assert found.kernel is not None and torch.equal(found.kernel, found.kernel[:1].expand(3, -1, -1))
    for i in range(3):
        assert (made(degradation, gt[i : i + 1]).lq[0] - found.lq[i]).abs().max() < 1e-6


def test_widths_are_standard_deviations_or_variances() -> None:
    """Measured on the kernels told, far from the frame's edge."""
    gt = torch.zeros(1, 1, 64, 64)
    for unit, expected in (("sigma_range", [2.25, 1.0]), ("variance_range", [1.5, 1.0])):
        blur = {"sigma_range": None, "isotropic_prob": 0, unit: [1, 2], "fixed": [1.5, 1, 30]}
        kernel = made(gaussian(blur=blur), gt).kernel
        assert kernel is not None
        centre, covariance = spread(kernel[0])
        axis = np.array([np.cos(pi / 6), np.sin(pi / 6)])  # to the right and down
        assert np.abs(centre).max() < 1e-6
        assert abs(axis @ covariance @ axis - expected[0]) < 1e-3
        assert abs(np.trace(covariance) - sum(expected)) < 1e-3


def test_what_is_drawn() -> None:
    """DASR: both deviations uniform and independent. CDSR: variances, the second uniform up to the first."""
    plans = [
        [dict(degradation.sample(np.random.default_rng(i), (96, 96)).steps)["blur"] for i in range(3000)]
        for degradation in (
            gaussian(blur={"isotropic_prob": 0}),
            gaussian(blur=CENTRED, downsample=EVERY_NTH),
            gaussian(),
        )
    ]
    first, second = np.sqrt([drawn["variances"] for drawn in plans[0]]).T
    for sigma in (first, second):
        assert 0.2 <= sigma.min() < 0.21 and 3.99 < sigma.max() <= 4
        assert np.abs(np.quantile(sigma, [0.25, 0.5, 0.75]) - [1.15, 2.1, 3.05]).max() < 0.12
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    first, second = np.array([drawn["variances"] for drawn in plans[1]]).T
    assert np.abs(np.quantile(first, [0.25, 0.5, 0.75]) - (0.7 + 9.3 * np.array([0.25, 0.5, 0.75]))).max() < 0.3
    share = (second - 0.7) / (first - 0.7)
    assert (second <= first).all() and np.abs(np.quantile(share, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.04
    thetas = np.array([drawn["theta"] for drawn in plans[1]])
    assert 0 <= thetas.min() < 0.01 and pi - 0.01 < thetas.max() <= pi
    assert all(drawn["variances"][0] == drawn["variances"][1] for drawn in plans[2])


def test_noise() -> None:
    """The level is uniform, with a share of clean images; the result is whole levels; views differ in the noise."""
    degradation = gaussian(blur={"isotropic_prob": 0}, noise={"level_range": [0, 15], "clean_prob": 0.2})
    plans = [degradation.sample(np.random.default_rng(i), (48, 48)) for i in range(3000)]
    levels = np.array([dict(plan.steps)["noise"]["level"] for plan in plans])
    assert abs((levels == 0).mean() - 0.2) < 0.025 and 14.9 < levels.max() <= 15
    assert abs(levels[levels > 0].mean() - 7.5) < 0.3
    noisy = plans[int(levels.argmax())]
    gt = torch.full((3, 3, 48, 48), 0.5)
    found = degradation.apply(gt, noisy.views(3))
    assert found.sigma is not None and found.kernel is not None
    assert torch.allclose(found.sigma, torch.tensor(levels.max() / 255, dtype=torch.float32).expand(3))
    assert torch.equal(found.kernel[0], found.kernel[1])
    assert not torch.equal(found.lq[0], found.lq[1])
    assert (found.lq * 255 - (found.lq * 255).round()).abs().max() < 1e-4
    assert 0.9 < found.lq.std() / found.sigma[0] < 1.1


def test_kernel_grid_is_a_mixture_of_blurred_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against blurring the whole with every kernel; on tiles that do not fit, in images of different sizes."""
    tile, sizes = 10, [(33, 47), (20, 31)]
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.random((3, *size), np.float32)) for size in sizes]
    grids = [[anisotropic_gaussian(9, *rng.uniform(0.5, 4, 3)) for _ in range(5 * 6)] for _ in images]
    found = convolve_varying(Ragged.pack(images), grids, tile, "mirror")
    monkeypatch.setattr(varying, "convolve", convolve_batched)
    batched = convolve_varying(Ragged.pack(images), grids, tile, "mirror")
    for image, grid, one, other in zip(images, grids, found.images(), batched.images(), strict=True):
        expected = torch.zeros_like(image)
        y, x = (torch.arange(side)[:, None] / tile - torch.arange(6) for side in image.shape[-2:])
        down, across = ((1 - places.abs()).clamp(min=0) for places in (y, x))
        for i, kernel in enumerate(grid):
            blurred = convolve(Ragged.of(image[None]), [kernel]).data[0]
            expected += blurred * down[:, None, i // 6] * across[:, i % 6]
        assert (one - expected).abs().max() < 1e-5 and (other - expected).abs().max() < 1e-5


def test_kernels_between_corners() -> None:
    """The corners' own there; turning the short way; one kernel for all where the corners agree."""
    corners = [[9, 1, 0.3], [2, 2, 0], [1, 0.0, 2.5], [4, 5, 1]]
    ends = np.array([0.0, 1.0])
    for widths, corner in zip(widths_between(corners, ends, ends), corners, strict=True):
        kernels = [anisotropic_gaussian(21, theta, first, second) for first, second, theta in (widths, corner)]
        assert np.abs(kernels[0] - kernels[1]).max() < 1e-6
    half = np.array([0.5])
    turned = [[9, 1, angle] for angle in (0.2, pi - 0.2) * 2]
    first, second, theta = widths_between(turned, half, half)[0]
    assert abs(np.sin(theta)) < 1e-9 and 8 < first < 9 and 1 < second < 2
    gt = torch.rand(1, 3, 84, 100, generator=torch.Generator().manual_seed(0))
    fixed = {"fixed": [3, 1, 40], "isotropic_prob": 0}
    one, many = (made(gaussian(blur={**fixed, "tile": tile}, round=None), gt) for tile in (None, 40))
    assert one.kernel is not None and many.kernel is not None
    assert (one.lq - many.lq).abs().max() < 1e-6 and (one.kernel - many.kernel).abs().max() < 1e-6


def test_varying_kernels_go_from_corner_to_corner() -> None:
    """A sharp corner and a soft one; the plan is small, replays, and its views share the kernels."""
    degradation = gaussian(2, blur={"isotropic_prob": 0, "tile": 40}, round=None)
    plan = degradation.sample(np.random.default_rng(0), (160, 160))
    name, drawn = plan.steps[0]
    corners = [[0.01, 0.01, 0], [16, 16, 0], [16, 16, 0], [16, 16, 0]]
    plan = Plan(plan.size, plan.scale, ((name, {**drawn, "corners": corners}), *plan.steps[1:]))
    assert len(plan.to_json()) < 700
    gt = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    lq = degradation.apply(gt, [Plan.from_json(plan.to_json())]).lq
    contrast = [lq[..., i : i + 16, i : i + 16].std().item() for i in (0, 16, 32)]
    assert contrast == sorted(contrast, reverse=True) and contrast[0] > 2.5 * contrast[-1]
    views = degradation.apply(gt.expand(2, -1, -1, -1), plan.views(2))
    assert torch.equal(views.lq[0], views.lq[1]) and torch.equal(views.lq[:1], lq)
    assert views.kernel is not None
    _, covariance = spread(views.kernel[0])
    assert np.abs(covariance - 12 * np.eye(2)).max() < 0.5  # that in the middle: 12.0025, cut by the frame


def test_corners_are_those_of_the_image_not_of_its_batch() -> None:
    blur = STEPS.check({"type": "shifted_gaussian_blur", "tile": 10, "border": "mirror"}).component()
    images = [torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) for size in [(20, 31), (44, 33)]]
    drawn = [blur.sample(np.random.default_rng(0), State((20, 31), (20, 31), 1, 1)) or {} for _ in images]
    together = blur.apply(Ragged.pack(images), drawn).images()
    for image, found in zip(images, together, strict=True):
        assert (found - blur.apply(Ragged.of(image[None]), drawn[:1]).data[0]).abs().max() < 1e-6


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("scale", [2, 4])
def test_images_smaller_than_the_kernel(name: str, scale: int) -> None:
    found = made(gaussian(scale, **VARIANTS[name]), torch.full((2, 3, scale, 3 * scale), 0.4))
    assert found.lq.shape == (2, 3, 1, 3) and (found.lq - 0.4).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"blur": {"sigma_range": [4, 0.2]}}, "sigma_range.*the low end 4.0 is above the high end 0.2"),
        ({"blur": {"sigma_range": None, "variance_range": [5, 1]}}, "variance_range.*the low end 5.0 is above"),
        ({"blur": {"theta_range": [2, 1]}}, "theta_range.*the low end"),
        ({"noise": {"level_range": [25, 0]}}, "level_range.*the low end 25.0"),
        ({"blur": {"variance_range": [1, 5]}}, "found a variance_range .* and a sigma_range .*expected one of them"),
        ({"blur": {"fixed": [1, 2]}}, "blur.fixed"),
        ({"blur": {"fixed": [-1, 2, 0]}}, "blur.fixed.*-1"),
        ({"blur": {"tile": 0}}, "blur.tile"),
        ({"blur": {"size": 20}}, "blur.size: .*even"),
        ({"downsample": EVERY_NTH}, r"align: found centre, which moves the image by 1.5 .*expected upper_left"),
        ({"blur": {"align": "released"}}, "align: found released, .*expected centre"),
        ({"downsample": {"rounding": "8bit"}}, "downsample: clip: found false with 8-bit rounding"),
        ({"downsample": None}, "the steps end at"),
    ],
)
def test_wrong_options_are_refused(steps: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        gaussian(4, **steps)


def test_size_that_the_scale_does_not_divide() -> None:
    with pytest.raises(ValueError, match="49x48 is not a multiple of the scale 4"):
        gaussian(4).sample(np.random.default_rng(0), (49, 48))
