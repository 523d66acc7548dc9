"""The PSNR stage: one network, pixel (and other unadversarial) losses."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from degradations import Batch
from losses import LossTerm
from models.stages.stage import STAGES, Memo, Nets, Phase, Stage, colour_drift, weighted
from utils.optim import Optim


@STAGES.register("psnr")
class PsnrStage(Stage):
    """Trains the generator alone on losses between its output and the target.

    Args:
        losses: by name.
        optim_g: its optimizer.
    """

    supplies: ClassVar[frozenset[str]] = frozenset({"sr_ema"})

    def __init__(self, network_g: nn.Module, losses: Mapping[str, LossTerm], optim_g: Optim = Optim()) -> None:  # noqa: B008 - frozen
        super().__init__({"network_g": network_g}, losses)
        self.optimizer = optim_g.build(network_g.parameters())

    def phases(self) -> list[Phase]:
        return [Phase("g", ("network_g",), self.optimizer, self._loss)]

    def _loss(self, batch: Batch, memo: Memo, nets: Nets, step: int) -> dict[str, Tensor]:
        sr = self.infer(nets["network_g"], batch)
        memo["sr"] = sr.detach()
        losses = weighted(self.losses, sr, batch.targets, step, **self.extras(self.losses, batch, step))
        return {**losses, "_colour_drift": colour_drift(sr, batch.lq)}
