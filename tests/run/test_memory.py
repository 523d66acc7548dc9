"""Memory: of training it does not depend on the size of images on disk, of restoring on little but that."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.run.tiny import environment, finished, option_tree, pictures, write_options

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


RESTORING = """
import sys
from models.network import NETWORKS
from models.restoring.generator import LoadedGenerator
from models.restoring.restorer import Restorer
from models.restoring.files import restore_files
from pathlib import Path
from utils.logging import Console, memory_mb

network = NETWORKS.build({"type": "srvgg", "scale": 2, "num_feat": 4, "num_conv": 1}).eval().requires_grad_(False)
files = {Path(sys.argv[1]): Path(sys.argv[2])}
assert list(restore_files(files, Restorer(LoadedGenerator(network, None, {}), tile=256), Console())) == [True]
sys.stdout.write(str(memory_mb()["ram_peak"] * 2**20))
"""


@pytest.mark.slow
def test_restoring_holds_integers_alone_and_of_large_images_bands(tmp_path: Path) -> None:
    """Of each pixel of the result 3 bytes, a float image would be 12; above 67 megapixels none of them."""
    peaks = []
    for side in (1000, 3000, 6000):
        source = pictures(tmp_path / str(side), 1, side, side) / "0.png"
        command = [sys.executable, "-c", RESTORING, str(source), str(tmp_path / "sr.png")]
        run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
        peaks.append(float(run.stdout))
    per_pixel = (peaks[1] - peaks[0]) / (4 * (3000**2 - 1000**2))
    assert 3 < per_pixel < 8, f"{per_pixel:.1f} bytes for each pixel of the result"
    per_pixel = (peaks[2] - peaks[0]) / (4 * (6000**2 - 1000**2))
    assert per_pixel < 2.5, f"{per_pixel:.1f} bytes for each pixel of a large result, whose input has 0.75"
