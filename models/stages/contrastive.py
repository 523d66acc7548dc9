"""The contrastive stage: an encoder learns what images have in common that were degraded alike (DASR, CDSR)."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degradations import Batch
from losses import LossTerm
from losses.contrastive import batch_logits, contrastive_logits, contrastive_loss
from models.stages.stage import STAGES, Memo, Nets, Phase, Stage, colour_drift, weighted
from utils.optim import Optim
from utils.options.fields import NonNegative, OptionError, Positive, PositiveInt, Prob
from utils.processes.distributed import AgreedError, all_gather, all_gather_differentiable, rank
from utils.seeding import torch_generator

Negatives = Literal["queue", "batch"]
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
        temperature: by which cosines are divided.
        negatives: what a query is told from: the `queue` of earlier keys, which a slowly following encoder made (MoCo;
            as released), or the other keys of its `batch`, which the encoder itself makes and learns from (SimCLR).
            Short trainings learn kernels from a batch, with a temperature of 0.2, and hardly from a queue
            (tests/benchmarks/SCIENCE.md). A batch is that of all ranks, but of one micro-batch.
        momentum, queue_size: MoCo's.
        positive: what a query and its key have in common. They are two views of a sample: two crops of one image
            degraded alike but for the noise; or crops of two images degraded alike; or one image, degraded anew.
        key_statistics: whether the key encoder of a queue normalises by its `own` batches (released), or by running
            statistics that follow the encoder's as its weights do (`momentum`).
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
        negatives: Negatives = "queue",
        momentum: Prob = 0.999,
        queue_size: PositiveInt = 8192,
        positive: Positives = "same_image_same_degradation",
        key_statistics: Literal["own", "momentum"] = "own",
        freeze_encoder_at: PositiveInt | None = None,
    ) -> None:
        encoder: Any = getattr(network_g, "encoder", None)
        if encoder is None:
            raise OptionError(f"{type(network_g).__name__} has no encoder to train; choose network_g dasr or cdsr")
        networks = {"network_g": network_g}
        self.keys: KeyEncoder | None = None
        if negatives == "queue":
            self.keys = networks["contrastive"] = KeyEncoder(encoder, encoder.dimension, queue_size)
            self.keys.encoder.train(key_statistics == "own")
        super().__init__(networks, losses)
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
        queries, positives, network = batch.view(0), batch.view(1).lq, nets["network_g"]
        others = positives if self.keys is None else None
        learning = self.freeze_encoder_at is None or step <= self.freeze_encoder_at
        due = any(step % term.every == 0 for term in self.losses.values())
        sr = None
        if not learning:
            with torch.no_grad():
                lq = queries.lq if others is None else torch.cat((queries.lq, others))
                embedding, projection = self.encoder(lq)
            sr = network(queries.lq, embedding=embedding[: len(queries.lq)]) if due else None
        elif due:
            sr, projection = network(queries.lq, task="both", others=others)
        else:
            projection = network(queries.lq, task="encode", others=others)
        result = {}
        if sr is not None:
            result = weighted(self.losses, sr, queries.targets, step, **self.extras(self.losses, queries, step))
            result["_colour_drift"] = colour_drift(sr, queries.lq)
        number = len(queries.lq)
        keys = projection[number:] if self.keys is None else self._keys(self.keys, positives, step)
        with torch.autocast(keys.device.type, enabled=False):
            logits, right = self._compared(projection[:number], keys)
            result["contrastive" if learning else "_contrastive"] = self.weight * contrastive_loss(logits, right)
        result["_contrastive_accuracy"] = (logits.detach().argmax(1) == right).float().mean()
        return result

    def _compared(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K), and which column is right in each row (B,), of queries and their own keys, (B, D).

        Raises AgreedError for a batch of one sample, which has no other keys.
        """
        if self.keys is not None:
            logits = contrastive_logits(queries.to(keys), keys, self.keys.queue, self.temperature)
            return logits, logits.new_zeros(len(logits), dtype=torch.long)
        dtype = torch.promote_types(keys.dtype, torch.float32)
        keys = all_gather_differentiable(keys.to(dtype))
        if len(keys) < 2:
            raise AgreedError("negatives: found one sample in a micro-batch, expected two or more for `batch`")
        own_columns = rank() * len(queries) + torch.arange(len(queries), device=keys.device)
        return batch_logits(queries.to(dtype), keys, self.temperature), own_columns

    @torch.no_grad()
    def _keys(self, encoder: KeyEncoder, positives: Tensor, step: int) -> Tensor:
        if not self._new_keys:  # once per iteration, not per micro-batch
            # Weights may have been loaded after construction; a new key encoder starts as their copy.
            momentum = self.momentum if step > 1 or encoder.loaded else 0.0
            encoder.follow(self.encoder, momentum, statistics=self.key_statistics == "momentum")
        keys = encoder(positives)
        self._new_keys.append(keys)
        return keys

    def after_step(self) -> None:
        if self.keys is not None:
            self.keys.enqueue(all_gather(torch.cat(self._new_keys)))
            self._new_keys = []

    @classmethod
    def problems(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        problems = super().problems(values)
        if not values.get("losses") and values.get("freeze_encoder_at") is not None:
            problems.append(("freeze_encoder_at", "nothing else is trained here: there are no `losses`"))
        if values.get("negatives") == "batch":
            problems += [
                (option, "is of the queue, which `negatives: batch` has not; take it out")
                for option in ("momentum", "queue_size", "key_statistics")
                if option in values
            ]
        return problems
