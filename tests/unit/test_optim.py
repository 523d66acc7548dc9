"""Optimizers, schedules as closed forms, initialisation, and the moving average."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from utils.optim import (
    SCHEDULES,
    Constant,
    Cosine,
    Ema,
    Init,
    MultiStep,
    Optim,
    Schedule,
    WarmupStableDecay,
    set_rate,
)
from utils.options.components import OptionsError
from utils.options.fields import OptionError
from utils.seeding import torch_generator


def factors(schedule: Schedule, total: int) -> list[float]:
    """The factor of step 1, 2, …"""
    return [schedule.factor(completed, total) for completed in range(total)]


# --- schedules ------------------------------------------------------------------------------------------------------


def test_constant_is_constant() -> None:
    assert factors(Constant(), 5) == [1.0] * 5


@pytest.mark.parametrize("schedule", [Constant(warmup=4), MultiStep((100,), warmup=4), Cosine(floor=1.0, warmup=4)])
def test_warm_up_reaches_the_full_rate_at_its_last_step(schedule: Schedule) -> None:
    assert factors(schedule, 8) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_a_milestone_acts_from_the_step_after_it() -> None:
    assert factors(MultiStep((2, 4), gamma=0.1), 6) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_order_of_milestones_does_not_matter_and_a_repeated_one_counts_twice() -> None:
    assert factors(MultiStep((4, 2, 4)), 6) == pytest.approx([1, 1, 0.5, 0.5, 0.125, 0.125])


def test_milestones_during_the_warm_up_multiply_with_it() -> None:
    assert factors(MultiStep((2,), warmup=4), 5) == pytest.approx([0.25, 0.5, 0.375, 0.5, 0.5])


def test_restarts_need_as_many_weights() -> None:
    with pytest.raises(OptionsError, match="found 1 restart_weights for 2 restarts"):
        SCHEDULES.build({"type": "multistep", "milestones": [3], "restarts": [0, 4], "restart_weights": [1.0]})


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.5), ("sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5)])
def test_warmup_stable_decay(shape: Any, middle: float) -> None:
    schedule = WarmupStableDecay(decay=4, floor=0.2, shape=shape, warmup=2)
    found = factors(schedule, 10)
    assert found[:7] == pytest.approx([0.5, 1, 1, 1, 1, 1, 1])
    assert found[8] == pytest.approx(0.2 + 0.8 * middle), "half way down"
    assert found[6:] == sorted(found[6:], reverse=True) and schedule.factor(10, 10) == pytest.approx(0.2)


def test_cosine_goes_over_the_whole_stage_by_default() -> None:
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert factors(Cosine(floor=0.2), 8) == pytest.approx(expected)
    assert Cosine(floor=0.2).factor(8, 8) == 0.2


def test_cosine_restarts_at_its_weight_and_stays_at_the_floor_after_the_last_period() -> None:
    found = factors(Cosine((4, 2), (1.0, 0.5), floor=0.1), 9)
    assert found[0] == 1 and found[2] == pytest.approx(0.55)
    assert found[4] == pytest.approx(0.1 + 0.5 * 0.9)
    assert found[5] == pytest.approx(0.1 + 0.5 * 0.45)
    assert found[6:] == [0.1] * 3
    assert factors(Cosine((4, 2)), 6)[4] == 1, "without weights each period starts at the base rate"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "cosine", "periods": [4, 2], "restart_weights": [1.0]}, "1 restart_weights for 2 periods"),
        ({"type": "multistep"}, "milestones: is missing"),
        ({"type": "multistep", "milestones": [0]}, "milestones"),
        ({"type": "cosine", "floor": 2.0}, "floor"),
        ({"type": "multistpe"}, "multistep"),
    ],
)
def test_a_wrong_schedule_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        SCHEDULES.check(options)


def test_schedules_are_built_from_options() -> None:
    assert SCHEDULES.build({"type": "multistep", "milestones": [2], "gamma": 0.3}) == MultiStep((2,), 0.3)
    assert set(SCHEDULES.names()) == {"constant", "cosine", "multistep", "wsd"}


# --- optimizers -----------------------------------------------------------------------------------------------------


def test_optim_options_reach_the_optimizer() -> None:
    layer = nn.Linear(2, 2)
    adam = Optim(lr=0.03, betas=(0.5, 0.8), weight_decay=0.1).build(layer.parameters())
    assert type(adam) is torch.optim.Adam
    (group,) = adam.param_groups
    assert (group["lr"], group["initial_lr"], group["betas"], group["weight_decay"]) == (0.03, 0.03, (0.5, 0.8), 0.1)
    assert type(Optim("adamw").build(layer.parameters())) is torch.optim.AdamW


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    (group,) = Optim().build(layer.parameters()).param_groups
    assert [p is layer.weight for p in group["params"]] == [True]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"type": "sgd", "momentum": 0.9, "nesterov": True}, torch.optim.SGD),
        ({"type": "rmsprop", "alpha": 0.9, "momentum": 0.5}, torch.optim.RMSprop),
    ],
)
def test_other_optimizers_do_the_same_after_a_save(options: dict[str, Any], kind: type[torch.optim.Optimizer]) -> None:
    layers = [nn.Linear(2, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    whole, first = (Optim(lr=0.1, weight_decay=0.01, **options).build(layer.parameters()) for layer in layers)
    assert type(whole) is kind
    for key, value in options.items():
        assert key == "type" or whole.param_groups[0][key] == value

    def step(layer: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.ones(1, 2)).square().sum().backward()
        optimizer.step()

    for _ in range(4):
        step(layers[0], whole)
    for _ in range(2):
        step(layers[1], first)
    second = Optim(lr=0.1, weight_decay=0.01, **options).build(layers[1].parameters())
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        step(layers[1], second)
    torch.testing.assert_close(layers[0].weight, layers[1].weight)


def test_options_that_an_optimizer_has_not() -> None:
    with pytest.raises(ValueError, match="adam has betas instead"):
        Optim(momentum=0.9)
    with pytest.raises(ValueError, match="goes with `type: sgd` and a momentum"):
        Optim("sgd", nesterov=True)


def test_set_rate_multiplies_the_base_rate_not_the_last_one() -> None:
    fast, slow = (Optim(lr=lr).build(nn.Linear(1, 1).parameters()) for lr in (0.1, 0.01))
    for factor in (0.5, 0.5, 1.0, 0.25):
        for optimizer in (fast, slow):
            set_rate(optimizer, factor)
        rates = [optimizer.param_groups[0]["lr"] for optimizer in (fast, slow)]
        assert rates == pytest.approx([0.1 * factor, 0.01 * factor])


def test_the_base_rate_survives_saving() -> None:
    saved, loaded = (Optim(lr=0.1).build(nn.Linear(1, 1).parameters()) for _ in range(2))
    set_rate(saved, 0.5)
    loaded.load_state_dict(saved.state_dict())
    set_rate(loaded, 0.1)
    assert loaded.param_groups[0]["lr"] == pytest.approx(0.01)


# --- the moving average ---------------------------------------------------------------------------------------------


def network_with_buffers(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def stepped(network: nn.Module, seed: int) -> None:
    """Moves parameters and buffers, as a training step would."""
    random = torch_generator(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random))
    network.train()(torch.rand(2, 1, 5, 5, generator=random))


def test_average_follows_its_formula() -> None:
    network, decay = network_with_buffers(), 0.9
    ema = Ema(network, decay)
    expected = [p.detach().clone() for p in network.parameters()]
    for seed in range(3):
        stepped(network, seed)
        ema.update(network)
        expected = [decay * e + (1 - decay) * p for e, p in zip(expected, network.parameters(), strict=True)]
    for found, value in zip(ema.network.parameters(), expected, strict=True):
        torch.testing.assert_close(found, value.detach())


def test_buffers_are_copied() -> None:
    network = network_with_buffers()
    ema = Ema(network, 0.9)
    stepped(network, 0)
    ema.update(network)
    found, wanted = dict(ema.network.named_buffers()), dict(network.named_buffers())
    assert wanted["1.num_batches_tracked"] == 1
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_decay_of_0_keeps_it_equal_to_the_network() -> None:
    network = network_with_buffers()
    ema = Ema(network, 0.0)
    stepped(network, 0)
    ema.update(network)
    assert all(torch.equal(a, b) for a, b in zip(ema.network.parameters(), network.parameters(), strict=True))


def test_average_is_a_copy_that_is_neither_trained_nor_in_training_mode() -> None:
    network = network_with_buffers()
    ema = Ema(network, 0.5)
    assert network.training and not any(module.training for module in ema.network.modules())
    assert not any(p.requires_grad for p in ema.network.parameters())
    before = [p.clone() for p in ema.network.parameters()]
    stepped(network, 0)
    assert all(torch.equal(a, b) for a, b in zip(ema.network.parameters(), before, strict=True))
    ema.update(network)
    assert all(p.requires_grad and p.grad_fn is None for p in network.parameters())
    assert not any(p.requires_grad for p in ema.network.parameters())


# --- initialisation -------------------------------------------------------------------------------------------------


def layers() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(16, 32, 3),
            nn.ConvTranspose2d(32, 16, 4),
            nn.Linear(64, 64, bias=False),
            spectral_norm(nn.Conv2d(16, 32, 3)),
            nn.BatchNorm2d(32),
            nn.BatchNorm2d(32, affine=False),
            nn.PReLU(),
        )


def filled(init: Init) -> tuple[nn.Sequential, list[Tensor]]:
    """The layers, and the raw weights of the four that have to be filled."""
    network = layers()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        init.apply(network)
    named = dict(network.named_parameters())
    return network, [named[n].detach() for n in ("0.weight", "1.weight", "2.weight", "3.weight_orig")]


KINDS = ("orthogonal", "normal", "uniform", "xavier_normal", "kaiming_normal")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_fills_weights_and_clears_biases(kind: Any) -> None:  # noqa: ANN401
    network, weights = filled(Init(kind, gain=0.5))
    for before, after in zip(filled(Init())[1], weights, strict=True):
        assert not torch.isclose(before, after).all()
    named = dict(network.named_parameters())
    for name in ("0.bias", "1.bias", "3.bias", "4.bias"):
        assert not named[name].any()
    assert (named["4.weight"] == 1).all() and named["6.weight"] == nn.PReLU().weight


@pytest.mark.parametrize("kind", KINDS)
def test_the_gain_scales(kind: Any) -> None:  # noqa: ANN401
    for one, fifth in zip(filled(Init(kind))[1], filled(Init(kind, gain=0.2))[1], strict=True):
        torch.testing.assert_close(0.2 * one, fifth)


def test_default_leaves_everything() -> None:
    network, _ = filled(Init())
    before, after = layers().state_dict(), network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_each_kind_has_its_distribution() -> None:
    for weight in filled(Init("orthogonal", gain=0.2))[1]:
        rows = weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 0.04 * torch.eye(len(rows)), atol=1e-5, rtol=0)
    for weight in filled(Init("normal"))[1]:
        assert float(weight.std()) == pytest.approx(0.1, rel=0.05)
    for weight in filled(Init("uniform"))[1]:
        assert 0.19 < weight.abs().max() <= 0.2 and float(weight.std()) == pytest.approx(0.2 / 3**0.5, rel=0.05)
    # By torch's convention a weight (a, b, h, w) has a fan-in of b·h·w.
    for weight, fan_in, _ in zip(filled(Init("kaiming_normal"))[1], *FANS, strict=True):
        assert weight.abs().max() <= 1 and float(weight.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.06)
    for weight, fan_in, fan_out in zip(filled(Init("xavier_normal"))[1], *FANS, strict=True):
        assert float(weight.std()) == pytest.approx((2 / (fan_in + fan_out)) ** 0.5, rel=0.06)


FANS = (16 * 9, 16 * 16, 64, 16 * 9), (32 * 9, 32 * 16, 64, 32 * 9)


def test_spectral_norm_then_works_on_the_new_weight() -> None:
    """KAIR fills its U-Net orthogonally with gain 0.2; the spectral norm then sees those weights, not the old ones."""
    layer = spectral_norm(nn.Conv2d(16, 32, 3))
    image = torch.rand(1, 16, 5, 5, generator=torch_generator(0))
    layer(image)  # until its first pass `weight` and `weight_orig` are one tensor
    Init("orthogonal", gain=0.2).apply(layer)
    weight, bias = layer.get_parameter("weight_orig"), layer.get_parameter("bias")
    rows = weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, 0.04 * torch.eye(32), atol=1e-5, rtol=0)
    sigma = layer.get_buffer("weight_u") @ rows @ layer.get_buffer("weight_v")
    torch.testing.assert_close(
        layer.eval()(image), nn.functional.conv2d(image, weight / sigma, bias), rtol=1e-4, atol=1e-4
    )


def test_the_average_warms_up() -> None:
    """The first weights are forgotten at once: with power 1 it is the plain mean until the decay is reached."""
    network = nn.Linear(1, 1, bias=False)
    ema, seen = Ema(network, 0.9, power=1.0), []
    for step in range(1, 15):
        with torch.no_grad():
            network.weight.fill_(float(step))
        ema.update(network, step)
        seen.append(float(ema.network.weight.detach()))
    assert seen[:10] == pytest.approx([(step + 1) / 2 for step in range(1, 11)])
    assert seen[10] == pytest.approx(0.9 * seen[9] + 0.1 * 11)


def test_schedule_free_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(OptionError, match=r"pip install -e '\.\[schedulefree\]'"):
        Optim("adamw_schedulefree").build(nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="momentum: found 0"):
        Optim("sgd_schedulefree")
