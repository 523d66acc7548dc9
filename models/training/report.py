"""What a run shows of itself: validation scores, sample images, and the table and sheet at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.training import ValidationSet
from degradations import Batch
from models.training.experiment import Experiment, build_generator
from utils.images.files import write_image
from utils.images.sheet import sheet, strip
from utils.logging import Console, table
from utils.metrics.evaluate import best_smoothing, bicubic, default_metrics, mean_scores, score, smoothed, to_8bit
from utils.metrics.protocol import PROTOCOLS, Protocol
from utils.processes.distributed import agree, gather_objects, together
from utils.processes.distributed import world_size as process_count
from utils.storage import checkpoint as checkpoints

PROTOCOL: Protocol = PROTOCOLS["kair"]
"""Validation follows KAIR: RGB, border = scale, on 8-bit values."""

Restore = Callable[[Batch], Tensor]


def restorer(network: nn.Module, device: torch.device) -> Restore:
    """Restores a batch with a network on a device; the result is on the CPU."""

    @torch.no_grad()
    def restore(batch: Batch) -> Tensor:
        conditions = batch.conditions(getattr(network, "conditions", ()))
        given = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in conditions.items()}
        return network(batch.lq.to(device), **given).float().cpu()

    return restore


def validate(
    network: nn.Module,
    valid: ValidationSet,
    device: torch.device,
    rank: int,
    images: int,
    stopped: Callable[[], int] = int,
) -> tuple[dict[str, float], list[np.ndarray]] | None:
    """Mean PSNR and SSIM of a network on a validation set, and strips (LQ, bicubic, SR, GT) of the first images.

    The images are shared out over the ranks; every rank gets the same means. The strips are on the main rank only.
    None, on all ranks, where `stopped` on one of them says that there is no more time.
    """
    network.eval()
    restore, metrics, found, strips = restorer(network, device), default_metrics(), [], []
    with together():  # an unreadable file on one rank must not leave the others waiting
        for index in range(rank, len(valid), process_count()):
            if stopped():
                break
            item = valid[index]
            sr = restore(item.batch)
            values = score(sr, item.gt, metrics, PROTOCOL, valid.scale)
            found.append((index, values))
            if rank == 0 and len(strips) < images:
                parts = [item.batch.lq, bicubic(item.batch.lq, valid.scale), sr, item.gt]
                captions = ["LQ", "bicubic", f"SR {values['PSNR']:.2f} dB", f"GT {Path(item.name).name}"]
                strips.append(strip([to_8bit(part) for part in parts], captions))
    if agree(torch.tensor([stopped()]))[0]:
        return None
    rows = sorted(pair for part in gather_objects(found) for pair in part)
    return mean_scores([values for _, values in rows]), strips


def final_report(
    folder: Path, experiment: Experiment, sets: Sequence[ValidationSet], device: torch.device, console: Console
) -> None:
    """Scores bicubic, smoothed bicubic and every stage's averaged weights; writes `results.md` and `samples.png`."""
    networks = _stage_networks(folder, experiment, device)
    if not sets or not networks:
        return
    text = []
    for valid in sets:
        rows, strips = compare(valid, {f"{name} stage": restorer(net, device) for name, net in networks.items()})
        cells = [
            [name, *(f"{values[m]:.{2 if m == 'PSNR' else 4}f}" for m in ("PSNR", "SSIM"))]
            for name, values in rows.items()
        ]
        text.append(f"{valid.name}: {len(valid)} images, x{valid.scale}, {PROTOCOL}, EMA weights\n\n")
        text[-1] += table(["", "PSNR", "SSIM"], cells)
        path = folder / (f"samples_{valid.name}.png" if len(sets) > 1 else "samples.png")
        write_image(path, sheet(strips))
        text.append(f"sample sheet: {path}")
    (folder / "results.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    console.info("\n" + "\n\n".join(text))


def compare(
    valid: ValidationSet, restorers: Mapping[str, Restore], images: int = 6
) -> tuple[dict[str, dict[str, float]], list[np.ndarray]]:
    """Mean scores of bicubic, the best smoothed bicubic and each restorer; and strips with numbers."""
    metrics, scale = default_metrics(), valid.scale
    items = [valid[i] for i in range(len(valid))]
    upscaled = [bicubic(item.batch.lq, scale) for item in items]
    sigma = best_smoothing(zip(upscaled, (item.gt for item in items), strict=True), PROTOCOL, scale)
    outputs: dict[str, list[Tensor]] = {
        "bicubic": upscaled,
        f"bicubic, smoothed (sigma {sigma:g})": [smoothed(image, sigma) for image in upscaled],
        **{name: [restore(item.batch) for item in items] for name, restore in restorers.items()},
    }
    scores = {
        name: [score(sr, item.gt, metrics, PROTOCOL, scale) for sr, item in zip(made, items, strict=True)]
        for name, made in outputs.items()
    }
    strips = []
    for i, item in enumerate(items[:images]):
        captions = [
            "LQ",
            *(f"{name} {scores[name][i]['PSNR']:.2f} dB" for name in outputs),
            f"GT {Path(item.name).name}",
        ]
        parts = [item.batch.lq, *(made[i] for made in outputs.values()), item.gt]
        strips.append(strip([to_8bit(part) for part in parts], captions))
    return {name: mean_scores(values) for name, values in scores.items()}, strips


def _stage_networks(folder: Path, experiment: Experiment, device: torch.device) -> dict[str, nn.Module]:
    """The averaged generator at the end of each finished stage."""
    saved = checkpoints.Checkpoints(folder / "checkpoints")
    networks = {}
    for stage in experiment.stages:
        if (path := saved.finished(stage)) is not None:
            network = build_generator(experiment)
            network.load_state_dict(checkpoints.read_weights(path / "network_g_ema.safetensors")[0])
            networks[stage] = network.to(device).eval()
    return networks


def next_command(folder: Path, experiment: Experiment, source: str) -> str | None:
    """The `test.py` command that goes on from here, or None while no stage is finished."""
    saved = checkpoints.Checkpoints(folder / "checkpoints")
    finished = [path for stage in experiment.stages if (path := saved.finished(stage)) is not None]
    if not finished:
        return None
    weights = " ".join(str(path / "network_g_ema.safetensors") for path in finished)
    return f"python test.py --opt {source} --weights {weights} -o results/{experiment.name}"
