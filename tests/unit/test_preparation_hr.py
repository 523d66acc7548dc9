"""`data.prepare hr`: ground truths from noisy sources and clean targets."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data import DATASETS
from data.prepare.__main__ import main
from utils.images.files import image_files, read_image, read_image_alpha, to_tensor, write_image
from utils.images.resize import imresize


def picture(seed: int, *shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def run(source: Path, out: Path, *more: str | Path) -> int:
    return main(["hr", "--source", str(source), "--out", str(out), "--workers", "1", *map(str, more)])


def test_sources_are_cleaned_and_targets_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target, out = (tmp_path / name for name in ("source", "target", "hr"))
    write_image(source / "a.png", picture(0, 50, 62, 3))
    write_image(source / "gray.png", picture(1, 24, 24))
    write_image(source / "deep.png", picture(2, 24, 24, 3, dtype=np.uint16))
    write_image(source / "alpha.png", picture(3, 24, 24, 4))
    write_image(source / "tiny.png", picture(4, 6, 40, 3))
    write_image(target / "a.png", picture(5, 33, 39, 3))
    assert run(source, out, "--target", target) == 0
    assert f"{source / 'tiny.png'}: 6x40 is too small, expected 7 or more a side" in capsys.readouterr().out
    shapes = {path.relative_to(out).as_posix(): read_image(path).shape[:2] for path in image_files(out)}
    squares = {f"source/{name}.png": (12, 12) for name in ("alpha", "deep", "gray")}
    assert shapes == {"source/a.png": (24, 28), **squares, "target/a.png": (32, 36)}
    np.testing.assert_array_equal(read_image(out / "target/a.png"), picture(5, 33, 39, 3)[:32, :36])
    assert read_image_alpha(out / "source/gray.png")[2] and read_image_alpha(out / "source/alpha.png")[1] is None
    deep = read_image(out / "source/deep.png")
    small = imresize(to_tensor(picture(2, 24, 24, 3, dtype=np.uint16)), 0.5).clamp(0, 1)
    np.testing.assert_allclose(deep.transpose(2, 0, 1) / 65535, small, atol=0.6 / 65535)
    entry = DATASETS.build({"type": "folder", "root": str(out)})
    assert len(entry.source) == 5  # type: ignore[union-attr]


def test_rounding_keeps_the_mean_and_truncation_does_not(tmp_path: Path) -> None:
    image = picture(0, 64, 64, 3)
    write_image(tmp_path / "source" / "a.png", image)
    assert run(tmp_path / "source", tmp_path / "rounded") == 0
    assert run(tmp_path / "source", tmp_path / "cut", "--released") == 0
    exact = 255 * imresize(to_tensor(image), 0.5).clamp(0, 1).double()
    means = {
        name: (torch.from_numpy(read_image(tmp_path / name / "source/a.png")).permute(2, 0, 1) - exact).mean().item()
        for name in ("rounded", "cut")
    }
    assert abs(means["rounded"]) < 0.03 and means["cut"] == pytest.approx(-0.5, abs=0.03)


def test_other_factors_and_scales(tmp_path: Path) -> None:
    write_image(tmp_path / "source" / "a.png", picture(0, 40, 47, 3))
    assert run(tmp_path / "source", tmp_path / "third", "--factor", "3", "--scale", "2") == 0
    assert read_image(tmp_path / "third/source/a.png").shape == (14, 16, 3)
    assert run(tmp_path / "source", tmp_path / "kept", "--factor", "1", "--scale", "2") == 0
    np.testing.assert_array_equal(read_image(tmp_path / "kept/source/a.png"), picture(0, 40, 47, 3)[:, :46])


def test_folders_that_hold_each_other_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    write_image(source / "in" / "a.png", picture(0, 40, 47, 3))
    (tmp_path / "link").symlink_to(source)
    for target in (source, source / "in", tmp_path, tmp_path / "link"):
        assert run(source, tmp_path / "out", "--target", target) == 1
        assert (
            f"source {source} and target {target} are the same folder or lie in each other" in capsys.readouterr().err
        )
    assert run(source, source / "hr") == 1
    assert "results would become sources" in capsys.readouterr().err
    write_image(tmp_path / "hr" / "source" / "b.png", picture(0, 40, 47, 3))  # whose clean ones would go here
    assert run(source, tmp_path / "hr", "--target", tmp_path / "hr" / "source") == 1
    assert "results would become sources" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and len(image_files(tmp_path / "hr")) == 1
