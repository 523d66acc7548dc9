"""RealSR's degradation, network and ways of testing against values from running its released code and KernelGAN's."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torch import Tensor

from degradations import DEGRADATIONS, STEPS, Ragged, State, Step
from degradations.kernels.files import read_kernels
from degradations.operations.filters import convolve, convolve_batched
from degradations.steps.real_noise import RealNoise
from losses.perceptual import PerceptualLoss
from models.restoring.back_projection import BackProjection
from models.restoring.restorer import ensemble
from models.weights.guess import guess_network
from tests.golden.test_losses import _rule_filled
from tests.golden.test_networks import arrays, assert_close, filled, kair_rrdbnet, manifest, published_state
from utils.images.files import write_image
from utils.metrics import METRICS
from utils.metrics.protocol import PROTOCOLS, Protocol, prepare

NOISE, KERNELS = arrays("realsr/noise_injection.npz"), arrays("realsr/kernel_apply.npz")


# --- degradation ----------------------------------------------------------------------------------------------------


def test_noise_is_injected_as_released(tmp_path: Path) -> None:
    for i, patch in enumerate(NOISE["patches_u8"]):
        write_image(tmp_path / f"{i}_000.png", patch)
    step = RealNoise(str(tmp_path), augment=False)
    for i, (top, left, height, width) in enumerate(NOISE["offsets_top_left_h_w"].tolist()):
        drawn = {"pool": step.pool.hash, "index": i, "top": top, "left": left, "turns": 0, "mirrored": False}
        assert np.abs(step.noise(drawn, (height, width)) - NOISE["noise"][i]).max() < 1e-6
        noisy = step.apply(Ragged.of(torch.from_numpy(NOISE["lq"])[None]), [drawn]).data[0]
        assert np.abs(noisy.numpy() - NOISE["out"][i]).max() < 1e-6


def applied(*steps: Step, image: np.ndarray, scale: int) -> np.ndarray:
    """(h, w, 3) in 8-bit units from (H, W, 3) of them."""
    state = State(image.shape[:2], image.shape[:2], scale, scale)  # pyright: ignore[reportArgumentType]
    ragged = Ragged.of(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)[None])
    for step in steps:
        drawn = step.sample(np.random.default_rng(0), state)
        assert drawn is not None
        ragged = step.apply(ragged, [drawn])
    return ragged.data[0].permute(1, 2, 0).numpy() * 255


def bank(tmp_path: Path, kernel: np.ndarray, scale: int) -> Step:
    """As KernelGAN leaves it on disk."""
    scipy.io.savemat(tmp_path / f"a_kernel_x{scale}.mat", {"Kernel": kernel})
    return STEPS.build({"type": "kernel_bank", "path": str(tmp_path), "border": "symmetric"}).step  # pyright: ignore


@pytest.mark.parametrize(("kernel", "name", "scale"), [("k2", "lr2", 2), ("k4", "lr4", 4), ("kneg", "neg", 2)])
def test_kernels_are_applied_as_released(tmp_path: Path, kernel: str, name: str, scale: int) -> None:
    """In floating point, and with `truncate` as the released code leaves 8-bit images."""
    blur = bank(tmp_path, KERNELS[f"{kernel}_f64"], scale)
    down, truncate = STEPS.check("every_nth").component(), STEPS.check("truncate").component()
    found = applied(blur, down, image=KERNELS["in_u8"], scale=scale)
    assert np.abs(found - KERNELS[f"{name}_float"] * 255).max() < 1e-3
    released = applied(blur, truncate, down, image=KERNELS["in_u8"], scale=scale)
    assert (np.abs(released - KERNELS[f"{name}_u8"]) < 0.5).mean() > 0.997 and (released <= found + 1e-3).all()


@pytest.mark.parametrize("operation", [convolve, convolve_batched])
def test_an_even_kernel_gets_the_frame_that_the_message_tells(tmp_path: Path, operation: object) -> None:
    """SciPy's middle of 16 pixels is the ninth, so zeros go to the lower right."""
    with pytest.raises(ValueError, match="16x16 has no middle pixel.*giving 17x17"):
        bank(tmp_path, KERNELS["keven_f64"], 2)
    scipy.io.savemat(tmp_path / "a_kernel_x2.mat", {"Kernel": np.pad(KERNELS["keven_f64"], (0, 1))})
    image = torch.from_numpy(KERNELS["in_u8"].transpose(2, 0, 1).astype(np.float32) / 255)[None]
    kernel = read_kernels(tmp_path / "a_kernel_x2.mat")
    blurred = operation(Ragged.of(image), kernel, "symmetric").data[0, :, ::2, ::2]  # type: ignore[operator]
    assert np.abs(blurred.permute(1, 2, 0).numpy() - KERNELS["even_float"]).max() < 1e-5


def test_the_preset_is_blur_downsampling_and_noise(tmp_path: Path) -> None:
    """Also with the pool of kernels: blur comes first, although it stands after `down` in the merged options."""
    scipy.io.savemat(tmp_path / "a_kernel_x4.mat", {"Kernel": KERNELS["k4_f64"]})
    (tmp_path / "noise").mkdir()
    write_image(tmp_path / "noise" / "flat.png", np.full((40, 40, 3), 7, np.uint8))
    blur = {"type": "kernel_bank", "path": str(tmp_path / "a_kernel_x4.mat"), "border": "symmetric"}
    steps = {"blur": blur, "down": {"type": "every_nth"}, "noise": {"path": str(tmp_path / "noise")}}
    degradation = DEGRADATIONS.build({"type": "realsr", "steps": steps}, scale=4)
    gt = torch.from_numpy(KERNELS["in_u8"].transpose(2, 0, 1).astype(np.float32) / 255)[None]
    plan = degradation.sample(np.random.default_rng(0), (48, 64))
    assert [name for name, _ in plan.steps] == ["blur", "down", "noise"]
    lq = degradation.apply(gt, [plan]).lq[0].permute(1, 2, 0).numpy()
    assert np.abs(lq - KERNELS["lr4_float"]).max() < 1e-5  # a flat patch is no noise


# --- network and loss -----------------------------------------------------------------------------------------------


def test_msrresnet() -> None:
    """Its keys, of the released style, are renamed, and tell the network."""
    entry, values = manifest("realsr/msrresnet.json"), arrays("realsr/msrresnet.npz")
    config = entry["config"]
    options = {"type": "msrresnet", "scale": config["upscale"], "num_feat": config["nf"], "num_block": config["nb"]}
    assert guess_network(published_state(entry["keys"])) == {**options, "num_in_ch": 3, "num_out_ch": 3}
    with torch.no_grad():
        assert_close(filled(options, entry["keys"])(torch.from_numpy(values["x"])), values["y"])


def test_vgg_features(tmp_path_factory: pytest.TempPathFactory) -> None:
    values = arrays("realsr/vgg19_l34.npz")
    weights = _rule_filled(tmp_path_factory, lambda index, part: f"features.{index}.{part}")
    loss = PerceptualLoss({"conv5_4": 1.0}, weights=weights)
    assert_close(loss.features(torch.from_numpy(values["x"]))["conv5_4"], values["y"])


# --- testing --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restored() -> tuple[dict[str, np.ndarray], Tensor, Tensor]:
    """The stored values, the result of RRDBNet, and that of its ensemble."""
    entry, values = manifest("realsr/rrdbnet.json"), arrays("realsr/rrdbnet.npz")
    network = filled(kair_rrdbnet({**entry["config"], "sf": 4}), entry["keys"])
    with torch.no_grad():
        lq = torch.from_numpy(values["x"])
        return values, network(lq), ensemble(network, lq)


def test_ensemble(restored: tuple[dict[str, np.ndarray], Tensor, Tensor]) -> None:
    values, _, mean = restored
    assert_close(mean, values["x8"])


def test_back_projection(restored: tuple[dict[str, np.ndarray], Tensor, Tensor]) -> None:
    """As released, and ours, which ends where the result made small is the input."""
    values, sr, _ = restored
    lq, expected = torch.from_numpy(values["x"]), values["back_projection_0_2"]
    assert_close(BackProjection(0.2, down="released")(sr, lq), expected)
    assert (BackProjection(0.2)(sr, lq) - torch.from_numpy(expected)).abs().max() > 1e-2
    consistent = BackProjection(1.0, iterations=50)(sr, lq)
    assert BackProjection(1.0)(consistent, lq) == pytest.approx(consistent, abs=1e-5)


def test_metrics() -> None:
    """BasicSR's protocols: Y is not rounded."""
    values = arrays("realsr/metrics.npz")
    pair = [values[f"bgr_{which}_u8"][..., ::-1] for which in "ab"]
    psnr, ssim, psnr_y, ssim_y = values["psnr_ssim_psnry_ssimy_f64"]
    expected = {"rgb": {"psnr": psnr, "ssim": ssim}, "y": {"psnr": psnr_y, "ssim": ssim_y}}
    for protocol in (PROTOCOLS["basicsr"], PROTOCOLS["basicsr_y"]):
        for name, tolerance in (("psnr", 1e-3), ("ssim", 1e-5)):
            found = METRICS.build(name)(*(prepare(image, protocol, scale=4) for image in pair))
            assert found == pytest.approx(expected[protocol.channels][name], abs=tolerance, rel=0)
    luma = prepare(pair[0], Protocol("golden", 0, "y"), scale=4)
    assert np.abs(luma[:4, :, 0] / 255 - values["ya_f64"]).max() < 1e-6
