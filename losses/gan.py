"""Adversarial losses: what a generator and a discriminator make of the discriminator's logits."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import LOSSES, Loss
from utils.options.fields import NonNegative, Prob
from utils.processes.distributed import all_mean
from utils.seeding import torch_generator

Kind = Literal["vanilla", "ragan", "lsgan", "softplus", "hinge", "wgan"]


# What a discriminator minimises for logits of images that have a label: with them the logits are compared, and without
# them only whether images are real counts.
_TO_LABELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "vanilla": F.binary_cross_entropy_with_logits,
    "ragan": F.binary_cross_entropy_with_logits,
    "lsgan": F.mse_loss,
}
_TO_KIND: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "softplus": lambda logits, real: F.softplus(-logits if real else logits).mean(),
    "hinge": lambda logits, real: F.relu(1 - logits if real else 1 + logits).mean(),
    "wgan": lambda logits, real: -logits.mean() if real else logits.mean(),
}


@LOSSES.register("gan")
class GanLoss(Loss):
    """Judge by a discriminator's logits of any shape (B, …).

    Args:
        kind: `vanilla` (cross-entropy, Goodfellow et al. 2014); `softplus` (the same, written with softplus);
            `lsgan` (squares, Mao et al. 2017); `hinge` (Lim and Ye 2017); `wgan` (Arjovsky et al. 2017), which
            demands a gradient penalty; `ragan` (relativistic average, Jolicoeur-Martineau 2018), where logits count
            against the mean of the other kind's.
        gradient_penalty: weight of the discriminator's gradient penalty (10 in Gulrajani et al. 2017); 0 for none.
        mean_over: what ragan averages: the `batch`, so that each place of a logit map is compared with the same place
            (KAIR), or `all` logits (ESRGAN, RealSR).
        detach_means: whether ragan's discriminator sees the means as constants (KAIR) or learns through them as well
            (ESRGAN, RealSR). The values are equal.
        real_label, fake_label: what logits are compared with, of vanilla, ragan and lsgan; 0.9 smooths the real one
            (Salimans et al. 2016). A generator is told that its images are real.
        gather_means: average over all ranks, as if the global batch were on one device. Every rank must then
            come to this loss equally often.

    Attributes:
        needs_real: whether the generator's loss needs the logits of real images too.

    Raises:
        ValueError: for `wgan` without a gradient penalty: its critic is then unbounded; for labels of a kind that has
            none, or that are not real above fake.
    """

    needs: ClassVar[tuple[str, ...]] = ("fake_logits", "real_logits")

    def __init__(
        self,
        kind: Kind = "vanilla",
        gradient_penalty: NonNegative = 0.0,
        mean_over: Literal["batch", "all"] = "batch",
        detach_means: bool = True,
        gather_means: bool = False,
        real_label: Prob = 1.0,
        fake_label: Prob = 0.0,
    ) -> None:
        super().__init__()
        if (real_label, fake_label) != (1, 0) and kind not in _TO_LABELS:
            raise ValueError(f"real_label, fake_label: kind {kind} has no labels; {', '.join(_TO_LABELS)} have")
        if real_label <= fake_label:
            raise ValueError(f"real_label: found {real_label:g}, expected more than fake_label, {fake_label:g}")
        self.labels = (fake_label, real_label)
        if kind == "wgan" and not gradient_penalty > 0:
            raise ValueError("kind wgan needs a gradient_penalty above 0 (10 is usual): nothing else bounds the critic")
        self.kind, self.gradient_penalty = kind, gradient_penalty
        self.mean_over, self.detach_means, self.gather_means = mean_over, detach_means, gather_means
        self.needs_real = kind == "ragan"

    def _score(self, logits: Tensor, real: bool) -> Tensor:
        if self.kind in _TO_LABELS:
            return _TO_LABELS[self.kind](logits, torch.full_like(logits, self.labels[real]))
        return _TO_KIND[self.kind](logits, real)

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        """Return the generator's loss; images are not looked at."""
        return self.generator(extras["fake_logits"], extras.get("real_logits"))

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """Return what the generator minimises.

        Args:
            fake_logits: of its images, with gradient.
            real_logits: of real images, taken as constants; only ragan needs them.

        Raises:
            ValueError: for ragan without `real_logits`.
        """
        if self.kind == "ragan":
            if real_logits is None:
                raise ValueError("the ragan loss needs the logits of real images too")
            real = real_logits.detach()
            return (
                self._score(real - self._mean(fake_logits), False) + self._score(fake_logits - self._mean(real), True)
            ) / 2
        if self.kind in ("hinge", "wgan"):
            return -fake_logits.mean()
        return self._score(fake_logits, True)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return what the discriminator minimises: the sum of both kinds' losses (of ragan, half the sum)."""
        if self.kind == "ragan":
            mean_real, mean_fake = self._mean(real_logits), self._mean(fake_logits)
            if self.detach_means:
                mean_real, mean_fake = mean_real.detach(), mean_fake.detach()
            return (self._score(real_logits - mean_fake, True) + self._score(fake_logits - mean_real, False)) / 2
        return self._score(real_logits, True) + self._score(fake_logits, False)

    def accuracy(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the share of logits on the right side of the border between real and restored.

        It is the middle of the labels of lsgan, that of both means of kinds whose logits count only against one
        another, else 0.
        """
        border: Tensor | float = sum(self.labels) / 2 if self.kind == "lsgan" else 0.0
        if self.kind in ("ragan", "wgan"):
            border = (real_logits.mean() + fake_logits.mean()) / 2
        return ((real_logits > border).float().mean() + (fake_logits < border).float().mean()) / 2

    def penalty(self, discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, seed: int = 0) -> Tensor:
        """Return the weighted `gradient_penalty`, its mixtures drawn from `seed`: pass the optimizer step."""
        return self.gradient_penalty * gradient_penalty(discriminator, real, fake, torch_generator(seed))

    def _mean(self, logits: Tensor) -> Tensor:
        mean = logits.mean(0, keepdim=True) if self.mean_over == "batch" else logits.mean()
        return all_mean(mean) if self.gather_means else mean


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Measure how far the discriminator's slope is from 1 on random mixtures of images (Gulrajani et al. 2017).

    Args:
        discriminator: maps images to logits (B, …); a logit map counts with its mean, as it does in the loss.
        real: images (B, C, H, W).
        fake: images of the same shape; both are taken as constants.
        generator: draws one mixing share for each image, on the CPU, so that it does not depend on the device.

    Returns:
        The mean over images of (norm of the gradient - 1)², with a graph to the discriminator's parameters.
    """
    share = torch.rand(real.shape[0], 1, 1, 1, generator=generator).to(real, non_blocking=True)
    mixed = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_()
    with torch.enable_grad():
        logits = discriminator(mixed).float().reshape(real.shape[0], -1).mean(1)
        (slope,) = torch.autograd.grad(logits.sum(), mixed, create_graph=True)
    return ((slope.float().flatten(1).norm(dim=1) - 1) ** 2).mean()
