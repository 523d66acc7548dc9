"""The table at the end of a run."""

import weakref
from typing import Any

import pytest
import torch

from data.validation import ValidationItem
from degradations import Batch
from models.training.experiment import Logger
from models.training.validation import Scorer, compare
from utils.images.resize import imresize


class Watched:
    """Eight images, of which those that somebody still holds are counted."""

    scale = 2

    def __init__(self) -> None:
        self.given: list[weakref.ref[torch.Tensor]] = []
        self.most_held = 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> ValidationItem:
        gt = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(index))
        self.given.append(weakref.ref(gt))
        self.most_held = max(self.most_held, sum(ref() is not None for ref in self.given))
        return ValidationItem(f"{index}.png", Batch(imresize(gt, scale=0.5), {"plain": gt}))


def test_a_large_set_is_compared_image_by_image() -> None:
    valid: Any = Watched()
    device = torch.device("cpu")
    scores, strips = compare(
        valid, {"nearest": torch.nn.Upsample(scale_factor=2)}, Scorer.build(Logger(), device), device
    )
    assert valid.most_held < 4  # the one in work, and its neighbours while it gives way
    assert len(strips) == 6
    assert list(scores) == ["bicubic", *(name for name in scores if name.startswith("bicubic, smoothed")), "nearest"]
    assert scores["bicubic"]["PSNR"] == pytest.approx(scores[list(scores)[1]]["PSNR"], abs=1)
