"""Contrastive learning, with a queue of earlier keys or within a batch, as pure functions of vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_logits(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Compare each query with its own key and with all of a queue (He et al., MoCo, CVPR 2020, Eq. 1).

    Args:
        queries: (B, D) of any length; normalised here.
        keys: (B, D) of length 1.
        queue: (D, K), columns of length 1.
        temperature: divides the cosines.

    Returns:
        (B, 1 + K): the positive in column 0, so the target class is 0 everywhere.
    """
    queries = F.normalize(queries, dim=1)
    positive = (queries * keys).sum(1, keepdim=True)
    return torch.cat([positive, queries @ queue], 1) / temperature


def contrastive_loss(logits: Tensor, positives: Tensor | None = None) -> Tensor:
    """Return InfoNCE: the cross-entropy of telling the positive from all others; a scalar.

    Args:
        logits: (B, K).
        positives: which column is the positive's (B,); left out, the first.

    >>> logits = contrastive_logits(torch.eye(2), torch.eye(2), torch.zeros(2, 3), temperature=0.07)
    >>> float(contrastive_loss(logits)) < 1e-5
    True
    """
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long) if positives is None else positives)


def batch_logits(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Compare each query with all keys of a batch, of which one is its own (Chen et al., SimCLR, ICML 2020, Eq. 1,
    without queries among the negatives).

    Args:
        queries: (B, D) of any length; normalised here.
        keys: (K, D) likewise.
        temperature: divides the cosines.

    Returns:
        (B, K).
    """
    return F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
