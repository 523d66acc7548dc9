"""Pools of estimated kernels, and the `prepare:` section. The estimation itself is replaced: it has its own tests."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.prepare import kernels as kernel_pool
from data.prepare import steps as preparing
from data.prepare.__main__ import main
from data.prepare.section import CleanHr, NoisePatches, Prepare
from data.prepare.steps import prepare
from data.sources.folder import Folder
from degradations import DEGRADATIONS
from degradations.kernelgan.estimate import Estimate, KernelGAN
from degradations.kernelgan.shape import IRREGULAR, moved_to_centre
from degradations.kernels.families import isotropic_gaussian
from degradations.kernels.files import read_bank
from degradations.plan import MissingPoolError
from utils.images.files import write_image
from utils.logging import Console
from utils.options.components import check_tree
from utils.options.fields import OptionError
from utils.processes.distributed import Processes

ALONE = Processes(0, 1, 0, torch.device("cpu"))


def picture(level: int, *shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Its first pixel tells the stand-in what to find."""
    array = np.random.default_rng(level).integers(90, 110, shape).astype(dtype)
    array = array * 257 if dtype is np.uint16 else array
    array[0, 0] = level * 257 if dtype is np.uint16 else level
    return array


class StandIn:
    """Gaussians of sigma level / 100; level 0 gives two peaks, 1 a wide one, 2 a large loss, 3 a lower hill."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.stop_at = 10**9

    def __call__(
        self,
        images: Sequence[np.ndarray],
        settings: KernelGAN,
        device: torch.device,
        progress: Callable[[int], None] | None,
    ) -> list[Estimate]:
        if len(self.batches) == self.stop_at:
            raise KeyboardInterrupt
        assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in images)
        self.batches.append([int(image[0, 0, 0]) for image in images])
        return [self.estimate(level, settings.scale) for level in self.batches[-1]]

    @staticmethod
    def estimate(level: int, scale: int) -> Estimate:
        raw = isotropic_gaussian(13, {1: 5.0, 2: 1.0}.get(level, level / 100 or 1.0))
        if level == 0:
            raw = np.roll(raw, -4, 0) + np.roll(raw, 4, 0)
        if level == 3:
            raw = raw + 0.45 * np.roll(raw, (4, -3), (0, 1))
        # Kernels that move farther have larger frames.
        kernel = moved_to_centre(np.roll(raw, -2 * (level == 99), 0), scale)
        return Estimate(kernel / kernel.sum(), raw, {"gan": 0.5, "total": 9.0 if level == 2 else 1 + level / 1e4})


@pytest.fixture
def estimator(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(kernel_pool, "estimate_kernels", stand_in)
    return stand_in


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    for level in (0, 1, 2, 99, 100, 101, 102):
        write_image(folder / "sub" / f"{level:03}.png", picture(level, 64, 70, 3))
    write_image(folder / "alpha.png", picture(110, 80, 70, 4))
    write_image(folder / "deep.png", picture(120, 64, 70, 3, dtype=np.uint16))
    write_image(folder / "gray.png", picture(130, 64, 70))
    return folder


def run(source: Path, out: Path, *more: str | Path) -> int:
    return main(["kernels", str(source), "--out", str(out), "--device", "cpu", "--scale", "2", *map(str, more)])


def test_a_pool(source: Path, tmp_path: Path, estimator: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(source / "small.png", picture(140, 63, 200, 3))
    (source / "zzz.png").write_bytes(b"broken")
    out, mat = tmp_path / "pool", tmp_path / "mat"
    assert run(source, out, "--batch", "4", "--mat", mat) == 1
    printed = capsys.readouterr()
    assert f"{source / 'small.png'}: 63x200 is too small for the crops of 64x64; take it out" in printed.err
    assert f"left out: {source / 'zzz.png'}: " in printed.err
    assert estimator.batches == [[110, 120, 130], [0, 1, 2, 99], [100, 101, 102]]
    for row in ("accepted | 7", "split | 1", "spread | 2", "loss | 1", "all | 10"):
        assert f"| {row} |" in " ".join(printed.out.split()), row

    names = ["alpha", "deep", "gray", *(f"sub/{level:03}" for level in (0, 1, 2, 99, 100, 101, 102))]
    with np.load(out / "kernels_x2.npz", allow_pickle=False) as pool:
        assert pool["sources"].tolist() == [str(source / f"{name}.png") for name in names]
        flawed = {Path(s).stem: flaws for s, flaws in zip(pool["sources"], pool["flaws"], strict=True) if flaws}
        assert set(flawed) == {"000", "001", "002"} and flawed["002"] == "loss" and "split" in flawed["000"]
        assert pool["accepted"].tolist() == [not flaws for flaws in pool["flaws"]]
        assert pool["scale"] == 2 and pool["version"] == "1" and pool["losses"][5] == 9
        regular = pool["irregularity"] <= IRREGULAR[2]
        assert regular[pool["accepted"]].all() and not regular.all()  # `split` kernels are no Gaussians
        assert pool["kernels"].shape == (10, 21, 21) and pool["kernels"].dtype == np.float64
        np.testing.assert_array_equal(pool["kernels"][0][2:-2, 2:-2], StandIn.estimate(110, 2).kernel)
        accepted = pool["kernels"][pool["accepted"]]
    assert (out / "kernels_x2.png").is_file()
    # Kernels are correlated with images, what is read is convolved.
    np.testing.assert_allclose(np.stack(read_bank(str(out))), accepted[:, ::-1, ::-1], atol=1e-12)
    files = sorted(path.relative_to(mat).as_posix() for path in mat.rglob("*.mat"))
    good = [name for name in names if Path(name).stem not in flawed]
    assert files == [f"{name}/{Path(name).name}_kernel_x2.mat" for name in good]
    assert len(read_bank(str(mat))) == 7


def test_a_stopped_estimation_goes_on(
    source: Path, tmp_path: Path, estimator: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pool"
    estimator.stop_at = 2
    assert run(source, out, "--batch", "4") == 130 and not (out / "kernels_x2.npz").exists()
    write_image(source / "gray.png", picture(131, 64, 70))
    estimator.stop_at = 10**9
    assert run(source, out, "--batch", "4") == 0
    assert estimator.batches == [[110, 120, 130, 0], [1, 2, 99, 100], [131, 101, 102]]
    assert "10 images, 7 done before" in capsys.readouterr().out
    # Nothing is estimated twice, whatever was asked for in between, and what is gone leaves the pool.
    (source / "gray.png").unlink()
    assert run(source, out, "--seed", "1") == 0 and run(source, out) == 0
    assert [len(batch) for batch in estimator.batches] == [4, 4, 3, 9]
    with np.load(out / "kernels_x2.npz") as pool:
        assert len(pool["kernels"]) == 9


def test_ranks_share_the_work(source: Path, tmp_path: Path, estimator: StandIn) -> None:
    """Each takes every second image of those to do, as they were before any began."""
    settings = KernelGAN(scale=2)
    done = kernel_pool.collect_kernels(settings, source, tmp_path / "pool", ALONE, Console(1))
    assert done == 0
    alone = [level for batch in estimator.batches for level in batch]
    estimator.batches.clear()
    for rank in range(2):
        processes = replace(ALONE, rank=rank, world_size=2)
        kernel_pool.collect_kernels(settings, source, tmp_path / f"pool{rank}", processes, Console(1))
    assert [sum(estimator.batches[:1], []), sum(estimator.batches[1:], [])] == [alone[::2], alone[1::2]]
    assert not (tmp_path / "pool1" / "kernels_x2.npz").exists()  # the main one gathers


def test_irregular_kernels_are_taken_where_there_are_no_others(
    tmp_path: Path, estimator: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may be right, as of shake, and the training that waits for them goes on."""
    for level, accepted in ((3, [True]), (100, [False, True])):
        write_image(tmp_path / "src" / f"{level:03}.png", picture(level, 64, 64, 3))
        assert run(tmp_path / "src", tmp_path / "pool") == 0
        assert ("1 are taken that are irregular alone" in capsys.readouterr().err) == (level != 100)
        with np.load(tmp_path / "pool" / "kernels_x2.npz", allow_pickle=False) as pool:
            assert pool["accepted"].tolist() == accepted and "irregular" in pool["flaws"]


def test_empty_pools_are_refused(
    source: Path, tmp_path: Path, estimator: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    only = tmp_path / "only"
    write_image(only / "a.png", picture(0, 64, 64, 3))
    assert run(only, tmp_path / "pool") == 1
    assert "none of 1 kernels is good; look at kernels_x2.png" in capsys.readouterr().err
    assert (tmp_path / "pool" / "kernels_x2.png").is_file()
    write_image(only / "a.png", picture(0, 32, 64, 3))
    assert run(only, tmp_path / "pool") == 1
    assert "there is no kernel, since no image could be used" in capsys.readouterr().err
    write_image(only / "a.png", np.full((64, 64, 3), 7, np.uint8))
    assert run(only, tmp_path / "pool") == 1
    assert "a.png: all its pixels have one value" in capsys.readouterr().err
    assert run(source, source / "pool") == 1
    assert "results would become sources" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(source, tmp_path / "pool", "--noise-scale", "-1", "--iterations", "0")
    error = capsys.readouterr().err
    assert "--noise-scale: found -1" in error and "--iterations: found 0" in error


# --- the section of an option file -----------------------------------------------------------------------------------


def settings_of(source: Path, out: Path, **more: object) -> Prepare:
    noise = {"size": 16, "max_variance": 200, "mean_range": [0, 255]}
    tree = {"source": str(source), "out": str(out), "kernels": {"scale": 2}, "noise": noise, "hr": {}, **more}
    return check_tree(Prepare, tree, "")


def test_each_step_runs_once_and_again_when_something_has_changed(
    source: Path, tmp_path: Path, estimator: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = settings_of(source, out, batch=3)

    def taken(changed: Prepare, scale: int = 2) -> list[str]:
        prepare(changed, scale, ALONE, Console())
        text = capsys.readouterr().out
        asked = [name for name in ("kernels", "noise", "hr") if getattr(changed, name) is not None]
        return [name for name in asked if f"{out / name} is up to date" not in text]

    assert taken(settings) == ["kernels", "noise", "hr"]
    assert [len(batch) for batch in estimator.batches] == [3, 3, 3, 1]
    assert (out / "kernels" / "kernels_x2.npz").is_file() and (out / "noise" / "statistics.json").is_file()
    assert len(Folder(str(out / "hr"))) == 10
    assert taken(settings) == []
    assert settings.noise is not None
    assert taken(replace(settings, noise=replace(settings.noise, size=32))) == ["noise"]
    assert taken(replace(settings, noise=replace(settings.noise, size=32), hr=CleanHr(1))) == ["hr"]
    target = tmp_path / "target"
    write_image(target / "b.png", picture(5, 40, 40, 3))
    assert taken(replace(settings, target=str(target))) == ["noise", "hr"]
    assert len(Folder(str(out / "hr"))) == 11
    (source / "gray.png").unlink()
    assert taken(settings) == ["kernels", "noise", "hr"]
    assert len(Folder(str(out / "hr"))) == 9 and sum(map(len, estimator.batches)) == 10
    with np.load(out / "kernels" / "kernels_x2.npz") as pool:
        assert len(pool["kernels"]) == 9
    write_image(source / "deep.png", picture(125, 64, 70, 3))
    assert taken(replace(settings, noise=None)) == ["kernels", "hr"]
    assert estimator.batches[-1] == [125]


def test_pools_that_no_longer_serve_are_made_anew(source: Path, tmp_path: Path, estimator: StandIn) -> None:
    """Of another scale, or with patches that are too small: the old ones neither stop the run nor stay beside."""
    out = tmp_path / "out"
    steps: dict[str, Any] = {"blur": {"type": "kernel_bank", "path": str(out / "kernels"), "border": "symmetric"}}
    steps |= {"down": {"type": "every_nth"}, "noise": {"path": str(out / "noise")}}
    prepare(settings_of(source, out), 2, ALONE, Console(1))
    wrong = DEGRADATIONS.build({"type": "realsr", "steps": steps}, scale=4)  # built by the check before `prepare`
    with pytest.raises(MissingPoolError, match="kernels for x2"):
        wrong.sample(np.random.default_rng(0), (96, 96), shared={"training_crop": True})
    small = DEGRADATIONS.build({"type": "realsr", "steps": steps}, scale=2)
    with pytest.raises(MissingPoolError, match="a patch of 16x16 does not cover"):
        small.sample(np.random.default_rng(0), (96, 96), shared={"training_crop": True})
    larger = {"size": 32, "max_variance": 200, "mean_range": [0, 255]}
    prepare(settings_of(source, out, kernels={"scale": 4}, noise=larger), 4, ALONE, Console(1))
    assert [path.name for path in (out / "kernels").glob("*.npz")] == ["kernels_x4.npz"]
    served = DEGRADATIONS.build({"type": "realsr", "steps": steps}, scale=4)
    assert served.sample(np.random.default_rng(0), (96, 96), shared={"training_crop": True}).scale == 4


def test_a_stopped_step_goes_on(
    source: Path, tmp_path: Path, estimator: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(source, tmp_path / "out", batch=3)
    estimator.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, 2, ALONE, Console(1))
    estimator.stop_at = 10**9
    make_hr = preparing.make_hr

    def stopping(*arguments: Any) -> int:  # noqa: ANN401
        make_hr(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "make_hr", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, 2, ALONE, Console(1))
    assert [len(batch) for batch in estimator.batches] == [3, 3, 3, 1]
    hr = tmp_path / "out" / "hr" / "source"
    before = {path: path.stat().st_mtime_ns for path in hr.rglob("*.png")}
    monkeypatch.setattr(preparing, "make_hr", make_hr)
    prepare(settings, 2, ALONE, Console(1))
    assert before == {path: path.stat().st_mtime_ns for path in hr.rglob("*.png")} and len(before) == 10


def test_what_prepare_refuses_and_warns_of(
    source: Path, tmp_path: Path, estimator: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(source, tmp_path / "out")
    with pytest.raises(OptionError, match=r"prepare.kernels.scale: found 2, expected the run's scale, 4"):
        prepare(settings, 4, ALONE, Console())
    with pytest.raises(OptionError, match="are the same folder or lie in each other"):
        prepare(replace(settings, target=str(source)), 2, ALONE, Console())
    for name in ("source", "target"):
        with pytest.raises(OptionError, match=f"prepare.{name}: .*none: no such folder"):
            prepare(replace(settings, **{name: str(tmp_path / "none")}), 2, ALONE, Console())
    with pytest.raises(OptionError, match="prepare.source: .* results would become sources"):
        prepare(replace(settings, out=str(source)), 2, ALONE, Console())
    assert not estimator.batches and not (tmp_path / "out").exists()  # said before anything is done
    write_image(tmp_path / "mine" / "noise" / "a.png", picture(5, 40, 40, 3))
    with pytest.raises(OptionError, match=r"prepare.out: .*noise is there, but .*noise.json is not; choose another"):
        prepare(replace(settings, out=str(tmp_path / "mine"), kernels=None), 2, ALONE, Console())
    assert (tmp_path / "mine" / "noise" / "a.png").exists()
    capsys.readouterr()
    held_out = tmp_path / "held out"
    write_image(held_out / "x.png", picture(100, 64, 70, 3))
    write_image(tmp_path / "target" / "y.png", picture(100, 64, 70, 3))
    settings = replace(settings, target=str(tmp_path / "target"), kernels=None, noise=None)
    prepare(settings, 2, ALONE, Console(), {"mine": Folder(str(held_out))})
    warned = capsys.readouterr().err
    for name in ("source", "target"):
        assert f"data.validation.mine: 1 of its 1 images are also in prepare.{name}, so its" in warned


def test_the_section_is_checked() -> None:
    assert preparing.Prepare("a", "b").noise is None
    with pytest.raises(OptionError) as caught:
        check_tree(
            Prepare, {"source": "a", "noise": {"rule": "x"}, "kernels": {"iteration": 3}, "hr": {"factor": 0}}, ""
        )
    for text in ("out: is missing", "noise.rule: found 'x'", "kernels.iteration: unknown", "hr.factor"):
        assert text in str(caught.value)
    assert check_tree(Prepare, {"source": "a", "out": "b", "noise": {}}, "").noise == NoisePatches()
