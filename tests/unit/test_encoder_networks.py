"""DASR and CDSR beyond their goldens: any size, what steers them, what is given back, what their files tell."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.network import NETWORKS
from models.networks.blocks import EncoderNetwork
from models.weights.guess import guess_network
from models.weights.load import load_weights

SMALL: dict[str, dict[str, Any]] = {
    "dasr": {"num_feat": 8, "num_group": 2, "num_block": 3, "encoder_feat": 4},
    "cdsr": {"num_feat": 8, "num_block": 2, "num_grow_ch": 4, "encoder_feat": 4, "num_code": 16},
}


def small(name: str, scale: int = 2, **options: float | str) -> Any:  # noqa: ANN401
    torch.manual_seed(0)
    network = NETWORKS.build({"type": name, "scale": scale, **SMALL[name], **options}).eval().requires_grad_(False)
    assert isinstance(network, EncoderNetwork)
    return network


def image(*size: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (11, 30), (12, 12), (37, 25)])
@pytest.mark.parametrize("name", SMALL)
def test_any_size(name: str, size: tuple[int, int]) -> None:
    sr = small(name, 3)(image(*size))
    assert sr.shape == (2, 3, 3 * size[0], 3 * size[1]) and torch.isfinite(sr).all()


def test_cdsr_mirrors_small_images_for_its_patches() -> None:
    encoder, lq = small("cdsr").encoder, image(7, 14)
    seen: list[Tensor] = []
    encoder.pconv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(lq)
    expected = np.pad(lq.numpy(), ((0, 0), (0, 0), (0, 5), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(seen[0].numpy(), expected)


def test_cdsr_patches_ignore_what_no_whole_tile_covers() -> None:
    encoder, lq = small("cdsr").encoder, image(30, 26)
    cropped = torch.zeros_like(lq)
    cropped[..., :24, :24] = lq[..., :24, :24]
    patches = [encoder.pconv4(encoder.pconv3(encoder.pconv2(encoder.pconv1(each)))) for each in (lq, cropped)]
    assert patches[0].shape == (2, 16, 2, 2) and torch.equal(*patches)


def test_cdsr_may_see_detail_relative_to_its_size_in_both_branches() -> None:
    """So contrast and brightness of an image do not count, and one colour is nothing."""
    encoder, lq = small("cdsr", pixels="relative_detail").encoder, image(20, 25)
    with torch.no_grad():
        for given in encoder.given(lq):
            torch.testing.assert_close(given.square().mean((1, 2, 3)), torch.ones(len(lq)), rtol=1e-3, atol=0)
        torch.testing.assert_close(encoder(lq)[0], encoder(0.5 * lq + 0.3)[0], rtol=1e-3, atol=1e-4)
        assert not any(given.any() for given in encoder.given(torch.full((1, 3, 20, 25), 0.5)))
        assert encoder(lq[..., :5, :7])[0].isfinite().all()


def test_cdsr_may_see_the_detail_of_pixels_alone() -> None:
    encoder, lq = small("cdsr", pixels="detail").encoder, image(20, 25)
    seen: list[Tensor] = []
    encoder.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(lq)
    encoder(0.5 * lq + torch.linspace(0, 0.5, 25))
    padded = np.pad(lq.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    np.testing.assert_allclose(seen[0], lq.numpy() - np.nanmean(windows, (-1, -2)), atol=1e-6)
    torch.testing.assert_close(seen[1][..., 1:-1], 0.5 * seen[0][..., 1:-1])


@pytest.mark.parametrize("name", SMALL)
def test_embedding_and_tasks(name: str) -> None:
    network, lq = small(name), image(16, 18)
    embedding, projection = network.encoder(lq)
    assert embedding.shape == projection.shape == (2, network.encoder.dimension) == (2, 16)
    sr = network(lq)
    assert torch.equal(network(lq, embedding), sr)
    assert torch.equal(network(lq, task="encode"), projection)
    both = network(lq, task="both")
    assert torch.equal(both[0], sr) and torch.equal(both[1], projection)
    network.E = None  # a given embedding needs no encoder
    swapped = network(lq, embedding.flip(0))
    assert not torch.equal(swapped, sr)
    torch.testing.assert_close(swapped[:1], network(lq[:1], embedding[1:]))


@pytest.mark.parametrize("name", SMALL)
def test_a_fixed_embedding_takes_the_place_of_any(name: str) -> None:
    """Also of one that is given, as a frozen encoder's is; what the contrastive loss sees stays the encoder's."""
    network, learned, lq = small(name, fixed_embedding=0.5), small(name), image(16, 18)
    embedding = learned.encoder(lq)[0]
    expected = learned(lq, torch.full_like(embedding, 0.5))
    assert torch.equal(network(lq), expected) and torch.equal(network(lq, embedding), expected)
    assert torch.equal(network(lq, task="encode"), learned(lq, task="encode"))


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("name", SMALL)
def test_files_tell_all_options(name: str, scale: int) -> None:
    state = small(name, scale).state_dict()
    guess = guess_network(state)
    assert guess == {"type": name, "scale": scale, **SMALL[name]}
    assert load_weights(NETWORKS.build(guess), state).complete


def test_nothing_trains_the_mean_shift() -> None:
    """A trainer switches gradients of whole networks on and off."""
    network = small("dasr").requires_grad_(True)
    assert not any("_mean" in name for name, _ in network.named_parameters())
    assert "G.sub_mean.bias" in network.state_dict()
    torch.testing.assert_close(network.G.add_mean(network.G.sub_mean(image(4, 4))), image(4, 4), atol=1e-4, rtol=0)
