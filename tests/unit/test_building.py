"""How the networks of a stage are called: bare, through DataParallel, or refused."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel.scatter_gather import scatter_kwargs

from degradations import Batch, Plan
from losses import LOSSES, LossTerm
from models import NETWORKS
from models.network import Network
from models.stages.psnr import PsnrStage
from models.stages.stage import weighted
from models.training.building import distribute
from models.training.experiment import Experiment, build_generator
from models.training.performance import Performance
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import Processes


def stage() -> PsnrStage:
    network = NETWORKS.build({"type": "srvgg", "num_feat": 4, "num_conv": 1}, scale=2)
    return PsnrStage(network, {"l1": LossTerm(LOSSES.check("l1").component())})


def processes(*gpus: int) -> Processes:
    return Processes(0, 1, 0, torch.device("cpu"), gpus)


@pytest.mark.parametrize("name", ["forward_sync_buffers", "broadcast_buffers"])
def test_buffers_are_left_alone_by_the_name_that_this_pytorch_knows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def new(module: nn.Module, forward_sync_buffers: bool = True, broadcast_buffers: bool = True, **more: Any) -> None:  # noqa: ANN401
        given.update(forward_sync_buffers=forward_sync_buffers, broadcast_buffers=broadcast_buffers)

    def old(module: nn.Module, broadcast_buffers: bool = True, **more: Any) -> None:  # noqa: ANN401
        given.update(broadcast_buffers=broadcast_buffers)

    wrapper = new if name == "forward_sync_buffers" else old
    monkeypatch.setattr("models.training.building.DistributedDataParallel", wrapper)
    one = stage()
    distribute(one.networks["network_g"], Processes(0, 2, 0, torch.device("cpu")), one)
    assert [key for key, value in given.items() if value is False] == [name]


def test_a_network_that_does_not_tell_its_scale_gets_the_remedy() -> None:
    class Silent(Network):
        pass

    spec = SimpleNamespace(name="silent", build=lambda scale: Silent())
    with pytest.raises(OptionError, match="`silent` has scale 1, not 2; .* take `scale` .* set `self.scale = scale`"):
        build_generator(cast(Experiment, SimpleNamespace(network_g=spec, scale=2)))


def test_a_network_of_the_wrong_output_size_gets_the_remedy() -> None:
    targets = {"plain": torch.zeros(1, 3, 16, 16)}
    with pytest.raises(OptionError, match="network_g: gives 8x8 for a target of 16x16; expected `scale` times"):
        weighted({}, torch.zeros(1, 3, 8, 8), targets, step=1)


def test_one_device_calls_the_network_itself() -> None:
    one = stage()
    assert distribute(one.networks["network_g"], processes(), one) is one.networks["network_g"]
    assert distribute(one.networks["network_g"], processes(0), one) is one.networks["network_g"]


def test_several_gpus_go_through_data_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def wrap(module: nn.Module, device_ids: list[int]) -> nn.Module:
        seen["ids"] = device_ids
        return nn.Sequential(module)

    monkeypatch.setattr("models.training.building.nn.DataParallel", wrap)
    one = stage()
    assert distribute(one.networks["network_g"], processes(0, 1), one) is not one.networks["network_g"]
    assert seen["ids"] == [0, 1]


@pytest.mark.parametrize("performance", [Performance(recompute=True), Performance(compile="default")], ids=str)
def test_what_is_tied_to_one_gpu_is_refused_on_several(performance: Performance) -> None:
    """A replica would call the first GPU's weights."""
    network = NETWORKS.build({"type": "rrdbnet", "scale": 2, "num_feat": 4, "num_block": 1, "num_grow_ch": 2})
    one = PsnrStage(network, {"l1": LossTerm(LOSSES.check("l1").component())})
    performance.speed_up(one)
    with pytest.raises(OptionError, match="`performance` compiles or recomputes.*DataParallel over 2 GPUs.*torchrun"):
        distribute(one.networks["network_g"], processes(0, 1), one)
    assert distribute(one.networks["network_g"], processes(0), one) is one.networks["network_g"]


class Spread(nn.Module):
    """`nn.DataParallel` over two devices that are one CPU: its own scatter, one network after the other, a gather."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **conditions: Any) -> Tensor:  # noqa: ANN401
        shares = list(zip(*scatter_kwargs(inputs, conditions, [0, 1]), strict=True))
        assert [len(lq) for (lq,), _ in shares] == [2, 1]
        for (lq,), given in shares:
            assert len(given["kernel"]) == len(given["sigma"]) == len(lq) and given["scale"] == 2
        return torch.cat([self.module(*share, **given) for share, given in shares])


def test_data_parallel_gives_each_device_its_share_of_the_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three samples of a non-blind network over two devices: loss and gradients are those of one device."""

    def scatter(devices: list[int], sizes: None, dim: int, tensor: Tensor) -> tuple[Tensor, ...]:
        return tensor.chunk(len(devices), dim)

    monkeypatch.setattr("torch.nn.parallel.scatter_gather.Scatter.apply", scatter)
    usrnet = {"type": "usrnet", "n_iter": 2, "h_nc": 8, "nc": [8, 8, 12, 12], "nb": 1}
    one = PsnrStage(NETWORKS.build(usrnet, scale=2), {"l1": LossTerm(LOSSES.check("l1").component())})
    random = torch.Generator().manual_seed(0)
    lq, gt = (torch.rand(3, 3, side, side, generator=random) for side in (8, 16))
    kernel = torch.rand(3, 5, 5, generator=random)
    kernel, sigma = kernel / kernel.sum((1, 2), keepdim=True), torch.tensor([0.0, 0.05, 0.1])
    batch = Batch(lq, {"plain": gt}, kernel, sigma, plans=[Plan((16, 16), 2)] * 3)
    found = []
    for network in (one.networks["network_g"], Spread(one.networks["network_g"])):
        network.zero_grad()
        loss = one.phases()[0].loss(batch, {}, {"network_g": network}, 1)["l1"]
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    assert len(found[0]) > 10
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_stage_with_state_in_its_forward_names_torchrun() -> None:
    one = stage()
    one.single_process_only = True  # type: ignore[misc]
    with pytest.raises(OptionError, match="torchrun --nproc-per-node 2"):
        distribute(one.networks["network_g"], processes(0, 1), one)


def test_global_statistics_name_torchrun() -> None:
    network = NETWORKS.build(
        {"type": "patchgan", "num_feat": 4, "n_layers": 1, "norm": "batch", "batch_norm": "global"}
    )
    with pytest.raises(OptionError, match="batch_norm: global.*torchrun --nproc-per-node 2"):
        distribute(network, processes(0, 1), stage())


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
