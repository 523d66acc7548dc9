"""Optimizers, learning-rate schedules as pure functions of completed steps, and the moving average of weights."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from utils.options.components import Registry
from utils.options.fields import Count, NonNegative, OptionError, Positive, PositiveInt, Prob

COUNTED = ("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode")
"""What schedule-free optimizers note beside the options of a group of parameters."""


@dataclass(frozen=True)
class Optim:
    """An optimizer with a base learning rate: Adam, AdamW, SGD, RMSprop; AdamW and SGD also schedule-free.

    Schedule-free (Defazio et al., NeurIPS 2024; extra `schedulefree`) learns at one point and keeps an average, which
    the stage's moving average follows, or is with `ema_decay: 0`. It wants a warm-up; statistics of batch norms are
    those of the first point.

    Args:
        type: which of them.
        lr: the learning rate, which schedules multiply.
        betas: of Adam and AdamW; the first also weighs a schedule-free average.
        weight_decay: of all; AdamW's is decoupled from the gradient.
        momentum: of SGD and RMSprop; of a schedule-free SGD it weighs the average, usually 0.9.
        nesterov: of SGD.
        alpha: of RMSprop, the decay of the mean square.
    """

    type: Literal["adam", "adamw", "sgd", "rmsprop", "adamw_schedulefree", "sgd_schedulefree"] = "adam"
    lr: Positive = 1e-4
    betas: tuple[Prob, Prob] = (0.9, 0.99)
    weight_decay: NonNegative = 0.0
    momentum: Prob = 0.0
    nesterov: bool = False
    alpha: Prob = 0.99

    def __post_init__(self) -> None:
        if not self.momentum and self.type == "sgd_schedulefree":
            raise ValueError("momentum: found 0, expected more, such as 0.9: it weighs the average")
        if self.momentum and self.type in ("adam", "adamw", "adamw_schedulefree"):
            raise ValueError(f"momentum: {self.type} has betas instead; expected 0")
        if self.nesterov and not (self.type == "sgd" and self.momentum):
            raise ValueError("nesterov: goes with `type: sgd` and a momentum above 0")

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimizer of these parameters. Its `initial_lr` is what schedules multiply."""
        groups = [{"params": [p for p in parameters if p.requires_grad], "initial_lr": self.lr}]
        common: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        match self.type:
            case "sgd":
                return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov, fused=True, **common)
            case "rmsprop":
                return torch.optim.RMSprop(groups, alpha=self.alpha, momentum=self.momentum, **common)
            case "adamw_schedulefree":
                return _schedule_free("AdamWScheduleFree", groups, betas=self.betas, **common)
            case "sgd_schedulefree":
                return _schedule_free("SGDScheduleFree", groups, momentum=self.momentum, **common)
            case kind:
                made = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
                return made(groups, betas=self.betas, fused=True, **common)


def _schedule_free(name: str, groups: list[dict[str, Any]], **options: Any) -> Optimizer:  # noqa: ANN401
    try:
        package = import_module("schedulefree")
    except ModuleNotFoundError as error:
        raise OptionError("type: needs the package schedulefree; pip install -e '.[schedulefree]'") from error
    optimizer = getattr(package, name)(groups, **options)
    optimizer.train()
    return optimizer


@contextmanager
def at_average(optimizer: Optimizer, network: nn.Module) -> Iterator[None]:
    """Give a network the weights that a schedule-free optimizer is judged by; afterwards, bit for bit, those at which
    it learns, which its own way back would round. Other optimizers have one kind of weights."""
    if not hasattr(optimizer, "eval"):
        yield
        return
    learning = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        with torch.no_grad():
            torch._foreach_copy_(list(network.parameters()), learning)


class Schedule:
    """A factor on the base learning rate, a function of the number of completed optimizer steps alone.

    "Milestone m" means that step m + 1 is the first at the new rate.
    """

    def factor(self, completed: int, iterations: int) -> float:
        """Return the factor for the step after `completed` ones, of a stage of `iterations` steps."""
        raise NotImplementedError(f"{type(self).__name__} has no factor")


SCHEDULES: Registry[Schedule] = Registry("schedule", "utils.optim", protocol=Schedule, probe=True)


def _warm(factor: float, completed: int, warmup: int) -> float:
    """Warm up linearly: step i of the first `warmup` runs at i / warmup of the rate."""
    return factor * min(1.0, (completed + 1) / warmup) if warmup else factor


@SCHEDULES.register("constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """The base rate throughout.

    Args:
        warmup: the rate grows linearly over the first so many steps.
    """

    warmup: Count = 0

    def factor(self, completed: int, iterations: int) -> float:
        return _warm(1.0, completed, self.warmup)


@SCHEDULES.register("multistep")
@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiplied by `gamma` after each milestone; a repeated milestone counts each time.

    Args:
        milestones: in optimizer steps.
        gamma: the factor of each.
        warmup: the rate grows linearly over the first so many steps.
        restarts: steps after which it is a weight of `restart_weights` instead, and only later milestones count
            (BasicSR's MultiStepRestartLR).
        restart_weights: one for each of the `restarts`.
    """

    milestones: tuple[PositiveInt, ...]
    gamma: Positive = 0.5
    warmup: Count = 0
    restarts: tuple[Count, ...] = ()
    restart_weights: tuple[Positive, ...] = ()

    def __post_init__(self) -> None:
        if len(self.restart_weights) != len(self.restarts):
            found = f"found {len(self.restart_weights)} restart_weights for {len(self.restarts)} restarts"
            raise ValueError(f"{found}, expected as many")

    def factor(self, completed: int, iterations: int) -> float:
        start, weight = 0, 1.0
        for restart, restart_weight in sorted(zip(self.restarts, self.restart_weights, strict=True)):
            if restart <= completed:
                start, weight = restart, restart_weight
        passed = sum(start < milestone <= completed for milestone in self.milestones)
        return _warm(weight * self.gamma**passed, completed, self.warmup)


@SCHEDULES.register("wsd")
@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """The base rate after a warm-up, and in the last `decay` steps down to `floor` times it (Hu et al., MiniCPM, 2024).

    The step after the last would be at the floor.

    Args:
        decay: steps of the way down.
        floor: where it ends, as a factor.
        shape: of the way down with t from 0 to 1: 1 - t, 1 - sqrt(t) (Hägele et al., NeurIPS 2024), or a half cosine.
        warmup: the rate grows linearly over the first so many steps.
    """

    decay: PositiveInt
    floor: Prob = 0.0
    shape: Literal["linear", "sqrt", "cosine"] = "sqrt"
    warmup: Count = 0

    def factor(self, completed: int, iterations: int) -> float:
        t = min(1.0, max(0.0, 1 - (iterations - completed) / self.decay))
        left = {"linear": 1 - t, "sqrt": 1 - math.sqrt(t), "cosine": 0.5 + 0.5 * math.cos(math.pi * t)}[self.shape]
        return _warm(self.floor + (1 - self.floor) * left, completed, self.warmup)


@SCHEDULES.register("cosine")
@dataclass(frozen=True)
class Cosine(Schedule):
    """Half cosines from the base rate to `floor` times it, one per period; default one over the whole stage.

    The rate stays at the floor after the last period.

    Args:
        periods: their lengths in steps; left out, one over the whole stage.
        restart_weights: scale the start of each period.
        floor: the lowest rate, as a factor.
        warmup: the rate grows linearly over the first so many steps.
    """

    periods: tuple[PositiveInt, ...] = ()
    restart_weights: tuple[Positive, ...] = ()
    floor: Prob = 0.0
    warmup: Count = 0

    def __post_init__(self) -> None:
        if self.restart_weights and len(self.restart_weights) != len(self.periods):
            raise ValueError(
                f"found {len(self.restart_weights)} restart_weights for {len(self.periods)} periods, expected as many"
            )

    def factor(self, completed: int, iterations: int) -> float:
        start = 0
        weights = self.restart_weights or (1.0,) * max(1, len(self.periods))
        for period, weight in zip(self.periods or (iterations,), weights, strict=True):
            if completed < start + period:
                t = (completed - start) / period
                value = self.floor + weight * 0.5 * (1 - self.floor) * (1 + math.cos(math.pi * t))
                return _warm(value, completed, self.warmup)
            start += period
        return self.floor


@dataclass(frozen=True)
class Init:
    """How convolutions and linear layers are filled before training, after KAIR's `init_type`; biases become 0.

    Args:
        type: `default` leaves what the constructor made, `orthogonal` and the others follow torch.nn.init.
        gain: what is filled in is multiplied by it.
    """

    type: Literal["default", "orthogonal", "normal", "uniform", "xavier_normal", "kaiming_normal"] = "default"
    gain: Positive = 1.0

    def apply(self, network: nn.Module) -> None:
        """Fill every convolution (transposed ones too), linear and affine normalisation layer in place."""
        if self.type == "default":
            return
        for module in network.modules():
            name = type(module).__name__
            if name.startswith(("Conv", "Linear")):
                # Under spectral norm the parameter is called weight_orig and `weight` is derived from it.
                weight = getattr(module, "weight_orig", None)
                self._fill(weight if weight is not None else module.weight)  # type: ignore[arg-type]
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    @torch.no_grad()
    def _fill(self, weight: torch.Tensor) -> None:
        match self.type:
            case "orthogonal":
                nn.init.orthogonal_(weight, gain=self.gain)
            case "normal":
                nn.init.normal_(weight, 0, 0.1).clamp_(-1, 1).mul_(self.gain)
            case "uniform":
                nn.init.uniform_(weight, -0.2, 0.2).mul_(self.gain)
            case "xavier_normal":
                nn.init.xavier_normal_(weight, gain=self.gain)
            case _:
                nn.init.kaiming_normal_(weight, a=0, mode="fan_in").clamp_(-1, 1).mul_(self.gain)


class Ema:
    """An exponential moving average of a network's parameters; buffers are copied.

    A decay of 0 keeps the average equal to the network. With a `power` the decay of step i is at most 1 - i^-power, so
    that the first weights, far off, are soon forgotten (Crowson's warm-up; 3/4 reaches 0.999 after 10,000 steps).
    """

    def __init__(self, network: nn.Module, decay: float, power: float | None = None) -> None:
        self.decay, self.power = decay, power
        self.network = deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int = 1) -> None:
        """Set e = d·e + (1 − d)·p after an optimizer step, the stage's first of which is 1."""
        decay = self.decay if self.power is None else min(self.decay, 1 - step**-self.power)
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)


def step_scaled(optimizer: Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Step in fp16: the scaler sees by itself which gradients overflowed, skips them, and lowers its scale."""
    scaler.step(optimizer)
    scaler.update()


def step_fused(optimizer: Optimizer, nonfinite: torch.Tensor) -> None:
    """Step unless a flag on the optimizer's own device is set; its kernel looks, so that nobody waits."""
    optimizer.found_inf = nonfinite.float()  # type: ignore[attr-defined]
    optimizer.step()


def step_unless(optimizer: Optimizer, nonfinite: int) -> None:
    """Step unless a flag is set that was waited for."""
    if not nonfinite:
        optimizer.step()


def set_rate(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate to its base rate times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
