"""What the two views of a training sample have in common, for every degradation that makes its low-quality images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data import DATASETS
from data.training import DataOptions, Mix, TrainingSet, degrade
from degradations import DEGRADATIONS, Batch, Plan
from tests.run.tiny import pictures
from utils.images.files import write_image

SCALE, COUNT = 2, 12
CROPS = {"bsrgan": 40, "realesrgan": 256, "gaussian": 40}
MODES = ["same_image_same_degradation", "other_image_same_degradation", "same_image_other_degradation"]


def batch(folder: Path, kind: str, positive: str) -> Batch:
    spec = DATASETS.check({"type": "folder", "root": str(pictures(folder, COUNT))}, "data.train.a", scale=SCALE)
    mix = Mix.build({"a": spec}, DEGRADATIONS.build(kind, scale=SCALE), SCALE)
    options = DataOptions({"a": spec}, crop_size=CROPS[kind], batch_size=COUNT, gt_size=24)
    more: dict[str, Any] = {"seed": 1, "stage": "s", "batch_size": COUNT, "in_worker": False}
    data = TrainingSet(mix, options, views=2, positive=positive, **more)
    return degrade(data.__getitems__(range(COUNT)), mix.degradations, torch.device("cpu"))


def without_seeds(plan: Plan) -> list[Any]:
    return [(name, {key: value for key, value in drawn.items() if key != "seed"}) for name, drawn in plan.steps]


def seeds(plan: Plan) -> list[int]:
    return [drawn["seed"] for _, drawn in plan.steps if "seed" in drawn]


@pytest.mark.parametrize("positive", MODES)
@pytest.mark.parametrize("kind", CROPS)
def test_views_have_in_common_what_is_asked_for(tmp_path: Path, kind: str, positive: str) -> None:
    both = batch(tmp_path, kind, positive)
    assert both.views == 2 and both.lq.shape == (2 * COUNT, 3, 12, 12)
    query, key = both.view(0), both.view(1)
    same_image = [a == b for a, b in zip(query.paths, key.paths, strict=True)]
    assert all(same_image) if positive.startswith("same_image") else not any(same_image)
    plans = list(zip(query.plans, key.plans, strict=True))
    same_plan = [without_seeds(a) == without_seeds(b) for a, b in plans]
    assert all(same_plan) if positive.endswith("same_degradation") else not any(same_plan)
    assert not any(set(seeds(a)) & set(seeds(b)) for a, b in plans), "noise is drawn anew"
    assert sum(a.crop != b.crop for a, b in plans) > 0.8 * COUNT
    assert not any(torch.equal(a, b) for a, b in zip(query.lq, key.lq, strict=True))


def test_views_of_one_image_are_cut_from_all_of_it_and_turned_alike(tmp_path: Path) -> None:
    rows, columns = np.indices((120, 200), dtype=np.uint8)
    write_image(tmp_path / "places.png", np.stack([rows, columns, rows], 2))
    spec = DATASETS.check({"type": "folder", "root": str(tmp_path)}, "data.train.a", scale=SCALE)
    mix = Mix.build({"a": spec}, DEGRADATIONS.build("gaussian", scale=SCALE), SCALE)
    more: dict[str, Any] = {"seed": 1, "stage": "s", "batch_size": COUNT, "in_worker": False, "views": 2}
    data = TrainingSet(mix, DataOptions({"a": spec}, crop_size=40, batch_size=COUNT), **more)
    views = [torch.stack(data.sample(number).gts)[:, :2].int() for number in range(200)]
    corners = torch.stack([pair.amin((2, 3)) for pair in views])
    assert corners.amin((0, 1)).max() < 8 and (corners.amax((0, 1)) > torch.tensor([72, 150])).all()
    apart = ((corners[:, 0] - corners[:, 1]).abs() >= 40).any(1)
    assert apart.float().mean() == pytest.approx(1 - (1 - 0.5**2) * (1 - 0.75**2), abs=0.12)
    assert all(torch.equal(*(places - places[:, :, :1, :1] for places in pair[:, None])) for pair in views)
