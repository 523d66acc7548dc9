"""Training on sources of different kinds at once, each with its own degradation."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data import DATASETS
from data.sampler import StepSampler
from data.training import DataOptions, Mix, TrainingSet, augment, degrade, draw_augment
from degradations import DEGRADATIONS, Batch
from utils.images.files import write_image
from utils.options.fields import OptionError

SCALE = 2
LIGHT = {"type": "bsrgan", "steps": {"jpeg": None}}  # the JPEG is what takes time


def write_sources(folder: Path, count: int = 6, side: int = 24) -> dict[str, dict[str, Any]]:
    """Pairs whose ground truth is the enlarged low-quality image, so that a shift of one pixel shows."""
    rng = np.random.default_rng(0)
    for i in range(count):
        lq = rng.integers(0, 256, (side // SCALE + i, side // SCALE, 3), dtype=np.uint8)
        write_image(folder / "lq" / f"{i}.png", lq)
        write_image(folder / "gt" / f"{i}.png", enlarged(lq))
        write_image(folder / "photos" / f"{i}.png", rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    pairs = {"type": "paired", "gt_root": str(folder / "gt"), "lq_root": str(folder / "lq"), "degradation": "none"}
    return {"pairs": pairs, "photos": {"type": "folder", "root": str(folder / "photos")}}


def enlarged(array: np.ndarray) -> np.ndarray:
    return array.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def training_set(
    sources: dict[str, dict[str, Any]],
    default: Any = LIGHT,
    in_worker: bool = False,
    views: int = 1,
    **options: Any,  # noqa: ANN401
) -> TrainingSet:
    specs = {name: DATASETS.check(s, f"data.train.{name}", scale=SCALE) for name, s in sources.items()}
    mix = Mix.build(specs, DEGRADATIONS.build(default, scale=SCALE), SCALE)
    chosen = DataOptions(**{"train": specs, "crop_size": 16, "batch_size": 8, **options})
    return TrainingSet(mix, chosen, seed=3, stage="psnr", batch_size=8, in_worker=in_worker, views=views)


def of_pairs(paths: list[str]) -> torch.Tensor:
    return torch.tensor(["/gt/" in path for path in paths])


@pytest.mark.parametrize("in_worker", [False, True])
@pytest.mark.parametrize("gt_size", [None, 12])
@pytest.mark.parametrize("views", [1, 2])
def test_each_sample_has_the_degradation_of_its_source(
    tmp_path: Path, in_worker: bool, gt_size: int | None, views: int
) -> None:
    sources = write_sources(tmp_path)
    sources["pairs"]["weight"], sources["photos"]["weight"] = 1, 1
    data = training_set(sources, in_worker=in_worker, views=views, gt_size=gt_size)
    samples = data.__getitems__(range(8))
    batch = degrade(samples, data.mix.degradations, torch.device("cpu"))
    side, pairs = gt_size or 16, of_pairs(batch.paths)
    assert batch.lq.shape == (8 * views, 3, side // SCALE, side // SCALE)
    assert batch.targets["plain"].shape == (8 * views, 3, side, side)
    assert 0 < pairs.sum() < 8 * views
    aligned = batch.lq.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3) == batch.targets["plain"]
    assert aligned.flatten(1).all(1).tolist() == pairs.tolist()
    assert [not plan.steps for plan in batch.plans] == pairs.tolist()
    for number in range(8):  # batch mates change nothing
        alone = degrade(data[number], data.mix.degradations, torch.device("cpu"))
        mine = slice(number * views, (number + 1) * views)
        assert torch.equal(alone.lq, batch.lq[mine]) and alone.plans == batch.plans[mine]
        assert torch.equal(alone.targets["plain"], batch.targets["plain"][mine])


def test_shares_are_exact(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    sources["pairs"]["weight"], sources["photos"]["weight"] = 0.25, 0.75
    data = training_set(sources, default="bicubic")
    drawn = Counter(data.sample(number).source for number in range(1000))
    assert drawn == {0: 250, 1: 750}
    images = Counter(data.sample(number).paths[0] for number in range(1000))
    assert len(images) == 12 and max(images.values()) == 125


def test_a_loader_with_workers_gives_the_same(tmp_path: Path) -> None:
    data = training_set(write_sources(tmp_path), in_worker=True)
    loader = DataLoader(data, batch_sampler=StepSampler(8, 1, 3), num_workers=2, collate_fn=same)
    for step, samples in enumerate(loader):
        here = data.__getitems__(range(8 * step, 8 * step + 8))
        assert samples.paths == here.paths and samples.plans == here.plans
        assert samples.gt is None and here.gt is None
        assert torch.equal(samples.lq, here.lq)


def same(batch: Batch) -> Batch:
    return batch


def test_small_pairs_stay_aligned_when_mirrored(tmp_path: Path) -> None:
    data = training_set({"pairs": write_sources(tmp_path, side=10)["pairs"]}, crop_size=32)
    batch = degrade(data.__getitems__(range(8)), data.mix.degradations, torch.device("cpu"))
    assert batch.lq.shape[-2:] == (16, 16)
    assert torch.equal(batch.lq.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3), batch.targets["plain"])


def test_16_bit_pairs_mix_with_8_bit_photos(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    deep = np.random.default_rng(1).integers(0, 65536, (12, 12, 3), dtype=np.uint16)
    write_image(tmp_path / "gt" / "0.png", enlarged(deep))
    write_image(tmp_path / "lq" / "0.png", deep)
    data = training_set(sources)
    batch = degrade(data.__getitems__(range(24)), data.mix.degradations, torch.device("cpu"))
    aligned = batch.lq.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3) == batch.targets["plain"]
    assert aligned.flatten(1).all(1).tolist() == of_pairs(batch.paths).tolist()
    assert any(path.endswith("gt/0.png") for path in batch.paths)


def test_an_unreadable_file_is_replaced_from_its_own_source(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    data = training_set(sources, default="bicubic")
    for i in range(3):
        (tmp_path / "photos" / f"{i}.png").write_bytes(b"no image")
        (tmp_path / "gt" / f"{i}.png").write_bytes(b"no image")
    groups, mishaps = Counter(), 0
    for number in range(120):
        sample = data.sample(number)
        group, failed = sample.source, sample.mishaps
        groups[group] += 1
        mishaps += len(failed)
        assert all(("/gt/" in path) == (group == 0) for path, _ in failed)
    assert groups == {0: 60, 1: 60} and mishaps > 60


def test_a_pair_whose_file_was_replaced_is_named_not_misaligned(tmp_path: Path) -> None:
    data = training_set({"pairs": write_sources(tmp_path, count=2)["pairs"]})
    write_image(tmp_path / "lq" / "0.png", np.zeros((30, 30, 3), np.uint8))
    mishaps = [m for number in range(8) for m in data.sample(number).mishaps]
    assert mishaps and all(name.endswith("gt/0.png") for name, _ in mishaps)
    assert "is 24x24, expected 60x60, for" in mishaps[0][1] and "lq/0.png is 30x30" in mishaps[0][1]


def test_photos_without_low_quality_images_refuse_to_be_undegraded(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    sources["photos"]["degradation"] = "none"
    with pytest.raises(OptionError, match=r"data\.train\.photos: this source has no low-quality images"):
        training_set(sources)


def test_all_pairs_that_do_not_match_are_listed(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    for i in range(4):
        write_image(tmp_path / "lq" / f"{i}.png", np.zeros((5, 7, 3), np.uint8))
    (tmp_path / "lq" / "5.png").rename(tmp_path / "lq" / "five.png")
    with pytest.raises(OptionError) as refused:
        training_set(sources)
    text = str(refused.value)
    assert text.startswith("data.train.pairs: 6 of the images do not pair at scale 2:")
    gt, lq = tmp_path / "gt", tmp_path / "lq"
    for i in range(4):
        assert f"{gt / f'{i}.png'} is {24 + 2 * i}x24, expected 10x14, for {lq / f'{i}.png'} is 5x7" in text
    assert f"{gt / '5.png'}: no partner 5.* in {lq}" in text and f"{lq / 'five.png'}: no ground truth in {gt}" in text
    sources["pairs"]["pattern"] = "{}{x}"
    with pytest.raises(OptionError, match=r"no partner 0\{x\}\.\*"):
        training_set(sources)


def test_kernels_of_different_sizes_stand_in_the_middle_of_the_largest(tmp_path: Path) -> None:
    write_sources(tmp_path)

    def source(size: int) -> dict[str, Any]:
        blur = {"of": {"motion": {"size": size}, "gaussian": {"size": size}}}
        own = {"type": "classical", "steps": {"blur": blur}}
        return {"type": "folder", "root": str(tmp_path / "photos"), "weight": 1, "degradation": own}

    data = training_set({"small": source(7), "large": source(15)}, source(7)["degradation"])
    samples = data.__getitems__(range(8))
    kernel = degrade(samples, data.mix.degradations, torch.device("cpu")).kernel
    assert kernel is not None and kernel.shape == (8, 15, 15) and set(samples.sources) == {0, 1}
    small = torch.tensor(samples.sources) == 0
    assert torch.allclose(kernel[small, 4:-4, 4:-4].sum((1, 2)), torch.ones(int(small.sum())))
    assert bool((kernel[~small].sum((1, 2)) > kernel[~small, 4:-4, 4:-4].sum((1, 2))).any())


def test_the_four_ways_of_turns_and_a_source_with_its_own() -> None:
    image = np.arange(6).reshape(2, 3, 1)
    rng = np.random.default_rng(0)
    seen = {augment(image, *draw_augment(rng, "turns"))[..., 0].tobytes() for _ in range(60)}
    plain = image[..., 0]
    expected = (plain, plain[::-1], plain.T, plain[::-1].T)  # upside down first, then transposed
    assert seen == {np.ascontiguousarray(way).tobytes() for way in expected}


def test_a_source_may_be_turned_in_its_own_way(tmp_path: Path) -> None:
    rows = np.repeat(np.arange(16, dtype=np.uint8), 16 * 3).reshape(16, 16, 3)
    write_image(tmp_path / "faces" / "a.png", rows)
    faces = {"type": "folder", "root": str(tmp_path / "faces"), "augment": "flip"}
    data = training_set({"faces": faces}, augment="flips_and_turns")
    truths = [data.sample(number).gts[0] for number in range(12)]
    assert all(torch.equal(truth, torch.from_numpy(rows.transpose(2, 0, 1).copy())) for truth in truths)
    free = training_set({"faces": {**faces, "augment": None}}, augment="flips_and_turns")
    assert any(not torch.equal(free.sample(number).gts[0], truths[0]) for number in range(12))
