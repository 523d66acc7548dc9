"""What a run shows of itself: validation scores, sample images, and the table and sheet at its end."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from data.validation import ValidationSet
from degradations import Batch
from models.stages.stage import wrong_size
from models.training.experiment import Experiment, Logger, build_generator
from utils.images.files import write_image
from utils.images.sheet import sheet, strip
from utils.logging import Console, table
from utils.metrics import Metric
from utils.metrics.evaluate import best_smoothing, bicubic, default_metrics, mean_scores, score, smoothed, to_8bit
from utils.metrics.protocol import PROTOCOLS, Protocol
from utils.options.fields import OptionError
from utils.processes.distributed import agree, gather_objects, together
from utils.processes.distributed import world_size as process_count
from utils.storage import checkpoint
from utils.storage.checkpoint import all_finite
from utils.storage.files import replace_text


@dataclass(frozen=True)
class Scorer:
    """What validation measures, as test.py does unless told otherwise; luma's numbers are called such as PSNR Y."""

    metrics: Mapping[str, Metric]
    protocols: Mapping[str, Protocol]

    @classmethod
    def build(cls, logger: Logger, device: torch.device) -> Self:
        """Return the metrics of an option file. Raises OptionError for one that lacks a file or a package."""
        more = {name.upper(): spec.build(device=str(device)) for name, spec in logger.metrics.items()}
        metrics, protocols = {**default_metrics(), **more}, {"": PROTOCOLS["basicsr"]}
        if logger.luma or any("rgb" not in metric.channels for metric in more.values()):
            protocols[" Y"] = PROTOCOLS["basicsr_y"]
        return cls(metrics, protocols)

    def __call__(self, sr: Tensor, gt: Tensor, scale: int) -> dict[str, float]:
        """Return the numbers of an image (1, 3, H, W)."""
        numbers = {}
        for suffix, protocol in self.protocols.items():
            scores = score(sr, gt, self.metrics, protocol, scale)
            numbers |= {f"{name}{suffix}": value for name, value in scores.items()}
        return numbers

    def lower_is_better(self, number: str) -> bool:
        """Return the direction of a number. Raises OptionError for one that is not measured."""
        directions = {
            f"{name}{suffix}": metric.higher_is_better
            for suffix, protocol in self.protocols.items()
            for name, metric in self.metrics.items()
            if protocol.channels in metric.channels
        }
        if number not in directions:
            raise OptionError(f"logger.best_by: found {number!r}, expected one of {', '.join(directions)}")
        return not directions[number]


class Diverged(Exception):  # noqa: N818 - handled once
    """A network, or too many gradients in a row, are not finite; raised on all ranks alike."""


@torch.no_grad()
def restored(network: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """Return a batch restored by a network on a device, as float32 (B, 3, H, W) on the CPU."""
    given = replace(batch, targets={}).to(device)
    return network(given.lq, **given.conditions(getattr(network, "conditions", ()))).float().cpu()


def evaluate(
    network: nn.Module,
    valid: ValidationSet,
    device: torch.device,
    rank: int,
    images: int,
    scorer: Scorer,
    stopped: Callable[[], int] = lambda: 0,
) -> tuple[dict[str, float], list[np.ndarray]] | None:
    """Return mean scores of a network on a validation set, and strips (LQ, bicubic, SR, GT) of the first images.

    The images are shared out over the ranks; every rank gets the same means. The strips are on the main rank only.
    None, on all ranks, where `stopped` on one of them says that there is no more time. Raises Diverged, on all ranks,
    where the network gives one of them something that is not finite.
    """
    network.eval()
    scores, strips, diverged = [], [], False
    with together():  # an unreadable file on one rank must not leave the others waiting
        for index in range(rank, len(valid), process_count()):
            if stopped():
                break
            item = valid[index]
            sr = restored(network, item.batch, device)
            if sr.shape[-2:] != item.gt.shape[-2:]:
                raise OptionError(wrong_size(sr, item.gt))
            if diverged := not all_finite({"sr": sr}):
                break
            scores.append((index, scorer(sr, item.gt, valid.scale)))
            if rank == 0 and len(strips) < images:
                parts = [item.batch.lq, bicubic(item.batch.lq, valid.scale), sr, item.gt]
                psnr = scores[-1][1]["PSNR"]
                captions = ["LQ", "bicubic", f"SR {psnr:.2f} dB", f"GT {Path(item.name).name}"]
                strips.append(strip([to_8bit(part) for part in parts], captions))
    stop, diverges = agree(torch.tensor([stopped(), int(diverged)]))
    if diverges:
        raise Diverged(f"the network gives values that are not finite for images of data.validation.{valid.name}")
    if stop:
        return None
    by_index = sorted(pair for part in gather_objects(scores) for pair in part)
    return mean_scores([values for _, values in by_index]), strips


def final_report(
    folder: Path,
    experiment: Experiment,
    sets: Sequence[ValidationSet],
    scorer: Scorer,
    device: torch.device,
    console: Console,
) -> None:
    """Score bicubic, smoothed bicubic and every stage's averaged weights; write `results.md` and `samples.png`."""
    networks = _stage_networks(folder, experiment, device)
    if not sets or not networks:
        return
    paragraphs = []
    for valid in sets:
        rows, strips = compare(valid, {f"{name} stage": network for name, network in networks.items()}, scorer, device)
        cells = [
            [row, *(f"{value:.{2 if 'PSNR' in name else 4}f}" for name, value in numbers.items())]
            for row, numbers in rows.items()
        ]
        protocols = ", ".join(map(str, scorer.protocols.values()))
        paragraphs.append(f"{valid.name}: {len(valid)} images, x{valid.scale}, {protocols}, EMA weights\n\n")
        paragraphs[-1] += table(["", *next(iter(rows.values()))], cells)
        path = folder / (f"samples_{valid.name}.png" if len(sets) > 1 else "samples.png")
        write_image(path, sheet(strips))
        paragraphs.append(f"sample sheet: {path}")
    replace_text(folder / "results.md", "\n\n".join(paragraphs) + "\n")
    console.info("\n" + "\n\n".join(paragraphs))


def compare(
    valid: ValidationSet, networks: Mapping[str, nn.Module], scorer: Scorer, device: torch.device, images: int = 6
) -> tuple[dict[str, dict[str, float]], list[np.ndarray]]:
    """Return mean scores of bicubic, the best smoothed bicubic and each network; and strips of the first images.

    One image at a time is held. Each is degraded twice, since how far to smooth is known only after all.
    """
    scale = valid.scale
    items = (valid[index] for index in range(len(valid)))
    pairs = ((bicubic(item.batch.lq, scale), item.gt) for item in items)
    sigma = best_smoothing(pairs, scorer.protocols[""], scale)
    scores: dict[str, list[dict[str, float]]] = {}
    strips = []
    for index in range(len(valid)):
        item = valid[index]
        upscaled = bicubic(item.batch.lq, scale)
        made = {
            "bicubic": upscaled,
            f"bicubic, smoothed (sigma {sigma:g})": smoothed(upscaled, sigma),
            **{name: restored(network, item.batch, device) for name, network in networks.items()},
        }
        for name, sr in made.items():
            scores.setdefault(name, []).append(scorer(sr, item.gt, scale))
        if index < images:
            numbers = (f"{name} {of_all[index]['PSNR']:.2f} dB" for name, of_all in scores.items())
            parts = [item.batch.lq, *made.values(), item.gt]
            strips.append(strip([to_8bit(part) for part in parts], ["LQ", *numbers, f"GT {Path(item.name).name}"]))
    return {name: mean_scores(of_all) for name, of_all in scores.items()}, strips


def _finished(folder: Path, experiment: Experiment) -> dict[str, Path]:
    """Return the averaged weights at the end of each finished stage that learns super-resolution."""
    saved = checkpoint.Checkpoints(folder / "checkpoints")
    ends = {stage: saved.finished(stage) for stage in experiment.stages if experiment.restores(stage)}
    return {stage: end / "network_g_ema.safetensors" for stage, end in ends.items() if end is not None}


def _stage_networks(folder: Path, experiment: Experiment, device: torch.device) -> dict[str, nn.Module]:
    networks: dict[str, nn.Module] = {}
    for stage, weights in _finished(folder, experiment).items():
        networks[stage] = build_generator(experiment).to(device).eval()
        networks[stage].load_state_dict(checkpoint.read_weights(weights)[0])
    return networks


def next_command(folder: Path, experiment: Experiment, test: Path) -> str | None:
    """Return the `test.py` command that goes on from here, with the run's own options; None if no stage is finished."""
    weights = map(str, _finished(folder, experiment).values())
    command = ["python", str(test), "--opt", str(folder / "options.yml"), "--weights", *weights]
    return shlex.join([*command, "-o", f"results/{experiment.name}"]) if len(command) > 5 else None
