"""The PSNR stage: one network, pixel (and other unadversarial) losses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from degradations import Batch
from losses import LossTerm
from models.stages.stage import STAGES, Memo, Nets, Phase, Stage, weighted
from utils.optim import Optim


@STAGES.register("psnr")
class PsnrStage(Stage):
    """Trains the generator alone on losses between its output and the target."""

    def __init__(self, network_g: nn.Module, losses: Mapping[str, LossTerm], optim_g: Optim = Optim()) -> None:  # noqa: B008 - frozen
        super().__init__({"network_g": network_g}, losses)
        self.refuse_needs()
        self.optimizer = optim_g.build(network_g.parameters())

    def phases(self) -> list[Phase]:
        return [Phase("g", ("network_g",), self.optimizer, self._loss)]

    def _loss(self, batch: Batch, memo: Memo, nets: Nets, step: int) -> dict[str, Tensor]:
        sr = self.infer(nets["network_g"], batch)
        memo["sr"] = sr.detach()
        return weighted(self.losses, sr, batch.targets, step)
