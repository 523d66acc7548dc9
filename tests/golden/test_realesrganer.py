"""Restoring images against `enhance()` of the released Real-ESRGAN: tiles, padding, scales, gray, alpha, 16 bits."""

from typing import Any

import cv2
import numpy as np
import pytest

from models.network import NETWORKS
from models.restoring.files import restore_array
from models.restoring.generator import LoadedGenerator
from models.restoring.restorer import Restorer
from tests.golden.test_networks import arrays, manifest, published_state

CASES, ARRAYS = manifest("realesrgan/realesrganer.json"), arrays("realesrgan/realesrganer.npz")
EXACT = [name for name in CASES if name not in ("x4_outscale", "rgba_bilinear")]
# The stored values come from networks this small; nothing but their keys' names fills them.
RRDBNET = {"type": "rrdbnet", "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
SRVGG = {"type": "srvgg", "num_feat": 8, "num_conv": 2}


def restorer(name: str, **changes: Any) -> Restorer:  # noqa: ANN401
    """The settings of a case. Without `tile` in it, the whole image is restored at once."""
    case = CASES[name]
    options = {**(SRVGG if name.startswith("srvgg") else RRDBNET), "scale": case["scale"]}
    network = NETWORKS.build(options).eval()
    network.load_state_dict(published_state({key: list(v.shape) for key, v in network.state_dict().items()}))
    tiles = {"tile": case.get("tile", 0), "overlap": case.get("tile_pad", 10), "tile_mode": "context"}
    return Restorer(LoadedGenerator(network, None, options), **{**tiles, "pre_pad": case["pre_pad"], **changes})


def enhanced(apply: Restorer, name: str, **options: Any) -> np.ndarray:  # noqa: ANN401
    """Our result for a case, as the released code stores it: BGR(A), or gray."""
    case, stored = CASES[name], ARRAYS[f"{name}_in"]
    gray, alpha = stored.ndim == 2, stored[..., 3] if case["mode"] == "RGBA" else None
    rgb = np.repeat(stored[..., None], 3, axis=2) if gray else stored[..., 2::-1]
    by = "network" if case["alpha"] == "realesrgan" else "resize"
    # Quirk of the released code: what transparent pixels hide colours the rim. Ours would fill it from within.
    result = restore_array(apply, np.ascontiguousarray(rgb), alpha, gray, alpha_by=by, fill_hidden=False, **options)
    return result if gray else result[..., [2, 1, 0, 3][: result.shape[2]]]


def difference(found: np.ndarray, name: str) -> np.ndarray:
    expected = ARRAYS[f"{name}_out"]
    assert found.shape == expected.shape == tuple(CASES[name]["shape"]) and found.dtype == expected.dtype
    assert expected.std() > 1, "the case says something"
    return np.abs(found.astype(int) - expected)


@pytest.mark.parametrize("name", EXACT)
def test_enhance(name: str) -> None:
    """Equal, but for single roundings; what is gray in the end is rounded in fixed point by OpenCV."""
    found = difference(enhanced(restorer(name), name), name)
    assert found.max() <= 1
    # Float32 itself is coarse for 65,536 levels: other kernels of a convolution move one in a thousand by a level.
    if CASES[name]["mode"] == "RGB":
        assert (found > 0).mean() < (4e-3 if ARRAYS[f"{name}_out"].dtype == np.uint16 else 1e-3)
    elif CASES[name]["mode"] == "RGBA":
        assert (found[..., :3] > 0).mean() < 1e-3


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("x4_tile", {"tile_mode": "blend"}),
        ("x4_tile", {"overlap": 3}),
        ("x4_tile", {"pre_pad": 0}),
        ("x4_prepad", {"pre_pad": 0}),
        ("x1_notile", {"pre_pad": 0}),
    ],
)
def test_the_settings_count(name: str, changes: dict[str, Any]) -> None:
    assert difference(enhanced(restorer(name, **changes), name), name).max() > 1


def test_outscale_differs_by_its_filter_alone() -> None:
    apply, case = restorer("x4_outscale"), CASES["x4_outscale"]
    height, width, _ = case["shape"]
    lanczos = cv2.resize(enhanced(apply, "x4_outscale"), (width, height), interpolation=cv2.INTER_LANCZOS4)
    assert difference(lanczos, "x4_outscale").max() <= 1
    ours = difference(enhanced(apply, "x4_outscale", outscale=case["outscale"]), "x4_outscale")
    assert ours.mean() < 0.5 and np.quantile(ours, 0.99) <= 4 and ours.max() <= 12


def test_resized_alpha_differs_by_its_filter_alone() -> None:
    """The released code enlarges alpha bilinearly, whatever it is told."""
    found = difference(enhanced(restorer("rgba_bilinear"), "rgba_bilinear"), "rgba_bilinear")
    assert found[..., :3].max() <= 1
    assert found[..., 3].mean() < 3 and found[..., 3].max() <= 20
