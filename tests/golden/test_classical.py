"""The classical degradations and their kernels against values from running KAIR's released code."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from degradations import DEGRADATIONS, Ragged
from degradations.kernels.families import anisotropic_gaussian, shift_to_upper_left
from degradations.kernels.files import centred, read_kernels, usrnet_kernels
from degradations.kernels.motion import motion_kernel, random_path
from degradations.operations.filters import convolve, convolve_batched
from degradations.steps.kernel_bank import KernelBank
from tests.golden.test_degradations import FACTS, OPS, to_array, to_ragged
from tests.helpers import SHARED


class ReleasedDraws:
    """The draws of the released code, which takes them from Python's and NumPy's old generators, in its order."""

    def __init__(self, seed: int) -> None:
        self.numpy, self.python = np.random.RandomState(seed), random.Random(seed)

    def standard_normal(self, shape: int | tuple[int, ...]) -> np.ndarray:
        # It draws a velocity for each of 250 points, and overwrites all but the first.
        return self.numpy.randn(3, 250)[:, 0] if shape == 3 else self.numpy.standard_normal(shape)

    def random(self) -> float:
        return self.numpy.rand()

    def integers(self, low: int, high: int | None = None) -> int:
        return self.numpy.randint(low) if high is None else self.python.randint(low, high - 1)


def test_camera_path() -> None:
    golden = OPS["randomTrajectory"]
    assert np.abs(random_path(ReleasedDraws(0)) - golden).max() < 1e-7 * np.abs(golden).max()


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5])
def test_motion_kernels(seed: int) -> None:
    """Seed 2 is a stretched one."""
    assert np.abs(motion_kernel(ReleasedDraws(seed)) - OPS[f"blurkernel_synthesis_seed{seed}"]).max() < 1e-7


@pytest.mark.parametrize("name", [n for n in FACTS if n.startswith("gen_kernel_")])
def test_shifted_gaussians(name: str) -> None:
    p = FACTS[name]
    kernel = anisotropic_gaussian(p["ksize"], p["theta"], p["lambda_1"], p["lambda_2"], (p["sf"] - 1) / 2)
    assert np.abs(kernel - OPS[name]).max() < 1e-7


@pytest.mark.parametrize("name", [n for n in FACTS if n.startswith("shift_pixel_")])
def test_shift_of_a_kernel(name: str) -> None:
    """Ours sums to 1 afterwards. Well inside its frame, moving the centre of mass is the same."""
    p = FACTS[name]
    kernel, golden = anisotropic_gaussian(p["ksize"], p["theta"], p["l1"], p["l2"]), OPS[name] / OPS[name].sum()
    if not p["upper_left"]:
        kernel, golden = kernel[::-1, ::-1], golden[::-1, ::-1]
    assert np.abs(shift_to_upper_left(kernel, p["sf"]) - golden).max() < 1e-7
    moved = centred(kernel, (p["sf"] - 1) / 2)
    margin = (moved.shape[0] - kernel.shape[0]) // 2
    inner = moved[margin : margin + kernel.shape[0], margin : margin + kernel.shape[0]]
    assert np.abs(inner - golden).max() < 0.01 * golden.max()  # the golden repeats the edge, and is cut


@pytest.mark.parametrize("mode", range(8))
def test_turns_of_a_kernel(mode: int, tmp_path: Path) -> None:
    """The eight that the bank draws are the eight of the released code."""
    np.save(tmp_path / "k.npy", OPS["gen_kernel_0"].astype(np.float64))
    bank = KernelBank(str(tmp_path / "k.npy"), augment=True)
    drawn = [{"bank": bank.bank.hash, "index": 0, "turns": mode % 4, "mirrored": mode > 3} for mode in range(8)]
    errors = [np.abs(bank.kernel(d) - OPS[f"augment_img_mode{mode}"]).max() for d in drawn]
    assert sorted(error < 1e-7 for error in errors) == [False] * 7 + [True]


@pytest.mark.parametrize("operation", [convolve, convolve_batched])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_circular_blur_is_convolution(operation: object, scale: int) -> None:
    image = OPS["img"][: 44 - 44 % scale, : 52 - 52 % scale]
    blurred = operation(to_ragged(image), [OPS["aniso_1"].astype(float)], "wrap")  # type: ignore[operator]
    assert np.abs(to_array(blurred)[::scale, ::scale] - OPS[f"classical_x{scale}"]).max() < 1e-5
    if scale == 2:
        blurred = operation(to_ragged(image), [OPS["gen_kernel_1"].astype(float)], "wrap")  # type: ignore[operator]
        assert np.abs(to_array(blurred)[::2, ::2] - OPS["classical_asym_x2"]).max() < 1e-5


DEGRADED = [n for n in FACTS if n.split("_")[0] in ("classical", "srmd", "dpsr")] + ["usrnet_uint8_blur_x2"]


@pytest.mark.parametrize("name", DEGRADED)
def test_degradations(name: str, tmp_path: Path) -> None:
    """Those that KAIR rounds are compared unrounded, except for the truncation of USRNet's training data."""
    kind, scale = name.split("_")[0].replace("usrnet", "classical"), int(name[-1])
    np.save(tmp_path / "k.npy", OPS[FACTS[name]["kernel"]])
    steps: dict = {"blur": {"type": "kernel_bank", "path": str(tmp_path / "k.npy")}}
    steps |= {"noise": None} if kind == "classical" else {"bicubic": {"rounding": "none"}}
    steps |= {"truncate": {"prob": 1}} if name.startswith("usrnet") else {}
    degradation = DEGRADATIONS.build({"type": kind, "steps": steps}, scale=scale)
    image = OPS["img"][: 44 - 44 % scale, : 52 - 52 % scale]
    height, width = image.shape[:2]
    # Drawn for a larger image: of this one's low-quality version the golden blur covers more than the whole.
    plan = degradation.sample(np.random.default_rng(0), (4 * height, 4 * width))
    drawn = [(n, {**d, "size": [height // scale, width // scale]} if "mode" in d else d) for n, d in plan.steps]
    made = degradation.apply(to_ragged(image).data, [replace(plan, size=(height, width), steps=tuple(drawn))])
    found, golden = to_array(Ragged.of(made.lq)), OPS[name]
    if name.startswith("usrnet"):
        # A level that the blur meets to a thousandth may fall to either side.
        difference = np.abs((found * 255).round() - golden)
        assert difference.max() <= 1 and difference.mean() < 0.005
    else:
        assert np.abs(found - golden).max() < 1e-5
    assert made.kernel is not None and made.sigma is not None
    assert np.abs(made.kernel[0].numpy() - OPS[FACTS[name]["kernel"]]).max() < 1e-6 and made.sigma.item() == 0


def test_truncation_goes_round_as_scipys() -> None:
    """What the facts report of a bicubic kernel on a step: -11.08 → 245, 266.06 → 10."""
    from degradations.steps.truncate import Truncate

    levels = torch.tensor([-11.08, 266.06, 100.99, 0, 128, 255]).reshape(1, 1, 1, 6)
    cut = Truncate().apply(Ragged.of(levels / 255), [{}]).data * 255
    assert cut.flatten().round().tolist() == [245, 10, 100, 0, 128, 255]


def test_kernels_of_the_published_table() -> None:
    path = SHARED / "data" / "kernels" / "kernels_12.mat"
    if not path.is_file():
        pytest.skip("needs the published kernels")
    published = read_kernels(path)
    assert len(published) == 12
    for ours, theirs in zip(usrnet_kernels(), published, strict=False):
        assert np.abs(ours - theirs).max() < 1e-7


@pytest.mark.filterwarnings("error")
def test_published_kernel_files() -> None:
    folder = SHARED / "data" / "kernels"
    if not folder.is_dir():
        pytest.skip("needs the published kernels")
    bicubic = read_kernels(folder / "kernels_bicubicx234.mat")
    assert [k.shape for k in bicubic] == [(25, 25)] * 3 and all(k.min() < -0.005 for k in bicubic)
    for kernel, scale in zip(bicubic, (2, 3, 4), strict=True):
        assert np.abs(kernel.sum(0) @ np.arange(25) - (12 - (scale - 1) / 2)) < 0.01


def test_kernel_file_of_matlab_7_3() -> None:
    path = SHARED / "data" / "kernels" / "Levin09.mat"
    if not path.is_file():
        pytest.skip("needs the published kernels")
    pytest.importorskip("h5py")
    assert [k.shape[0] for k in read_kernels(path)] == [19, 17, 15, 27, 13, 21, 23, 23]
