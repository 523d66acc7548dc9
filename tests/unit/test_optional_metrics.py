"""Metrics by packages that are not installed: what they are handed and asked, with stand-ins; and the refusals."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.benchmarking.benchmark import Measure, metric_specs
from utils.metrics import METRICS
from utils.options.fields import OptionError


class StandIn(nn.Module):
    """Mean absolute difference, or without a reference the mean; remembers what it was given."""

    def __init__(self, mode: str = "FR", lower_better: bool = True) -> None:
        super().__init__()
        self.metric_mode, self.lower_better = mode, lower_better
        self.seen: list[Tensor] = []
        self.settings: dict[str, Any] = {}

    def forward(self, sr: Tensor, gt: Tensor | None = None, **settings: Any) -> Tensor:
        self.seen, self.settings = [sr] if gt is None else [sr, gt], settings
        return (sr if gt is None else (sr - gt).abs()).mean().reshape(1, 1, 1, 1)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lpips", "pyiqa"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails, wherever it is installed


@pytest.fixture
def pyiqa(absent: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.device]]:
    """A stand-in for the package; the list of what was asked of it."""
    asked: list[tuple[str, torch.device]] = []

    def create_metric(name: str, device: torch.device) -> StandIn:
        asked.append((name, device))
        if name == "maniqa":
            raise RuntimeError("no route to host")
        made = StandIn("NR" if name == "musiq" else "FR", name not in ("musiq", "psnry"))
        if name == "psnry":
            made.net = nn.Module()
            made.net.test_y_channel, made.net.color_space = True, "yiq"
        return made

    module = ModuleType("pyiqa")
    names = ["dists", "fid", "lpips", "lpips-vgg", "maniqa", "musiq", "psnry"]
    module.__dict__.update(list_models=lambda: names, create_metric=create_metric)
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return asked


@pytest.fixture
def lpips(absent: None, monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    built: list[StandIn] = []

    def build(net: str, verbose: bool) -> StandIn:
        built.append(StandIn(net))
        return built[-1]

    module = ModuleType("lpips")
    module.__dict__.update(LPIPS=build)
    monkeypatch.setitem(sys.modules, "lpips", module)
    return built


def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 30, 3)).astype(np.float64), rng.integers(0, 256, (20, 30, 3)).astype(np.float64)


def check_given(seen: list[Tensor], given: tuple[np.ndarray, ...]) -> None:
    for tensor, image in zip(seen, given, strict=True):
        assert tensor.shape == (1, 3, 20, 30) and tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor[0].permute(1, 2, 0).numpy() * 255, image, atol=1e-4)


def test_pyiqa_with_a_reference(pyiqa: list[tuple[str, torch.device]]) -> None:
    metric: Any = METRICS.build({"type": "pyiqa", "name": "dists"}, device="cpu")
    assert pyiqa == [("dists", torch.device("cpu"))]
    assert metric.needs_gt and not metric.higher_is_better and metric.channels == ("rgb",)
    sr, gt = images()
    assert metric(sr, gt) == pytest.approx(np.abs(sr - gt).mean() / 255)
    check_given(metric.network.seen, (sr, gt))
    with pytest.raises(ValueError, match="there is none"):
        metric(sr, None)


def test_pyiqa_without_a_reference(pyiqa: list[tuple[str, torch.device]]) -> None:
    metric: Any = METRICS.build({"type": "pyiqa", "name": "musiq"})
    assert not metric.needs_gt and metric.higher_is_better
    sr, _ = images()
    assert metric(sr, None) == pytest.approx(sr.mean() / 255)
    check_given(metric.network.seen, (sr,))
    with pytest.raises(ValueError, match="expected RGB"):
        metric(sr[..., :1], None)


def test_a_luma_of_its_own_is_said_below_the_table(pyiqa: list[tuple[str, torch.device]]) -> None:
    measure = Measure.build(metric_specs({"psnry": {"type": "pyiqa", "name": "psnry"}}), "basicsr")
    assert "pyiqa's psnry is of luma from 0 to 255, not of the papers' Y from 16 to 235" in str(measure)
    assert "luma" not in str(Measure.build(metric_specs({"dists": {"type": "pyiqa", "name": "dists"}}), "basicsr"))


def test_pyiqa_refuses_at_build_time(pyiqa: list[tuple[str, torch.device]]) -> None:
    with pytest.raises(OptionError, match="pyiqa has no metric 'musik'; did you mean 'musiq'"):
        METRICS.build({"type": "pyiqa", "name": "musik"})
    with pytest.raises(OptionError, match="compares sets of images"):
        METRICS.build({"type": "pyiqa", "name": "fid"})
    with pytest.raises(OptionError, match="maniqa cannot be loaded .*no route to host"):
        METRICS.build({"type": "pyiqa", "name": "maniqa"})


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_by_its_own_package(lpips: list[StandIn], net: str) -> None:
    metric = METRICS.build({"type": "lpips", "net": net})
    assert [stand_in.metric_mode for stand_in in lpips] == [net] and not lpips[0].training
    assert metric.needs_gt and not metric.higher_is_better
    sr, gt = images()
    assert metric(sr, gt) == pytest.approx(np.abs(sr - gt).mean() / 255)
    check_given(lpips[0].seen, (sr, gt))
    assert lpips[0].settings == {"normalize": True}


@pytest.mark.parametrize(("net", "name"), [("alex", "lpips"), ("vgg", "lpips-vgg")])
def test_lpips_by_pyiqa(pyiqa: list[tuple[str, torch.device]], net: str, name: str) -> None:
    metric: Any = METRICS.build({"type": "lpips", "net": net})
    assert pyiqa[0][0] == name
    sr, gt = images()
    assert metric(sr, gt) == pytest.approx(np.abs(sr - gt).mean() / 255)
    assert metric.network.settings == {}


def test_lpips_prefers_its_own_package(pyiqa: list[tuple[str, torch.device]], lpips: list[StandIn]) -> None:
    METRICS.build("lpips")
    assert len(lpips) == 1 and not pyiqa


@pytest.mark.parametrize(
    ("options", "commands"),
    [
        ({"type": "pyiqa", "name": "musiq"}, ["pip install pyiqa"]),
        ({"type": "lpips"}, ["pip install lpips", "pip install pyiqa"]),
        ({"type": "lpips", "package": "lpips"}, ["pip install lpips"]),
        ({"type": "lpips", "package": "pyiqa"}, ["pip install pyiqa"]),
    ],
)
def test_absent_packages_are_named(absent: None, options: dict[str, str], commands: list[str]) -> None:
    with pytest.raises(OptionError) as error:
        METRICS.build(options)
    text = str(error.value)
    assert "not installed" in text and all(command in text for command in commands)
    assert text.count("pip install") == len(commands)
    assert ("PolyForm Noncommercial" in text) == ("pip install pyiqa" in commands)


def test_a_broken_package_is_told_from_an_absent_one(
    absent: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("site")
    (folder / "lpips.py").write_text("import no_such_dependency\n")
    monkeypatch.delitem(sys.modules, "lpips")
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(OptionError, match="lpips is installed, but fails: .*no_such_dependency"):
        METRICS.build("lpips")
