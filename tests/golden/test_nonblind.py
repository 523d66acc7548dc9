"""The periodic extension of images against KAIR's values."""

import torch

from models.restoring.nonblind import extended, wrap_extension
from tests.golden.test_networks import arrays

VALUES = arrays("kair/ops.npz")


def test_wrap_extension() -> None:
    image = torch.from_numpy(VALUES["img"][:21, :18].transpose(2, 0, 1).copy())
    expected = torch.from_numpy(VALUES["wrap_boundary_liu"].transpose(2, 0, 1).copy())
    torch.testing.assert_close(wrap_extension(image.double(), (32, 32)), expected.double(), rtol=0, atol=1e-7)
    assert torch.equal(wrap_extension(image, (32, 32))[:, :21, :18], image), "the image itself is not touched"


def test_low_quality_images_are_extended_on_the_grid_of_the_result() -> None:
    """The tool's own words: enlarged, extended to ceil(side / 8 + 2) * 8, every scale-th pixel, the image put back."""
    lq = torch.from_numpy(VALUES["img"][:9, :13].transpose(2, 0, 1).copy())[None]
    for scale, size in ((1, (32, 32)), (2, (40, 48)), (3, (48, 56)), (4, (56, 72))):
        larger = lq.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        expected = wrap_extension(larger, size)[..., ::scale, ::scale]
        expected[..., :9, :13] = lq
        assert torch.equal(extended(lq, scale, kernel_side=25), expected)
