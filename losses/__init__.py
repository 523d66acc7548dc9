"""Training losses, each chosen by name from an option file."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from utils.options.components import Registry
from utils.options.fields import Count, NonNegative, PositiveInt


class Loss(nn.Module):
    """Say how bad an image is, as a scalar to minimise.

    `forward(sr, target, **extras)` takes images (B, C, H, W) in [0, 1] and returns a scalar without its weight.

    >>> import torch
    >>> loss = LOSSES.build({"type": "charbonnier", "eps": 1e-12}).loss
    >>> float(loss(torch.full((1, 3, 8, 8), 0.75), torch.full((1, 3, 8, 8), 0.5)))
    0.25

    Attributes:
        needs: names of further inputs that the stage must supply as keywords: `sr_ema`, `lq`, logits.
        compares: whether the target counts; else it is a wish about the output alone.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = True

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not compute a loss")


@dataclass(frozen=True)
class LossTerm:
    """A loss as it stands in an option file: its weight, the target it sees, and in which iterations it counts.

    Args:
        weight: what the loss is multiplied by.
        target: what the output is compared with: the `plain` ground truth, or the sharpened one (`usm`) of a
            degradation that gives it.
        every: counts in every so many iterations.
        ramp: over the first so many iterations of a stage the weight grows linearly from nothing.
    """

    loss: Loss
    weight: NonNegative = 1.0
    target: Literal["plain", "usm"] = "plain"
    every: PositiveInt = 1
    ramp: Count = 0

    def weight_at(self, step: int) -> float:
        """Return the weight in the step with this number (from 1)."""
        return self.weight * min(1.0, step / self.ramp) if self.ramp else self.weight


LOSSES: Registry[LossTerm] = Registry("loss", "losses", protocol=Loss, entry=LossTerm)
