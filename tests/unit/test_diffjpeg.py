"""The floating-point JPEG: its Ragged semantics, its limits, and the step that chooses it. Values: golden tests."""

import numpy as np
import pytest
import torch

from degradations import STEPS, Ragged, State
from degradations.operations.diffjpeg import diffjpeg, diffjpeg_ragged

SIZES = [(16, 16), (21, 37), (1, 5), (40, 33), (33, 48)]


def pictures() -> list[torch.Tensor]:
    return [torch.rand(3, *size, generator=torch.Generator().manual_seed(i)) for i, size in enumerate(SIZES)]


def test_mixed_batch_equals_one_by_one_and_never_reads_padding() -> None:
    batch = Ragged.pack(pictures())
    for row, (h, w) in zip(batch.data, batch.sizes, strict=True):
        row[:, h:] = float("nan")
        row[:, :, w:] = float("nan")
    qualities = [30.5, 95, 61.2, 44, 79.9]
    together = diffjpeg_ragged(batch, qualities)
    assert together.sizes == batch.sizes
    for image, quality, result in zip(pictures(), qualities, together.images(), strict=True):
        # A coefficient at a tie may round to the other side for a last bit of difference.
        assert ((result - diffjpeg(image[None], quality)[0]).abs() > 1e-5).float().mean() < 0.02


def test_best_quality_is_finite() -> None:
    """The released code divides by 0 at 100."""
    image = torch.rand(2, 3, 32, 48).round(decimals=1)
    best, almost = diffjpeg(image, 100), diffjpeg(image, 99.95)
    assert torch.isfinite(best).all() and (best - almost).abs().max() < 1e-3
    assert (best - diffjpeg(image, 99.9)).abs().max() < 1e-2


def test_gray_survives_the_best_quality() -> None:
    """Only the halved chroma is lost there."""
    image = torch.rand(1, 1, 32, 48).expand(1, 3, 32, 48)
    assert (diffjpeg(image, 100) - image).abs().max() < 1e-3


def test_input_is_clipped_and_kept() -> None:
    image = torch.rand(1, 3, 17, 20) * 3 - 1
    kept = image.clone()
    made = diffjpeg_ragged(Ragged.of(image), [50]).data
    assert torch.equal(image, kept)
    assert torch.equal(made, diffjpeg(image.clamp(0, 1), 50))
    assert not torch.equal(made, (made * 255).round() / 255)


def test_the_table_chooses_the_codec_and_the_quality() -> None:
    step = STEPS.check({"type": "jpeg", "table": "released", "quality_range": [30, 31]}).component()
    drawn = [step.sample(np.random.default_rng(i), State((8, 8), (8, 8), 1, 1)) for i in range(50)]
    qualities = [d["quality"] for d in drawn if d is not None]
    assert len(set(qualities)) == 50 and min(qualities) >= 30 and max(qualities) <= 31
    image = torch.rand(1, 3, 20, 20)
    assert torch.equal(step.apply(Ragged.of(image), [{"quality": 30.4}]).data, diffjpeg(image, 30.4))


@pytest.mark.parametrize("quality", [[0], [100.5], [50, 50, 50], [float("nan")]])
def test_refuses_qualities(quality: list[float]) -> None:
    with pytest.raises(ValueError, match=r"quality in \(0, 100\]"):
        diffjpeg(torch.rand(2, 3, 8, 8), quality)


def test_refuses_gray() -> None:
    with pytest.raises(ValueError, match="RGB"):
        diffjpeg(torch.rand(2, 1, 8, 8), 50)


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    batch, qualities = Ragged.pack(pictures()), [30.5, 95, 61.2, 44, 79.9]
    there = diffjpeg_ragged(Ragged(batch.data.cuda(), batch.sizes), qualities)
    for mine, other in zip(diffjpeg_ragged(batch, qualities).images(), there.images(), strict=True):
        assert ((mine - other.cpu()).abs() > 1e-5).float().mean() < 0.02
