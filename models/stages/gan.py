"""The GAN stage: a generator and a discriminator in turn."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from degradations import Batch
from losses import LossTerm
from losses.gan import GanLoss
from models.network import Network
from models.stages.stage import STAGES, Memo, Nets, Phase, Stage, Turn, colour_drift, weighted
from utils.optim import Init, Optim, Schedule
from utils.options.components import Spec


@STAGES.register("gan")
class GanStage(Stage):
    """Adversarial training: phase `g` updates the generator against all losses, phase `d` the discriminator.

    Args:
        network_d: the discriminator.
        losses: by name; exactly one must be of type `gan`, and the discriminator sees the target that it names.
        optim_g, optim_d: the optimizer of either network.
        init_d: how the discriminator is filled before training.
        turn_g, turn_d: in which iterations a phase is due; KAIR's D_update_ratio and D_init_iters are
            `turn_g: {every, start}`.
        schedule_d: of the discriminator's rate; left out, the stage's `schedule`.
    """

    supplies: ClassVar[frozenset[str]] = frozenset({"fake_logits", "real_logits", "sr_ema"})

    def __init__(
        self,
        network_g: nn.Module,
        network_d: Spec[Network],
        losses: Mapping[str, LossTerm],
        optim_g: Optim = Optim(),  # noqa: B008 - frozen
        optim_d: Optim = Optim(),  # noqa: B008 - frozen
        init_d: Init = Init(),  # noqa: B008 - frozen
        turn_g: Turn = Turn(),  # noqa: B008 - frozen
        turn_d: Turn = Turn(),  # noqa: B008 - frozen
        schedule_d: Schedule | None = None,
    ) -> None:
        discriminator = network_d.build()
        init_d.apply(discriminator)
        super().__init__({"network_g": network_g, "network_d": discriminator}, losses)
        self.gan_name, self.gan_term, self.gan = next(
            (name, term, term.loss) for name, term in losses.items() if isinstance(term.loss, GanLoss)
        )
        self.plain_losses = {name: term for name, term in losses.items() if name != self.gan_name}
        self.optimizer_g = optim_g.build(network_g.parameters())
        self.optimizer_d = optim_d.build(discriminator.parameters())
        self.turn_g, self.turn_d, self.schedule_d = turn_g, turn_d, schedule_d

    @classmethod
    def problems(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        problems = super().problems(values)
        network_d = values["network_d"]
        if getattr(network_d.factory, "role", None) != "discriminator":
            problems.append(("network_d", f"`{network_d.name}` is a generator, expected a discriminator"))
        adversarial = [name for name, term in values["losses"].items() if term.factory is GanLoss]
        if len(adversarial) != 1:
            problems.append(("losses", f"found {len(adversarial)} of type `gan`, expected one"))
        return problems

    def phases(self) -> list[Phase]:
        return [
            Phase("g", ("network_g",), self.optimizer_g, self._loss_g, self.turn_g),
            Phase("d", ("network_d",), self.optimizer_d, self._loss_d, self.turn_d, self.schedule_d),
        ]

    def _loss_g(self, batch: Batch, memo: Memo, nets: Nets, step: int) -> dict[str, Tensor]:
        sr = self.infer(nets["network_g"], batch)
        memo["sr"] = sr.detach()
        extras = self.extras(self.plain_losses, batch, step)
        losses = weighted(self.plain_losses, sr, batch.targets, step, **extras)
        if step % self.gan_term.every == 0:
            discriminator = nets["network_d"]
            real = None
            if self.gan.needs_real:
                with torch.no_grad():
                    real = discriminator(batch.targets[self.gan_term.target]).float()
            fake = discriminator(sr).float()
            losses[self.gan_name] = self.gan_term.weight_at(step) * self.gan.generator(fake, real)
        return {**losses, "_colour_drift": colour_drift(sr, batch.lq)}

    def _loss_d(self, batch: Batch, memo: Memo, nets: Nets, step: int) -> dict[str, Tensor]:
        if "sr" not in memo:  # the generator's phase was not due
            with torch.no_grad():
                memo["sr"] = self.infer(nets["network_g"], batch)
        discriminator, real_image = nets["network_d"], batch.targets[self.gan_term.target]
        if keeps_statistics(self.networks["network_d"]):
            # Two passes, as published: batch statistics and spectral norms belong to one kind of image at a time.
            real, fake = discriminator(real_image).float(), discriminator(memo["sr"]).float()
        else:
            real, fake = discriminator(torch.cat([real_image, memo["sr"].to(real_image)])).float().chunk(2)
        losses = {"d": self.gan.discriminator(real, fake)}
        if self.gan.gradient_penalty:
            losses["d_penalty"] = self.gan.penalty(discriminator, real_image, memo["sr"], seed=step)
        losses["_d_real"], losses["_d_fake"] = real.detach().mean(), fake.detach().mean()
        losses["_d_accuracy"] = self.gan.accuracy(real.detach(), fake.detach())
        return losses


def keeps_statistics(network: nn.Module) -> bool:
    """Tell whether the forward pass depends on the whole batch, or changes the network: batch and spectral norms do."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) or hasattr(m, "weight_u") for m in network.modules())
