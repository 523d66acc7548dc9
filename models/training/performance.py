"""The `performance` section of an option file: how a step is computed, never what."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.stages.stage import Stage
from utils.options.fields import OptionError


@dataclass(frozen=True)
class Performance:
    """How a step is computed. Every setting gives the same numbers up to rounding, and may change at a resume.

    Precision is a setting of each stage.

    Attributes:
        channels_last: keep images and convolutions with the channels innermost, as tensor cores and most of the CPU's
            kernels want them.
        tf32: let GPUs multiply float32 numbers with ten bits of mantissa.
        fused: update all weights in one kernel, which leaves them alone by itself where a gradient is not finite, so
            that nobody waits to see. False updates one weight after the other, and waits.
        compile: torch.compile of networks and losses; `reduce-overhead` and `max-autotune` record CUDA graphs. The
            first iterations take minutes then.
        recompute: keep no activations within the blocks of a generator but compute them again for the gradient, which
            saves most of the memory and costs a third of the time (gradient checkpointing).
        prefetch: degrade the next batch, in a thread and on a stream of its own, while the step is computed. By default
            on GPUs.
    """

    channels_last: bool = True
    tf32: bool = True
    fused: bool = True
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none"
    recompute: bool = False
    prefetch: bool | None = None

    def prefetches(self, device: torch.device) -> bool:
        """Return whether batches are degraded ahead."""
        return device.type == "cuda" if self.prefetch is None else self.prefetch

    def lay_out(self, stage: Stage, device: torch.device) -> None:
        """Move a fresh stage to its device, in the memory format of its choice, and tell its optimizers how to
        update: before they are loaded, since fused ones keep their state elsewhere."""
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
            torch.backends.cudnn.benchmark = True  # a training step has the same shapes again and again
        stage.to(device)
        if self.channels_last:
            for module in stage.modules:
                module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if not self.fused:
            for phase in stage.phases():
                phase.optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
                for group in phase.optimizer.param_groups:
                    group["fused"] = False

    def speed_up(self, stage: Stage) -> None:
        """Change how a stage's parts are called; what they are called with, and their states, stay as they are.

        Raises OptionError if the generator names no blocks to recompute.
        """
        if self.recompute:
            recompute_blocks(stage.networks["network_g"])
        if self.compile != "none":
            for module in stage.modules:
                module.compile(mode=self.compile)

    def begin_step(self) -> None:
        """Say that what recorded graphs gave for the last step is no longer needed."""
        if self.compile in ("reduce-overhead", "max-autotune"):
            torch.compiler.cudagraph_mark_step_begin()


def recompute_blocks(network: nn.Module) -> None:
    """Let the blocks that a network names forget their activations. Raises OptionError if it names none."""
    names = getattr(network, "recomputable", ())
    if not names:
        raise OptionError(
            f"performance.recompute: {type(network).__name__} names no blocks to compute twice; leave it out"
        )
    for name in names:
        part = network.get_submodule(name)
        blocks = part if isinstance(part, (nn.Sequential, nn.ModuleList)) else [part]
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
