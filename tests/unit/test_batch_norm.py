"""Batch normalisation over two gloo processes against one process with the whole batch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import NETWORKS
from models.networks.batch_norm import GlobalBatchNorm2d
from tests.run.lives import apart, live
from utils.processes import distributed

CHANNELS = 3


def images() -> Tensor:
    """(4, 3, 5, 4): the second half is brighter and more contrasted than the first, so local statistics differ."""
    x = torch.rand(4, CHANNELS, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x * torch.tensor([1.0, 1.0, 3.0, 3.0], dtype=torch.float64)[:, None, None, None] + 10


def observed(layer: nn.BatchNorm2d, x: Tensor, first: int = 0) -> dict[str, Tensor]:
    """Output, gradients of a loss that tells samples apart, and those of its slope (a gradient penalty's)."""
    layer.double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x = x.clone().requires_grad_()
    share = torch.arange(4.0, dtype=torch.float64)[first : first + len(x), None, None, None] + 1
    y = layer(x)
    loss = (share * y.sin()).sum()
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    second = torch.autograd.grad(slope.square().sum(), [x, layer.weight], retain_graph=True)
    loss.backward()
    assert x.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    found = {"y": y, "slope": x.grad, "second": second[0], "of weight": layer.weight.grad, "of bias": layer.bias.grad}
    buffers = {name: buffer.double() for name, buffer in layer.named_buffers()}
    return {name: value.detach() for name, value in {**found, "second of weight": second[1], **buffers}.items()}


def two_ranks(folder: str) -> None:
    def work() -> int:
        rank = distributed.start("cpu").rank
        whole = images()
        found = observed(GlobalBatchNorm2d(CHANNELS), whole[2 * rank : 2 * rank + 2], 2 * rank)
        layer = GlobalBatchNorm2d(CHANNELS)
        with torch.autocast("cpu", torch.bfloat16):
            half = layer((whole[2 * rank : 2 * rank + 2] * 50).bfloat16())
        assert half.dtype == torch.bfloat16 and layer.running_var is not None
        found |= {"half": half.detach().double(), "half running_var": layer.running_var.double()}
        torch.save(found, Path(folder) / f"{rank}.pt")
        distributed.stop()
        return 0

    assert live(work, Path(folder) / "log", 2) == [0, 0], (Path(folder) / "log").read_text()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    apart(two_ranks, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_are_one_batch(ranks: list[dict[str, Tensor]]) -> None:
    """Output, first and second gradients, running statistics; parameters' gradients are summed over the ranks."""
    expected = observed(nn.BatchNorm2d(CHANNELS), images())
    for name in ("y", "slope", "second"):
        found = torch.cat([rank[name] for rank in ranks])
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-9)
    for name in ("of weight", "of bias", "second of weight"):
        torch.testing.assert_close(ranks[0][name] + ranks[1][name], expected[name], rtol=1e-9, atol=1e-9)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for rank in ranks:
            torch.testing.assert_close(rank[name], expected[name], rtol=1e-12, atol=0)
    alone = observed(nn.BatchNorm2d(CHANNELS), images()[:2])
    assert (alone["y"] - ranks[0]["y"]).abs().max() > 0.5  # else there was nothing to show


def test_statistics_are_not_taken_in_half_precision(ranks: list[dict[str, Tensor]]) -> None:
    layer = nn.BatchNorm2d(CHANNELS)
    expected = layer((images() * 50).bfloat16().float())
    torch.testing.assert_close(torch.cat([rank["half"] for rank in ranks]).float(), expected, rtol=1e-2, atol=1e-2)
    assert layer.running_var is not None
    torch.testing.assert_close(ranks[1]["half running_var"].float(), layer.running_var, rtol=1e-5, atol=1e-5)


def test_one_process_is_an_ordinary_batch_norm() -> None:
    one, other = observed(GlobalBatchNorm2d(CHANNELS), images()), observed(nn.BatchNorm2d(CHANNELS), images())
    assert all(torch.equal(one[name], other[name]) for name in other)
    layer = GlobalBatchNorm2d(CHANNELS).eval()
    assert torch.equal(layer(images().float()), nn.BatchNorm2d(CHANNELS).eval()(images().float()))


@pytest.mark.parametrize("options", [{"type": "patchgan", "num_feat": 4}, {"type": "vgg_disc", "num_feat": 4}])
def test_both_kinds_have_the_same_keys(options: dict[str, object]) -> None:
    local, over_all = NETWORKS.build(options), NETWORKS.build({**options, "batch_norm": "global"})
    over_all.load_state_dict(local.state_dict())
    kinds = [[type(m) for m in net.modules() if isinstance(m, nn.BatchNorm2d)] for net in (local, over_all)]
    assert set(kinds[0]) == {nn.BatchNorm2d} and set(kinds[1]) == {GlobalBatchNorm2d}
    assert len(kinds[0]) == len(kinds[1]) > 1
