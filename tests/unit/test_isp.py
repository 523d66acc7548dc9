"""Camera noise: the way to raw and back, the noise's statistics, and independence of size, phase and batch."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from degradations import DEGRADATIONS, STEPS, Drawn, Ragged, State
from degradations.steps.isp import (
    PHASES,
    CameraNoise,
    Phase,
    demosaic,
    develop_tone,
    draw_matrix,
    mosaic,
    red_place,
    undo_tone,
)


def smooth(height: int, width: int, seed: float = 0) -> Tensor:
    """Slow waves over nearly the whole range, (3, H, W)."""
    y, x = torch.meshgrid(torch.linspace(0, 4, height), torch.linspace(0, 4, width), indexing="ij")
    planes = [torch.sin((c + 1) * x * 0.7 + seed) * torch.cos(y * (1 + c * 0.5)) for c in range(3)]
    return 0.5 + 0.48 * torch.stack(planes)


def draw(seed: int, size: tuple[int, int] = (64, 64), **changes: object) -> Drawn:
    drawn = STEPS.check("isp").component().sample(np.random.default_rng(seed), State(size, size, 4, 4))
    assert drawn is not None
    return {**drawn, **changes}


def apply(image: Tensor, drawn: Drawn) -> Tensor:
    return STEPS.check("isp").component().apply(Ragged.of(image[None]), [drawn]).data[0]


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * np.log10(((a - b) ** 2).mean().item())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("size", [(96, 96), (97, 131), (128, 65)])
def test_round_trip_without_noise(phase: str, size: tuple[int, int]) -> None:
    """At least 38 dB at smooth images, bright saturated ones included; no colour cast."""
    for seed in range(40):
        image = smooth(*size, seed)
        made = apply(image, draw(seed, size, phase=phase, shot=0.0, read=0.0))
        assert psnr(made, image) >= 38
        assert (made - image).mean((1, 2)).abs().max() < 2e-3


@pytest.mark.parametrize("color", list(product((0.0, 0.02, 1.0), repeat=3)))
def test_no_colour_is_clipped(color: tuple[float, ...]) -> None:
    """Constant images come back exactly, whatever the matrix and gains: white, black and pure colours too."""
    image = torch.tensor(color)[:, None, None].expand(3, 9, 11)
    for seed in range(30):
        assert (apply(image, draw(seed, shot=0.0, read=0.0)) - image).abs().max() < 2e-3


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (3, 2), (3, 3), (5, 2), (7, 6)])
def test_smallest_sizes(size: tuple[int, int]) -> None:
    for seed in range(8):
        image = torch.full((3, *size), 0.3)
        assert (apply(image, draw(seed, size, shot=0.0, read=0.0)) - image).abs().max() < 1e-3
        assert torch.isfinite(apply(image, draw(seed, size))).all()
    assert CameraNoise().sample(np.random.default_rng(0), State((1, 9), (4, 36), 4, 4)) is None


def test_variance_grows_with_the_signal() -> None:
    """Developed by the identity, noise has the law's variance at each brightness, before and after the mosaic."""
    plain = {"gamma": 1.0, "waves": [0.0], "matrix": np.eye(3).tolist(), "gains": [1.0] * 3, "exposure": 1.0}
    for shot, read in ((0.005, 0.0003), (0.0005, 0.00002)):
        green = []
        for level in (0.1, 0.3, 0.6):
            drawn = draw(1, **plain, shot=shot, read=read, phase="rggb")
            made = apply(torch.full((3, 256, 256), level), drawn)
            assert (made.mean((1, 2)) - level).abs().max() < 2e-3
            # At a green pixel green is what was measured.
            assert made[1, 0::2, 1::2].var().item() == pytest.approx(level * shot + read, rel=0.05)
            green.append(made[1].var().item())
        assert green[0] < green[1] < green[2]


def test_white_balance_amplifies_noise_and_precedes_the_demosaic() -> None:
    plain = {"gamma": 1.0, "waves": [0.0], "matrix": np.eye(3).tolist(), "exposure": 1.0, "phase": "rggb"}
    drawn = draw(1, **plain, gains=[2.0, 1.0, 1.5], shot=0.005, read=0.0003)
    made = apply(torch.full((3, 256, 256), 0.3), drawn)
    for channel, gain in ((0, 2.0), (2, 1.5)):
        measured = made[channel, channel // 2 :: 2, channel // 2 :: 2]
        assert measured.var().item() == pytest.approx(gain**2 * (0.3 / gain * 0.005 + 0.0003), rel=0.05)
    # Fine gray detail stays gray: balanced, the colours' edges are equally high when they are filtered.
    gray = 0.5 + 0.25 * torch.sin(torch.arange(128) * 1.1).expand(3, 128, -1)
    for seed in range(8):
        cast = (apply(gray, draw(seed, gains=[2.4, 1.0, 2.4], shot=0.0, read=0.0)) - gray).mean((1, 2))
        assert cast.max() - cast.min() < 0.01


@pytest.mark.parametrize("phase", PHASES)
def test_noise_is_correlated(phase: str) -> None:
    """Between neighbours (at least 0.15) and between channels, whatever is drawn: unlike what is added to sRGB."""
    flat = torch.full((3, 128, 128), 0.45)
    lag, channels = [], []
    for seed in range(24):
        residual = apply(flat, draw(seed, phase=phase)) - flat
        residual -= residual.mean((1, 2), keepdim=True)
        power = residual.square().mean()
        for a, b in ((residual[:, :, 1:], residual[:, :, :-1]), (residual[:, 1:], residual[:, :-1])):
            lag.append(((a * b).mean() / power).item())
        channels.append(torch.corrcoef(residual.flatten(1))[[0, 0, 1], [1, 2, 2]].abs().mean().item())
    assert min(lag) >= 0.15 and np.mean(channels) > 0.15 and min(channels) > 0.05


def test_read_noise_follows_shot_noise() -> None:
    """Brooks et al. 2019: log read is normal around 2.18 log shot + 1.20; shot log-uniform in [1e-4, 0.012]."""
    drawn = [draw(seed) for seed in range(1500)]
    shot, read = (np.log([d[key] for d in drawn]) for key in ("shot", "read"))
    rest = read - (2.18 * shot + 1.20)
    assert abs(rest.mean()) < 0.03 and abs(rest.std() - 0.26) < 0.02
    middle = np.log(1e-4 * 0.012) / 2
    assert shot.min() >= np.log(1e-4) and shot.max() <= np.log(0.012) and abs(shot.mean() - middle) < 0.12
    assert {d["phase"] for d in drawn} == set(PHASES)


def test_tone_curves_rise_from_black_to_white_and_invert() -> None:
    x = torch.linspace(0, 1, 2001).expand(1, 3, 1, -1)
    middles = []
    for seed in range(200):
        drawn = [draw(seed)]
        curve = develop_tone(x, drawn)[0, 0, 0]
        assert curve[0].item() == pytest.approx(0, abs=1e-6) and curve[-1].item() == pytest.approx(1, abs=1e-6)
        assert (curve.diff() > -1e-7).all()
        assert (develop_tone(undo_tone(x, drawn), drawn) - x).abs().max() < 2e-3
        assert (undo_tone(develop_tone(x, drawn), drawn) - x).abs().max() < 2e-5
        middles.append(curve[400].item())
    assert np.std(middles) > 0.04, "a family, not one curve"
    with pytest.raises(ValueError, match="less than 1"):
        CameraNoise(waves=(0.6, 0.5))


def test_camera_matrices_keep_white_and_invert() -> None:
    matrices = np.stack([draw_matrix(np.random.default_rng(seed)) for seed in range(200)])
    assert np.abs(matrices.sum(2) - 1).max() < 1e-12
    assert np.linalg.cond(matrices).max() < 20
    assert (matrices.std(0) > 0.005).all()
    # Each camera channel sees its own colour best.
    assert (matrices.argmax(2) == np.arange(3)).all()


@pytest.mark.parametrize("phase", PHASES)
def test_mosaic_keeps_the_named_colours(phase: Phase) -> None:
    """At the image's place on the sensor; around it the values go on."""
    image = torch.arange(3.0)[:, None, None].expand(3, 5, 6) + torch.arange(6.0) * 10
    sensor = mosaic(Ragged.of(image[None]), [phase]).data[0, 0]
    top, left = (2 + place for place in red_place(phase))
    kept = sensor[top : top + 5, left : left + 6] - torch.arange(6.0) * 10
    assert "".join("rgb"[int(v)] for v in kept[:2, :2].flatten()) == phase
    assert torch.equal(kept[2:4, 2:4], kept[:2, :2])
    around = sensor - 10 * (torch.arange(sensor.shape[1]) - left)
    assert torch.equal(around[2:], around[:-2]) and torch.equal(around[:, 2:], around[:, :-2])
    assert around[0, 0] == 0 and sensor.shape[0] % 2 == sensor.shape[1] % 2 == 0


def plain_malvar(raw: np.ndarray, phase: str) -> np.ndarray:
    """Malvar, He and Cutler's equations, pixel by pixel, inside a plane with 2 more pixels around.

    `phase` is that of the pixel (2, 2).
    """
    height, width = raw.shape[0] - 4, raw.shape[1] - 4
    p = raw
    result = np.zeros((3, height, width))
    for y, x in product(range(height), range(width)):
        at = lambda dy, dx: p[y + 2 + dy, x + 2 + dx]  # noqa: B023, E731
        colour = [phase[(y + dy) % 2 * 2 + (x + dx) % 2] for dy, dx in ((0, 0), (0, 1), (1, 0))]
        cross, far = at(0, 1) + at(0, -1) + at(1, 0) + at(-1, 0), at(0, 2) + at(0, -2) + at(2, 0) + at(-2, 0)
        diagonal = at(1, 1) + at(1, -1) + at(-1, 1) + at(-1, -1)
        if colour[0] == "g":
            result[1, y, x] = at(0, 0)
            for name, dy, dx in ((colour[1], 0, 1), (colour[2], 1, 0)):
                near = at(dy, dx) + at(-dy, -dx)
                same, other = at(2 * dy, 2 * dx) + at(-2 * dy, -2 * dx), at(2 * dx, 2 * dy) + at(-2 * dx, -2 * dy)
                value = 5 * at(0, 0) + 4 * near - same + 0.5 * other - diagonal
                result["rgb".index(name), y, x] = value / 8
        else:
            own = "rgb".index(colour[0])
            result[own, y, x] = at(0, 0)
            result[1, y, x] = (4 * at(0, 0) + 2 * cross - far) / 8
            result[2 - own, y, x] = (6 * at(0, 0) + 2 * diagonal - 1.5 * far) / 8
    return result


@pytest.mark.parametrize("size", [(8, 10), (7, 9), (3, 4), (2, 2)])
@pytest.mark.parametrize("phase", PHASES)
def test_demosaic_equals_the_equations(phase: Phase, size: tuple[int, int]) -> None:
    shape = mosaic(Ragged.of(torch.zeros(1, 3, *size)), [phase]).data.shape
    sensor = np.random.default_rng(0).random(shape)
    ours = demosaic(torch.from_numpy(sensor).float(), [phase], [size])
    top, left = red_place(phase)
    around = sensor[0, 0, top : top + size[0] + 4, left : left + size[1] + 4]
    assert np.abs(ours.data[0].numpy() - plain_malvar(around, phase)).max() < 1e-6


def test_batch_of_mixed_sizes_equals_one_by_one() -> None:
    images = [smooth(40, 33, 1), smooth(27, 44, 2), smooth(2, 5, 3), smooth(44, 44, 4)]
    drawn = [draw(i, phase=phase) for i, phase in enumerate(PHASES)]
    step = STEPS.check("isp").component()
    packed = Ragged.pack(images)
    together = step.apply(packed, drawn).images()
    spoiled = packed.data.clone()
    for row, (height, width) in zip(spoiled, packed.sizes, strict=True):
        row[:, height:], row[:, :, width:] = float("nan"), float("nan")
    beside_nan = step.apply(Ragged(spoiled, packed.sizes), drawn).images()
    for image, d, one, other in zip(images, drawn, together, beside_nan, strict=True):
        assert (apply(image, d) - one).abs().max() < 1e-5
        assert torch.equal(one, other)


def test_in_the_pipelines() -> None:
    """Added by its name it joins the shuffle, leaves what else is drawn alone, and the plan is plain JSON."""
    plain = DEGRADATIONS.build("bsrgan", scale=2)
    noisy = DEGRADATIONS.build({"type": "bsrgan", "steps": {"isp": {"type": "isp", "prob": 0.25}}}, scale=2)
    places, count = set(), 0
    for seed in range(200):
        a, b = (d.sample(np.random.default_rng(seed), (96, 96)) for d in (plain, noisy))
        names = [name for name, _ in b.steps]
        assert [name for name, _ in a.steps] == [name for name in names if name != "isp"]
        if "isp" in names:
            count += 1
            places.add(names.index("isp"))
            assert names[-1] == "final_jpeg"
            assert json.loads(json.dumps(b.steps)) == [[name, drawn] for name, drawn in b.steps]
    assert 30 <= count <= 70 and len(places) >= 6
