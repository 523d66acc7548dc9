"""Every registered loss against the `Loss` protocol; adversarial losses from both sides.

A new loss that has obligatory options needs a line in OPTIONS; one that needs further inputs, a line in EXTRAS.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock, patch

import pytest
import torch
import torchvision
from torch import Tensor, nn

from losses import LOSSES, Loss, LossTerm
from losses.backbones import FILES
from losses.gan import GanLoss, Kind, gradient_penalty
from losses.ldl import LdlLoss, artifact_map
from losses.perceptual import PerceptualLoss, convolutions
from utils.options.components import OptionsError
from utils.options.fields import OptionError
from utils.seeding import torch_generator

NAMES = LOSSES.names()
KINDS = get_args(Kind)
SMALL_VGG = {0: (64, 3), 2: (64, 64), 5: (128, 64)}

WEIGHTS_FILE = FILES["vgg19"]


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first three convolutions of a VGG19 with random weights."""
    random = torch_generator(0)
    state = {}
    for index, (width, channels) in SMALL_VGG.items():
        scale = (9 * channels) ** -0.5
        state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3, generator=random) * scale
        state[f"features.{index}.bias"] = torch.randn(width, generator=random) * 0.1
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    if find_spec("lpips"):
        torch.save(_random_vgg16().state_dict(), path.with_name(FILES["vgg16"]))
    return str(path)


def _random_vgg16() -> nn.Module:
    """What is used of torchvision's VGG16, its `features`, with random weights."""
    with torch.device("meta"):
        features = torchvision.models.vgg16().features
    random, network = torch_generator(3), nn.Module()
    network.features = features.to_empty(device="cpu")
    for name, weight in features.named_parameters():
        with torch.no_grad():
            weight.normal_(std=(2 / weight[0].numel()) ** 0.5, generator=random) if "weight" in name else weight.zero_()
    return network


PACKAGES = {"lpips": "lpips", "dists": "DISTS_pytorch"}


def _loss(name: str, vgg_file: str) -> Loss:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason="the extra `losses` is not installed")
    options: dict[str, dict[str, Any]] = {
        "perceptual": {"weights": vgg_file, "layers": {"conv1_2": 1.0, "conv2_1": 0.5}, "style_weight": 1.0},
        "lpips": {"weights": str(Path(vgg_file).with_name(FILES["vgg16"]))},
    }
    # The packages build all of torchvision's network, and that of DISTS lets it download 500 MB.
    with patch("torchvision.models.vgg16", Mock(return_value=_random_vgg16())) if name in PACKAGES else nullcontext():
        return LOSSES.check({"type": name, **options.get(name, {})}).component()


def _images(count: int = 2) -> list[Tensor]:
    random = torch_generator(1)
    return [torch.rand(count, 3, 20, 24, generator=random) for _ in range(2)]


def _extras(loss: Loss, sr: Tensor, target: Tensor) -> dict[str, Tensor]:
    """What a stage would supply; logits are a linear function of the image, as a discriminator's would be."""
    makers: dict[str, Callable[[], Tensor]] = {
        "fake_logits": lambda: sr.mean(1, keepdim=True) * 3 - 1,
        "real_logits": lambda: target.mean(1, keepdim=True) * 3 - 1,
        "sr_ema": lambda: sr.detach() * 0.9,
        "lq": lambda: sr.detach()[..., ::2, ::2],
    }
    return {name: makers[name]() for name in loss.needs}


@pytest.mark.parametrize("name", NAMES)
def test_is_a_finite_scalar_with_gradient_to_every_pixel_of_the_output(name: str, vgg_file: str) -> None:
    loss, (sr, target) = _loss(name, vgg_file), _images()
    sr, target = sr.requires_grad_(), target.requires_grad_()
    value = loss(sr, target, **_extras(loss, sr, target.detach()))
    assert value.shape == () and torch.isfinite(value)
    value.backward()
    assert sr.grad is not None and torch.isfinite(sr.grad).all()
    reached = (sr.grad.abs().sum(1) > 0).float().mean()
    assert reached > (0.99 if loss.compares else 0.9)  # total variation has none where neighbours pull both ways


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in PACKAGES else n for n in NAMES])
def test_descent_lowers_it(name: str, vgg_file: str) -> None:
    loss, (sr, target) = _loss(name, vgg_file), _images()
    sr = sr.requires_grad_()
    optimizer, values = torch.optim.Adam([sr], 0.01), []
    for _ in range(15):
        value = loss(sr, target, **_extras(loss, sr, target))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < values[5] < values[0]


@pytest.mark.parametrize("name", NAMES)
def test_is_lowest_for_equal_images_unless_it_looks_at_logits_or_the_output_alone(name: str, vgg_file: str) -> None:
    loss, (sr, target) = _loss(name, vgg_file), _images()
    if not loss.needs and loss.compares:
        at_target = float(loss(target, target))
        assert at_target < 1e-4 and at_target < float(loss(0.9 * target + 0.1 * sr, target)) < float(loss(sr, target))


@pytest.mark.parametrize("name", NAMES)
def test_has_nothing_to_train_or_to_save(name: str, vgg_file: str) -> None:
    loss = _loss(name, vgg_file)
    assert list(loss.parameters()) == [] and loss.state_dict() == {}


# --- adversarial ----------------------------------------------------------------------------------------------------


def _gan(kind: Any, **options: Any) -> GanLoss:  # noqa: ANN401
    return GanLoss(kind, gradient_penalty=10.0 if kind == "wgan" else 0.0, **options)


def _logits() -> tuple[Tensor, Tensor]:
    random = torch_generator(2)
    real, fake = (torch.randn(4, 1, 5, 6, generator=random) for _ in range(2))
    return real.requires_grad_(), fake.requires_grad_()


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_learns_to_look_real(kind: str) -> None:
    real, fake = _logits()
    loss = _gan(kind)
    loss.generator(fake, real if loss.needs_real else None).backward()
    assert fake.grad is not None and (fake.grad.abs() > 0).all()
    assert real.grad is None, "real logits are constants to the generator"
    # On the whole, more is better; lsgan pulls logits above 1 back.
    wants_more = fake.grad < 0
    assert wants_more[fake < 1].all() if kind == "lsgan" else wants_more.all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("detach_means", [True, False])
def test_the_discriminator_learns_to_tell_apart(kind: str, detach_means: bool) -> None:
    real, fake = _logits()
    _gan(kind, detach_means=detach_means).discriminator(real, fake).backward()
    assert real.grad is not None and fake.grad is not None
    assert (real.grad[real < 0] < 0).all() and (fake.grad[fake > 0] > 0).all()
    if kind not in ("hinge", "lsgan"):  # these leave or pull back logits that are good enough
        assert (real.grad < 0).all() and (fake.grad > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_reach_the_networks(kind: str) -> None:
    """The gradient that one well-known framework lost: through the discriminator into the generator."""
    torch.manual_seed(0)
    generator, discriminator = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 1, 3)
    lq, target = _images()
    loss, sr = _gan(kind), generator(lq)
    real_logits = discriminator(target) if loss.needs_real else None
    loss.generator(discriminator(sr), real_logits).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())
    discriminator.zero_grad()
    loss.discriminator(discriminator(target), discriminator(sr.detach())).backward()
    assert discriminator.weight.grad is not None and discriminator.weight.grad.abs().sum() > 0


def test_only_ragan_needs_real_logits() -> None:
    assert [kind for kind in KINDS if _gan(kind).needs_real] == ["ragan"]
    with pytest.raises(ValueError, match="real images"):
        _gan("ragan").generator(torch.zeros(1))


def test_ragan_compares_place_by_place_or_all_at_once() -> None:
    real, fake = (logits.detach() for logits in _logits())
    entropy = nn.functional.binary_cross_entropy_with_logits
    for mean_over, dims in (("batch", 0), ("all", (0, 1, 2, 3))):
        r, f = real - fake.mean(dims, keepdim=True), fake - real.mean(dims, keepdim=True)
        expected = (entropy(r, torch.ones_like(r)) + entropy(f, torch.zeros_like(f))) / 2
        found = _gan("ragan", mean_over=mean_over).discriminator(real, fake)
        torch.testing.assert_close(found, expected)
    assert _gan("ragan").discriminator(real, fake) != _gan("ragan", mean_over="all").discriminator(real, fake)


def test_ragan_means_can_be_constants() -> None:
    gradients = []
    for detach_means in (True, False):
        real, fake = _logits()
        _gan("ragan", detach_means=detach_means).discriminator(real, fake).backward()
        assert real.grad is not None
        gradients.append(real.grad)
    assert not torch.allclose(gradients[0], gradients[1])


def test_gathered_means_on_one_process_are_its_own() -> None:
    real, fake = _logits()
    assert _gan("ragan", gather_means=True).discriminator(real, fake) == _gan("ragan").discriminator(real, fake)


def test_gathered_means_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = _logits()
    monkeypatch.setattr("losses.gan.all_mean", lambda mean: mean + 1)
    assert _gan("ragan", gather_means=True).discriminator(real, fake) != _gan("ragan").discriminator(real, fake)


def test_wgan_demands_a_penalty() -> None:
    with pytest.raises(OptionError, match="gradient_penalty"):
        LOSSES.build({"type": "gan", "kind": "wgan"})
    assert LOSSES.build({"type": "gan", "kind": "wgan", "gradient_penalty": 10}).loss.gradient_penalty == 10


def test_gradient_penalty_of_a_linear_critic_is_known() -> None:
    real, fake = _images()
    for slope, expected in ((1.0, 0.0), (3.0, 4.0)):
        weight = torch.zeros_like(real[:1])
        weight[0, 0, 0, 0] = slope
        weight.requires_grad_()

        def critic(x: Tensor, weight: Tensor = weight) -> Tensor:
            return (x * weight).sum((1, 2, 3), keepdim=True)

        value = gradient_penalty(critic, real, fake, torch_generator(0))
        torch.testing.assert_close(value.detach(), torch.tensor(expected))
        if slope != 1:
            (gradient,) = torch.autograd.grad(value, weight)
            assert gradient.abs().sum() > 0
    with torch.no_grad():
        assert gradient_penalty(critic, real, fake, torch_generator(0)) == 4


def test_gradient_penalty_mixes_by_its_seed() -> None:
    real, fake = _images()
    loss = GanLoss("wgan", gradient_penalty=10)

    def critic(x: Tensor) -> Tensor:
        return x.square().mean((1, 2, 3))

    values = [float(loss.penalty(critic, real, fake, seed).detach()) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    plain = 10 * float(gradient_penalty(critic, real, fake, torch_generator(1)).detach())
    assert values[0] == pytest.approx(plain)


# --- locally discriminative learning ---------------------------------------------------------------------------------


def test_artifact_map_by_hand() -> None:
    """One wrong pixel in a corner: a window's variance tells how often it is there, for borders mirror it."""
    target = torch.zeros(2, 3, 10, 12)
    sr, sr_ema = target.clone(), target.clone()
    sr[0, :, 1, 1] = torch.tensor([0.1, -0.2, 0.3])  # a residual of 0.6
    sr[1, :, 5, 6] = -0.1
    sr_ema[0, :, 1, 1] = 0.2  # as far from the target: counts
    sr_ema[0, 2, 3, 3] = 0.01  # farther than `sr`: does not count

    def variance(value: float, times: Tensor, count: int) -> Tensor:
        return (times * value**2 - (times * value) ** 2 / count) / (count - 1)

    once = torch.tensor(1.0)
    corner = torch.tensor([4.0, 4, 4, 2, 2])[:, None] * torch.tensor([1.0, 1, 1, 0.5, 0.5])
    expected = torch.zeros(2, 1, 10, 12)
    expected[0, 0, :5, :5] = variance(0.6, once, 120) ** 0.2 * variance(0.6, corner, 49)
    expected[0, 0, 3, 3] = 0
    expected[1, 0, 2:9, 3:10] = variance(0.3, once, 120) ** 0.2 * variance(0.3, once, 49)
    torch.testing.assert_close(artifact_map(sr, sr_ema, target), expected)
    by_hand = (expected * (sr - target).abs()).mean()
    torch.testing.assert_close(LdlLoss()(sr, target, sr_ema=sr_ema), by_hand)


def test_artifact_map_is_the_variance_of_each_window() -> None:
    (sr, target), count = _images(), 7
    residual = (sr - target).abs().sum(1, keepdim=True)
    windows = nn.functional.pad(residual, (3,) * 4, mode="reflect").unfold(2, count, 1).unfold(3, count, 1)
    expected = residual.var((1, 2, 3), keepdim=True) ** (1 / 5) * windows.var((-1, -2))
    torch.testing.assert_close(artifact_map(sr, sr, target), expected)
    nearer = artifact_map(sr, 0.5 * (sr + target), target)
    torch.testing.assert_close(nearer, expected)
    assert not artifact_map(sr, 2 * sr - target, target).any(), "all is better than the average"


def test_ldl_learns_through_its_map() -> None:
    """Also pixels that do not count have a slope, for they belong to their neighbours' windows and to the image."""
    sr, target = (image.double() for image in _images(1))
    sr_ema = target.clone().requires_grad_()
    sr_ema.data[..., 12:] = 9  # there the output is nearer, and does not count
    sr.requires_grad_()
    LdlLoss()(sr, target, sr_ema=sr_ema).backward()
    assert sr.grad is not None and sr.grad.abs().min() > 0 and sr_ema.grad is None
    step = 1e-6 * torch.randn(sr.shape, dtype=sr.dtype, generator=torch_generator(3))
    ahead, behind = (float(LdlLoss()(sr + sign * step, target, sr_ema=sr_ema).detach()) for sign in (1, -1))
    assert (ahead - behind) / 2 == pytest.approx(float((sr.grad * step).sum()), rel=1e-4)


def test_ldl_of_perfect_images_has_a_finite_slope() -> None:
    target = _images()[1]
    perfect = target.clone().requires_grad_()
    value = LdlLoss()(perfect, target, sr_ema=target)
    value.backward()
    assert value == 0 and perfect.grad is not None and not perfect.grad.any()


# --- perceptual -----------------------------------------------------------------------------------------------------


def test_perceptual_ends_at_the_last_used_layer(vgg_file: str) -> None:
    loss = PerceptualLoss({"conv2_1": 1.0, "conv5_4": 0.0}, weights=vgg_file)
    assert sum(buffer.ndim == 4 and buffer.shape[-1] == 3 for buffer in loss.buffers()) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "/nowhere/vgg.pth"}, f"/nowhere/vgg.pth.*{WEIGHTS_FILE}"),
        ({"layers": {"conv1_2": 0.0}}, "no layer"),
        ({"layers": {"conv9_1": 1.0}}, "conv9_1"),
    ],
)
def test_perceptual_says_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionError, OptionsError), match=message):
        LOSSES.build({"type": "perceptual", **options})


def test_perceptual_names_the_missing_layer_of_a_file(vgg_file: str) -> None:
    with pytest.raises(OptionError, match=f"features.34.*{WEIGHTS_FILE}|features.7.*{WEIGHTS_FILE}"):
        LOSSES.build({"type": "perceptual", "weights": vgg_file})


def test_perceptual_refuses_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "vgg19.pth"
    path.write_bytes(b"not weights")
    with pytest.raises(OptionError, match="cannot be read"):
        LOSSES.build({"type": "perceptual", "weights": str(path), "layers": {"conv1_2": 1.0}})


def test_perceptual_without_network_says_which_file_goes_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OptionError, match=f"{WEIGHTS_FILE}.*{tmp_path}"):
        LOSSES.build("perceptual")


def test_perceptual_survives_inference_mode_and_leaves_targets_alone(vgg_file: str) -> None:
    loss = PerceptualLoss({"conv1_2": 1.0}, weights=vgg_file)
    sr, target = (image.requires_grad_() for image in _images())
    with torch.inference_mode():
        loss(sr, target)
    loss(sr, target).backward()
    assert sr.grad is not None and target.grad is None


# --- labels, sums, ramps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vanilla", "lsgan"])
def test_smoothed_labels_are_those_of_basicsr(kind: Any) -> None:
    """Values of its GANLoss with labels 0.9 and 0.1: the criterion against constant maps."""
    real, fake = torch.tensor([[0.3, -1.2]]), torch.tensor([[2.0, 0.1]])
    criterion = torch.nn.BCEWithLogitsLoss() if kind == "vanilla" else torch.nn.MSELoss()
    loss = GanLoss(kind, real_label=0.9, fake_label=0.1)
    expected = criterion(real, torch.full_like(real, 0.9)) + criterion(fake, torch.full_like(fake, 0.1))
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(loss.generator(fake), criterion(fake, torch.full_like(fake, 0.9)))


def test_labels_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="kind hinge has no labels; vanilla, ragan, lsgan have"):
        GanLoss("hinge", real_label=0.9)
    with pytest.raises(ValueError, match="real_label: found 0.1, expected more than fake_label, 0.5"):
        GanLoss("vanilla", real_label=0.1, fake_label=0.5)


@pytest.mark.parametrize("name", ["l1", "l2", "charbonnier"])
def test_a_sum_is_the_mean_times_the_count(name: str) -> None:
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    mean, total = (LOSSES.check({"type": name, "reduction": r}).component()(a, b) for r in ("mean", "sum"))
    torch.testing.assert_close(total, mean * a.numel())


def test_total_variation_is_that_of_neighbours() -> None:
    image = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None, None]
    assert LOSSES.check("tv").component()(image, image).item() == pytest.approx((0 + 0.5) / 2 + (1 + 0.5) / 2)


def test_a_ramp_grows_from_nothing_to_the_weight() -> None:
    term = LossTerm(LOSSES.check("l1").component(), weight=0.4, ramp=4)
    assert [term.weight_at(step) for step in (1, 2, 4, 9)] == pytest.approx([0.1, 0.2, 0.4, 0.4])
    assert LossTerm(term.loss, weight=0.4).weight_at(1) == 0.4


def test_features_after_relu_are_those_before_without_what_is_negative(vgg_file: str) -> None:
    layers: dict[Any, float] = {"conv1_2": 1.0, "conv2_1": 1.0}
    image = torch.rand(1, 3, 16, 16)
    before, after = (
        PerceptualLoss(layers, weights=vgg_file, network=network, after_relu=after_relu).features(image)
        for network, after_relu in (("vgg19", False), ("vgg16", True))  # the same as far as this file goes
    )
    assert before["conv1_2"].min() < 0
    for name in layers:
        torch.testing.assert_close(after[name], before[name].relu())


def test_vgg16_has_fewer_convolutions(vgg_file: str) -> None:
    with pytest.raises(ValueError, match="layers: found conv3_4, which vgg16 has not"):
        PerceptualLoss({"conv3_4": 1.0}, weights=vgg_file, network="vgg16")
    assert convolutions("vgg16")["conv5_3"] == 28 and convolutions("vgg19")["conv5_4"] == 34


# --- packages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGES)
def test_losses_of_packages(name: str, vgg_file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Gray images as RGB, the distance of each image as the package gives it, no draw moved; else what to fetch."""
    state = torch.random.get_rng_state()
    loss, (sr, target) = _loss(name, vgg_file), _images()
    assert torch.equal(torch.random.get_rng_state(), state)
    gray = sr[:, :1], target[:, :1]
    torch.testing.assert_close(loss(*gray), loss(*(image.repeat(1, 3, 1, 1) for image in gray)))
    single = torch.stack([loss(sr[i : i + 1], target[i : i + 1]) for i in range(2)]).mean()
    torch.testing.assert_close(loss(sr, target), single)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OptionError, match=r"no network.*fetch https.*vgg16-397923af\.pth elsewhere and put it into"):
        LOSSES.build({"type": name})
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(OptionError, match=r"pip install -e '\.\[losses\]'"):
        LOSSES.build({"type": name})


@pytest.mark.parametrize(
    ("weight", "words"), [(None, "has no features.0.weight"), (torch.zeros(8, 3, 3, 3), "has weights of another shape")]
)
def test_a_file_of_another_network_is_refused_in_words(
    weight: torch.Tensor | None, words: str, vgg_file: str, tmp_path: Path
) -> None:
    state = torch.load(vgg_file, weights_only=True)
    state = {key: value for key, value in state.items() if key != "features.0.weight"}
    path = tmp_path / "other.pth"
    torch.save(state if weight is None else {**state, "features.0.weight": weight}, path)
    with pytest.raises(OptionError, match=rf"other\.pth: {words}, expected torchvision's vgg19"):
        LOSSES.build({"type": "perceptual", "weights": str(path), "layers": {"conv1_2": 1.0}})
