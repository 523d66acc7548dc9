"""Recorded noise and RealSR's degradation: what is drawn, what is added, and which pools are refused."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.prepare.lmdb import write_database
from data.source import SourceEntry
from data.sources.paired import Paired
from data.training import DataOptions, Mix, TrainingSet, degrade
from data.validation import ValidationSet
from degradations import DEGRADATIONS, STEPS, Degradation, Plan, Ragged, State
from degradations.kernels.files import read_bank, usrnet_kernels
from degradations.plan import MissingPoolError
from degradations.steps.real_noise import PLAN, STATISTICS, NoisePool, RealNoise
from tests.helpers import write_kernel_pool, write_noise_pool
from utils.images.files import write_image
from utils.logging import Console
from utils.options.components import OptionsError
from utils.options.fields import OptionError


def state(height: int, width: int, **shared: Any) -> State:  # noqa: ANN401
    return State((height, width), (height, width), 4, 4, shared=shared)


def realsr(scale: int = 2, **options: object) -> Degradation:
    return DEGRADATIONS.build({"type": "realsr", **options}, scale=scale)


# --- noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(20, 31), (64, 64), (150, 300)])
def test_noise_has_no_mean_and_the_strength_of_its_patches(size: tuple[int, int], tmp_path: Path) -> None:
    """In images smaller and larger than a patch; other channels, places and images have other noise."""
    step, rng = RealNoise(str(write_noise_pool(tmp_path))), np.random.default_rng(0)
    for _ in range(8):
        noise = step.noise(step.sample(rng, state(*size)), size)
        assert noise.shape == (3, *size) and noise.dtype == np.float32
        assert np.abs(noise.mean((1, 2))).max() < 1e-6
        assert 5.5 < 255 * noise.std() < 6.5
        assert np.abs(np.corrcoef(noise.reshape(3, -1)) - np.eye(3)).max() < 0.2


def test_all_patches_places_and_turns_are_drawn(tmp_path: Path) -> None:
    """Also the last corner; the eight turns are eight, and can be switched off."""
    step, rng = RealNoise(str(write_noise_pool(tmp_path, 2, (12, 10)))), np.random.default_rng(0)
    drawn = [step.sample(rng, state(9, 8)) for _ in range(3000)]
    assert set(Counter(d["index"] for d in drawn)) == {0, 1}
    assert {(d["top"], d["left"]) for d in drawn if d["turns"] % 2 == 0} == {(y, x) for y in range(4) for x in range(3)}
    assert {(d["top"], d["left"]) for d in drawn if d["turns"] % 2} == {(y, x) for y in range(5) for x in range(2)}
    turned = {step.noise({**drawn[0], "turns": t, "mirrored": m}, (8, 8)).tobytes() for t in range(4) for m in (0, 1)}
    assert len(turned) == 8
    plain = [RealNoise(str(tmp_path), augment=False).sample(rng, state(9, 8)) for _ in range(50)]
    assert {(d["turns"], d["mirrored"]) for d in plain} == {(0, False)}


@pytest.mark.parametrize("size", [(100, 16), (37, 90)])
def test_a_larger_image_gets_noise_without_seams(size: tuple[int, int], tmp_path: Path) -> None:
    """From one pixel to the next nothing changes more than within the patch, here a ramp; edges do not come twice."""
    ramp = np.add.outer(3 * np.arange(24), 2 * np.arange(16)).astype(np.uint8)
    write_image(tmp_path / "ramp.png", ramp)
    step = RealNoise(str(tmp_path))
    starts = set()
    for seed in range(30):
        drawn = step.sample(np.random.default_rng(seed), state(*size))
        noise = 255 * step.noise(drawn, size)[0]
        steps = [np.abs(np.diff(noise, axis=axis)).round(3) for axis in (0, 1)]
        assert {float(v) for part in steps for v in np.unique(part)} <= {2.0, 3.0}
        starts.add((drawn["top"], drawn["left"]))
    assert len(starts) > 10, "the place of the turns is random"


def test_a_training_crop_larger_than_a_patch_is_refused(tmp_path: Path) -> None:
    write_noise_pool(tmp_path)
    write_image(tmp_path / "small.png", np.full((64, 40, 3), 9, np.uint8))
    step, rng = RealNoise(str(tmp_path)), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"small.png: a patch of 64x40 does not cover a .* crop of 48x48; .*--size 48"):
        step.sample(rng, state(48, 48, training_crop=True))
    assert step.sample(rng, state(40, 40, training_crop=True))


def test_patches_of_other_kinds(tmp_path: Path) -> None:
    """Gray, 16 bits and alpha; a patch of one pixel is no noise."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_image(tmp_path / "0.png", ramp)
    write_image(tmp_path / "1.png", ramp.astype(np.uint16) * 257)
    write_image(tmp_path / "2.png", np.dstack([ramp] * 4))
    write_image(tmp_path / "3.tif", ramp)
    write_image(tmp_path / "4.png", ramp[:1, :1])
    step = RealNoise(str(tmp_path), augment=False)
    drawn = {"pool": step.pool.hash, "top": 0, "left": 0, "turns": 0, "mirrored": False}
    fields = [step.noise({**drawn, "index": i}, (16, 16)) for i in range(5)]
    for field in fields[:4]:
        assert np.abs(field - (ramp - ramp.mean()) / 255).max() < 1e-6
    assert not fields[4].any()


# --- pools -------------------------------------------------------------------------------------------------------


def test_a_database_is_the_same_pool(tmp_path: Path) -> None:
    write_noise_pool(tmp_path / "pool")
    patches = tmp_path / "patches"
    patches.mkdir()
    for path in (tmp_path / "pool").glob("photo_*.png"):
        path.rename(patches / path.name)
    assert write_database(patches, tmp_path / "pool.lmdb", "", 1, Console()) == 0
    folder, database = RealNoise(str(patches)), RealNoise(str(tmp_path / "pool.lmdb"))
    drawn = [folder.sample(np.random.default_rng(i), state(30, 30)) for i in range(6)]
    for d in drawn:
        there = {**d, "pool": database.pool.hash}
        np.testing.assert_array_equal(folder.noise(d, (30, 30)), database.noise(there, (30, 30)))
    assert folder.pool.sizes == database.pool.sizes


def test_a_plan_of_another_pool_is_refused(tmp_path: Path) -> None:
    """Of the same names even; a copy elsewhere is the same pool."""
    pools = [write_noise_pool(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("copy", 0), ("b", 1))]
    one, copy, other = (realsr(steps={"noise": {"path": str(pool)}}) for pool in pools)
    gt = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    plan = Plan.from_json(one.sample(np.random.default_rng(0), (40, 48)).to_json())
    assert torch.equal(copy.apply(gt, [plan]).lq, one.apply(gt, [plan]).lq)
    hashes = [str(RealNoise(str(pool)).pool.hash)[:8] for pool in pools]
    with pytest.raises(ValueError, match=f"from the noise {hashes[0]}, but .*b holds {hashes[2]}; give the files"):
        other.apply(gt, [plan])


def test_a_pool_that_is_made_later(tmp_path: Path) -> None:
    """`prepare:` makes it after the options are checked, so building a step is not yet an error, drawing is one."""
    for options in ({"type": "real_noise", "path": str(tmp_path / "n")}, {"type": "kernel_bank", "path": "none*.mat"}):
        step, rng = STEPS.check(options).component(), np.random.default_rng(0)
        with pytest.raises(MissingPoolError, match="found no .*python -m data.prepare"):
            step.sample(rng, state(20, 20))
    step = RealNoise(str(tmp_path / "n"))
    write_noise_pool(tmp_path / "n")
    assert step.sample(rng, state(20, 20))["pool"] == step.pool.hash
    write_noise_pool(tmp_path / "n", seed=1)
    assert RealNoise(str(tmp_path / "n")).pool.hash != step.pool.hash, "what has changed is read anew"


def test_a_damaged_patch_is_named(tmp_path: Path) -> None:
    file = write_noise_pool(tmp_path) / "photo_001.png"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(OptionError, match=r"photo_001.png: .*cut off"):
        RealNoise(str(tmp_path))


def test_a_step_goes_to_other_processes(tmp_path: Path) -> None:
    step = RealNoise(str(write_noise_pool(tmp_path)))
    drawn = step.sample(np.random.default_rng(0), state(20, 20))
    again = pickle.loads(pickle.dumps(step))
    np.testing.assert_array_equal(step.noise(drawn, (20, 20)), again.noise(drawn, (20, 20)))


# --- kernels -----------------------------------------------------------------------------------------------------


def test_kernels_of_another_scale_are_refused(tmp_path: Path) -> None:
    """Where they come from a pool or KernelGAN's files, and whatever halves the image first."""
    write_noise_pool(tmp_path / "noise")
    pool = write_kernel_pool(tmp_path / "kernels", usrnet_kernels(), 4)
    bank = {"type": "kernel_bank", "path": str(pool), "border": "symmetric"}
    steps = {"blur": bank, "down": {"type": "every_nth"}, "noise": {"path": str(tmp_path / "noise")}}
    assert realsr(4, steps=steps).scale == 4
    halving = DEGRADATIONS.build({"type": "bsrgan", "steps": {"halve": {"prob": 1}, "blur": bank}}, scale=4)
    for wrong in (realsr(2, steps=steps), halving):  # only when drawn: `prepare:` may make others
        with pytest.raises(MissingPoolError, match="kernels_x4.npz holds kernels for x4, but x2 is still to go; name"):
            for seed in range(8):
                wrong.sample(np.random.default_rng(seed), (64, 64))


def test_turned_kernels_of_a_known_scale_must_be_aligned(tmp_path: Path) -> None:
    """Else the low-quality images would be moved by up to (scale - 1) pixels of the ground truth."""
    write_noise_pool(tmp_path / "noise")
    pool = write_kernel_pool(tmp_path / "kernels", usrnet_kernels(), 2)
    blur = {"type": "kernel_bank", "path": str(pool), "border": "symmetric", "augment": True}
    steps = {"blur": blur, "down": {"type": "every_nth"}, "noise": {"path": str(tmp_path / "noise")}}
    with pytest.raises(OptionError, match="turned, they would move the image: set `align: upper_left`"):
        realsr(2, steps=steps)
    assert realsr(2, steps={**steps, "blur": {**blur, "align": "upper_left"}}).scale == 2


def test_pools_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_noise_pool(tmp_path / "noise")
    write_kernel_pool(tmp_path / "kernels", usrnet_kernels(), 2)
    assert NoisePool.read("~/noise").hash == NoisePool.read(str(tmp_path / "noise")).hash
    assert read_bank("~/kernels") and read_bank("~/kernels/*.npz")


def test_a_pool_whose_collection_was_stopped_is_not_used(tmp_path: Path) -> None:
    write_noise_pool(tmp_path)
    (tmp_path / STATISTICS).unlink()
    (tmp_path / PLAN).write_text("{}")
    with pytest.raises(MissingPoolError, match="stopped before the end; the same command .* goes on"):
        NoisePool.read(str(tmp_path))
    (tmp_path / STATISTICS).write_text("{}")
    assert NoisePool.read(str(tmp_path)).names


@pytest.mark.parametrize(
    ("blur", "down", "fits"),
    [({}, "every_nth", True), ({"align": "upper_left"}, "every_nth", True), ({"align": "centre"}, "every_nth", False)]
    + [({}, "matlab_bicubic", False), ({"align": "centre"}, "matlab_bicubic", True)],
)
def test_kernels_go_with_the_downsampling(blur: dict[str, Any], down: str, fits: bool, tmp_path: Path) -> None:
    """Otherwise the low-quality image would be moved."""
    pools = {"blur": str(write_kernel_pool(tmp_path / "k", usrnet_kernels(), 2)), "noise": str(tmp_path / "n")}
    write_noise_pool(tmp_path / "n")
    steps = {"blur": {"type": "kernel_bank", "path": pools["blur"], **blur}, "down": {"type": down}}
    options = {**steps, "noise": {"path": pools["noise"]}}
    if fits:
        assert realsr(2, steps=options).scale == 2
    else:
        with pytest.raises(OptionError, match="move the image by 0.5 of its pixels; expected"):
            realsr(2, steps=options)


# --- starting from low-quality images ------------------------------------------------------------------------------


def test_noise_onto_given_low_quality_images(tmp_path: Path) -> None:
    """In training and in validation; the ground truth is the given one, `blur` and `down` do nothing."""
    noise = {"path": str(write_noise_pool(tmp_path / "noise"))}
    degradation = realsr(2, start="lq", steps={"noise": noise})
    assert degradation.starts_from_lq and not realsr(2, steps={"noise": noise}).starts_from_lq
    write_image(tmp_path / "gt" / "a.png", np.full((60, 80, 3), 200, np.uint8))
    write_image(tmp_path / "lq" / "a.png", np.full((30, 40, 3), 90, np.uint8))
    entry = SourceEntry(Paired(str(tmp_path / "gt"), str(tmp_path / "lq"), scale=2))
    options = DataOptions(train={}, crop_size=32, batch_size=4, gt_size=24)
    training = TrainingSet(
        Mix((entry,), ("x",), (degradation,)), options, seed=0, stage="s", batch_size=4, in_worker=False
    )
    batch = degrade(training.__getitems__(range(4)), [degradation], torch.device("cpu"))
    validation = ValidationSet("v", entry, degradation, seed=0, scale=2)[0].batch
    for made, size in ((batch, 12), (validation, None)):
        assert made.lq.shape[-2:] == ((size, size) if size else (30, 40))
        assert [name for name, _ in made.plans[0].steps] == ["noise"]
        assert made.plans[0].scale == 2
        assert (made.targets["plain"] * 255).round().eq(200).all()
        assert abs(float(made.lq.mean()) * 255 - 90) < 1 and 4 < 255 * float(made.lq.std()) < 8
    with pytest.raises(ValueError, match="needs a data set with low-quality images"):
        degradation.apply(torch.rand(1, 3, 32, 32), validation.plans)


def test_noise_stays_in_range(tmp_path: Path) -> None:
    step = RealNoise(str(write_noise_pool(tmp_path)))
    drawn = step.sample(np.random.default_rng(0), state(20, 20))
    made = step.apply(Ragged.of(torch.ones(1, 3, 20, 20)), [drawn]).data
    assert made.max() == 1 and 0.3 < (made < 1).float().mean() < 0.7


def test_no_path() -> None:
    with pytest.raises((OptionError, OptionsError), match=r"steps.noise.*path"):
        realsr(2)
