"""Degradations in another training loop, and their description."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from degradations import load_degradation
from degradations.anywhere import DegradedDataset, degrade_batch
from degradations.describe import latex_table
from tests.helpers import ROOT
from utils.options.fields import OptionError


class Photos:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (300, 280, 3), dtype=np.uint8)


LIGHT = {"type": "bsrgan", "steps": {"jpeg": None, "final_jpeg": None}}


def test_readme_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(from torch[^`]*load_degradation[^`]*)```", text)
    seen: list[tuple[torch.Size, torch.Size]] = []
    names: dict[str, Any] = {"photos": Photos(), "batch": torch.rand(2, 3, 64, 64)}
    exec(block, {**names, "train": lambda lq, gt: seen.append((lq.shape, gt.shape))})  # noqa: S102 - our own README
    assert seen == [((2, 3, 64, 64), (2, 3, 256, 256)), ((1, 3, 64, 64), (1, 3, 256, 256))]


def test_a_pair_depends_on_seed_epoch_and_index_alone() -> None:
    pairs = DegradedDataset(Photos(), load_degradation(LIGHT, 2), crop_size=32, gt_size=16, seed=5)
    first = pairs[1]
    assert first["lq"].shape == (3, 8, 8) and first["gt"].shape == (3, 16, 16)
    assert torch.equal(pairs[1]["lq"], first["lq"]), "again"
    loader = DataLoader(pairs, batch_size=3, num_workers=1, persistent_workers=True)
    (batch,) = loader
    assert torch.equal(batch["lq"][1], first["lq"]), "in a worker"
    pairs.set_epoch(1)
    (batch,) = loader
    assert torch.equal(batch["lq"][1], pairs[1]["lq"]), "a worker that outlives the epoch sees the next"
    assert not torch.equal(pairs[1]["lq"], first["lq"])


def test_a_batch_is_its_images_one_by_one_and_each_step_draws_anew() -> None:
    degradation, gt = load_degradation(LIGHT, 2), torch.rand(2, 3, 32, 32)
    both = degrade_batch(gt, degradation, step=3)
    alone = degrade_batch(gt[1:], degradation, step=3, first=1)
    torch.testing.assert_close(both.lq[1:], alone.lq)
    assert not torch.equal(degrade_batch(gt, degradation, step=4).lq, both.lq)
    told = degrade_batch(gt, load_degradation("classical", 2), step=1, gt_size=16)
    assert told.lq.shape == (2, 3, 8, 8) and told.targets["plain"].shape == (2, 3, 16, 16)
    assert told.kernel is not None and told.sigma is not None


def test_an_option_file_or_a_part_of_one(tmp_path: Path) -> None:
    whole = load_degradation(ROOT / "options" / "bsrgan" / "x2.yml")
    assert whole.scale == 2
    (tmp_path / "part.yml").write_text("type: bsrgan\nscale: 3\nsteps: {jpeg: null}")
    assert load_degradation(tmp_path / "part.yml").scale == 3


@pytest.mark.parametrize(
    ("source", "scale", "message"),
    [
        ("bsrgn", 4, "bsrgn: is no option file .*, and no preset: bicubic"),
        ("bsrgan", None, "bsrgan: tells no scale; give `scale`"),
        ({"steps": {}}, 2, "found neither `degradation` nor `type`"),
        ({"type": "bsrgan", "steps": {"jpeg": {"quality_range": [95, 30]}}}, 2, "degradation.steps.jpeg.quality_range"),
        ("nowhere.yml", 2, "no such option file"),
    ],
)
def test_what_is_no_degradation(source: Any, scale: int | None, message: str) -> None:  # noqa: ANN401
    with pytest.raises(OptionError, match=message):
        load_degradation(source, scale)


def test_what_makes_no_pairs() -> None:
    with pytest.raises(OptionError, match="starts from low-quality images"):
        DegradedDataset(Photos(), load_degradation("none", 2), crop_size=32)
    with pytest.raises(OptionError, match="crop_size: found 31, expected a multiple of the scale 2"):
        DegradedDataset(Photos(), load_degradation(LIGHT, 2), crop_size=31)
    with pytest.raises(OptionError, match=r"image 0 is \(300, 280\), smaller than the crop_size of 400"):
        DegradedDataset(Photos(), load_degradation(LIGHT, 2), crop_size=400)[0]


def test_a_latex_table_holds_every_step_with_its_probability_and_ranges() -> None:
    table = latex_table({"type": "realesrgan", "orders": {"second": {"prob": 0.5}}}, 4)
    rows = [row for row in table.splitlines() if row.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}, "all rows have four columns"
    assert r"second & all of the following & 0.5 &  \\" in table
    assert re.search(r"second\.blur & mixed\\_blur & 0\.8 & .*sigma\\_range \$\[0\.2, 1\.5\]\$", table)
    assert re.search(r"first\.noise\.gaussian & gaussian\\_noise & 0\.5 & level\\_range \$\[1, 30\]\$", table)
    assert table.count("{") == table.count("}") and r"final.round & round" in table
    assert "noise at" not in table and r"$[2, 10]$ at step 0, $[2, 25]$ at step 9" in latex_table(
        {"type": "bsrgan", "steps": {"noise": {"level_range": [[0, [2, 10]], [9, [2, 25]]]}}}, 2
    )
