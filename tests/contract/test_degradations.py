"""What every registered step and degradation promises: replay, independence of batch mates, honest sizes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from degradations import DEGRADATIONS, STEPS, Degradation, Plan, Ragged, State, Step, pipeline, run_steps
from degradations.kernels.files import usrnet_kernels
from degradations.operations import noise
from degradations.operations.filters import convolve, convolve_batched
from degradations.operations.resizing import Interpolation, resize, resize_batched
from degradations.plan import run_batched
from tests.helpers import write_kernel_pool, write_noise_pool
from utils.seeding import torch_generator

BANK = {"type": "kernel_bank", "path": "KERNELS", "border": "symmetric"}
RECORDED = {"type": "real_noise", "path": "NOISE"}
SCALES = (1, 2, 3, 4)
OPTIONS: dict[str, dict] = {
    "pipeline": {
        "steps": {"fit": {"type": "resize_to_lq"}, "noise": {"type": "gaussian_noise"}},
        "order": {"rule": "shuffle"},
    },
    "dpsr": {"steps": {"blur": {"size": 11}}},  # for low-quality images of 24x30
    "realsr": {"steps": {"noise": RECORDED}},
    "realsr, estimated": {"type": "realsr", "steps": {"blur": BANK, "down": {"type": "every_nth"}, "noise": RECORDED}},
    "bsrgan, estimated": {
        "type": "bsrgan",
        "steps": {"halve": None, "blur": {**BANK, "align": "centre"}, "recorded": RECORDED},
    },
    "realesrgan, estimated": {
        "type": "realesrgan",
        "orders": {"first": {"blur": {**BANK, "align": "centre"}}, "second": {"noise": RECORDED}},
    },
    "gaussian, varying": {"type": "gaussian", "steps": {"blur": {"isotropic_prob": 0, "tile": 40}}},
}
STEP_OPTIONS: dict[str, dict] = {
    "one_of": {"of": {"few": {"type": "gaussian_noise", "prob": 0.5}, "other": {"type": "gaussian_blur", "prob": 0.5}}},
    "kernel_bank": {"path": "usrnet_8", "augment": True, "align": "upper_left"},
    "real_noise": RECORDED,
    "shifted_gaussian_blur, varying": {"type": "shifted_gaussian_blur", "tile": 12, "border": "mirror"},
}


POOLS: dict[str, Path] = {}


@pytest.fixture(scope="module", autouse=True)
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Writes pools of noise and kernels, and puts their paths into the options."""
    folder = tmp_path_factory.mktemp("pools")
    write_noise_pool(folder / "noise")
    for scale in SCALES:
        write_kernel_pool(folder / f"x{scale}", usrnet_kernels(), scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(POOLS, "folder", folder)
        yield folder


def with_pools(options: dict, scale: int = 4) -> dict:
    text = json.dumps(options)
    for word, name in (("NOISE", "noise"), ("KERNELS", f"x{scale}")):
        text = text.replace(f'"{word}"', json.dumps(str(POOLS["folder"] / name)))
    return json.loads(text)


def step_of(name: str) -> Step:
    return STEPS.check(with_pools({"type": name, **STEP_OPTIONS.get(name, {})})).component()


def build(name: str, scale: int) -> Degradation:
    return DEGRADATIONS.build(with_pools({"type": name, **OPTIONS.get(name, {})}, scale), scale=scale)


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth structure with edges, (3, H, W)."""
    y, x = torch.meshgrid(torch.linspace(0, 6, height), torch.linspace(0, 6, width), indexing="ij")
    planes = [torch.sin((c + 1) * x + seed) * torch.cos(y * (1 + c)) for c in range(3)]
    return (0.5 + 0.4 * torch.stack(planes) + 0.1 * ((x * 3).floor() % 2)).clamp(0, 1)


makers = pytest.mark.parametrize("name", sorted({*DEGRADATIONS.names(), *OPTIONS} - {"none"}))
steps = pytest.mark.parametrize("name", sorted({*STEPS.names(), *STEP_OPTIONS}))


@makers
@pytest.mark.parametrize("scale", SCALES)
def test_size_range_and_input(name: str, scale: int) -> None:
    """The LQ has the promised size and range, the target is the input, and the input is not changed."""
    degradation, gt = build(name, scale), picture(96, 120)[None]
    before = gt.clone()
    for i in range(12):
        plan = degradation.sample(np.random.default_rng(i), (96, 120))
        made = degradation.apply(gt, [plan])
        assert made.lq.shape == (1, 3, 96 // scale, 120 // scale)
        assert torch.isfinite(made.lq).all()
        assert name == "classical" or (made.lq.min() >= 0 and made.lq.max() <= 1), "only its noise is not clipped"
        assert set(made.targets) == set(degradation.targets)
        assert torch.equal(gt, before)


@makers
def test_replay(name: str) -> None:
    """A plan gives the same pixels again, also after a trip through JSON; views differ in noise alone."""
    degradation, gt = build(name, 2), picture(96, 96)[None]
    for i in range(6):
        plan = degradation.sample(np.random.default_rng(i), (96, 96))
        again = Plan.from_json(plan.to_json())
        assert again == replace(plan, steps=tuple(plan.steps)) or again.to_json() == plan.to_json()
        assert torch.equal(degradation.apply(gt, [plan]).lq, degradation.apply(gt, [again]).lq)
        for view in plan.views(3)[1:]:
            for (step, drawn), (other_step, other) in zip(plan.steps, view.steps, strict=True):
                assert step == other_step
                assert {k: v for k, v in drawn.items() if k != "seed"} == {
                    k: v for k, v in other.items() if k != "seed"
                }
                assert ("seed" in drawn) == (drawn.get("seed") != other.get("seed"))


@makers
def test_batch_equals_one_by_one_and_permutes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit on the CPU; to 1e-5 through the code that serves devices."""
    degradation = build(name, 2)
    gt = torch.stack([picture(96, 80, seed) for seed in range(5)])
    plans = [degradation.sample(np.random.default_rng(i), (96, 80)) for i in range(5)]
    alone = torch.cat([degradation.apply(gt[i : i + 1], [plan]).lq for i, plan in enumerate(plans)])
    assert torch.equal(degradation.apply(gt, plans).lq, alone)
    order = [3, 0, 4, 2, 1]
    assert torch.equal(degradation.apply(gt[order], [plans[i] for i in order]).lq, alone[order])
    use_device_code(monkeypatch)
    alone = torch.cat([degradation.apply(gt[i : i + 1], [plan]).lq for i, plan in enumerate(plans)])
    batched = degradation.apply(gt, plans).lq
    # A rounding to 8 bits may fall to the other side for a last bit of difference.
    assert (batched - alone).abs().mean() < 1e-5
    assert ((batched - alone).abs() > 1e-5).float().mean() < 1e-3


def use_device_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the CPU compute as devices do."""
    monkeypatch.setattr(pipeline, "run_steps", run_batched)
    monkeypatch.setattr(Ragged, "one_by_one", False)


@pytest.fixture
def recorded_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives all devices the same noise."""

    def fields(images: Ragged, seeds: list[int], planes: list[int]) -> Tensor:
        each = zip(images.sizes, seeds, planes, strict=True)
        own = [torch.randn((n, h, w), generator=torch_generator(seed)) for (h, w), seed, n in each]
        return Ragged.pack(own).data.to(images.data.device)

    counts: dict[int, Tensor] = {}

    def counted(levels: Ragged, peaks: Tensor, seeds: list[int], planes: list[int], most: float) -> Tensor:
        # Kept from the first device: one rate that differs in its last bit changes all counts that follow.
        for image, peak, seed, n in zip(levels.images(), peaks, seeds, planes, strict=True):
            if seed not in counts:
                counts[seed] = torch.poisson((image[:n] / 255 * peak).cpu(), generator=torch_generator(seed))
        return Ragged.pack([counts[seed].to(levels.data.device) for seed in seeds]).data

    monkeypatch.setattr(noise, "normal_fields", fields)
    monkeypatch.setattr(noise, "poisson_counts", counted)


@makers
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_devices_equal_cpu(name: str, device: str, monkeypatch: pytest.MonkeyPatch, recorded_noise: None) -> None:
    """With the same noise; on the CPU by the devices' code."""
    degradation = build(name, 4)
    gt = torch.stack([picture(96, 96, seed) for seed in range(8)])
    plans = [degradation.sample(np.random.default_rng(i), (96, 96)) for i in range(8)]
    here = degradation.apply(gt, plans).lq
    use_device_code(monkeypatch)
    difference = (degradation.apply(gt.to(device), plans).lq.cpu() - here).abs()
    assert difference.mean() < 0.5 / 255 and (difference > 1.5 / 255).float().mean() < 0.01


@makers
@pytest.mark.gpu
def test_the_host_does_not_wait_for_a_gpu(name: str) -> None:
    degradation, gt = build(name, 4), torch.stack([picture(96, 96, seed) for seed in range(8)]).cuda()
    plans = [degradation.sample(np.random.default_rng(i), (96, 96)) for i in range(8)]
    degradation.apply(gt, plans)  # constants are brought there once
    torch.cuda.set_sync_debug_mode("error")
    try:
        degradation.apply(gt, plans)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@steps
def test_steps_draw_plain_values_and_sizes(name: str) -> None:
    """What a step draws is JSON, and the image it makes has the size it announced."""
    step = step_of(name)
    for i in range(10):
        state = State((40, 32), (40, 32), 4, 4)
        drawn = step.sample(np.random.default_rng(i), state)
        if drawn is None:
            continue
        assert json.loads(json.dumps(drawn)) == drawn
        made = step.apply(Ragged.of(picture(40, 32)[None]), [drawn])
        assert made.sizes == (tuple(state.size),)
        assert torch.isfinite(made.images()[0]).all()


@steps
def test_steps_never_read_padding(name: str) -> None:
    """What stands outside an image's own size in a padded batch has no influence."""
    step = step_of(name)
    images = [picture(40, 32), picture(28, 44, 1)]
    state = State((40, 32), (40, 32), 4, 4)
    drawn = [
        step.sample(np.random.default_rng(i), replace(state, size=tuple(x.shape[-2:]))) for i, x in enumerate(images)
    ]
    if any(d is None for d in drawn):
        pytest.skip("the step does nothing with these seeds")
    packed = Ragged.pack(images)
    spoiled = packed.data.clone()
    spoiled[0, :, 40:], spoiled[0, :, :, 32:], spoiled[1, :, 28:], spoiled[1, :, :, 44:] = 0.7, 0.7, 0.7, 0.7
    results = [step.apply(batch, drawn).images() for batch in (packed, Ragged(spoiled, packed.sizes))]
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("border", ["mirror", "symmetric", "replicate", "wrap"])
def test_batched_filter_equals_opencv(border: str) -> None:
    """The device's FFT against OpenCV and the CPU's, for images down to one pixel and kernels larger than the image."""
    rng = np.random.default_rng(0)
    images = [picture(37, 29), picture(30, 31), picture(95, 89), picture(5, 8), picture(1, 9)]
    kernels = [rng.random(shape) for shape in ((7, 7), 11, (13, 13), (25, 25), (3, 3))]
    kernels = [k / k.sum() for k in kernels]
    if border == "wrap":  # OpenCV pads by at most one period
        images, kernels = images[:3], kernels[:3]
    packed = Ragged.pack(images)
    pair = [f(packed, kernels, border).images() for f in (convolve, convolve_batched)]  # type: ignore[operator]
    for one, other in zip(*pair, strict=True):
        assert (one - other).abs().max() < 1e-5


def test_batched_resize_equals_opencv() -> None:
    images = [picture(37, 29), picture(16, 8), picture(3, 9), picture(30, 31)] * 3
    sizes = [
        (20, 15),
        (8, 4),
        (9, 27),
        (30, 40),
        (36, 28),
        (3, 3),
        (1, 1),
        (31, 30),
        (80, 66),
        (16, 8),
        (5, 5),
        (17, 62),
    ]
    modes: list[Interpolation] = ["linear", "cubic", "area"] * 4
    packed = Ragged.pack(images)
    pair = [f(packed, sizes, modes).images() for f in (resize, resize_batched)]  # type: ignore[operator]
    for one, other, size in zip(*pair, sizes, strict=True):
        assert tuple(one.shape[-2:]) == size
        assert (one - other).abs().max() < 2e-5


@pytest.mark.parametrize("mode", ["linear", "cubic", "pool"])
def test_resize_by_factor_and_pooling_equal_pytorch(mode: Interpolation) -> None:
    """The sampling step is 1 / factor itself, which differs from the ratio of whole sizes by up to a pixel."""
    images = [picture(37, 29), picture(16, 8), picture(5, 9), picture(96, 71)] * 2
    factors = [0.613, 1.377, 0.4, 0.155, 1.0, 1.06, 2.5, 0.999]
    sizes = [(int(h * f), int(w * f)) for (h, w), f in zip((x.shape[-2:] for x in images), factors, strict=True)]
    modes: list[Interpolation] = [mode] * len(images)
    torch_mode = {"linear": "bilinear", "cubic": "bicubic", "pool": "area"}[mode]
    expected = [
        F.interpolate(x[None], scale_factor=f, mode=torch_mode)[0] for x, f in zip(images, factors, strict=True)
    ]
    for operation in (resize, resize_batched):
        made = operation(Ragged.pack(images), sizes, modes, factors).images()
        for one, other in zip(made, expected, strict=True):
            assert one.shape == other.shape and (one - other).abs().max() < 2e-5
    if mode != "pool":
        without = resize(Ragged.pack(images), sizes, modes).images()
        assert (without[3] - expected[3]).abs().max() > 1e-3


def test_averaging_areas_knows_no_factor() -> None:
    packed, sizes = Ragged.pack([picture(37, 29), picture(16, 8)]), [(22, 17), (22, 11)]
    expected = resize(packed, sizes, ["area"] * 2).images()
    for operation in (resize, resize_batched):
        for one, other in zip(operation(packed, sizes, ["area"] * 2, [0.613, 1.4]).images(), expected, strict=True):
            assert (one - other).abs().max() < 2e-5


def test_switching_a_step_off_leaves_the_others_as_they_were() -> None:
    """The basis of every ablation."""
    full = DEGRADATIONS.build("bsrgan", scale=2)
    without = DEGRADATIONS.build({"type": "bsrgan", "steps": {"jpeg": None}}, scale=2)
    for i in range(20):
        a, b = (d.sample(np.random.default_rng(i), (64, 64)) for d in (full, without))
        strip = [(name, {k: v for k, v in drawn.items() if k != "size"}) for name, drawn in a.steps if name != "jpeg"]
        assert strip == [(name, {k: v for k, v in drawn.items() if k != "size"}) for name, drawn in b.steps]


def test_run_steps_refuses_unknown_step() -> None:
    with pytest.raises(ValueError, match="nothing"):
        run_steps(picture(8, 8)[None], [Plan((8, 8), 1, (("nothing", {}),))], {})
