"""Options and draws of Real-ESRGAN's degradation and its steps. Values: golden tests."""

from math import pi
from typing import Any

import numpy as np
import pytest
import torch

from degradations import DEGRADATIONS, STEPS, Degradation, Drawn, Plan, Ragged, State, Step
from degradations.steps.mixed_blur import KINDS
from degradations.systems.realesrgan import RealESRGAN
from utils.options.fields import OptionError


def build(**options: Any) -> RealESRGAN:  # noqa: ANN401
    built = DEGRADATIONS.build({"type": "realesrgan", **options}, scale=4)
    assert isinstance(built, RealESRGAN)
    return built


def step_of(**options: Any) -> Step:  # noqa: ANN401
    return STEPS.check(options).component()


def draws(step: Step, count: int) -> list[Drawn]:
    drawn = [step.sample(np.random.default_rng(i), State((400, 400), (400, 400), 4, 4)) for i in range(count)]
    return [values for values in drawn if values is not None]


def test_steps_that_would_not_draw_what_they_say() -> None:
    for noise in ("gaussian_noise", "speckle_noise"):
        with pytest.raises(ValueError, match=r"found \[2.55, 2.55\], expected whole levels"):
            step_of(type=noise, level_range=[2.55, 2.55])
    inner = {"type": "one_of", "of": {"jpeg": {"type": "jpeg"}}}
    with pytest.raises(ValueError, match="of.inner: found a one_of within a one_of"):
        step_of(type="one_of", of={"inner": inner})


# --- blur -------------------------------------------------------------------------------------------------------


def test_mixed_blur_draws_as_published() -> None:
    drawn = draws(step_of(type="mixed_blur"), 6000)
    shares = {kind: np.mean([d["kind"] == kind for d in drawn]) for kind in ("sinc", *KINDS)}
    assert abs(shares["sinc"] - 0.1) < 0.02
    assert all(abs(shares[kind] - 0.9 * share) < 0.02 for kind, share in KINDS.items())
    assert {d["size"] for d in drawn} == set(range(7, 22, 2))
    cutoffs = {small: [d["cutoff"] for d in drawn if "cutoff" in d and (d["size"] < 13) == small] for small in (0, 1)}
    assert pi / 3 <= min(cutoffs[True]) < 1.15 and pi / 5 <= min(cutoffs[False]) < 0.75 and max(cutoffs[True]) <= pi
    betas = {shape: np.array([d["beta"] for d in drawn if shape in d["kind"]]) for shape in ("generalized", "plateau")}
    assert abs((betas["generalized"] < 1).mean() - 0.5) < 0.06 and betas["generalized"].max() > 3.8
    assert abs((betas["plateau"] == 1).mean() - 0.5) < 0.06 and betas["plateau"].max() <= 2


def test_kernels_are_normalised_and_their_own_size() -> None:
    step = step_of(type="mixed_blur", sinc_prob=0.3)
    for drawn in draws(step, 200):
        kernel = step.kernel(drawn)
        assert kernel is not None and kernel.shape == (drawn["size"],) * 2
        assert abs(kernel.sum() - 1) < 1e-12 and np.allclose(kernel, kernel[::-1, ::-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": {"square": 1.0}}, "square"),
        ({"size_range": [8, 8]}, "no odd kernel size"),
        ({"beta_plateau_range": [1.5, 2]}, "contains 1"),
    ],
)
def test_mixed_blur_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        step_of(type="mixed_blur", **options)


@pytest.mark.parametrize("kind", ["mixed_blur", "sinc_blur"])
def test_an_image_must_be_larger_than_the_radius(kind: str) -> None:
    """Reflection without the edge pixel needs it; whatever size is drawn, the largest of the range decides."""
    step = step_of(type=kind, size_range=[7, 21])
    for side, fits in ((11, True), (10, False)):
        for seed in range(20):
            state = State((side, 30), (400, 400), 4, 4)
            if fits:
                step.sample(np.random.default_rng(seed), state)
            else:
                with pytest.raises(ValueError, match=r"21x21 was given an image of 10x30.*crop_size"):
                    step.sample(np.random.default_rng(seed), state)
    drawn = {"kind": "sinc", "size": 21, "cutoff": 2.0}
    assert torch.isfinite(step.apply(Ragged.of(torch.rand(1, 3, 11, 11)), [drawn]).data).all()
    with pytest.raises(ValueError, match="10x11"):
        step.apply(Ragged.of(torch.rand(1, 3, 10, 11)), [drawn])


# --- noise and resize -------------------------------------------------------------------------------------------


def test_noise_levels_clean_share_and_clipping() -> None:
    step = step_of(type="gaussian_noise", levels="continuous", clean_prob=0.3, clip=False, kinds={"color": 1.0})
    drawn = draws(step, 2000)
    levels = np.array([d["level"] for d in drawn])
    assert abs((levels == 0).mean() - 0.3) < 0.04 and len(set(levels)) > 1300 and levels.max() <= 25
    white = Ragged.of(torch.ones(1, 3, 16, 16))
    assert torch.equal(step.apply(white, [drawn[int(levels.argmin())]]).data, white.data)
    assert step.apply(white, [drawn[int(levels.argmax())]]).data.max() > 1
    assert all(step.sigma(d) == d["level"] / 255 for d in drawn)


def test_sigma_of_noise_is_its_standard_deviation() -> None:
    step, middle = step_of(type="gaussian_noise", clip=False), Ragged.of(torch.full((1, 3, 200, 200), 0.5))
    for drawn in draws(step, 12):
        sigma = step.sigma(drawn)
        assert sigma == pytest.approx((step.apply(middle, [drawn]).data - 0.5).square().mean().sqrt().item(), rel=0.03)


def test_resize_notes_its_factor_only_of_the_current_size() -> None:
    by_factor = step_of(type="resize_up_down_keep", sampling="factor", up_range=[1, 1.5], clip=False)
    for drawn in draws(by_factor, 30):
        assert drawn["size"] == [int(400 * drawn["factor"])] * 2
    assert all("factor" not in drawn for drawn in draws(step_of(type="resize_up_down_keep"), 30))
    with pytest.raises(OptionError, match="relative_to"):
        step_of(type="resize_up_down_keep", sampling="factor", relative_to="lq")


# --- the whole --------------------------------------------------------------------------------------------------


def names(degradation: RealESRGAN, count: int = 40) -> set[tuple[str, ...]]:
    plans = [degradation.sample(np.random.default_rng(i), (400, 400)) for i in range(count)]
    return {tuple(name for name, _ in plan.steps) for plan in plans}


def test_order() -> None:
    first, end = ("first.blur", "first.resize", "first.noise", "first.jpeg"), "final.round"
    seen = names(build(orders={"second": {"blur": {"prob": 1.0}}}, final={"sinc": {"sinc_prob": 1.0}}))
    second = ("second.blur", "second.resize", "second.noise")
    assert seen == {
        (*first, *second, "final.resize", "final.sinc", "final.jpeg", end),
        (*first, *second, "final.jpeg", "final.resize", "final.sinc", end),
    }


def test_ablations() -> None:
    """One order, no low-pass, no JPEG; a step more; a name that is taken; a sharpening that is none."""
    only = build(orders={"second": None}, final={"sinc": None, "jpeg": None})
    first = ("first.blur", "first.resize", "first.noise", "first.jpeg")
    assert names(only) == {(*first, "final.resize", "final.round")}
    more = build(orders={"second": {"jpeg": {"type": "jpeg"}}}, final={"resize": {"modes": ["cubic"]}})
    assert all(name.index("second.jpeg") > name.index("second.noise") for name in names(more))
    with pytest.raises(OptionError, match="is taken"):
        build(orders={"final": {"jpeg": {"type": "jpeg"}}})
    with pytest.raises(OptionError, match="sharpen"):
        build(usm={"type": "gaussian_blur"})


def test_targets_and_start() -> None:
    gt = torch.rand(2, 3, 96, 96)
    plans = [build().sample(np.random.default_rng(i), (96, 96)) for i in range(2)]
    kept = gt.clone()
    sharp, plain = (build(start=start).apply(gt, plans) for start in ("usm", "plain"))
    assert torch.equal(gt, kept)
    for made in (sharp, plain):
        assert torch.equal(made.targets["plain"], gt) and not torch.equal(made.targets["usm"], gt)
    assert not torch.equal(sharp.lq, plain.lq)
    assert torch.equal(sharp.lq, build(start="plain").apply(sharp.targets["usm"], plans).lq)
    assert torch.equal(sharp.lq, (sharp.lq * 255).round() / 255)


def test_too_small_a_ground_truth_is_said_while_drawing() -> None:
    with pytest.raises(ValueError, match="crop_size"):
        for i in range(100):
            build().sample(np.random.default_rng(i), (48, 48))


def test_plan_is_small() -> None:
    """Kernel parameters, not kernels."""
    plan = build().sample(np.random.default_rng(0), (400, 400))
    assert len(plan.to_json()) < 2000 and Plan.from_json(plan.to_json()).to_json() == plan.to_json()


# --- steps that happen together -------------------------------------------------------------------------------------


def plans_of(degradation: Degradation, count: int = 300, **shared: Any) -> list[Plan]:  # noqa: ANN401
    return [degradation.sample(np.random.default_rng(i), (256, 256), shared=shared) for i in range(count)]


def test_a_whole_order_happens_with_its_probability_and_leaves_other_draws_alone() -> None:
    always, half = plans_of(build()), plans_of(build(orders={"second": {"prob": 0.5}}))
    whole = [any(name.startswith("second.") for name, _ in plan.steps) for plan in half]
    assert 0.4 < sum(whole) / len(whole) < 0.6
    for with_all, plan, second in zip(always, half, whole, strict=True):
        kept = tuple(step for step in with_all.steps if second or not step[0].startswith("second."))
        assert [name for name, _ in kept] == [name for name, _ in plan.steps]
        assert [step for step in kept if step[0].startswith("first.")] == [s for s in plan.steps if "first." in s[0]]


def test_a_batch_decides_together_whether_an_order_happens() -> None:
    degradation = build(orders={"second": {"prob": 0.5}}, draws="batch")
    for seed in range(8):
        found = {any("second.resize" in s for s, _ in plan.steps) for plan in plans_of(degradation, 6, seed=seed)}
        assert len(found) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orders": {"second": {"blur": 0.5}}}, "orders.second.blur: found 0.5, expected a step"),
        ({"orders": {"second": {"prob": 1.5}}}, "orders.second.prob: found 1.5: Input should be less"),
        ({"groups": {"a": {"steps": ["blur"], "prob": 0.5}}}, r"groups.a.steps: found \['blur'\], expected some of"),
    ],
)
def test_groups_that_are_not_there(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build(**options)


def test_resshift_has_one_order_half_of_the_time_and_stablesr_spares_one_in_a_hundred() -> None:
    resshift = DEGRADATIONS.build("resshift", scale=4)
    plans = plans_of(resshift)
    assert 0.4 < sum("second.resize" in dict(plan.steps) for plan in plans) / 300 < 0.6
    assert {dict(p.steps)["first.blur"]["size"] for p in plans} == set(range(3, 20, 2))
    gt = torch.rand(1, 3, 64, 64)
    assert torch.equal(resshift.apply(gt, [resshift.sample(np.random.default_rng(0), (64, 64))]).targets["plain"], gt)

    plans = plans_of(DEGRADATIONS.build("stablesr", scale=4), 600)
    spared = [plan for plan in plans if "first.resize" not in dict(plan.steps)]
    assert 0 < len(spared) < 20
    assert all([name for name, _ in plan.steps] == ["final.resize", "final.round"] for plan in spared)
    qualities = [values["quality"] for plan in plans for name, values in plan.steps if name == "final.jpeg"]
    assert min(qualities) == 60 and max(qualities) == 100
