"""Training steps on a batch at hand: as train.py does them with an option file's settings, and plainly."""

import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from data.source import Source, SourceEntry
from data.training import Mix, TrainingSet, degrade
from degradations import Batch
from models.stages.stage import Memo, Stage
from models.training.building import build_stage
from models.training.experiment import Experiment, check_experiment
from tests.benchmarks.measuring import Row, Work, against
from tests.golden.training_inputs import synthetic_batch
from tests.helpers import ROOT
from tests.stage_runs import trainer_of
from train import Trainer
from utils.logging import Console
from utils.options import files as option_files
from utils.processes.distributed import Processes
from utils.storage.checkpoint import Checkpoints

SMALL = ("bsrgan/small_x2", "realesrgan/small_x2", "usrnet/small_x2", "dasr/small_x2", "cdsr/small_x2", "quickstart")
"""Recipes for a CPU."""
FULL = ("bsrgan/x4", "realesrgan/x4plus", "realsr/df2k", "usrnet/usrnet", "dasr/x4_iso", "cdsr/x4_aniso")
"""Recipes for a GPU, in batches of 16."""


class Synthetic(Source):
    """Images of one size, made up."""

    def __init__(self, count: int, side: int) -> None:
        images = synthetic_batch(count, side, side, 0)
        self.images = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"synthetic {index}"

    def read(self, index: int) -> np.ndarray:
        return self.images[index]


def rows(recipe: str, calls: int, device: torch.device, arithmetic: bool = False) -> list[Row]:
    """Every stage of a recipe: plain, ours, and ours degrading its batch before; with `arithmetic` also how many
    10^12 multiplications and additions a second ours does."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        overrides = [] if device.type == "cpu" else ["data.batch_size=16"]
        tree = option_files.load(ROOT / "options" / f"{recipe}.yml", overrides)
        for name in tree["stages"]:
            experiment = check_experiment(alone(tree, name, Path(folder)), recipe)
            raw, mix = undegraded(experiment, name, device)
            batch = degrade(raw, mix.degradations, device)
            trainer = entered(experiment, name, device)

            def degrading(_: int, raw: Batch = raw, mix: Mix = mix, trainer: Trainer = trainer) -> object:
                return allowing(True, trainer.train_step, [degrade(raw, mix.degradations, device)])

            ours, plain = trainer.train_step, PlainStep(experiment, name, device)
            versions: dict[str, Work] = {"ours": (lambda _, ours=ours, batch=batch: allowing(True, ours, [batch]), 1)}
            versions["ours, degrading"] = (degrading, 1)
            once = (lambda _, plain=plain, batch=batch: allowing(False, plain, batch), 1)
            measured = against(f"{recipe} {name}", "steps", once, versions, calls, device)
            found += measured
            if arithmetic:
                with FlopCounterMode(display=False) as counter:
                    allowing(True, ours, [batch])
                trillions = counter.get_total_flops() / 1e12
                found += [
                    replace(
                        measured[1], version="ours, arithmetic", unit="10^12", by_clock=measured[1].by_clock * trillions
                    )
                ]
    return found


def alone(tree: Mapping[str, object], name: str, folder: Path) -> dict[str, object]:
    """The options of one stage from fresh weights. Its VGG19 is untrained, and noise or kernels of files are left out:
    neither changes the time of a step."""
    changed = deepcopy(dict(tree))
    stage = {**changed["stages"][name], "init_from": None}  # type: ignore[index]
    if (perceptual := stage.get("losses", {}).get("perceptual")) is not None:
        from torchvision.models import vgg19  # noqa: PLC0415 - only where a recipe has it

        torch.save(vgg19(weights=None).state_dict(), folder / "vgg19.pth")
        perceptual["weights"] = str(folder / "vgg19.pth")
    if changed.pop("prepare", None) is not None:
        changed["degradation"] = "bicubic"
    return {**changed, "stages": {name: stage}}


def undegraded(experiment: Experiment, name: str, device: torch.device) -> tuple[Batch, Mix]:
    """A batch with its plans, and what degrades it."""
    degradation = experiment.degradation.component(scale=experiment.scale)
    mix = Mix((SourceEntry(Synthetic(8, experiment.data.crop_size)),), ("synthetic",), (degradation,))
    stage, size = build_stage(experiment, name, alone_on(device)), experiment.batch_size(name)
    how = {"stage": name, "batch_size": size, "views": stage.views, "positive": stage.positive}
    return TrainingSet(mix, experiment.data, seed=0, in_worker=False, **how).__getitems__(range(size)), mix


def entered(experiment: Experiment, name: str, device: torch.device) -> Trainer:
    """A trainer in front of the first step of a stage."""
    processes = alone_on(device)
    trainer = trainer_of(build_stage(experiment, name, processes))
    trainer.experiment, trainer.processes, trainer.device = experiment, processes, device
    trainer.console, trainer.checkpoints = Console(rank=1), Checkpoints(Path("nowhere"))
    trainer.enter(name, None)
    return trainer


def alone_on(device: torch.device) -> Processes:
    """The only process, on a device."""
    return Processes(0, 1, 0, device)


def allowing(tf32: bool, step: Callable[..., object], given: object) -> object:
    """A step with or without TF32, which is on where the trainer says so."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    return step(given)


class PlainStep:
    """The same losses as released code trains on them: float32, Adam and the moving average weight by weight, and every
    loss read at once for the log."""

    def __init__(self, experiment: Experiment, name: str, device: torch.device) -> None:
        self.settings = experiment.settings(name)
        self.stage: Stage = build_stage(experiment, name, alone_on(device))
        self.stage.to(device)
        self.average = deepcopy(self.stage.networks["network_g"]).eval()
        self.stage.ema_network, self.step = self.average, 0
        self.optimizers = [
            torch.optim.Adam(
                [p for group in phase.optimizer.param_groups for p in group["params"]],
                lr=phase.optimizer.param_groups[0]["lr"],
                foreach=False,
                fused=False,
            )
            for phase in self.stage.phases()
        ]

    def __call__(self, batch: Batch) -> dict[str, float]:
        """One iteration."""
        self.step += 1
        memo: Memo = {}
        logged: dict[str, float] = {}
        for phase, optimizer in zip(self.stage.phases(), self.optimizers, strict=True):
            if phase.turn.due(self.step):
                for name, network in self.stage.networks.items():
                    network.requires_grad_(name in phase.networks)
                optimizer.zero_grad()
                losses = phase.loss(batch, memo, self.stage.networks, self.step)
                total: Tensor = sum(v for k, v in losses.items() if not k.startswith("_"))  # type: ignore[assignment]
                total.backward()
                optimizer.step()
                logged.update({name: float(value.detach()) for name, value in losses.items()})
        self.update_average(self.stage.networks["network_g"])
        self.stage.after_step()
        return logged

    @torch.no_grad()
    def update_average(self, network: nn.Module) -> None:
        """e = d·e + (1 - d)·p, one weight after the other."""
        decay, current = self.settings.ema_decay, dict(network.named_parameters())
        for name, mine in self.average.named_parameters():
            mine.data.mul_(decay).add_(current[name].data, alpha=1 - decay)
