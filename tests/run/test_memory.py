"""Memory of the main process does not depend on the size of the images on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.run.tiny import finished, option_tree, pictures, write_options

ALLOWED_MB = 200


def peak_mb(folder: Path, side: int) -> float:
    """Peak resident memory of the main process after 200 iterations on images of this side."""
    tree = option_tree(pictures(folder / "images", 6, side, side), psnr=200, gan=1)
    tree["data"] |= {"validation": {}, "crop_size": 128, "gt_size": 96, "batch_size": 4}
    run = finished(write_options(folder / "tiny.yml", tree), folder / "runs", "--stage", "psnr")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["iteration"] == 200
    return lines[-1]["ram_peak"]


@pytest.mark.slow
def test_large_images_cost_the_main_process_nothing(tmp_path: Path) -> None:
    """Workers decode and crop; what travels is the crop."""
    small, large = peak_mb(tmp_path / "small", 400), peak_mb(tmp_path / "large", 2000)
    assert 100 < small < 2000  # MiB; else the measure is wrong
    assert abs(large - small) < ALLOWED_MB, f"{large:.0f} MB on 2,000-px images, {small:.0f} MB on 400-px ones"
