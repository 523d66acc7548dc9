"""Tiles against the whole image, and images of every size."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import NETWORKS
from models.networks.blocks import mirrored
from models.restoring.tiling import Blended, Context, TileMode, Whole, restored_bands


def image(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def tiling(tile: int | None, overlap: int = 32, mode: TileMode = "blend") -> Whole | Blended | Context:
    return Whole() if tile is None else Blended(tile, overlap) if mode == "blend" else Context(tile, overlap)


def restore_tiled(
    network_fn: Callable[[Tensor], Tensor],
    lq: Tensor,
    scale: int,
    tile: int | None,
    overlap: int = 32,
    size_multiple: int = 1,
    mode: TileMode = "blend",
    **options: Any,  # noqa: ANN401
) -> Tensor:
    """The bands, put together."""
    way = tiling(tile, overlap, mode)
    return torch.cat(list(restored_bands(network_fn, lq, scale, way, size_multiple=size_multiple, **options)), -2)


def nearest(scale: int):  # noqa: ANN201
    return lambda part: F.interpolate(part, scale_factor=scale, mode="nearest")


@pytest.mark.parametrize("mode", ["blend", "context"])
@pytest.mark.parametrize("tile, overlap", [(8, 0), (8, 1), (8, 3), (7, 6), (64, 32)])
@pytest.mark.parametrize("size", [(1, 1), (5, 40), (8, 8), (9, 23)])
def test_pointwise_network_is_exact(size: tuple[int, int], tile: int, overlap: int, mode: TileMode) -> None:
    lq = image(*size)
    assert torch.allclose(restore_tiled(nearest(3), lq, 3, tile, overlap, mode=mode), nearest(3)(lq), atol=1e-6)


@pytest.mark.parametrize(
    "length, tile, overlap, multiple", [(100, 32, 8, 1), (40, 16, 15, 1), (96, 30, 5, 4), (64, 64, 32, 2)]
)
def test_windows_cover_the_axis(length: int, tile: int, overlap: int, multiple: int) -> None:
    windows = Blended(tile, overlap).windows(length, scale=2, multiple=multiple)
    total = torch.zeros(2 * length)
    for start, weight in windows:
        assert start % multiple == 0 and len(weight) == len(windows[0][1])  # phase kept, one size
        total[2 * start : 2 * start + len(weight)] += weight
    assert torch.allclose(total, torch.ones_like(total))
    for (a, weight), (b, _) in itertools.pairwise(windows):
        assert a + len(weight) // 2 - b >= overlap


def test_border_of_a_tile_does_not_count() -> None:
    """A network that is wrong at the edge of its input is right everywhere but at the image's own edge."""

    def wrong_at_edge(part: Tensor) -> Tensor:
        out = torch.full_like(part, 9.0)
        out[..., 2:-2, 2:-2] = part[..., 2:-2, 2:-2]
        return out

    lq = image(50, 61)
    sr = restore_tiled(wrong_at_edge, lq, 1, 24, 8)
    assert torch.allclose(sr[..., 2:-2, 2:-2], lq[..., 2:-2, 2:-2], atol=1e-6)
    assert not torch.allclose(restore_tiled(wrong_at_edge, lq, 1, 24, 2)[..., 2:-2, 2:-2], lq[..., 2:-2, 2:-2])


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("size", [(16, 40), (1, 1), (37, 45)])
def test_tiles_with_as_much_context_as_the_network_sees_are_exact(size: tuple[int, int], multiple: int) -> None:
    """Equal to the whole image wherever context ends at the image; one pixel less shows at the seams alone."""
    shapes: list[torch.Size] = []

    def blur(part: Tensor) -> Tensor:
        assert part.shape[-2] % multiple == part.shape[-1] % multiple == 0
        shapes.append(part.shape)
        return F.avg_pool2d(part, 7, stride=1, padding=3)

    lq = image(*size)
    whole = restore_tiled(blur, lq, 1, None, size_multiple=multiple)
    assert torch.equal(restore_tiled(blur, lq, 1, 16, 3, multiple, "context"), whole)
    most = 16 + 2 * (3 + -3 % multiple)
    assert max(max(shape[-2:]) for shape in shapes[1:]) <= most, "memory depends on tile and context alone"
    if multiple == 1 and size == (37, 45):
        wrong = (restore_tiled(blur, lq, 1, 16, 2, mode="context") != whole).any(1)[0]
        assert sorted({*wrong[0].nonzero().flatten().tolist()}) == [15, 16, 31, 32]


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("mode", ["blend", "context"])
@pytest.mark.parametrize(
    "size, tile, overlap", [((23, 70), 16, 5), ((70, 23), 8, 7), ((5, 9), None, 0), ((40, 40), 4, 9)]
)
def test_batches_and_threads_change_nothing(
    size: tuple[int, int], tile: int | None, overlap: int, mode: TileMode, threaded: bool
) -> None:
    """Of tiles of one size as many as are allowed go into a call; an image of two samples stays one of two."""
    overlap, lq = min(overlap, 3) if mode == "blend" and tile == 4 else overlap, image(*size).expand(2, -1, -1, -1)
    shapes: list[torch.Size] = []

    def blur(part: Tensor) -> Tensor:
        shapes.append(part.shape)
        return F.avg_pool2d(F.interpolate(part, scale_factor=2.0), 9, stride=1, padding=4)

    one_by_one = restore_tiled(blur, lq, 2, tile, overlap, 2, mode)
    single, calls = len(shapes), shapes[:]
    shapes.clear()
    together = restore_tiled(blur, lq, 2, tile, overlap, 2, mode, batch=3, threaded=threaded)
    assert together.shape == (2, 3, 2 * size[0], 2 * size[1]) and torch.allclose(together, one_by_one, atol=1e-6)
    assert sum(shape[0] for shape in shapes) == 2 * single and max(shape[0] for shape in shapes) <= 6
    assert {shape[-2:] for shape in shapes} == {shape[-2:] for shape in calls}
    if tile is not None and size[1] == 70:
        assert len(shapes) < single


@pytest.mark.parametrize("mode", ["blend", "context"])
def test_rows_are_given_as_soon_as_they_are_done(mode: TileMode) -> None:
    """So that no more than a row of tiles is held; in bands that are easily rounded, from integers too."""
    seen: list[int] = []

    def count(part: Tensor) -> Tensor:
        assert part.dtype == torch.uint8
        seen.append(1)
        return nearest(2)(part.float())

    lq = (image(300, 90) * 255).to(torch.uint8)
    bands = restored_bands(count, lq, 2, tiling(100, 10, mode))
    heights, calls = zip(*((band.shape[-2], len(seen)) for band in bands), strict=True)
    assert sum(heights) == 600 and max(heights) <= 128 and calls[0] == 1 and calls[-1] == len(seen) >= 3


@pytest.mark.parametrize("mode", ["blend", "context"])
def test_a_failing_tile_is_no_result(mode: TileMode) -> None:
    done: list[Tensor] = []

    def fail_later(part: Tensor) -> Tensor:
        done.append(part)
        if len(done) == 3:
            raise RuntimeError("out of something")
        return part

    with pytest.raises(RuntimeError, match="out of something"):
        restore_tiled(fail_later, image(20, 20), 1, 8, 2, mode=mode)


@pytest.mark.parametrize("options", [{"scale": 4}, {"scale": 2, "upsampling": "unshuffle"}])
def test_rrdbnet_differs_by_less_than_a_level(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    small = {"type": "rrdbnet", "num_feat": 16, "num_block": 3, "num_grow_ch": 8}
    network = NETWORKS.build({**small, **options}).eval()
    for weight in network.parameters():
        if weight.dim() > 1:  # larger than the damped initialisation, so that the surroundings count
            torch.nn.init.kaiming_normal_(weight, a=0.2)
    sizes: list[tuple[int, ...]] = []
    lq = image(93, 110)

    def run(part: Tensor) -> Tensor:
        sizes.append(tuple(part.shape[-2:]))
        return network(part)

    with torch.no_grad():
        whole = restore_tiled(run, lq, network.scale, None, size_multiple=network.size_multiple)
        tiled = restore_tiled(run, lq, network.scale, 64, 32, network.size_multiple)
    assert whole.shape[-2:] == (93 * network.scale, 110 * network.scale) == tiled.shape[-2:]
    assert len(sizes) == 1 + 2 * 3 and set(sizes[1:]) == {(64, 64)}
    assert float((whole - tiled).abs().max() / whole.std()) < 1 / 255


@pytest.mark.parametrize("margin", [(0, 0), (0, 1), (3, 2), (12, 25)])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (5, 8)])
def test_padding(size: tuple[int, int], margin: tuple[int, int]) -> None:
    """As NumPy, which mirrors small images to and fro."""
    lq = image(*size)
    expected = np.pad(lq.numpy(), ((0, 0), (0, 0), (0, margin[0]), (0, margin[1])), mode="reflect")
    np.testing.assert_array_equal(mirrored(lq, *margin).numpy(), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 4), (5, 8)])
def test_networks_of_a_size_multiple_take_every_size(size: tuple[int, int]) -> None:
    lq = image(*size)
    network = NETWORKS.build({"type": "rrdbnet", "scale": 1, "num_feat": 4, "num_block": 1, "num_grow_ch": 4})
    with torch.no_grad():
        assert restore_tiled(network, lq, 1, None, size_multiple=4).shape == lq.shape


def test_wrong_use_is_told() -> None:
    with pytest.raises(ValueError, match="overlap by 8, expected 0 to 7"):
        restore_tiled(nearest(2), image(9, 9), 2, 8, 8)
    with pytest.raises(ValueError, match="expected scale 3"):
        restore_tiled(nearest(2), image(9, 9), 3, None)
