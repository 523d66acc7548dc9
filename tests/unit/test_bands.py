"""Large images, read and written from top to bottom: the same files as those made as a whole."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from models.network import NETWORKS
from models.restoring import files
from models.restoring.files import restore_files
from models.restoring.generator import LoadedGenerator, bicubic_generator
from models.restoring.restorer import Restorer
from tests.unit.test_formats import WIDE
from utils.images import bands, encoders
from utils.images.encoders import Form
from utils.images.files import read_image, read_picture, write_bands, write_image
from utils.images.header import Header
from utils.logging import Console

HEIGHT, WIDTH = 90, 61


def pixels(dtype: type = np.uint8, channels: int = 3) -> np.ndarray:
    """Smooth, so that PNG's encoders use all filters."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, np.iinfo(dtype).max, (9, 7, channels), dtype, endpoint=True)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def generator() -> LoadedGenerator:
    torch.manual_seed(0)
    options = {"type": "srvgg", "scale": 2, "num_feat": 8, "num_conv": 2}
    return LoadedGenerator(NETWORKS.build(options).eval().requires_grad_(False), None, options)


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Take images of more pixels than this for large."""
    monkeypatch.setattr(bands, "_BAND", 1000)
    monkeypatch.setattr(encoders, "_BLOCK", 3000)
    return lambda large: monkeypatch.setattr(files, "LARGE", large)


def pillow(path: Path, array: np.ndarray, **how: Any) -> None:  # noqa: ANN401
    Image.fromarray(array).save(path, **how)


def tiff(**how: Any) -> Callable[[Path], None]:  # noqa: ANN401
    return lambda path: tifffile.imwrite(path, pixels(how.pop("dtype", np.uint8)), photometric="rgb", **how)


READ_IN_BANDS: dict[str, Callable[[Path], object]] = {
    "8.png": lambda path: write_image(path, pixels()),
    "16.png": lambda path: write_image(path, pixels(np.uint16)),
    "gray.png": lambda path: write_image(path, pixels()[..., 0]),
    "gray_16.png": lambda path: write_image(path, pixels(np.uint16)[..., 1]),
    "all_filters.png": lambda path: pillow(path, pixels(), optimize=True, icc_profile=WIDE),
    "opencv.png": lambda path: cv2.imwrite(str(path), pixels()),
    "ours.tif": lambda path: write_image(path, pixels(np.uint16), profile=WIDE),
    "strips.tif": tiff(rowsperstrip=7, compression="zlib", predictor=True),
    "plain.tif": tiff(rowsperstrip=13),
    "tiles.tif": tiff(tile=(32, 16), compression="lzw", dtype=np.uint16),
    "gray.tif": lambda path: tifffile.imwrite(path, pixels()[..., 0], tile=(16, 16)),
    "jpeg.tif": lambda path: pillow(path, pixels(), compression="jpeg"),
}


def restored(source: Path, target: Path, console: Console | None = None, **how: Any) -> bytes:  # noqa: ANN401
    restorer = how.pop("restorer", None) or Restorer(generator(), tile=24, overlap=6)
    assert list(restore_files({source: target}, restorer, console or Console(), **how)) == [True]
    return target.read_bytes()


@pytest.mark.parametrize("ext", ["png", "tif"])
@pytest.mark.parametrize("name", READ_IN_BANDS)
def test_the_same_file_in_bands(tmp_path: Path, small_bands: Any, name: str, ext: str, capfd: Any) -> None:  # noqa: ANN401
    READ_IN_BANDS[name](source := tmp_path / name)
    whole = restored(source, tmp_path / f"whole.{ext}")
    small_bands(1000)
    assert restored(source, tmp_path / f"bands.{ext}") == whole
    assert "as a whole" not in capfd.readouterr().err
    kept = read_picture(source)
    result = read_picture(tmp_path / f"bands.{ext}")
    assert (result.gray, result.profile) == (kept.gray, kept.profile)
    assert result.pixels.shape == (2 * HEIGHT, 2 * WIDTH, 3) and result.pixels.dtype == kept.pixels.dtype


@pytest.mark.parametrize("mode", ["blend", "context"])
@pytest.mark.parametrize("tile", [8, 50, 200])
def test_tiles_of_any_size(tmp_path: Path, small_bands: Any, tile: int, mode: Any) -> None:  # noqa: ANN401
    """A network that wants an even height, too: the last rows are mirrored."""
    torch.manual_seed(0)
    options = {"type": "rrdbnet", "scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
    network = NETWORKS.build(options).eval().requires_grad_(False)
    write_image(source := tmp_path / "odd.png", pixels()[:-1])

    def restorer() -> Restorer:
        return Restorer(LoadedGenerator(network, None, options), tile=tile, overlap=6, tile_mode=mode)

    whole = restored(source, tmp_path / "whole.png", restorer=restorer())
    small_bands(1000)
    assert restored(source, tmp_path / "bands.png", restorer=restorer()) == whole


NOT_IN_BANDS: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "a.jpg": (lambda path: write_image(path, pixels()), {}, "JPEG is decoded as a whole"),
    "alpha.png": (lambda path: write_image(path, pixels(channels=4)), {}, "it has alpha"),
    "turned.tif": (tiff(extratags=[(274, 3, 1, 6, True)]), {}, "it lies turned in its file"),
    "one_strip.tif": (tiff(rowsperstrip=HEIGHT), {}, "its strips are as high as 90 rows"),
    "planes.tif": (
        lambda path: tifffile.imwrite(path, pixels().transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        {},
        "its planes",
    ),
    "palette.png": (
        lambda path: pillow(path, pixels()[..., 0]) or Image.open(path).convert("P").save(path),
        {},
        "palette",
    ),
    "outscale.png": (lambda path: write_image(path, pixels()), {"outscale": 1.5}, "--outscale resizes it"),
}


@pytest.mark.parametrize("name", NOT_IN_BANDS)
def test_what_cannot_is_done_as_a_whole_and_said(
    tmp_path: Path,
    small_bands: Any,  # noqa: ANN401
    name: str,
    capfd: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, how, reason = NOT_IN_BANDS[name]
    make(source := tmp_path / name)
    whole = restored(source, tmp_path / "whole.png", **how)
    small_bands(1000)
    monkeypatch.setattr(bands, "_LARGEST_SEGMENT", 10_000)
    assert restored(source, tmp_path / "bands.png", **how) == whole
    said = " ".join("".join(capfd.readouterr()).split())
    assert "as a whole" in said and reason in said


def test_an_interlaced_png_is_read_as_a_whole(tmp_path: Path) -> None:
    """No library at hand writes one: its head alone is looked at."""
    write_image(source := tmp_path / "a.png", pixels())
    data = bytearray(source.read_bytes())
    data[28] = 1
    source.write_bytes(data)
    assert bands.why_not_in_bands(Header("png", (HEIGHT, WIDTH)), source) == "it is interlaced"


def test_a_result_of_another_format_is_said_to_be_whole(tmp_path: Path, small_bands: Any, capfd: Any) -> None:  # noqa: ANN401
    write_image(source := tmp_path / "a.png", pixels())
    whole = restored(source, tmp_path / "whole.jpg")
    small_bands(1000)
    assert restored(source, tmp_path / "bands.jpg") == whole
    assert ".jpg is written as a whole" in "".join(capfd.readouterr())


def test_converted_to_srgb_in_bands(tmp_path: Path, small_bands: Any) -> None:  # noqa: ANN401
    """Colours are converted band by band, to the same values."""
    write_image(source := tmp_path / "a.png", pixels(), profile=WIDE)
    whole = restored(source, tmp_path / "whole.png", colour="srgb")
    small_bands(1000)
    assert restored(source, tmp_path / "bands.png", colour="srgb") == whole
    assert read_picture(tmp_path / "bands.png").profile == b""


@pytest.mark.parametrize("name", ["8.png", "strips.tif"])
def test_damaged_pixels_leave_no_file(tmp_path: Path, small_bands: Any, name: str, capfd: Any) -> None:  # noqa: ANN401
    """Checksums hold, and what they check is no deflate stream."""
    source = tmp_path / name
    if name.endswith("png"):
        lines = np.zeros((HEIGHT // 2, 1 + 3 * WIDTH), np.uint8)
        head = encoders.png_head(Form((HEIGHT, WIDTH, 3), np.dtype(np.uint8)))
        chunks = encoders.png_chunk(b"IDAT", zlib.compress(lines)) + encoders.png_chunk(b"IEND", b"")
        source.write_bytes(head + chunks)
    else:
        READ_IN_BANDS[name](source)
        with tifffile.TiffFile(source) as file:
            offset = file.pages.first.dataoffsets[-1]
        data = bytearray(source.read_bytes())
        data[offset : offset + 20] = b"\xff" * 20
        source.write_bytes(data)
    small_bands(1000)
    restorer = Restorer(bicubic_generator(1), tile=24, overlap=6)
    assert list(restore_files({source: tmp_path / "out" / "sr.png"}, restorer, Console())) == [False]
    assert "damaged below row" in "".join(capfd.readouterr()) and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2), (5, 7, 3), (5, 7, 4), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_bands_of_any_height_are_written(tmp_path: Path, shape: Any, dtype: type, suffix: str) -> None:  # noqa: ANN401
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    write_image(tmp_path / f"whole{suffix}", array)
    cuts = [array[:1], array[1:1], array[1:4], array[4:]]
    write_bands(tmp_path / f"bands{suffix}", Form(array.shape, array.dtype), cuts)
    assert (tmp_path / f"bands{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    if len(shape) == 3 and shape[2] == 3:
        np.testing.assert_array_equal(read_image(tmp_path / f"bands{suffix}"), array)


@pytest.mark.parametrize("cuts", [[slice(0, 3)], [slice(0, 5), slice(0, 1)]])
def test_bands_that_are_not_the_image_are_refused(tmp_path: Path, cuts: list[slice]) -> None:
    array = np.zeros((5, 7, 3), np.uint8)
    with pytest.raises(ValueError, match=r"found \d rows, expected 5"):
        write_bands(tmp_path / "a.png", Form(array.shape, array.dtype), [array[cut] for cut in cuts])
    assert not list(tmp_path.iterdir())
