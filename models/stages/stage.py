"""What a training stage is: networks, optimizers, and phases that give losses. The loop itself is in train.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from degradations import Batch
from losses import LossTerm
from utils.optim import Constant, Schedule
from utils.options.components import Registry, Spec
from utils.options.fields import Count, Positive, PositiveInt, Prob
from utils.processes.distributed import AgreedError

Memo = dict[str, Tensor]
"""What the phases of one micro-batch hand to each other, such as the generator's output."""

Nets = Mapping[str, nn.Module]
"""Networks by name as a phase must call them: those it updates through DDP, the others bare."""


@dataclass(frozen=True)
class Handover:
    """Where a stage starts from: an earlier stage of this file by name, or a checkpoint (ours or published).

    Iteration, schedule and moving average start anew.

    Args:
        stage: an earlier stage of this file, by its name.
        checkpoint: a checkpoint, or a file of published weights, of the generator.
        weights: the averaged or the raw ones.
        carry: what is taken over of a stage.
        network_d: beside a `checkpoint`, a file with the discriminator's weights.
        partial: weights that a file lacks may start fresh; else it must hold every weight of its network.
    """

    stage: str | None = None
    checkpoint: str | None = None
    weights: Literal["ema", "raw"] = "ema"
    carry: tuple[Literal["network_g", "network_d", "contrastive", "optimizer"], ...] = ("network_g",)
    network_d: str | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        if (self.stage is None) == (self.checkpoint is None):
            raise ValueError("expected either `stage: NAME` or `checkpoint: PATH`, found both or neither")
        if self.network_d is not None and self.checkpoint is None:
            raise ValueError("`network_d: PATH` goes with `checkpoint`; from a stage, carry: [network_g, network_d]")
        if self.partial and self.checkpoint is None:
            raise ValueError("`partial: true` goes with `checkpoint`; a stage hands over every weight")


@dataclass(frozen=True)
class StageSettings:
    """What every stage has, whatever it learns.

    Args:
        iterations: optimizer steps, the length of the stage.
        init_from: an earlier stage or a checkpoint to start from; left out, fresh weights.
        batch_size: samples per optimizer step over all ranks; left out, that of `data`.
        accumulate: split each rank's share of a batch into so many micro-batches.
        schedule: of the learning rate, a factor on the optimizers' `lr`; left out, constant.
        ema_decay: of the moving average of the generator's weights; 0 makes it equal to the network.
        ema_power: with it the average begins at the network: the decay of step i is at most 1 - i^-ema_power.
        precision: auto is bf16 on GPUs that have it, else fp32; losses are always computed in fp32.
        clip_grad_norm: scale gradients of a larger norm down to this.
    """

    iterations: PositiveInt
    init_from: Handover | None = None
    batch_size: PositiveInt | None = None
    accumulate: PositiveInt = 1
    schedule: Schedule | None = None
    ema_decay: Prob = 0.999
    ema_power: Positive | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    clip_grad_norm: Positive | None = None

    def dtype(self, device: torch.device) -> torch.dtype:
        """Return the dtype of autocast on a device."""
        wish = self.precision
        if wish == "auto":
            wish = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else "fp32"
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wish]

    def rate_factor(self, completed: int, own: Schedule | None = None, start: int = 0) -> float:
        """Return the learning-rate factor of the step after `completed` ones, by a phase's `own` schedule or the
        stage's, which began at `start`."""
        return (own or self.schedule or Constant()).factor(completed - start, self.iterations - start)


@dataclass(frozen=True)
class Turn:
    """In which iterations a phase is due.

    Args:
        every: in every so many iterations.
        start: only after the first so many.
    """

    every: PositiveInt = 1
    start: Count = 0

    def due(self, step: int) -> bool:
        """Return whether the phase runs in the step with this number (from 1)."""
        return step % self.every == 0 and step > self.start


@dataclass(frozen=True)
class Phase:
    """One optimizer step within an iteration.

    `loss(batch, memo, nets, step)` gives named, weighted losses whose sum is minimised; names starting with `_` are
    only logged. `schedule` is that of its rate where it is not the stage's.
    """

    name: str
    networks: tuple[str, ...]
    optimizer: Optimizer
    loss: Callable[[Batch, Memo, Nets, int], dict[str, Tensor]]
    turn: Turn = Turn()
    schedule: Schedule | None = None


class Stage:
    """A way of learning. Subclasses fill `networks` and give `phases`.

    Attributes:
        networks: by name; `network_g` is the one that is validated and exported.
        losses: the loss terms by option name.
        single_process_only: whether state in the forward pass forbids DataParallel.
        supplies: what the stage can give to losses that need more than images.
        ema_network: the moving average of `network_g`, in evaluation mode; the trainer sets it.
        views: how many times each sample is degraded; `positive` says what the views have in common.
        finds_unused: whether some parameters get no gradient in some iterations, which DDP must look for then.
    """

    single_process_only: ClassVar[bool] = False
    supplies: ClassVar[frozenset[str]] = frozenset()
    ema_network: nn.Module | None = None
    views: ClassVar[int] = 1
    positive: str = "same_image_same_degradation"
    finds_unused: bool = False

    def __init__(self, networks: Mapping[str, nn.Module], losses: Mapping[str, LossTerm]) -> None:
        self.networks, self.losses = dict(networks), dict(losses)

    @property
    def modules(self) -> list[nn.Module]:
        """Networks and losses."""
        return [*self.networks.values(), *(term.loss for term in self.losses.values())]

    def to(self, device: torch.device) -> None:
        """Move networks and losses to a device."""
        for module in self.modules:
            module.to(device)

    @classmethod
    def problems(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return what is wrong with checked options, as far as is seen without building: (option, sentence) pairs."""
        problems = []
        for name, term in values.get("losses", {}).items():
            if missing := set(getattr(term.factory, "needs", ())) - cls.supplies:
                message = f"`{term.name}` needs {', '.join(sorted(missing))}, which this stage does not have"
                problems.append((f"losses.{name}", message))
        return problems

    @classmethod
    def restores(cls, values: Mapping[str, Any]) -> bool:
        """Return whether a stage of these options learns super-resolution, so that its images are worth a number."""
        return True

    def phases(self) -> list[Phase]:
        """Return the phases of an iteration, in order."""
        raise NotImplementedError(f"{type(self).__name__} has no phases")

    def after_step(self) -> None:
        """Do what follows each iteration's phases."""

    def infer(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the super-resolved images (B, C, H, W) of a network with the generator's interface."""
        names = getattr(self.networks["network_g"], "conditions", ())  # DDP's wrapper does not tell
        return network(batch.lq, **batch.conditions(names))

    def extras(self, losses: Mapping[str, LossTerm], batch: Batch, step: int) -> dict[str, Tensor]:
        """Return what `weighted` hands to losses besides images: the moving average's output, in steps that need it."""
        if not any("sr_ema" in term.loss.needs and step % term.every == 0 for term in losses.values()):
            return {}
        assert self.ema_network is not None, "the trainer sets it when it enters a stage"
        with torch.no_grad():
            return {"sr_ema": self.infer(self.ema_network, batch)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state besides networks and optimizers, such as a queue."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


STAGES: Registry[Stage] = Registry(
    "stage", "models.stages", protocol=Stage, settings=StageSettings, context=("network_g", "scale")
)


def wrong_size(sr: Tensor, target: Tensor) -> str:
    """Say in words that a network's output has not the size of its target."""
    found, expected = ("x".join(map(str, image.shape[-2:])) for image in (sr, target))
    return f"network_g: gives {found} for a target of {expected}; expected `scale` times the sides of its input"


def weighted(
    losses: Mapping[str, LossTerm], sr: Tensor, targets: Mapping[str, Tensor], step: int, **extras: Tensor
) -> dict[str, Tensor]:
    """Return the weighted losses of an output under their option names, in float32 whatever autocast chose. Raises
    AgreedError for an output of another size than its target."""
    result = {}
    for target in targets.values():
        if sr.shape[-2:] != target.shape[-2:]:
            raise AgreedError(wrong_size(sr, target))
    with torch.autocast(sr.device.type, enabled=False):
        for name, term in losses.items():
            if step % term.every == 0:
                needed = {key: extras[key].float() for key in term.loss.needs}
                result[name] = term.weight_at(step) * term.loss(sr.float(), targets[term.target].float(), **needed)
    return result


def colour_drift(sr: Tensor, lq: Tensor) -> Tensor:
    """Return the largest difference of a batch's mean colour between output and input, in 8-bit levels; a scalar."""
    return (sr.detach().float().mean((0, 2, 3)) - lq.float().mean((0, 2, 3))).abs().max() * 255


def channels(network: Spec[Any]) -> int:
    """Return how many channels the images have that a network makes or judges: 3, or 1 of gray ones."""
    option = "num_out_ch" if getattr(network.factory, "role", "generator") == "generator" else "num_in_ch"
    return network.values.get(option, network.values.get("out_nc", 3))  # the latter of usrnet
