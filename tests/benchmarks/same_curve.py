"""Does training go the same way with everything on as with everything off?

    python -m tests.benchmarks.same_curve --images PHOTOS [--seeds 5] [--device cuda]

Trains a small RRDBNet on bicubic x2 for 200 iterations, once with every setting of `performance:` and bf16, once with
none and fp32, for several seeds, and prints the mean losses around iterations 50, 100 and 200 with the difference in
standard errors.
"""

import argparse
import math
import tempfile
from contextlib import closing
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from models.training.experiment import check_experiment
from train import Trainer
from utils.logging import Console, table
from utils.processes import distributed

POINTS, WIDTH = (50, 100, 200), 10
SETTINGS: dict[str, dict[str, Any]] = {
    "everything on": {
        "performance": {"compile": "default", "recompute": True, "prefetch": True},
        "precision": "bf16",
    },
    "everything off": {
        "performance": {"channels_last": False, "tf32": False, "fused": False, "prefetch": False},
        "precision": "fp32",
    },
}


def tree(images: Path, seed: int, precision: str, performance: dict[str, Any]) -> dict[str, Any]:
    """The option tree of one run."""
    return {
        "name": "same_curve",
        "seed": seed,
        "scale": 2,
        "network_g": {"type": "rrdbnet", "num_feat": 24, "num_block": 2, "num_grow_ch": 12, "upsampling": "steps"},
        "degradation": "bicubic",
        "data": {
            "train": {"photos": {"type": "folder", "root": str(images)}},
            "crop_size": 48,
            "batch_size": 8,
            "workers": 1,
        },
        "stages": {
            "psnr": {
                "type": "psnr",
                "iterations": POINTS[-1],
                "precision": precision,
                "optim_g": {"lr": 1e-3},
                "losses": {"l1": "l1"},
            }
        },
        "logger": {"tensorboard": False},
        "performance": performance,
    }


def curve(options: dict[str, Any], device: str) -> list[float]:
    """The loss of every iteration."""
    experiment = check_experiment(options)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(experiment, options, distributed.start(device), Path(folder), Console(rank=1))
        trainer.enter("psnr", None)
        with closing(trainer.batches(POINTS[-1])) as batches:
            return [float(trainer.train_step(micros)["l1"]) for micros in batches]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    found: dict[str, list[list[float]]] = {}
    for name, setting in SETTINGS.items():
        found[name] = [curve(tree(args.images, seed, **setting), args.device) for seed in range(args.seeds)]
    rows = []
    for point in POINTS:
        on, off = ([fmean(losses[point - WIDTH : point]) for losses in found[name]] for name in SETTINGS)
        error = math.sqrt((stdev(on) ** 2 + stdev(off) ** 2) / args.seeds)
        difference = fmean(on) - fmean(off)
        rows.append(
            [point, *(f"{fmean(v):.5f}" for v in (on, off)), f"{difference:+.5f}", f"{difference / error:+.2f}"]
        )
    Console().info(table(["iteration", *SETTINGS, "difference", "standard errors"], rows))


if __name__ == "__main__":
    main()
