"""Contrastive learning with a queue of earlier keys, as a pure function of vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_logits(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Similarities of each query with its own key and with all of a queue (He et al., MoCo, CVPR 2020, Eq. 1).

    Args:
        queries, keys: (B, D); normalised here. Keys and queue are constants.
        queue: (D, K) unit columns.
        temperature: divides the cosines.

    Returns:
        (B, 1 + K): the positive in column 0, so the target class is 0 everywhere.
    """
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys.detach(), dim=1)
    positive = (queries * keys).sum(1, keepdim=True)
    return torch.cat([positive, queries @ queue.detach()], 1) / temperature


def contrastive_loss(logits: Tensor) -> Tensor:
    """InfoNCE: the cross-entropy of telling the positive in column 0 from all others; a scalar."""
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
