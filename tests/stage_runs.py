"""Runs stages through the trainer's own iteration, without option files, disks or loaders."""

from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from degradations import Batch, Plan
from models.stages.stage import Stage, StageSettings
from models.training.experiment import Logger
from models.training.performance import Performance
from models.training.resume import Resume
from models.training.watch import Watcher
from train import Trainer
from utils.logging import Console
from utils.optim import Ema
from utils.processes.distributed import Processes

ELSEWHERE = Processes(rank=1, world_size=1, local_rank=0, device=torch.device("cpu"))
"""A process that is not the main one, and so writes nothing."""


def trainer_of(stage: Stage, settings: StageSettings | None = None) -> Trainer:
    """A trainer that has entered this stage. It has what `train_step` and `run_phase` use, and nothing else."""
    trainer = object.__new__(Trainer)
    trainer.stage, trainer.settings = stage, settings or StageSettings(iterations=1000)
    trainer.name, trainer.iteration, trainer.device = "stage", 0, torch.device("cpu")
    trainer.experiment = SimpleNamespace(data=SimpleNamespace(max_unreadable=0), performance=Performance(), gray=False)  # type: ignore[assignment]
    trainer.mix = SimpleNamespace(degradations=())  # type: ignore[assignment]
    trainer.watcher = Watcher(Logger(tensorboard=False), (), Path("nowhere"), ELSEWHERE, Console(rank=1))
    trainer.how = Resume()
    trainer.stop_signal, trainer.unsettled = 0, deque()
    trainer.ema = Ema(stage.networks["network_g"], trainer.settings.ema_decay)
    stage.ema_network = trainer.ema.network
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=False)
    trainer.ddp = dict(stage.networks)
    return trainer


def batch_of(lq: Tensor, views: int = 1, **targets: Tensor) -> Batch:
    """A micro-batch that is degraded already, with the views of a sample one after another; targets by name."""
    plans = [Plan((lq.shape[2], lq.shape[3]), 1)] * len(lq)
    return Batch(lq, targets, plans=plans, paths=["none"] * len(lq), views=views)


def log_of(values: dict[str, Any]) -> dict[str, float]:
    """What an iteration gave to log, as numbers."""
    return {name: float(value) for name, value in values.items()}
