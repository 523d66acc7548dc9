"""How a step is computed does not change what it computes."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch._inductor
from torch import Tensor, nn

from losses import LOSSES, LossTerm
from models.network import NETWORKS
from models.stages import gan
from models.stages.gan import GanStage
from models.stages.psnr import PsnrStage
from models.stages.stage import StageSettings
from models.training.building import load_optimizers
from models.training.performance import Performance, recompute_blocks
from tests.stage_runs import batch_of, log_of, trainer_of
from utils.optim import Optim
from utils.options.fields import OptionError

CPU = torch.device("cpu")
BLOCKS = {
    "rrdbnet": {"num_feat": 8, "num_block": 2, "num_grow_ch": 4},
    "dasr": {"num_feat": 8, "num_group": 2, "num_block": 1, "encoder_feat": 8},
    "cdsr": {"num_feat": 8, "num_block": 2, "num_grow_ch": 4, "encoder_feat": 8, "num_code": 16},
    "usrnet": {"n_iter": 2, "h_nc": 8, "nc": [4, 4, 8, 8], "nb": 1},
}


def stage_of(seed: int = 0) -> PsnrStage:
    torch.manual_seed(seed)
    network = NETWORKS.build({"type": "rrdbnet", "scale": 2, **BLOCKS["rrdbnet"]})
    return PsnrStage(network, {"l1": LossTerm(LOSSES.check("l1").component())}, Optim(lr=1e-3))


def trained(performance: Performance, steps: int = 4) -> tuple[list[float], list[Tensor]]:
    """Losses and final weights of a few steps."""
    stage = stage_of()
    performance.lay_out(stage, CPU)
    trainer = trainer_of(stage)
    performance.speed_up(stage)
    generator = torch.Generator().manual_seed(1)
    batches = [[torch.rand(2, 3, side, side, generator=generator) for side in (16, 32)] for _ in range(steps)]
    losses = [log_of(trainer.train_step([batch_of(lq, plain=gt)]))["l1"] for lq, gt in batches]
    return losses, [p.detach() for p in stage.networks["network_g"].parameters()]


@pytest.mark.parametrize(
    "performance",
    [
        Performance(channels_last=False),
        Performance(fused=False),
        Performance(recompute=True),
        pytest.param(Performance(compile="default"), marks=pytest.mark.slow),
        pytest.param(Performance(compile="default", recompute=True), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_training_goes_the_same_way(performance: Performance) -> None:
    losses, weights = trained(Performance())
    other_losses, other_weights = trained(performance)
    assert other_losses == pytest.approx(losses, rel=1e-4)
    for mine, theirs in zip(other_weights, weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)
    assert losses[-1] != losses[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_recomputed_blocks_give_the_same_gradients(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS.build({"type": name, "scale": 2, **BLOCKS[name]})
    other = deepcopy(network)
    recompute_blocks(other)
    lq = torch.rand(2, 3, 16, 16)
    more = {"kernel": torch.full((2, 5, 5), 1 / 25), "sigma": torch.tensor([0.0, 0.1])} if name == "usrnet" else {}
    for each in (network, other):
        each(lq, **more).square().mean().backward()
    for (key, mine), theirs in zip(other.named_parameters(), network.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), key
        if mine.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-7, msg=key)


def test_recomputing_saves_activations() -> None:
    network = NETWORKS.build({"type": "rrdbnet", "scale": 2, "num_feat": 8, "num_block": 6, "num_grow_ch": 4})

    def kept() -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            network(torch.rand(1, 3, 16, 16))
        return sum(sizes)

    before = kept()
    recompute_blocks(network)
    assert kept() < before / 3


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(OptionError, match=r"performance\.recompute: Conv2d names no blocks"):
        recompute_blocks(nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize("fused", [True, False])
def test_a_gradient_that_is_not_finite_changes_nothing(fused: bool) -> None:
    """Neither weights nor the optimizer's moments nor its count of steps."""
    stage = stage_of()
    trainer = trainer_of(stage)
    Performance(fused=fused).lay_out(stage, CPU)
    good, bad = (torch.full((1, 3, 16, 16), value) for value in (0.5, torch.nan))
    gt = torch.rand(1, 3, 32, 32)
    trainer.train_step([batch_of(good, plain=gt)])
    before = deepcopy((stage.networks["network_g"].state_dict(), stage.optimizer.state_dict()["state"]))
    trainer.train_step([batch_of(bad, plain=gt)])
    assert trainer.watcher.nonfinite_in_a_row == 1
    after = (stage.networks["network_g"].state_dict(), stage.optimizer.state_dict()["state"])
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    trainer.train_step([batch_of(good, plain=gt)])
    assert trainer.watcher.nonfinite_in_a_row == 0
    assert not torch.equal(stage.networks["network_g"].conv_first.weight, before[0]["conv_first.weight"])  # type: ignore[union-attr]


@pytest.mark.parametrize("fused", [True, False])
def test_half_precision_goes_with_either_way_to_update(fused: bool) -> None:
    stage = stage_of()
    Performance(fused=fused).lay_out(stage, CPU)
    trainer = trainer_of(stage, StageSettings(iterations=9, precision="fp16"))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    weight, gt, seen = stage.networks["network_g"].conv_first.weight, torch.rand(1, 3, 32, 32), []
    for value in (0.5, torch.nan, 0.5):
        before = weight.detach().clone()  # type: ignore[operator]
        trainer.train_step([batch_of(torch.full((1, 3, 16, 16), value), plain=gt)])
        seen.append((bool((weight != before).any()), trainer.scaler.get_scale()))  # type: ignore[union-attr]
    assert seen == [(True, 8.0), (False, 4.0), (True, 4.0)]


def test_precision_is_bf16_where_a_gpu_has_it_and_does_not_only_imitate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, settings = torch.device("cuda"), StageSettings(iterations=1)
    for newer, chosen in ((True, torch.bfloat16), (False, torch.float32)):
        with monkeypatch.context() as patched:
            supports = lambda including_emulation=True, newer=newer: newer or including_emulation  # noqa: E731
            patched.setattr(torch.cuda, "is_bf16_supported", supports)
            assert settings.dtype(gpu) is chosen


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_a_step_is_marked_where_graphs_are_recorded(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    marks: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    Performance(compile=mode).begin_step()
    assert bool(marks) == torch._inductor.list_mode_options(mode).get("triton.cudagraphs", False)


def gan_stage(norm: str) -> GanStage:
    torch.manual_seed(0)
    discriminator = NETWORKS.check({"type": "patchgan", "num_feat": 8, "n_layers": 2, "norm": norm})
    losses = {"l1": LossTerm(LOSSES.check("l1").component()), "gan": LossTerm(LOSSES.check("gan").component())}
    return GanStage(NETWORKS.build({"type": "srvgg", "scale": 2, "num_feat": 4, "num_conv": 1}), discriminator, losses)


@pytest.mark.parametrize(("norm", "passes"), [("none", 1), ("instance", 1), ("batch", 2), ("spectral", 2)])
def test_real_and_fake_share_a_pass_where_that_changes_nothing(
    norm: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients(stage: GanStage) -> tuple[list[int], list[Tensor]]:
        discriminator, seen = stage.networks["network_d"], []
        discriminator.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
        batch = batch_of(torch.rand(2, 3, 16, 16), plain=torch.rand(2, 3, 32, 32))
        losses = stage.phases()[1].loss(batch, {"sr": torch.rand(2, 3, 32, 32)}, stage.networks, 1)
        losses["d"].backward()
        return seen, [p.grad for p in discriminator.parameters() if p.grad is not None]

    sizes, shared = gradients(gan_stage(norm))
    monkeypatch.setattr(gan, "keeps_statistics", lambda _: True)
    _, apart = gradients(gan_stage(norm))
    assert sizes == [4 // passes] * passes
    for mine, theirs in zip(shared, apart, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_an_optimizer_is_taken_up_with_other_settings() -> None:
    """Its moments lie in memory as the weights do, which fused kernels on a GPU ask for."""
    stage = stage_of()
    performance = Performance(fused=False, channels_last=False)
    performance.lay_out(stage, CPU)
    performance.speed_up(stage)
    trainer = trainer_of(stage)
    lq, gt = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 32, 32)
    trainer.train_step([batch_of(lq, plain=gt)])
    saved, weights = deepcopy((stage.optimizer.state_dict(), stage.networks["network_g"].state_dict()))

    other = stage_of(1)
    Performance().lay_out(other, CPU)
    other.networks["network_g"].load_state_dict(weights)
    load_optimizers(other, {"g": saved}, "the checkpoint")
    assert other.optimizer.param_groups[0]["fused"] is True
    for parameter, state in other.optimizer.state.items():
        assert state["exp_avg"].stride() == parameter.stride()
    for each in (trainer, trainer_of(other)):
        each.train_step([batch_of(lq, plain=gt)])
    for mine, theirs in zip(
        other.networks["network_g"].parameters(), stage.networks["network_g"].parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)
