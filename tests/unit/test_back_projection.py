"""Back-projection as a part of restoring images: whole and in tiles, and where it does not fit."""

import pytest
import torch

from models.benchmarking.benchmark import check_benchmark
from models.network import NETWORKS
from models.restoring.back_projection import BackProjection
from models.restoring.generator import LoadedGenerator, bicubic_generator
from models.restoring.restorer import Restorer
from tests.helpers import ROOT
from tests.unit.test_restore import RRDBNET, generator_of
from utils.images.resize import imresize
from utils.options import files as option_files
from utils.options.fields import OptionError


def test_it_follows_the_network_and_its_ensemble() -> None:
    generator, lq = generator_of(RRDBNET), torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    projection = BackProjection(0.3, 2)
    for ensemble in (False, True):
        plain = Restorer(generator, self_ensemble=ensemble)
        corrected = Restorer(generator, self_ensemble=ensemble, back_projection=projection)
        assert torch.allclose(corrected(lq), projection(plain(lq), lq), atol=1e-6)
        assert not plain.additions[ensemble:] and len(corrected.additions) == ensemble + 1


def test_it_comes_closer_to_the_input_each_time() -> None:
    lq = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    sr = imresize(lq, 3).roll(2, -1)
    left = [(imresize(BackProjection(0.5, n)(sr, lq), 1 / 3) - lq).abs().mean() for n in (1, 2, 4)]
    assert (imresize(sr, 1 / 3) - lq).abs().mean() > left[0] > left[1] > left[2]


def test_tiles() -> None:
    lq = torch.rand(1, 3, 60, 70, generator=torch.Generator().manual_seed(0))
    whole, tiled = (
        Restorer(bicubic_generator(2), tile=tile, overlap=16, back_projection=BackProjection())(lq) for tile in (0, 32)
    )
    assert (whole - tiled).abs().max() < 1e-3
    assert (whole - Restorer(bicubic_generator(2))(lq)).abs().max() > 1e-2


def test_networks_that_are_told_a_kernel_refuse_it() -> None:
    network = {"type": "closed_form", "scale": 2}
    with pytest.raises(OptionError, match="--back-projection: it assumes bicubic's kernel"):
        Restorer(LoadedGenerator(NETWORKS.build(network), None, network), back_projection=BackProjection())


@pytest.mark.parametrize("name", ["realsr_df2k", "realsr_dped"])
def test_the_shipped_benchmarks_of_realsr(name: str) -> None:
    """As they stand, and with what their comments offer."""
    tree = option_files.load(ROOT / "options" / "test" / f"{name}.yml")
    assert check_benchmark(tree).back_projection is None
    changed = {**tree, "self_ensemble": True, "back_projection": {"weight": 0.2, "iterations": 1, "down": "released"}}
    checked = check_benchmark(changed)
    assert checked.self_ensemble and checked.back_projection == BackProjection(0.2, 1, "released")
