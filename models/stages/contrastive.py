"""The contrastive stage: an encoder learns what images have in common that were degraded alike (DASR, CDSR)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degradations import Batch
from losses import LossTerm
from losses.contrastive import contrastive_logits, contrastive_loss
from models.stages.stage import STAGES, Memo, Nets, Phase, Stage, colour_drift, weighted
from utils.distributed import all_gather
from utils.fields import NonNegative, OptionError, Positive, PositiveInt, Prob
from utils.optim import Optim
from utils.seeding import torch_generator

Positives = Literal["same_image_same_degradation", "other_image_same_degradation", "same_image_other_degradation"]
DIMENSION = 256


class KeyEncoder(nn.Module):
    """A slowly following copy of the encoder, and the queue of its newest keys (He et al., MoCo, CVPR 2020).

    Its state (weights, `queue` (256, K) of unit columns, `queue_ptr` the column to be overwritten next) is part of a
    checkpoint. The queue starts with random directions.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(self, encoder: nn.Module, size: int) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder).requires_grad_(False)
        field = torch.randn(DIMENSION, size, generator=torch_generator(size))
        self.register_buffer("queue", F.normalize(field, dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def follow(self, encoder: nn.Module, momentum: float, buffers: bool) -> None:
        """key = momentum · key + (1 - momentum) · query, for parameters and, if asked, for running statistics."""
        pairs: list[tuple[Tensor, Tensor]] = list(zip(self.encoder.parameters(), encoder.parameters(), strict=True))
        if buffers:
            pairs.extend(zip(self.encoder.buffers(), encoder.buffers(), strict=True))
        for key, query in pairs:
            if key.is_floating_point():
                key.mul_(momentum).add_(query.detach(), alpha=1 - momentum)
            else:
                key.copy_(query)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Puts (B, 256) unit keys in the place of the oldest; any B up to the queue's size, round its end too."""
        size = self.queue.shape[1]
        columns = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % size
        self.queue[:, columns] = keys.T.to(self.queue.dtype)
        self.queue_ptr.copy_((self.queue_ptr + len(keys)) % size)


@STAGES.register("contrastive")
class ContrastiveStage(Stage):
    """Trains a network with an encoder (`dasr`, `cdsr`) by a contrastive loss and, where `losses` are given, jointly
    for super-resolution. Without them only the encoder learns.

    Args:
        losses: between the output and the first view's target.
        optim_g: over encoder and super-resolution network alike.
        weight: of the contrastive loss.
        temperature, momentum, queue_size: MoCo's.
        positive: what a query and its key have in common. They are two views of a sample: two crops of one image
            degraded alike but for the noise; or crops of two images degraded alike; or one image, degraded anew.
        key_statistics: whether the key encoder normalises by its `own` batches (released), or by running statistics
            that follow the encoder's as its weights do (`momentum`).
        freeze_encoder_at: the iteration after which the encoder learns no more, neither contrastively nor from
            `losses`.

    Keys of all ranks and micro-batches enter the queue after each iteration, in the order of the samples.
    """

    single_process_only: ClassVar[bool] = True  # DataParallel's replicas would lose the queue
    supplies: ClassVar[frozenset[str]] = frozenset({"sr_ema"})
    views: ClassVar[int] = 2

    def __init__(
        self,
        network_g: nn.Module,
        losses: Mapping[str, LossTerm] = {},  # noqa: B006 - never written to
        optim_g: Optim = Optim(),  # noqa: B008 - frozen
        weight: NonNegative = 1.0,
        temperature: Positive = 0.07,
        momentum: Prob = 0.999,
        queue_size: PositiveInt = 8192,
        positive: Positives = "same_image_same_degradation",
        key_statistics: Literal["own", "momentum"] = "own",
        freeze_encoder_at: PositiveInt | None = None,
    ) -> None:
        encoder = getattr(network_g, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise OptionError(f"{type(network_g).__name__} has no encoder to train; choose network_g dasr or cdsr")
        self.keys = KeyEncoder(encoder, queue_size)
        super().__init__({"network_g": network_g, "contrastive": self.keys}, losses)
        self.refuse_needs()
        self.encoder = encoder
        self.optimizer = optim_g.build(network_g.parameters())
        self.weight, self.temperature, self.momentum = weight, temperature, momentum
        self.positive = positive
        self.key_statistics, self.freeze_encoder_at = key_statistics, freeze_encoder_at
        # Which parameters get a gradient depends on the iteration, or is the encoder's alone.
        self.finds_unused = not losses or freeze_encoder_at is not None
        self._new_keys: list[Tensor] = []
        self._followed = 0

    def phases(self) -> list[Phase]:
        return [Phase("g", ("network_g",), self.optimizer, self._loss)]

    def _loss(self, batch: Batch, memo: Memo, nets: Nets, step: int) -> dict[str, Tensor]:
        queries = batch.view(0)
        learning = self.freeze_encoder_at is None or step <= self.freeze_encoder_at
        if not learning:
            with torch.no_grad():
                embedding, projection = self.encoder(queries.lq)
            sr = nets["network_g"](queries.lq, embedding=embedding)
        elif self.losses:
            sr, projection = nets["network_g"](queries.lq, task="both")
        else:
            sr, projection = None, nets["network_g"](queries.lq, task="encode")
        result = {}
        if sr is not None:
            extras = self.extras(self.losses, queries, step)
            result = weighted(self.losses, sr, queries.targets, step, **extras)
            result["_colour_drift"] = colour_drift(sr, queries.lq)
        with torch.autocast(projection.device.type, enabled=False):
            logits = self._logits(projection.float(), batch.view(1).lq, step)
            contrast = self.weight * contrastive_loss(logits)
        result["contrastive" if learning else "_contrastive"] = contrast
        result["_contrastive_accuracy"] = (logits.detach().argmax(1) == 0).float().mean()
        return result

    def _logits(self, projection: Tensor, positives: Tensor, step: int) -> Tensor:
        with torch.no_grad():
            if self._followed != step:  # once per iteration, not per micro-batch
                self.keys.follow(self.encoder, self.momentum, buffers=self.key_statistics == "momentum")
                self._followed = step
            self.keys.encoder.train(self.key_statistics == "own")
            keys = F.normalize(self.keys.encoder(positives)[1].float(), dim=1)
        self._new_keys.append(keys)
        return contrastive_logits(projection, keys, self.keys.queue, self.temperature)

    def after_step(self) -> None:
        if self._new_keys:
            self.keys.enqueue(all_gather(torch.cat(self._new_keys)))
            self._new_keys = []

    @classmethod
    def problems(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        found = super().problems(values)
        if not values.get("losses") and values.get("freeze_encoder_at") is not None:
            found.append(("freeze_encoder_at", "nothing else is trained here: there are no `losses`"))
        return found
