"""Contrastive learning with a queue of earlier keys, as a pure function of vectors."""

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


def contrastive_loss(logits: Tensor) -> Tensor:
    """Return InfoNCE: the cross-entropy of telling the positive in column 0 from all others; a scalar.

    >>> logits = contrastive_logits(torch.eye(2), torch.eye(2), torch.zeros(2, 3), temperature=0.07)
    >>> float(contrastive_loss(logits)) < 1e-5
    True
    """
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
