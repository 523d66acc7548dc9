"""The contrastive stage: an encoder learns what images have in common that were degraded alike (DASR, CDSR)."""

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
from utils.optim import Optim
from utils.options.fields import NonNegative, OptionError, Positive, PositiveInt, Prob
from utils.processes.distributed import AgreedError, all_gather
from utils.seeding import torch_generator

Positives = Literal["same_image_same_degradation", "other_image_same_degradation", "same_image_other_degradation"]


class KeyEncoder(nn.Module):
    """A slowly following copy of an encoder, and the queue of its newest keys (He et al., MoCo, CVPR 2020).

    Its state is part of a checkpoint: weights, `queue` (dimension, K) of unit columns, at first random directions, and
    `queue_ptr`, the column to be overwritten next. `loaded` tells whether it came from a checkpoint.
    """

    queue: Tensor
    queue_ptr: Tensor
    loaded = False

    def __init__(self, encoder: nn.Module, dimension: int, size: int) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder).requires_grad_(False)
        directions = torch.randn(dimension, size, generator=torch_generator(size))
        self.register_buffer("queue", F.normalize(directions, dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "loaded", True))

    def forward(self, lq: Tensor) -> Tensor:
        """Return unit keys (B, dimension) of images (B, 3, h, w)."""
        return F.normalize(self.encoder(lq)[1].to(self.queue), dim=1)

    @torch.no_grad()
    def follow(self, encoder: nn.Module, momentum: float, statistics: bool) -> None:
        """Set key = momentum · key + (1 - momentum) · query, for parameters and, if asked, for running statistics."""
        torch._foreach_lerp_(list(self.encoder.parameters()), list(encoder.parameters()), 1 - momentum)
        for key, query in zip(self.encoder.buffers(), encoder.buffers(), strict=True) if statistics else ():
            saved = all_gather(query[None])[0]  # the main process's, so that a resume finds them on all
            if key.is_floating_point():
                key.lerp_(saved, 1 - momentum)
            else:
                key.copy_(saved)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put (B, dimension) keys in the place of the oldest; B need not divide the queue's size.

        Raises AgreedError for more keys than the queue holds.
        """
        size = self.queue.shape[1]
        if len(keys) > size:
            raise AgreedError(f"queue_size: found {size}, expected at least {len(keys)}, the keys of one iteration")
        columns = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % size
        self.queue[:, columns] = keys.nan_to_num(0).T  # a step with NaN is skipped; later ones must not see it
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
        freeze_encoder_at: the iteration after which the encoder's parameters stay, whatever `losses` want. It goes on
            to normalise by batches and to fill the queue, as released.

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
        encoder: Any = getattr(network_g, "encoder", None)
        if encoder is None:
            raise OptionError(f"{type(network_g).__name__} has no encoder to train; choose network_g dasr or cdsr")
        self.keys = KeyEncoder(encoder, encoder.dimension, queue_size)
        self.keys.encoder.train(key_statistics == "own")
        super().__init__({"network_g": network_g, "contrastive": self.keys}, losses)
        self.encoder = encoder
        self.optimizer = optim_g.build(network_g.parameters())
        self.weight, self.temperature, self.momentum, self.positive = weight, temperature, momentum, positive
        self.key_statistics, self.freeze_encoder_at = key_statistics, freeze_encoder_at
        # In some iterations then only the encoder gets a gradient, or only the rest.
        self.finds_unused = freeze_encoder_at is not None or all(term.every > 1 for term in losses.values())
        self._new_keys: list[Tensor] = []

    @classmethod
    def restores(cls, values: Mapping[str, Any]) -> bool:
        return bool(values.get("losses"))

    def phases(self) -> list[Phase]:
        return [Phase("g", ("network_g",), self.optimizer, self._loss)]

    def _loss(self, batch: Batch, memo: Memo, nets: Nets, step: int) -> dict[str, Tensor]:
        queries, network = batch.view(0), nets["network_g"]
        learning = self.freeze_encoder_at is None or step <= self.freeze_encoder_at
        due = any(step % term.every == 0 for term in self.losses.values())
        sr = None
        if not learning:
            with torch.no_grad():
                embedding, projection = self.encoder(queries.lq)
            sr = network(queries.lq, embedding=embedding) if due else None
        elif due:
            sr, projection = network(queries.lq, task="both")
        else:
            projection = network(queries.lq, task="encode")
        result = {}
        if sr is not None:
            result = weighted(self.losses, sr, queries.targets, step, **self.extras(self.losses, queries, step))
            result["_colour_drift"] = colour_drift(sr, queries.lq)
        keys = self._keys(batch.view(1).lq, step)
        with torch.autocast(keys.device.type, enabled=False):
            logits = contrastive_logits(projection.to(keys), keys, self.keys.queue, self.temperature)
            result["contrastive" if learning else "_contrastive"] = self.weight * contrastive_loss(logits)
        result["_contrastive_accuracy"] = (logits.detach().argmax(1) == 0).float().mean()
        return result

    @torch.no_grad()
    def _keys(self, positives: Tensor, step: int) -> Tensor:
        if not self._new_keys:  # once per iteration, not per micro-batch
            # Weights may have been loaded after construction; a new key encoder starts as their copy.
            momentum = self.momentum if step > 1 or self.keys.loaded else 0.0
            self.keys.follow(self.encoder, momentum, statistics=self.key_statistics == "momentum")
        keys = self.keys(positives)
        self._new_keys.append(keys)
        return keys

    def after_step(self) -> None:
        self.keys.enqueue(all_gather(torch.cat(self._new_keys)))
        self._new_keys = []

    @classmethod
    def problems(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        problems = super().problems(values)
        if not values.get("losses") and values.get("freeze_encoder_at") is not None:
            problems.append(("freeze_encoder_at", "nothing else is trained here: there are no `losses`"))
        return problems
