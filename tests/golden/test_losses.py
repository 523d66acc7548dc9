"""Losses against values from running KAIR (`kair/`) and BasicSR (`realesrgan/`)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from losses import LOSSES
from losses.gan import GanLoss
from losses.perceptual import PerceptualLoss
from losses.ssim import SsimLoss
from tests.golden.kair.synth import frozen_value

FOLDER = Path(__file__).parent
KAIR, KAIR_ARRAYS = json.loads((FOLDER / "kair/losses.json").read_text()), np.load(FOLDER / "kair/losses.npz")
BASICSR = json.loads((FOLDER / "realesrgan/losses.json").read_text())
BASICSR_ARRAYS = np.load(FOLDER / "realesrgan/losses.npz")
BASICSR_PIXEL_WEIGHT, BASICSR_STYLE_WEIGHT = 0.7, 0.5  # with which the stored values were made
VGG_CHANNELS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 16: 256} | dict.fromkeys(
    (19, 21, 23, 25, 28, 30, 32, 34), 512
)
KAIR_GAN = {"vanilla": "gan", "softplus": "softplusgan", "lsgan": "lsgan", "wgan": "wgan", "ragan": "ragan"}


def _kair(name: str) -> Tensor:
    return torch.from_numpy(KAIR_ARRAYS[name])


def _basicsr(name: str) -> Tensor:
    return torch.from_numpy(BASICSR_ARRAYS[name])


def _close(found: Tensor, expected: float, rel: float = 1e-5) -> None:
    assert float(found) == pytest.approx(expected, rel=rel)


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"type": "l1"}, "l1"),
        ({"type": "l2"}, "l2"),
        ({"type": "charbonnier"}, "charbonnier_1e-09"),
        ({"type": "charbonnier", "eps": 1e-6}, "charbonnier_1e-06"),
        ({"type": "charbonnier", "eps": 1e-3}, "charbonnier_0.001"),
    ],
)
def test_pixel_losses_equal_kair(options: dict[str, Any], key: str) -> None:
    _close(LOSSES.check(options).component()(_kair("pix_a"), _kair("pix_b")), KAIR[key])


@pytest.mark.parametrize(
    ("options", "key"),
    [({"type": "l1"}, "l1_mean"), ({"type": "l2"}, "mse_mean"), ({"type": "charbonnier", "eps": 1e-12}, "charb_mean")],
)
def test_pixel_losses_equal_basicsr(options: dict[str, Any], key: str) -> None:
    found = LOSSES.check(options).component()(_basicsr("pred"), _basicsr("target"))
    _close(BASICSR_PIXEL_WEIGHT * found, BASICSR[key])


def test_ssim_equals_kair() -> None:
    a, b = _kair("pix_a"), _kair("pix_b")
    loss = SsimLoss()
    _close(loss.similarity(a, b), KAIR["ssim"])
    _close(loss.similarity(a[:, :1], b[:, :1]), KAIR["ssim_gray"])
    for i, expected in enumerate(KAIR["ssim_per_image"]):
        _close(loss.similarity(a[i : i + 1], b[i : i + 1]), expected)
    _close(loss(a, b), 1 - KAIR["ssim"])


# --- adversarial ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KAIR_GAN))
def test_gan_losses_equal_kair(kind: Any) -> None:  # noqa: ANN401
    real, fake = _kair("logits_real"), _kair("logits_fake")
    loss = GanLoss(kind, gradient_penalty=1.0)
    _close(loss.generator(fake, real), KAIR[f"{KAIR_GAN[kind]}_G"])
    _close(loss.discriminator(real, fake), KAIR[f"{KAIR_GAN[kind]}_D_total"])


@pytest.mark.parametrize("kind", ["vanilla", "softplus", "lsgan", "wgan", "hinge"])
def test_gan_losses_equal_basicsr(kind: Any) -> None:  # noqa: ANN401
    logits = _basicsr("gan_pred")
    loss, name = GanLoss(kind, gradient_penalty=1.0), {"softplus": "wgan_softplus"}.get(kind, kind)
    weight = BASICSR["gan_cfg"]["loss_weight"]
    _close(weight * loss.generator(logits), BASICSR[f"gan_{name}_real1_disc0"], rel=1e-4)
    expected = BASICSR[f"gan_{name}_real1_disc1"] + BASICSR[f"gan_{name}_real0_disc1"]
    assert float(loss.discriminator(logits, logits)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


# --- perceptual -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kair_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _rule_filled(tmp_path_factory, lambda index, part: f"features.{index}.{part}")


@pytest.fixture(scope="module")
def basicsr_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    names = dict(zip(VGG_CHANNELS, [n[:-7] for n in BASICSR["vgg_keys"] if n.endswith(".weight")], strict=True))
    return _rule_filled(tmp_path_factory, lambda index, part: f"{names[index]}.{part}")


def _rule_filled(factory: pytest.TempPathFactory, rule_name: Any) -> str:  # noqa: ANN401
    """A file with torchvision's names; values by the frozen rule under the names that the released code gave them."""
    state, channels = {}, 3
    for index, width in VGG_CHANNELS.items():
        for part, shape in (("weight", (width, channels, 3, 3)), ("bias", (width,))):
            state[f"features.{index}.{part}"] = torch.from_numpy(frozen_value(rule_name(index, part), shape))
        channels = width
    path = factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "perceptual_default"),
        ({"criterion": "l2"}, "perceptual_l2"),
        ({"layers": {"conv5_4": 1.0}}, "perceptual_single34"),
        ({"range_norm": True}, "perceptual_range_norm"),
        ({"input_norm": False}, "perceptual_no_input_norm"),
    ],
)
def test_perceptual_equals_kair(kair_weights: str, options: dict[str, Any], key: str) -> None:
    loss = PerceptualLoss(weights=kair_weights, **options)
    _close(loss(_kair("pix_a"), _kair("pix_b")), KAIR[key], rel=1e-4)


def test_perceptual_features_equal_kair(kair_weights: str) -> None:
    found = PerceptualLoss(weights=kair_weights).features(_kair("pix_b")[:1])
    for i, features in enumerate(found.values()):
        assert list(features.shape) == KAIR["vgg_feature_shapes"][i]
        _close(features.abs().mean(), KAIR["vgg_feature_mean_abs"][i], rel=1e-4)
        expected = _kair(f"vgg_feat{i}_ch0")
        torch.testing.assert_close(features[0, 0], expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
        assert features.min() < 0, "features are taken before the ReLU"


@pytest.mark.parametrize("criterion", ["l1", "l2", "fro"])
def test_perceptual_and_style_equal_basicsr(basicsr_weights: str, criterion: Any) -> None:  # noqa: ANN401
    x, gt = _basicsr("percep_x"), _basicsr("percep_gt")
    content = PerceptualLoss(weights=basicsr_weights, criterion=criterion)(x, gt)
    _close(content, BASICSR[f"percep_{criterion}"], rel=1e-4)
    # The style part is a millionth of the other: it is weighted up, so that float32 shows it.
    both = PerceptualLoss(weights=basicsr_weights, criterion=criterion, style_weight=1e6)(x, gt)
    style = float(both - content) / 1e6
    assert BASICSR_STYLE_WEIGHT * style == pytest.approx(BASICSR[f"style_{criterion}"], rel=1e-3)


def test_perceptual_gradient_equals_basicsr(basicsr_weights: str) -> None:
    x = _basicsr("percep_x").requires_grad_()
    PerceptualLoss(weights=basicsr_weights)(x, _basicsr("percep_gt")).backward()
    expected = _basicsr("percep_grad_l1")
    assert x.grad is not None
    assert (x.grad - expected).norm() < 1e-3 * expected.norm()
