"""The trainer's own decisions, without option files, disks or loaders."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import train
from losses import LOSSES, LossTerm
from models.stages.psnr import PsnrStage
from models.training.performance import Performance
from tests.stage_runs import ELSEWHERE, batch_of, trainer_of
from train import Diverged
from utils.logging import Console
from utils.optim import Optim
from utils.processes.distributed import AgreedError
from utils.storage.checkpoint import Checkpoints


def test_half_precision_diverges_in_words_too() -> None:
    """Overflow is the scaler's business until it has halved the loss away; what is not finite then is counted."""
    stage = PsnrStage(nn.Conv2d(3, 3, 1), {"l1": LossTerm(LOSSES.check("l1").component())})
    trainer = trainer_of(stage)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    bad = batch_of(torch.full((1, 3, 4, 4), torch.nan), plain=torch.rand(1, 3, 4, 4))
    counts = []
    with pytest.raises(Diverged, match="10 updates in a row"):
        for _ in range(20):
            trainer.train_step([bad])
            counts.append(trainer.watcher.nonfinite_in_a_row)
    assert counts == [0, 0, *range(1, 10)]


def test_a_stage_goes_on_in_half_precision() -> None:
    """A checkpoint of another precision holds no scale."""
    trainer = trainer_of(PsnrStage(nn.Conv2d(3, 3, 1), {"l1": LossTerm(LOSSES.check("l1").component())}))
    state, networks = trainer.state_dict(), trainer.stage.networks
    weights = {"network_g": networks["network_g"].state_dict(), "network_g_ema": trainer.ema.network.state_dict()}
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer.restore(SimpleNamespace(networks=weights, state=state, meta={"iteration": 3}))  # type: ignore[arg-type]
    assert (trainer.iteration, trainer.scaler.get_scale()) == (3, 4.0)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"network_g": nn.Conv2d(3, 3, 3)}, r"nowhere: network_g has the weights of another network \(size mismatch"),
        ({"optim_g": Optim("rmsprop")}, r"nowhere: the optimizer is of another type.*choose another `name`"),
    ],
)
def test_a_checkpoint_of_other_networks_or_optimizers_is_refused_in_words(other: dict[str, Any], words: str) -> None:
    """However much else `--resume-anyway` accepts."""
    losses = {"l1": LossTerm(LOSSES.check("l1").component())}
    trainers = [
        trainer_of(PsnrStage(**{"network_g": nn.Conv2d(3, 3, 1), "losses": losses, **more})) for more in ({}, other)
    ]
    batch = batch_of(torch.rand(1, 3, 4, 4), plain=torch.rand(1, 3, 4, 4))
    trainers[0].train_step([batch])
    weights = {name: network.state_dict() for name, network in trainers[0].stage.networks.items()}
    weights["network_g_ema"] = trainers[0].ema.network.state_dict()
    saved = SimpleNamespace(folder="nowhere", networks=weights, state=trainers[0].state_dict(), meta={"iteration": 1})
    trainers[0].restore(saved)  # type: ignore[arg-type]
    with pytest.raises(AgreedError, match=words):
        trainers[1].restore(saved)  # type: ignore[arg-type]


def test_a_stage_stands_on_its_device_before_it_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimizer's state that is carried over goes where its parameters are then."""
    stage = PsnrStage(nn.Conv2d(3, 3, 1), {"l1": LossTerm(LOSSES.check("l1").component())})
    trainer = trainer_of(stage)
    trainer.device = torch.device("meta")
    options = {"settings": lambda _: trainer.settings, "batch_size": lambda _: 1, "performance": Performance()}
    trainer.experiment = SimpleNamespace(**options)  # type: ignore[assignment]
    trainer.processes, trainer.checkpoints, trainer.console = ELSEWHERE, Checkpoints(Path("nowhere")), Console(rank=1)
    monkeypatch.setattr(train, "build_stage", lambda *_: stage)

    def filled(stage: PsnrStage, *_: object) -> None:
        assert all(p.is_meta for p in stage.networks["network_g"].parameters())
        raise InterruptedError

    monkeypatch.setattr(train, "hand_over", filled)
    with pytest.raises(InterruptedError):
        trainer.enter("stage", None)
