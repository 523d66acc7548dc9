"""Batch normalisation over one process or over all of them."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from utils.processes.distributed import all_mean, world_size

BatchStatistics = Literal["local", "global"]
"""Whose images make the mean and variance in training: those of one process, or of the whole batch over all ranks."""


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Normalise as `nn.BatchNorm2d`, in training by the statistics of all ranks' images, as if they were in one batch.

    Its gradients are exact, second ones too. It works on the CPU with gloo, which PyTorch's SyncBatchNorm does not, and
    in a run of one process it is `nn.BatchNorm2d` itself. Every rank must call it equally often, with images
    (B, C, H, W) of one shape.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise images, in their dtype; statistics are taken in float32 at least."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        over = (0, 2, 3)
        mean = all_mean(x.mean(over, keepdim=True))
        centred = x - mean
        # A second collective instead of the mean of squares: in float32 that cancels where the mean is large.
        variance = all_mean(centred.square().mean(over, keepdim=True))
        self._follow(mean.detach().flatten(), variance.detach().flatten(), x.numel() // x.shape[1] * world_size())
        result = centred * (variance + self.eps).rsqrt()
        if self.affine:
            result = result * self.weight[:, None, None] + self.bias[:, None, None]
        return result.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, the variance as its unbiased estimate from `count` values."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        assert self.momentum is not None, "a cumulative average is not built in"
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), self.momentum)


BATCH_NORMS: Mapping[BatchStatistics, type[nn.BatchNorm2d]] = {"local": nn.BatchNorm2d, "global": GlobalBatchNorm2d}
"""Both kinds have the same parameters and buffers."""
