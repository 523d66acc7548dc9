"""How many rows of CDSR's codebook are used, and what its embedding tells, while its encoder learns by contrast alone.

    python -m tests.benchmarks.codebook PHOTOS HELD_OUT [--iterations 100] [--seeds 0 1 2]
        [--variants released detail relative_detail dasr] [--negatives batch --temperature 0.2 --pairs 32]

Queries and keys are crops of two photographs degraded alike (options/dasr/small_x2.yml's degradation), 48 pixels of
low quality. Row use is a perplexity, the exponential of an entropy, from 1 (one row) to the
number of rows: of the mean share of each row over 64 images (`used`), and of one image's (`of an image`). `apart`
is by how much the embeddings of images differ, relative to their size; `logit` the standard deviation over rows of what
goes into the softmax. `probe` and R2 are those of `python -m models.embedding`: its 24 degradations of 20 photographs
of HELD_OUT (chance: 0.042), told by a linear probe from the embedding in evaluation mode; `content` is the share of the
embedding's variance that lies between photographs. Of several seeds, the gain of the probe over the untrained state
has an interval of 95 % (Student's t).
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from data.sources.folder import Folder
from degradations import load_degradation
from losses.contrastive import batch_logits, contrastive_logits, contrastive_loss
from models.embedding.__main__ import grid_plans
from models.embedding.probes import explained, probe_accuracy
from models.embedding.report import MAX_IMAGES, Samples, crops, embeddings
from models.networks.cdsr import PatchEncoder, Pixels
from models.networks.dasr import Encoder
from models.stages.contrastive import KeyEncoder
from utils.images.files import image_files, read_image, to_tensor
from utils.logging import Console, table
from utils.seeding import sample_stream

STEPS = {
    "blur": {"sigma_range": [0.2, 2.0], "isotropic_prob": 0.5},
    "downsample": {"border": "replicate"},
    "noise": {"level_range": [0, 15], "clean_prob": 0.5},
}
CROP = 96
PROBE = 7
"""Which number of a line is the probe's accuracy."""


class Variant(PatchEncoder):
    """The encoder with other logits: `released`, `scaled` by the root of the dimension, or `cosine` at 0.1."""

    how = "released"

    def logits(self, seen: Tensor) -> Tensor:
        queries, keys = self.fc_q(seen), self.fc_k(self.feature_bank.weight)
        if self.how == "scaled":
            return queries @ keys.T / math.sqrt(self.dimension)
        if self.how == "cosine":
            return F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / 0.1
        return queries @ keys.T

    def code_weights(self, seen: Tensor) -> Tensor:
        self.last = self.logits(seen)
        return self.last.softmax(1)


def pairs(folder: Path, count: int, same_image: bool) -> Tensor:
    """Return crops (count, 2, 3, 48, 48) of one photograph or of two each, degraded alike but for the noise."""
    degradation = load_degradation({"type": "gaussian", "steps": STEPS}, 2)
    images = [to_tensor(read_image(path)) for path in image_files(folder)]
    made = []
    for number in range(count):
        rng, views = sample_stream(0, "codebook", number), []
        chosen = [images[i] for i in rng.integers(len(images), size=2)]
        for view, plan in enumerate(degradation.sample(rng, (CROP, CROP)).views(2)):
            image = chosen[0 if same_image else view]
            top, left = (int(rng.integers(side - CROP + 1)) for side in image.shape[-2:])
            views.append(degradation.apply(image[None, :, top : top + CROP, left : left + CROP], [plan]).lq[0])
        made.append(torch.stack(views))
    return torch.stack(made)


def perplexity(shares: Tensor) -> float:
    """Return the mean exponential entropy of rows (n, rows) that sum to 1."""
    return float((-(shares * (shares + 1e-12).log()).sum(1)).exp().mean())


def told(encoder: nn.Module, samples: Samples) -> list[float]:
    """Return probe accuracy, R2 of noise and of the wider width, and the share of variance between photographs."""
    encoder.eval()
    features = embeddings(encoder, samples.lq)
    encoder.train()
    shares = features.mean(1).var(0).sum() / features.var((0, 1)).sum()
    r2 = [explained(features, samples.truth[name][:, None]) or 0.0 for name in ("noise", "wide")]
    return [probe_accuracy(features), *r2, float(shares)]


def settled(encoder: nn.Module, samples: Samples) -> None:
    """Give the batch norms of fresh weights the statistics of these samples, as `models.embedding` does."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        for lq in samples.lq:
            encoder(lq)
    for norm in norms:
        norm.momentum = 0.1


def learned(how: str, seed: int, data: Tensor, held_out: Samples, options: argparse.Namespace) -> Iterator[list[Any]]:
    """Train, and yield a line every so often."""
    torch.manual_seed(seed)
    encoder: Any
    if how == "dasr":
        encoder = Encoder(16, "local")
    else:
        encoder = Variant(16, options.rows, "local", cast(Pixels, how) if "detail" in how else "image")
        encoder.how = how
    settled(encoder, held_out)
    keys = KeyEncoder(encoder, encoder.dimension, options.queue)
    optimizer = torch.optim.Adam(encoder.parameters(), options.rate, (0.9, 0.99))
    order, seen, iterations = np.random.default_rng(seed), data[:64, 0], options.iterations
    for iteration in range(iterations + 1):
        if iteration % (iterations // 5) == 0:
            with torch.no_grad():
                embedding, _ = encoder(seen)
                apart = float(embedding.std(0).norm() / embedding.norm(dim=1).mean())
                use: list[Any] = ["-", "-", "-"]
                if how != "dasr":
                    shares = encoder.last.softmax(1)
                    use = [
                        perplexity(shares.mean(0, keepdim=True)),
                        perplexity(shares),
                        float(encoder.last.std(1).mean()),
                    ]
            yield [how, seed, iteration, *use, apart, *told(encoder, held_out)]
        batch = data[torch.from_numpy(order.integers(64, len(data), options.pairs))]
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1.0, (iteration + 1) / 50)
        if options.negatives == "batch":
            queries, key = encoder(batch.transpose(0, 1).flatten(0, 1))[1].chunk(2)
            loss = contrastive_loss(batch_logits(queries, key, options.temperature), torch.arange(options.pairs))
        else:
            with torch.no_grad():
                key = keys(batch[:, 1])
            loss = contrastive_loss(contrastive_logits(encoder(batch[:, 0])[1], key, keys.queue, options.temperature))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if options.negatives == "queue":
            keys.follow(encoder, 0.99, False)
            keys.enqueue(key)


def interval(values: list[float]) -> str:
    """Return the mean of several numbers with its interval."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Print row use over time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--same-image", action="store_true", help="crops of one photograph, as released")
    parser.add_argument("--queue", type=int, default=2048, help="keys; at first they are random directions")
    parser.add_argument("--negatives", choices=["queue", "batch"], default="queue")
    parser.add_argument("--temperature", type=float, default=0.07)
    parser.add_argument("--pairs", type=int, default=16, help="in an iteration")
    parser.add_argument("--variants", nargs="+", default=["released", "detail", "dasr"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, console = pairs(options.photos, 2112, options.same_image), Console()
    degradation, plans = grid_plans(2, CROP)
    held_out = Samples.make(crops(Folder(str(options.held_out)), MAX_IMAGES, CROP), degradation, plans)
    heads = ["variant", "seed", "iteration", "used", "of an image", "logit", "apart"]
    heads += ["probe", "R2 noise", "R2 wide", "content"]
    for how in options.variants:
        runs = [list(learned(how, seed, data, held_out, options)) for seed in options.seeds]
        lines = [[f"{v:.3g}" if isinstance(v, float) else v for v in line] for found in runs for line in found]
        console.info(table(heads, lines))
        gains = [found[-1][PROBE] - found[0][PROBE] for found in runs]
        if len(gains) > 1:
            console.info(f"{how}: probe over untrained {interval(gains)}\n")


if __name__ == "__main__":
    main()
