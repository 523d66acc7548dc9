"""Initialisation and size checks that networks share."""

import math

import pytest
import torch

from models.network import NETWORKS
from models.networks.blocks import require_multiple


def test_rrdbnet_starts_with_small_dense_blocks() -> None:
    """Dense convolutions: 0.1 times Kaiming normal (fan-in, gain sqrt 2), no bias; the others PyTorch's default."""
    torch.manual_seed(0)
    network = NETWORKS.build({"type": "rrdbnet", "scale": 4, "num_block": 1})
    state = network.state_dict()
    for key, value in state.items():
        if key.startswith("body.") and key.endswith("weight"):
            fan_in = value.shape[1] * 9
            assert value.std().item() == pytest.approx(0.1 * math.sqrt(2 / fan_in), rel=0.05), key
        elif key.startswith("body."):
            assert not value.any(), key
    # PyTorch's default is uniform within 1 / sqrt(fan-in).
    assert state["conv_hr.weight"].abs().max().item() == pytest.approx(1 / 24, rel=0.01)
    assert state["conv_hr.bias"].any()


def test_require_multiple() -> None:
    require_multiple(torch.zeros(1, 3, 16, 24), 8, "net")
    with pytest.raises(ValueError, match=r"net: found an image of 16x20 \(height x width\).*multiples of 8"):
        require_multiple(torch.zeros(1, 3, 16, 20), 8, "net")
