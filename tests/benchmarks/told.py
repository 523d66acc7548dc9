"""What a learned embedding of degradations is worth: beside none, and beside one that is told the truth.

    python -m tests.benchmarks.told TRAIN HELD_OUT --arms dasr one zero oracle --iterations 2000 --out CASES.jsonl
    python -m tests.benchmarks.told TRAIN HELD_OUT --arms dasr cdsr --seconds 300 --seeds 0 1 2 --out CASES.jsonl
    python -m tests.benchmarks.told --read CASES.jsonl

An arm is a narrow DASR (or CDSR) at x2 with another source of its embedding. All see the same crops in the same order,
as long as equally many (`--iterations`) or equally much processor time (`--seconds`) are given. Networks learn what is
missing to a bicubic, which the published ones do not, so that short trainings get beyond it. Written is a line a
run, with the PSNR (RGB, of 8 bits) of each held-out image; `--read` compares the arms pairwise, with intervals over
seeds and photographs.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degradations import load_degradation
from losses.contrastive import batch_logits, contrastive_logits, contrastive_loss
from models.network import NETWORKS
from models.networks.dasr import DIV2K_MEAN
from models.stages.contrastive import KeyEncoder
from utils.images.files import image_files, read_image, to_tensor
from utils.logging import Console, table
from utils.seeding import sample_stream

SCALE, CROP, LQ_CROP = 2, 64, 24
STEPS = {
    "blur": {"sigma_range": [0.2, 2.0], "isotropic_prob": 0},
    "downsample": {"border": "replicate"},
    "noise": {"level_range": [0, 15], "clean_prob": 0.5},
}
NETWORKS_OF = {
    "dasr": {"type": "dasr", "num_feat": 16, "num_group": 1, "num_block": 2, "encoder_feat": 12},
    "cdsr": {
        "type": "cdsr",
        "pixels": "detail",
        "num_feat": 16,
        "num_block": 1,
        "num_grow_ch": 8,
        "encoder_feat": 12,
        "num_code": 256,
    },
}
NETWORKS_OF["cdsr_image"] = {**NETWORKS_OF["cdsr"], "pixels": "image"}
NETWORKS_OF["dasr_wide"] = {**NETWORKS_OF["dasr"], "num_feat": 32}
NETWORKS_OF["cdsr_relative"] = {**NETWORKS_OF["cdsr"], "pixels": "relative_detail", "num_feat": 32}
NETWORKS_OF["cdsr_wide"] = {**NETWORKS_OF["cdsr"], "num_feat": 32}
COMPONENTS = 15
"""Of kernels, by principal component analysis, that the oracle is told, beside the noise level."""


@dataclass(frozen=True)
class Arm:
    """Which network, what its embedding is, the weight of contrast in training it, the highest learning rate, and
    whether negatives are of a `queue` or the `batch`."""

    network: str
    embedding: str = "learned"
    contrast: float = 0.1
    rate: float = 1e-3
    negatives: str = "queue"


ARMS = {
    "dasr": Arm("dasr"),
    "unforced": Arm("dasr", contrast=0),
    "one": Arm("dasr", "one", 0),
    "zero": Arm("dasr", "zero", 0),
    "oracle": Arm("dasr", "oracle", 0),
    "cdsr": Arm("cdsr"),
    "cdsr_unforced": Arm("cdsr", contrast=0),
    "cdsr_image": Arm("cdsr_image"),
    "cdsr_one": Arm("cdsr", "one", 0),
    "dasr_tuned": Arm("dasr", rate=3e-3),
    "cdsr_tuned": Arm("cdsr_wide", rate=3e-3),
    "dasr_wide": Arm("dasr_wide", rate=3e-3),
    "dasr_wide_slow": Arm("dasr_wide"),
    "dasr_batch": Arm("dasr", contrast=3, rate=3e-3, negatives="batch"),
    "cdsr_batch": Arm("cdsr_relative", contrast=3, rate=3e-3, negatives="batch"),
}


@dataclass(frozen=True)
class Pool:
    """Degraded crops: ground truths (n, 3, H, W), queries and keys (n, 3, h, w) of 8 bits; what was done (n, d)."""

    gt: Tensor
    lq: Tensor
    key: Tensor
    truth: Tensor

    @classmethod
    def make(cls, folder: Path, number: int, crop: int, seed: int) -> "Pool":
        """Degrade two crops of a photograph alike, but for the noise, `number` times."""
        degradation = load_degradation({"type": "gaussian", "steps": STEPS}, SCALE)
        images = [to_tensor(read_image(path)) for path in image_files(folder)]
        made: list[tuple[Tensor, ...]] = []
        for index in range(number):
            rng = sample_stream(seed, "told", index)
            image, crops = images[index % len(images)], []
            for _ in range(2):
                top, left = (int(rng.integers(side - crop + 1)) for side in image.shape[-2:])
                crops.append(image[:, top : top + crop, left : left + crop])
            degraded = degradation.apply(torch.stack(crops), degradation.sample(rng, (crop, crop)).views(2))
            assert degraded.kernel is not None and degraded.sigma is not None
            lq = (255 * degraded.lq).round().byte()
            truth = torch.cat((degraded.kernel[0].flatten(), degraded.sigma[:1]))
            made.append(((255 * crops[0]).round().byte(), lq[0], lq[1], truth))
        return cls(*(torch.stack(part) for part in zip(*made, strict=True)))

    def told(self, like: "Pool") -> Tensor:
        """Return what the oracle is told (n, COMPONENTS + 1), on the principal axes of another pool's kernels."""
        mean = like.truth[:, :-1].mean(0)
        axes = torch.linalg.svd(like.truth[:, :-1] - mean, full_matrices=False).Vh[:COMPONENTS].T
        own, others = (torch.cat(((p.truth[:, :-1] - mean) @ axes, p.truth[:, -1:]), 1) for p in (self, like))
        return (own - others.mean(0)) / others.std(0)


def batches(pool: Pool, told: Tensor, size: Callable[[], int], seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Give random crops of random samples: ground truths, queries, keys, what the oracle is told."""
    rng = np.random.default_rng(seed)
    room = pool.lq.shape[-1] - LQ_CROP + 1
    while True:
        chosen = torch.from_numpy(rng.integers(len(pool.lq), size=size()))
        (top, left), (above, before) = rng.integers(room, size=(2, 2))
        gt = pool.gt[chosen, :, SCALE * top :, SCALE * left :][..., : SCALE * LQ_CROP, : SCALE * LQ_CROP]
        lq = pool.lq[chosen, :, top : top + LQ_CROP, left : left + LQ_CROP]
        key = pool.key[chosen, :, above : above + LQ_CROP, before : before + LQ_CROP]
        yield gt / 255, lq / 255, key / 255, told[chosen]


def run(arm: Arm, seed: int, train: Pool, test: Pool, iterations: int | None, seconds: float) -> dict[str, Any]:
    """Train an arm and test it."""
    torch.manual_seed(seed)
    network: Any = NETWORKS.build(NETWORKS_OF[arm.network], scale=SCALE)
    size, average = network.encoder.dimension, torch.tensor(DIV2K_MEAN)[:, None, None]
    oracle = nn.Sequential(nn.Linear(COMPONENTS + 1, size), nn.LeakyReLU(0.1), nn.Linear(size, size))
    keys = KeyEncoder(network.encoder, size, 2048)
    optimizer = torch.optim.Adam([*network.parameters(), *oracle.parameters()], arm.rate, (0.9, 0.99), fused=True)

    def restored(lq: Tensor, embedding: Tensor) -> Tensor:
        bicubic = F.interpolate(lq, scale_factor=SCALE, mode="bicubic")
        return bicubic + network(lq, embedding=embedding) - (average if arm.network == "dasr" else 0)

    def embedded(lq: Tensor, told: Tensor, others: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if arm.embedding == "learned":
            embedding, projection = network.encoder(lq if others is None else torch.cat((lq, others)))
            return embedding[: len(lq)], projection
        fixed = torch.full((len(lq), size), float(arm.embedding == "one"))
        return (oracle(told) if arm.embedding == "oracle" else fixed), fixed

    start, step = time.process_time(), 0
    source = batches(train, train.told(train), lambda: 8, seed)
    for step in count(1):
        done = step / iterations if iterations else (time.process_time() - start) / seconds
        if done > 1:
            break
        gt, lq, key, told = next(source)
        rate = arm.rate * min(1, step / 50) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        optimizer.param_groups[0]["lr"] = rate
        by_batch = arm.contrast and arm.negatives == "batch"
        embedding, projection = embedded(lq, told, key if by_batch else None)
        loss = 255 * F.l1_loss(restored(lq, embedding), gt)
        found = None
        if by_batch:
            logits = batch_logits(projection[: len(lq)], projection[len(lq) :], 0.2)
            loss = loss + arm.contrast * contrastive_loss(logits, torch.arange(len(lq)))
        elif arm.contrast:
            with torch.no_grad():
                found = keys(key)
            loss = loss + arm.contrast * contrastive_loss(contrastive_logits(projection, found, keys.queue, 0.07))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in network.parameters() if p.grad is not None], 20)
        optimizer.step()
        if found is not None:
            keys.follow(network.encoder, 0.99, False)
            keys.enqueue(found)
    spent = time.process_time() - start
    network.eval()
    sr = []
    with torch.no_grad():
        for lq, told in zip((test.lq / 255).split(1), test.told(train).split(1), strict=True):
            sr.append(restored(lq, embedded(lq, told)[0]))
    error = (torch.cat(sr).clamp(0, 1) * 255).round() - test.gt
    psnr = 20 * math.log10(255) - 10 * error.square().mean((1, 2, 3)).clamp_min(1e-9).log10()
    return {
        "seed": seed,
        "iterations": step - 1,
        "seconds": round(spent, 1),
        "psnr": [round(float(v), 4) for v in psnr],
    }


def compared(lines: list[dict[str, Any]], photographs: int) -> str:
    """Return a table of arms: PSNR, and what each is above the others, with 95 % intervals of a bootstrap over seeds
    and photographs."""
    arms: dict[str, dict[int, np.ndarray]] = {}
    for line in lines:
        values = np.array(line["psnr"])
        arms.setdefault(line["arm"], {})[line["seed"]] = values.reshape(-1, photographs).mean(0)
    rng, names, rows = np.random.default_rng(0), list(arms), []

    def interval(first: str, second: str) -> str:
        seeds = sorted(arms[first].keys() & arms[second].keys())
        if not seeds:
            return "-"
        gain = np.stack([arms[first][seed] - arms[second][seed] for seed in seeds])
        drawn = [
            gain[rng.integers(len(seeds), size=len(seeds))][:, rng.integers(photographs, size=photographs)].mean()
            for _ in range(2000)
        ]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})"

    for name in names:
        runs = [line for line in lines if line["arm"] == name]
        means = [float(np.mean(line["psnr"])) for line in runs]
        rows.append(
            [name, len(runs), f"{np.mean(means):.3f}", f"{np.std(means):.3f}"]
            + [f"{np.mean([line[key] for line in runs]):.0f}" for key in ("iterations", "seconds")]
            + [interval(name, other) if other != name else "" for other in names]
        )
    return table(["arm", "seeds", "PSNR", "sd of seeds", "iterations", "seconds", *(f"over {n}" for n in names)], rows)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["dasr", "one", "zero", "oracle"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("told.jsonl"))
    parser.add_argument("--read", type=Path)
    options = parser.parse_args()
    if options.read:
        lines = [json.loads(line) for line in options.read.read_text().splitlines()]
        Console().info(compared(lines, lines[0]["photographs"]))
        return
    torch.set_num_threads(1)
    train_folder, test_folder = options.folders
    train, test = Pool.make(train_folder, options.samples, CROP, 0), Pool.make(test_folder, 200, 128, 1)
    for seed in options.seeds:
        for name in options.arms:
            line = run(ARMS[name], seed, train, test, options.iterations, options.seconds)
            with options.out.open("a") as file:
                file.write(json.dumps({"arm": name, "photographs": 100, **line}) + "\n")


if __name__ == "__main__":
    main()
