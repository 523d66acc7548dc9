"""The Gaussian degradation against values from running DASR's and CDSR's released code."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from degradations import DEGRADATIONS, STEPS, Drawn, Ragged, State, Step
from degradations.operations import noise as noise_step
from degradations.operations.filters import convolve, convolve_batched
from degradations.plan import run_batched, run_steps
from tests.helpers import GOLDEN
from utils.images.resize import imresize

DASR_KERNELS, DASR, CDSR_KERNELS, CDSR, ODD = (
    np.load(GOLDEN / "cdsr" / f"{name}.npz")
    for name in ("dasr_kernels", "dasr_degrade", "cdsr_kernels", "cdsr_degrade", "dasr_bicubic_odd")
)
LAST_BITS = 2e-7
"""Of the single precision in which DASR computes kernels with a peak near 1."""
WINDOWED = {"align": "released", "window": "symmetric", "border": "replicate"}


def draw(blur: Step, scale: int, rng: Any = None) -> Drawn:  # noqa: ANN401
    drawn = blur.sample(rng or np.random.default_rng(0), State((96, 96), (96, 96), scale, scale))
    assert drawn is not None
    return drawn


def error(golden: np.ndarray, options: dict[str, Any], scale: int = 1, rng: Any = None) -> float:  # noqa: ANN401
    """Of our kernel, flipped, since the released code correlates with what it calls the kernel."""
    blur = STEPS.check({"type": "shifted_gaussian_blur", "size": 21, "align": "centre", **options}).component()
    kernel = blur.kernel(draw(blur, scale, rng))
    assert kernel is not None and kernel.shape == golden.shape
    return np.abs(kernel[::-1, ::-1] - golden).max()


class Recorded:
    """Gives recorded uniform draws one after the other."""

    def __init__(self, *draws: float) -> None:
        self.draws = [float(u) for u in draws]

    def random(self, count: int | None = None) -> float | list[float]:
        return self.draws.pop(0) if count is None else [self.draws.pop(0) for _ in range(count)]

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.draws.pop(0)


@pytest.mark.parametrize("size", [15, 21])
def test_fixed_kernels_of_dasr(size: int) -> None:
    for sigma, golden in zip(DASR_KERNELS["sig"].tolist(), DASR_KERNELS[f"iso_{size}"], strict=True):
        assert error(golden, {"size": size, "sigma_range": [sigma, sigma], "isotropic_prob": 1}) < LAST_BITS
    rows = DASR_KERNELS["lambda1_lambda2_thetadeg"].tolist()
    for fixed, golden in zip(rows, DASR_KERNELS[f"aniso_{size}"], strict=True):
        assert error(golden, {"size": size, "sigma_range": [0, 4], "fixed": fixed}) < LAST_BITS


def test_random_kernels_of_dasr() -> None:
    """From the uniform draws recorded with them: both standard deviations from the whole range."""
    k = DASR_KERNELS
    draws = (k[f"rand_aniso_u_{name}"] for name in ("lambda1", "lambda2", "theta"))
    for first, second, theta, golden in zip(*draws, k["rand_aniso_21"], strict=True):
        assert error(golden, {"sigma_range": [0.2, 4]}, rng=Recorded(first, second, 1, theta)) < LAST_BITS
    for u, golden in zip(k["rand_iso_u"], k["rand_iso_21"], strict=True):
        options = {"sigma_range": [0.2, 4], "isotropic_prob": 1}
        assert error(golden, options, rng=Recorded(u, 0, 0, 0)) < LAST_BITS


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_fixed_kernels_of_cdsr(scale: int) -> None:
    """Widths are variances where the kernel is anisotropic, standard deviations where it is isotropic."""
    rows = CDSR_KERNELS["sig1_sig2_theta"].astype(float)
    for (first, second, theta), golden in zip(rows, CDSR_KERNELS[f"aniso_l21_x{scale}"], strict=True):
        fixed = [first, second, np.rad2deg(theta)]
        assert error(golden, {**WINDOWED, "variance_range": [1, 9], "fixed": fixed}, scale) < 1e-7
        assert (golden[22 - scale :] == 0).all() and (golden[:, 22 - scale :] == 0).all()
    for sigma, golden in zip(CDSR_KERNELS["iso_sig"].tolist(), CDSR_KERNELS[f"iso_l21_x{scale}"], strict=True):
        assert error(golden, {**WINDOWED, "sigma_range": [sigma, sigma], "isotropic_prob": 1}, scale) < 1e-7


def test_random_kernels_of_cdsr() -> None:
    """From the uniform draws recorded with them; the first of each was spent on the kind of kernel."""
    k = CDSR_KERNELS
    options = {**WINDOWED, "variance_range": [0.35, 5], "second": "up_to_first"}
    for (_, first, second, theta), golden in zip(k["rand_aniso_u"], k["rand_aniso_x2"], strict=True):
        assert error(golden, options, 2, Recorded(first, second, 1, theta)) < 1e-7
    options = {**WINDOWED, "sigma_range": [0.2, 4], "isotropic_prob": 1}
    for (_, u), golden in zip(k["rand_iso_u"], k["rand_iso_x4"], strict=True):
        assert error(golden, options, 4, Recorded(u, 0, 0, 0)) < 1e-7


def batch_of(golden: Any, key: str) -> Tensor:  # noqa: ANN401
    """Images (B, N, 3, H, W) or (B, N·3, H, W) in 8-bit units as (B·N, 3, H, W) in [0, 1]."""
    images = torch.from_numpy(golden[key]) / 255
    return images.reshape(-1, 3, *images.shape[-2:])


@pytest.mark.parametrize("operation", [convolve, convolve_batched])
def test_blur(operation: Callable[..., Ragged]) -> None:
    for golden, key, border in ((DASR, "", "mirror"), (CDSR, "_x2", "replicate"), (CDSR, "_x4", "replicate")):
        kernels = [kernel[::-1, ::-1].astype(float) for kernel in golden[f"kernels{key}"] for _ in range(2)]
        found = operation(Ragged.of(batch_of(golden, "hr")), kernels, border).data
        assert (found - batch_of(golden, f"blurred{key}")).abs().max() < 2e-6


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_with_replicated_borders(scale: int) -> None:
    found = imresize(batch_of(DASR, "blurred"), 1 / scale, border="replicate")
    assert (found - batch_of(DASR, f"bicubic_x{scale}")).abs().max() < 1e-6
    odd = imresize(torch.from_numpy(ODD["x"]), 1 / scale, border="replicate")
    height, width = ODD[f"x{scale}"].shape[-2:]
    assert (odd[..., :height, :width] - torch.from_numpy(ODD[f"x{scale}"])).abs().max() < 1e-4
    mirrored = imresize(batch_of(DASR, "blurred"), 1 / scale)
    assert (mirrored - found).abs().max() > 1e-3
    if scale == 2:
        found = imresize(batch_of(DASR, "hr")[::2], 1 / scale, border="replicate")
        assert (found - batch_of(DASR, "bicubic_only_x2")).abs().max() < 1e-6


def assert_same_levels(found: Tensor, golden: Tensor) -> None:
    """Exact, but for one level where a half may go either way, on fewer than 0.1 % of the pixels."""
    difference = (found - golden).mul(255).round().abs()
    assert (found * 255 - (found * 255).round()).abs().max() < 1e-4
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3


BICUBIC = {"border": "replicate"}
CASES = [
    *((DASR, f"lr_{kind}_x{scale}", 25, BICUBIC) for kind in ("clean", "noise25") for scale in (2, 4)),
    (DASR, "lr_sfold_x2", 0, {"type": "every_nth"}),
    *((CDSR, f"lr_{kind}_x{scale}", 15, {"type": "every_nth"}) for kind in ("clean", "noise15") for scale in (2, 4)),
]


@pytest.mark.parametrize("run", [run_steps, run_batched])
@pytest.mark.parametrize(("golden", "key", "top", "downsample"), CASES, ids=[c[1] for c in CASES])
def test_low_quality_images(
    golden: Any,  # noqa: ANN401
    key: str,
    top: float,
    downsample: dict[str, Any],
    run: Callable[..., Ragged],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels, uniform draws and noise as recorded; both views of a sample share kernel and level."""
    scale = int(key[-1])
    kernels = golden["kernels" if golden is DASR else f"kernels_x{scale}"]
    np.save(tmp_path / "k.npy", kernels[:, ::-1, ::-1])
    border = "mirror" if golden is DASR else "replicate"
    blur = {"type": "kernel_bank", "path": str(tmp_path / "k.npy"), "border": border}
    steps = {"blur": blur, "downsample": downsample}
    degradation = DEGRADATIONS.build({"type": "gaussian", "steps": steps}, scale=scale)
    plan, plans = degradation.sample(np.random.default_rng(0), (48, 48)), []
    for i in range(2):
        level = 0.0
        if "noise" in key:
            u = golden[f"noise_u_x{scale}" if golden is DASR else f"noise_u_level_x{scale}"][i]
            clean = golden is CDSR and golden[f"noise_u_mask_x{scale}"][i, 0] < 0.2
            level = 0.0 if clean else top * float(u)
        own: dict[str, Drawn] = {"blur": {"index": i}, "noise": {"level": level}}
        plan = replace(plan, steps=tuple((name, {**d, **own.get(name, {})}) for name, d in plan.steps))
        plans += plan.views(2)
    fields = list(torch.from_numpy(golden[f"noise_x{scale}"]).unbind()) if "noise" in key else []

    def recorded(images: Ragged, seeds: Sequence[int], planes: Sequence[int]) -> Tensor:
        return torch.stack([fields.pop(0) if fields else torch.zeros(3, 1, 1) for _ in seeds])

    monkeypatch.setattr(noise_step, "normal_fields", recorded)
    monkeypatch.setattr("degradations.pipeline.run_steps", run)
    assert_same_levels(degradation.apply(batch_of(golden, "hr"), plans).lq, batch_of(golden, key))


@pytest.mark.parametrize(("sigma", "key"), [(1.2, "lr_stable_iso1.2_x4"), (0, "lr_stable_sig0_x4")])
def test_one_width_for_all(sigma: float, key: str) -> None:
    """The whole preset, for a batch of several: the released code takes one image at a time here."""
    steps = {"blur": {"sigma_range": [sigma, sigma]}, "downsample": {"border": "replicate"}}
    degradation = DEGRADATIONS.build({"type": "gaussian", "steps": steps}, scale=4)
    plans = [degradation.sample(np.random.default_rng(i), (48, 48)) for i in range(3)]
    made = degradation.apply(batch_of(DASR, "hr")[[0, 1, 0]], plans)
    for i in (0, 2):
        assert_same_levels(made.lq[i : i + 1], batch_of(DASR, key))
