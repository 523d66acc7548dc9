"""How the networks of a stage are called: bare, through DataParallel, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from losses import LOSSES, LossTerm
from models import NETWORKS
from models.building import distribute
from models.stages.psnr import PsnrStage
from utils import distributed
from utils.distributed import Processes
from utils.fields import OptionError


def stage() -> PsnrStage:
    network = NETWORKS.build({"type": "srvgg", "num_feat": 4, "num_conv": 1}, scale=2)
    return PsnrStage(network, {"l1": LossTerm(LOSSES.check("l1").component())})


def processes(*gpus: int) -> Processes:
    return Processes(0, 1, 0, torch.device("cpu"), gpus)


def test_one_device_calls_the_network_itself() -> None:
    one = stage()
    assert distribute(one.networks["network_g"], processes(), one) is one.networks["network_g"]
    assert distribute(one.networks["network_g"], processes(0), one) is one.networks["network_g"]


def test_several_gpus_go_through_data_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def wrap(module: nn.Module, device_ids: list[int]) -> nn.Module:
        seen["ids"] = device_ids
        return nn.Sequential(module)

    monkeypatch.setattr("models.building.nn.DataParallel", wrap)
    one = stage()
    assert distribute(one.networks["network_g"], processes(0, 1), one) is not one.networks["network_g"]
    assert seen["ids"] == [0, 1]


def test_a_stage_with_state_in_its_forward_names_torchrun() -> None:
    one = stage()
    one.single_process_only = True  # type: ignore[misc]
    with pytest.raises(OptionError, match="torchrun --nproc-per-node 2"):
        distribute(one.networks["network_g"], processes(0, 1), one)


def test_torchrun_gives_each_process_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.start("auto").gpus == (0, 1, 2, 3)
    assert distributed.start("cuda:2").gpus == (2,)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert distributed.start("auto").gpus == (0,)
