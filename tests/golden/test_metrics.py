"""Metrics and colour against values from running KAIR (`kair/`), BasicSR (`realesrgan/`), DASR and CDSR (`cdsr/`)."""

import json
from pathlib import Path

import numpy as np
import pytest

from utils.images.colour import rgb2y, rgb2ycbcr, ycbcr2rgb
from utils.metrics import METRICS
from utils.metrics.protocol import PROTOCOLS, Protocol, prepare

FOLDER = Path(__file__).parent
ARRAYS = np.load(FOLDER / "kair" / "ops.npz")
VALUES = json.loads((FOLDER / "kair" / "ops.json").read_text())["metrics"]
BASICSR = json.loads((FOLDER / "realesrgan" / "metrics.json").read_text())
BASICSR_IMAGES = np.load(FOLDER / "realesrgan" / "metrics.npz")
COLOUR = np.load(FOLDER / "realesrgan" / "color.npz")
TOLERANCE = {"psnr": 1e-3, "ssim": 1e-5}


@pytest.mark.parametrize("border", [0, 1, 4, 7])
@pytest.mark.parametrize("channels", ["rgb", "y"])
@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_equals_kair(name: str, channels: str, border: int) -> None:
    protocol = Protocol("golden", border, "y" if channels == "y" else "rgb", "rounded")
    pair = [prepare(ARRAYS[f"metric_{which}"].astype(np.uint8), protocol, scale=4) for which in "ab"]
    expected = VALUES[f"{name}{'_y' if channels == 'y' else ''}_b{border}"]
    assert METRICS.build(name)(pair[0], pair[1]) == pytest.approx(expected, abs=TOLERANCE[name], rel=0)


@pytest.mark.parametrize("border", [0, 2, 4])
@pytest.mark.parametrize("channels", ["rgb", "y"])
@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_equals_basicsr(name: str, channels: str, border: int) -> None:
    pair = [BASICSR_IMAGES[key][..., ::-1] for key in ("img_bgr", "img2_bgr")]
    expected = BASICSR[f"{name}_cb{border}_y{int(channels == 'y')}"]
    protocol = Protocol("golden", border, "y" if channels == "y" else "rgb", PROTOCOLS["basicsr_y"].y)
    found = METRICS.build(name)(*(prepare(image, protocol, scale=4) for image in pair))
    assert found == pytest.approx(expected, abs=TOLERANCE[name], rel=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize(("system", "luma"), [("dasr", "dasr"), ("cdsr", "studio")])
def test_equals_dasr_and_cdsr(system: str, luma: str, image: int, scale: int) -> None:
    """On benchmark sets; on others (`nobench`) these codes cut off 6 pixels more, and measure PSNR over RGB."""
    with np.load(FOLDER / "cdsr" / f"{system}_metrics.npz") as values:
        pair = [values[f"{kind}{image}"].transpose(1, 2, 0) / 255 for kind in ("sr", "hr")]
        expected = {key.removesuffix(f"_{image}_x{scale}"): float(values[key]) for key in values if "f64" in key}
    metrics = {"psnr": METRICS.build("psnr"), "ssim": METRICS.build({"type": "ssim", "luma": luma})}
    assert ("rgb" in metrics["ssim"].channels) == (luma == "studio")
    protocols = {
        "psnr_bench": PROTOCOLS[f"{system}_y"],
        "ssim_bench": PROTOCOLS[f"{system}_y"],
        "psnr_nobench": Protocol("golden", scale + 6),
        "ssim_nobench": Protocol("golden", scale + 6, "y"),
    }
    for key, protocol in protocols.items():
        name = key.split("_")[0]
        found = metrics[name](*(prepare(each, protocol, scale) for each in pair))
        assert found == pytest.approx(expected[f"f64_{key}"], abs=TOLERANCE[name], rel=0), key


def test_the_two_lumas_differ() -> None:
    """Otherwise the tests above could not tell the protocols apart."""
    pair = [ARRAYS[f"metric_{which}"].astype(np.uint8) for which in "ab"]
    found = [METRICS.build("psnr")(*(prepare(i, PROTOCOLS[p], 4) for i in pair)) for p in ("kair_y", "basicsr_y")]
    assert abs(found[0] - found[1]) > 5e-3


def test_colour_equals_kair() -> None:
    image = ARRAYS["metric_a"].astype(np.uint8)
    np.testing.assert_array_equal(rgb2y(image), ARRAYS["rgb2ycbcr_uint8_y"])
    np.testing.assert_array_equal(rgb2ycbcr(image), ARRAYS["rgb2ycbcr_uint8_full"])
    np.testing.assert_allclose(rgb2y(image.astype(np.float32) / 255), ARRAYS["rgb2ycbcr_float_y"], atol=1e-6)
    np.testing.assert_array_equal(ycbcr2rgb(rgb2ycbcr(image)), ARRAYS["ycbcr2rgb_uint8"])


@pytest.mark.parametrize("kind", ["f", "u8"])
def test_colour_equals_basicsr(kind: str) -> None:
    image, tolerance = COLOUR[kind], 1e-6 if kind == "f" else 0
    np.testing.assert_allclose(rgb2y(image), COLOUR[f"rgb2ycbcr_{kind}_y1"], atol=tolerance)
    np.testing.assert_allclose(rgb2ycbcr(image), COLOUR[f"rgb2ycbcr_{kind}_y0"], atol=tolerance)
    assert rgb2y(image).dtype == image.dtype == rgb2ycbcr(image).dtype
    back = ycbcr2rgb(COLOUR["f"])  # BasicSR does not clip
    np.testing.assert_allclose(back, COLOUR["ycbcr2rgb_f"].clip(0, 1), atol=2e-6)
