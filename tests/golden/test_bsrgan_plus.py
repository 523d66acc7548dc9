"""The steps of bsrgan_plus, and the whole, against values from running KAIR's released code.

Where the reference drew from global generators, its draws are made again here and handed in as a recorded plan and
recorded noise, so what is compared is what the steps make of them.
"""

from random import Random

import numpy as np
import pytest
import torch
from scipy.linalg import orth
from torch import Tensor

from degradations import DEGRADATIONS, STEPS, Ragged, paired_crop
from degradations.operations import noise
from degradations.operations.filters import convolve_batched
from degradations.steps import sharpen
from tests.golden.kair.synth import synth_image
from tests.golden.test_degradations import FACTS, KAIR, MODES, OPS, statistics, to_array, to_ragged

SEEDS = (0, 1, 4, 5, 6)
SMALL = np.ascontiguousarray(OPS["img"][:32, :32])


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", ["add_sharpening_0", "add_sharpening_1"])
def test_sharpening(name: str, on_device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if on_device:
        monkeypatch.setattr(sharpen, "convolve", convolve_batched)
    p = FACTS[name]
    ours = to_array(sharpen.usm(to_ragged(OPS["img"]), p["weight"], p["radius"], p["threshold"]))
    difference = np.abs(ours - OPS[name])
    # A pixel just at the threshold may fall to the other side of the mask, which moves its surroundings a little.
    assert difference.max() < 3e-4 and np.median(difference) < 1e-6
    assert (difference > 1e-5).mean() < (0.05 if on_device else 1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_resize_up_down_keep(seed: int) -> None:
    py, kind = Random(seed), np.random.RandomState(seed).rand()
    factor = py.uniform(1, 2) if kind > 0.8 else py.uniform(0.5 / 4, 1) if kind < 0.7 else 1
    drawn = {"size": [int(factor * 32)] * 2, "mode": MODES[py.choice([1, 2, 3])]}
    resized = STEPS.check("resize_up_down_keep").component().apply(to_ragged(SMALL), [drawn])
    assert np.abs(to_array(resized) - OPS[f"add_resize_seed{seed}"]).max() < 1e-5


def reference_noise(seed: int, kind_from: str) -> tuple[dict, np.ndarray]:
    """What add_Gaussian_noise (`kind_from` np) and add_speckle_noise (py) draw: a plan and the noise (h, w, C)."""
    py, rng = Random(seed), np.random.RandomState(seed)
    level = py.randint(2, 25)
    kind = py.random() if kind_from == "py" else rng.rand()
    if kind > 0.6:
        return {"kind": "color", "level": level}, rng.normal(0, level / 255, SMALL.shape)
    if kind < 0.4:
        return {"kind": "gray", "level": level}, rng.normal(0, level / 255, (*SMALL.shape[:2], 1))
    strengths = np.diag(rng.rand(3))
    axes = orth(rng.rand(3, 3))
    covariance = np.abs((25 / 255) ** 2 * (axes.T @ strengths @ axes))
    noise_values = rng.multivariate_normal([0, 0, 0], covariance, SMALL.shape[:2])
    return {"kind": "correlated", "covariance": covariance.tolist()}, noise_values


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("step", "golden", "kind_from"),
    [("gaussian_noise", "add_gaussian_seed", "np"), ("speckle_noise", "add_speckle_seed", "py")],
)
def test_gaussian_and_speckle(
    step: str, golden: str, kind_from: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reference's own noise as the field of our plan."""
    drawn, values = reference_noise(seed, kind_from)
    values = torch.from_numpy(values.transpose(2, 0, 1)).float()
    if drawn["kind"] == "correlated":
        root = torch.from_numpy(noise.mixing(drawn)).float()
        field = torch.linalg.solve(root, values.flatten(1)).view_as(values)
    else:
        field = values * 255 / drawn["level"]
    asked = []

    def recorded(images: Ragged, seeds: list[int], planes: list[int]) -> Tensor:
        asked.append((seeds, planes))
        return field[None]

    monkeypatch.setattr(noise, "normal_fields", recorded)
    made = STEPS.check(step).component().apply(to_ragged(SMALL), [{**drawn, "seed": 17}])
    assert asked == [([17], [field.shape[0]])]
    assert np.abs(to_array(made) - OPS[f"{golden}{seed}"]).max() < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_poisson(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reference's own counts; a rate that differed from its own would give other counts."""
    py, rng = Random(seed), np.random.RandomState(seed)
    peak = 10 ** (2 * py.random() + 2)
    drawn = {"peak": peak, "gray": py.random() >= 0.5, "strength": 1.0, "seed": 17}
    rounded = (SMALL * 255).round() / 255
    luma = (rounded @ [0.299, 0.587, 0.114] * 255).round() / 255
    expected = luma[None] * peak if drawn["gray"] else rounded.transpose(2, 0, 1) * peak
    counts = rng.poisson(expected.transpose(1, 2, 0)).transpose(2, 0, 1)

    def recorded(levels: Ragged, peaks: Tensor, seeds: list[int], planes: list[int], most: float) -> Tensor:
        assert (seeds, planes, most) == ([17], [len(expected)], peak)
        assert np.abs((levels.data / 255 * peaks)[0].numpy() - expected).max() < 1e-3
        return torch.from_numpy(counts.copy()).float()[None]

    monkeypatch.setattr(noise, "poisson_counts", recorded)
    made = STEPS.check("poisson_noise").component().apply(to_ragged(SMALL), [drawn])
    assert np.abs(to_array(made) - OPS[f"add_poisson_seed{seed}"]).max() < 1e-5


def test_poisson_counts_have_their_mean_and_variance() -> None:
    step = STEPS.check("poisson_noise").component()
    flat = Ragged.of(torch.full((1, 3, 200, 200), 0.4))
    for gray in (False, True):
        made = step.apply(flat, [{"peak": 500.0, "gray": gray, "strength": 1.0, "seed": 3}]).data
        assert abs(made.mean().item() - 0.4) < 2e-3
        assert made.var().item() == pytest.approx(0.4 / 500, rel=0.05)
        correlation = torch.corrcoef(made[0].flatten(1))[0, 1].item()
        assert correlation > 0.99 if gray else abs(correlation) < 0.03
    dark = step.apply(Ragged.of(torch.zeros(1, 3, 8, 8)), [{"peak": 100.0, "gray": False, "strength": 1.0, "seed": 3}])
    assert not dark.data.any()


@pytest.mark.parametrize(("values", "peak"), [(1, 1), (2, 2), (3, 4), (200, 256), (256, 256)])
def test_poisson_peak_by_levels(values: int, peak: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from degradations.steps.poisson_noise import _levels_peaks

    image = (torch.arange(300) % values / 255).reshape(3, 10, 10)
    batch = Ragged.pack([image, image[:, :, :1], torch.ones(3, 12, 3)])
    batch.data[0, :, 10:], batch.data[1, :, :, 1:] = 0.7, 0.7
    expected = [peak, _levels_peaks(Ragged.of(image[None, :, :, :1]).levels()).item(), 1]
    assert _levels_peaks(batch.levels()).flatten().tolist() == expected
    monkeypatch.setattr(Ragged, "one_by_one", False)
    assert _levels_peaks(batch.levels()).flatten().tolist() == expected, "as devices count"


def test_draws_of_resize() -> None:
    """Factors and shares as released: up 20 % in [1, 2], down 70 % in [0.5 / s, 1], kept 10 %."""
    from degradations import State

    step = STEPS.check("resize_up_down_keep").component()
    rng, kinds, ratios = np.random.default_rng(0), [], {}
    for _ in range(2000):
        state = State((1000, 2000), (1000, 2000), 4, 2)
        kind = step.sample(rng, state)["kind"]
        assert state.size[1] - 2 * state.size[0] in (0, 1)
        kinds.append(kind)
        ratios.setdefault(kind, []).append(state.size[0] / 1000)
    for kind, share, low, high in (("up", 0.2, 1, 2), ("down", 0.7, 0.25, 1), ("keep", 0.1, 1, 1)):
        assert abs(kinds.count(kind) / 2000 - share) < 0.03
        assert low - 1e-3 <= min(ratios[kind]) <= low + 0.02 and high - 0.02 <= max(ratios[kind]) <= high
    to_lq = STEPS.check({"type": "resize_up_down_keep", "relative_to": "lq", "kinds": {"keep": 1.0}}).component()
    state = State((70, 90), (400, 320), 4, 4)
    assert to_lq.sample(rng, state)["size"] == [100, 80]


def test_order() -> None:
    """Noises change places within their round alone, or everything changes places; camera noise has its own."""
    camera = {"isp": {"type": "isp"}, "second_isp": {"type": "isp"}}
    local = DEGRADATIONS.build({"type": "bsrgan_plus", "steps": camera, "shuffle_prob": 0.0}, scale=4)
    full = DEGRADATIONS.build({"type": "bsrgan_plus", "steps": camera, "shuffle_prob": 1.0}, scale=4)
    noises = ["noise", "poisson", "speckle", "isp"]
    names = list(local.steps)  # type: ignore[attr-defined]
    seen, first = set(), set()
    for seed in range(300):
        order = local.order.draw(names, seed)  # type: ignore[attr-defined]
        assert order[:2] == ["blur", "resize"] and order[6:9] == ["jpeg", "second_blur", "second_resize"]
        assert sorted(order[2:6]) == sorted(noises) and order[13:] == ["fit", "final_jpeg"]
        assert sorted(order[9:13]) == sorted(f"second_{name}" for name in noises)
        seen.add((tuple(order[2:6]), tuple(order[9:13])))
        shuffled = full.order.draw(names, seed)  # type: ignore[attr-defined]
        assert sorted(shuffled) == sorted(names) and shuffled[13:] == ["fit", "final_jpeg"]
        first.add(shuffled[0])
    assert len({a for a, _ in seen}) == 24 and len(seen) > 150 and len(first) == 13


def test_sharpen_gt() -> None:
    """The target, and what is degraded, are sharpened; everything else is drawn as without."""
    gt = torch.from_numpy(synth_image(7, 96, 96).transpose(2, 0, 1).copy()).float()[None] / 255
    plain, sharp = (DEGRADATIONS.build({"type": "bsrgan_plus", "sharpen_gt": on}, scale=2) for on in (False, True))
    plans = [d.sample(np.random.default_rng(3), (96, 96)) for d in (plain, sharp)]
    assert plans[1].steps == (("sharpen", {}), *plans[0].steps)
    before = gt.clone()
    made = sharp.apply(gt.repeat(2, 1, 1, 1), [plans[1]] * 2)
    target = sharpen.usm(Ragged.of(gt)).data
    assert torch.equal(gt, before) and not torch.equal(target, gt)
    assert torch.equal(made.targets["plain"], target.repeat(2, 1, 1, 1))
    assert torch.equal(made.lq[:1], plain.apply(target, plans[:1]).lq)


@pytest.mark.parametrize("scale", [4, 2])
def test_output_quantiles(scale: int) -> None:
    """300 samples, as the reference, whose own runs differ by about 0.6 dB at the 5 % quantile and 0.3 dB elsewhere."""
    images = [torch.from_numpy(synth_image(1000 + i).transpose(2, 0, 1).copy()).float() / 255 for i in range(20)]
    degradation = DEGRADATIONS.build("bsrgan_plus", scale=scale)
    rows = []
    for i in range(300):
        rng = np.random.default_rng(5000 + i)
        plan = degradation.sample(rng, (320, 320)).with_crop(rng, 72 * scale)
        made = paired_crop(degradation.apply(images[i % 20][None], [plan]), [plan])
        rows.append(statistics(made.lq, made.targets["plain"], scale))
    ours = np.quantile(np.array(rows), [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    reference = np.load(KAIR / "degradation_distribution.npz")[f"plus_x{scale}/quantiles"]
    assert (np.abs(ours[:, 0] - reference[:, 0]) < [0.9, 0.45, 0.45, 0.45, 0.6]).all(), ours[:, 0] - reference[:, 0]
    assert (np.abs(np.log(ours[1:4, 1] / reference[1:4, 1])) < 0.5).all(), ours[:, 1] / reference[:, 1]
    assert (np.abs(ours[:, 2:] - reference[:, 2:]) < 0.012).all(), ours[:, 2:] - reference[:, 2:]
