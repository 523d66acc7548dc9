"""The closed forms against their normal equations and dense solves, and USRNet's start as an identity."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.network import NETWORKS
from models.networks.usrnet import data_step, psf_on_canvas

SMALL = {"scale": 2, "n_iter": 3, "h_nc": 8, "nc": [8, 8, 12, 12], "nb": 2}
CLOSED_FORMS = [{"type": "closed_form", "scale": 2, "prior": prior} for prior in ("natural", "flat")]


def usrnet(**options: Any) -> Any:  # noqa: ANN401
    torch.manual_seed(0)
    return NETWORKS.build({"type": "usrnet", **SMALL, **options})


def closed_form(scale: int, **options: Any) -> Any:  # noqa: ANN401
    return NETWORKS.build({"type": "closed_form", "scale": scale, **options})


def problem(seed: int, size: tuple[int, int], taps: int, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, lq and kernels of two samples in float64; the kernels differ and have no symmetry."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(2, *shape, generator=generator, dtype=torch.float64)

    kernel = uniform(taps, taps)
    return uniform(3, *(scale * side for side in size)), uniform(3, *size), kernel / kernel.sum((1, 2), keepdim=True)


def blurred(image: Tensor, kernel: Tensor, scale: int, transposed: bool = False) -> Tensor:
    """Circular convolution then decimation, or the transpose of both, tap by tap."""
    sign, taps = -1 if transposed else 1, kernel.shape[-1]
    if transposed:
        upsampled = image.new_zeros(*image.shape[:2], *(scale * side for side in image.shape[2:]))
        upsampled[..., ::scale, ::scale] = image
        image = upsampled
    total = torch.zeros_like(image)
    for i in range(taps):
        for j in range(taps):
            shifted = image.roll((sign * (i - taps // 2), sign * (j - taps // 2)), (-2, -1))
            total += kernel[:, i, j, None, None, None] * shifted
    return total if transposed else total[..., ::scale, ::scale]


SIZES = [((7, 9), 5, 1), ((8, 6), 4, 1), ((7, 5), 3, 2), ((6, 8), 10, 2), ((5, 7), 15, 3), ((4, 7), 6, 3)]
SIZES += [((3, 5), 12, 4), ((6, 3), 7, 4), ((3, 2), 5, 5), ((1, 1), 2, 3)]


@pytest.mark.parametrize(("size", "taps", "scale"), SIZES)
@pytest.mark.parametrize(
    ("dtype", "alphas", "bound"),
    [(torch.float64, (1e-6, 1e-3, 1, 10), 1e-9), (torch.float32, (1e-2, 0.3, 10), 1e-5)],
    ids=["float64", "float32"],
)
def test_data_step_solves_its_normal_equations(
    size: tuple[int, int], taps: int, scale: int, dtype: torch.dtype, alphas: tuple[float, ...], bound: float
) -> None:
    x, lq, kernel = problem(scale + taps, size, taps, scale)
    for alpha in alphas:
        weight = alpha * torch.tensor([1, 0.5], dtype=torch.float64)[:, None, None, None]
        z = data_step(x.to(dtype), lq.to(dtype), kernel.to(dtype), weight.to(dtype), scale)
        assert z.dtype == dtype
        z = z.double()
        left = blurred(blurred(z, kernel, scale), kernel, scale, transposed=True) + weight * z
        right = blurred(lq, kernel, scale, transposed=True) + weight * x
        assert (left - right).norm() <= bound * right.norm(), f"alpha {alpha}"


def test_tiny_alpha_in_float32_stays_near_float64() -> None:
    """The released formula divides by α at the end; ours must not lose digits at the floor of α."""
    x, lq, kernel = problem(0, (12, 14), 7, 2)
    exact, found = data_step(x, lq, kernel, 1e-6, 2), data_step(x.float(), lq.float(), kernel.float(), 1e-6, 2)
    assert (blurred(found.double(), kernel, 2) - blurred(exact, kernel, 2)).abs().max() < 1e-5


@pytest.mark.parametrize("options", [{"type": "usrnet", **SMALL}, *CLOSED_FORMS])
def test_kernel_larger_than_the_image_is_refused(options: dict[str, Any]) -> None:
    network = NETWORKS.build(options)
    x, lq, kernel = (part.float() for part in problem(0, (4, 6), 8, 2))
    assert network(lq, kernel, torch.zeros(2)).shape == x.shape  # larger than the LQ image, and fits
    with pytest.raises(ValueError, match=r"blur kernel of 9x9 .* image of 8x12"):
        network(lq, torch.full((2, 9, 9), 1 / 81), torch.zeros(2))


@pytest.mark.parametrize("options", [{"type": "usrnet", **SMALL}, *CLOSED_FORMS])
def test_scale_of_a_call(options: dict[str, Any]) -> None:
    network = NETWORKS.build(options)
    _, lq, kernel = (part.float() for part in problem(0, (5, 6), 4, 1))
    with torch.no_grad():
        for scale in (1, 2, 3, 4):
            assert network(lq, kernel, torch.zeros(2), scale).shape == (2, 3, 5 * scale, 6 * scale)
        assert torch.equal(network(lq, kernel, torch.zeros(2)), network(lq, kernel, torch.zeros(2), 2))


# --- USRNet -----------------------------------------------------------------------------------------------------


def test_the_hyper_module_is_told_the_scale_and_the_noise() -> None:
    network = usrnet()
    by_scale = [network.h(torch.tensor([0.01, 0.1]), scale) for scale in (1, 4)]
    assert (by_scale[0] - by_scale[1]).abs().min() > 0
    assert (by_scale[0][0] - by_scale[0][1]).abs().min() > 0
    with torch.no_grad():
        network.h.mlp[4].bias.fill_(-100)
        assert network.h(torch.zeros(1), 2).min() >= 1e-6


def test_autocast_keeps_the_data_step_and_the_hyper_module_in_float32() -> None:
    x, lq, kernel = (part.float() for part in problem(1, (8, 9), 5, 2))
    network, sigma = usrnet(), torch.tensor([0.0, 0.1])
    with torch.no_grad():
        z, hyper, sr = data_step(x, lq, kernel, 1e-3, 2), network.h(sigma, 2), network(lq, kernel, sigma)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(data_step(x, lq, kernel, 1e-3, 2), z)
            assert torch.equal(network.h(sigma, 2), hyper)
            rounded = [part.bfloat16() for part in (x, lq, kernel)]
            assert data_step(rounded[0], rounded[1], rounded[2], 1e-3, 2).dtype == torch.float32
            half = network(lq, kernel, sigma)
    assert (half.float() - sr).abs().max() < 0.03 * sr.abs().max()


@pytest.mark.parametrize("upsample_mode", ["convtranspose", "pixelshuffle", "upconv"])
@pytest.mark.parametrize("act_mode", ["R", "BR"])
def test_identity_start_is_the_unfolded_closed_form(upsample_mode: str, act_mode: str) -> None:
    network = usrnet(init="identity", upsample_mode=upsample_mode, act_mode=act_mode)
    x, lq, kernel = (part.float() for part in problem(2, (7, 9), 6, 2))
    beta = torch.rand(2, 1, 1, 1).expand(-1, -1, *x.shape[-2:])
    assert (network.p(torch.cat((x, beta), 1)) - x).abs().max() < 1e-6

    sigma = torch.tensor([0.02, 0.1])
    expected = F.interpolate(lq, scale_factor=2, mode="nearest")
    for alpha in network.h(sigma, 2)[:, :3].split(1, 1):
        expected = data_step(expected, lq, kernel, alpha, 2)
    assert (network(lq, kernel, sigma) - expected).abs().max() < 1e-6


def test_identity_start_learns_and_reaches_every_weight() -> None:
    network = usrnet(init="identity")
    gt, _, kernel = (part.float() for part in problem(3, (16, 16), 5, 1))
    lq, sigma = blurred(gt, kernel, 2), torch.full((2,), 0.05)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        loss = (network(lq, kernel, sigma) - gt).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]
    # After the second step the zeros are gone from the last upsampling and from the branches.
    dead = [name for name, weight in network.named_parameters() if not weight.grad.abs().sum() > 0]
    assert not dead


def test_closed_form_start_follows_the_noise_level() -> None:
    network = usrnet(init="closed_form", h_nc=16)
    sigma = torch.tensor([0.0, 0.25, 1, 2.55, 7.65, 25, 64]) / 255
    alphas, betas = network.h(sigma, 2)[:, :, 0, 0].chunk(2, 1)
    expected = (sigma.square() / 0.001 + 1e-6)[:, None]
    assert ((alphas / expected).log().abs() < math.log(1.2))[1:].all(), "at knots exactly, between them by a tenth"
    assert (alphas[0] < 3e-6).all(), "of clean images nothing but the floor, and that of the released module"
    assert ((betas.square() / expected).log().abs() < math.log(1.3))[1:].all()

    loss = network.h(sigma, 2).log().square().mean()
    loss.backward()
    assert network.h.mlp[-2].weight.grad.abs().sum((1, 2, 3)).min() > 0


@pytest.mark.parametrize("level", [0, 2.55, 7.65])
def test_untrained_it_is_as_good_as_the_closed_form_it_starts_at(level: float) -> None:
    network, linear = usrnet(init="closed_form", start="natural"), closed_form(2, alpha=1e-8)
    generator = torch.Generator().manual_seed(0)
    gt = F.interpolate(torch.rand(1, 3, 12, 16, generator=generator), scale_factor=4, mode="bicubic")
    kernel = torch.rand(1, 7, 7, generator=generator)
    kernel = kernel / kernel.sum()
    lq = blurred(gt, kernel, 2)
    lq, sigma = lq + level / 255 * torch.randn(lq.shape, generator=generator), torch.tensor([level / 255])
    ours, its = ((one(lq, kernel, sigma) - gt).square().mean().sqrt().item() for one in (network, linear))
    assert ours < 1.03 * its


# --- closed form --------------------------------------------------------------------------------------------------


def natural_covariance(height: int, width: int) -> Tensor:
    """P as a dense matrix, by the definition: a real circulant with eigenvalues 1/|f|², mean 1."""
    power = torch.zeros(height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            fy, fx = min(i, height - i) / height, min(j, width - j) / width
            power[i, j] = 1 / max(fy**2 + fx**2, 1 / max(height, width) ** 2)
    power /= power.mean()
    row = torch.fft.ifft2(power).real
    shifts = [row.roll((i, j), (0, 1)).flatten() for i in range(height) for j in range(width)]
    return torch.stack(shifts)


@pytest.mark.parametrize("prior", ["flat", "natural"])
@pytest.mark.parametrize(("size", "taps", "scale"), [((6, 5), 3, 1), ((3, 4), 4, 2), ((3, 2), 5, 3), ((2, 3), 6, 4)])
def test_closed_form_against_a_dense_solve(prior: str, size: tuple[int, int], taps: int, scale: int) -> None:
    _, lq, kernel = problem(4, size, taps, scale)
    sigma, variance, alpha = torch.tensor([0.0, 0.2], dtype=torch.float64), 0.3, 1e-2
    height, width = (scale * side for side in size)
    unit_images = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    p = natural_covariance(height, width) if prior == "natural" else torch.eye(height * width, dtype=torch.float64)
    for start in ("zero", "nearest"):
        found = closed_form(scale, prior=prior, start=start, variance=variance, alpha=alpha)(lq, kernel, sigma)
        x = F.interpolate(lq, scale_factor=scale) if start == "nearest" else torch.zeros_like(found)
        for b in range(2):
            g = blurred(unit_images, kernel[b : b + 1], scale).flatten(1).T
            strength = (alpha + sigma[b] ** 2 / variance) * torch.eye(g.shape[0], dtype=torch.float64)
            x0 = x[b].flatten(1).T
            residual = lq[b].flatten(1).T - g @ x0
            expected = x0 + p @ g.T @ torch.linalg.solve(g @ p @ g.T + strength, residual)
            torch.testing.assert_close(found[b].flatten(1).T, expected, rtol=1e-9, atol=1e-9)


def test_closed_form_at_scale_1_is_wieners_filter() -> None:
    _, lq, kernel = problem(5, (9, 12), 5, 1)
    found = closed_form(1, variance=0.2, alpha=1e-6)(lq, kernel, torch.full((2,), 0.1, dtype=torch.float64))
    k = torch.fft.fft2(psf_on_canvas(kernel, (9, 12)))[:, None]
    power = torch.fft.fft2(natural_covariance(9, 12)[0].reshape(9, 12)).real
    expected = torch.fft.ifft2(k.conj() * torch.fft.fft2(lq) / (k.abs() ** 2 + (1e-6 + 0.01 / 0.2) / power)).real
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_natural_prior_restores_better_than_bicubic_and_than_the_flat_prior() -> None:
    generator = torch.Generator().manual_seed(6)
    frequency = torch.hypot(torch.fft.fftfreq(48)[:, None], torch.fft.fftfreq(48)[None]).clamp_min(1 / 48)
    noise = torch.randn(4, 3, 48, 48, generator=generator)
    gt = 0.5 + 0.01 * torch.fft.ifft2(torch.fft.fft2(noise) / frequency).real
    at = torch.arange(7) - 3
    kernel = torch.exp(-0.5 * (at[:, None] ** 2 + at**2) / 1.5**2).expand(4, -1, -1) / (2 * math.pi * 1.5**2)
    lq = blurred(gt, kernel, 2) + 0.01 * torch.randn(4, 3, 24, 24, generator=generator)
    sigma = torch.full((4,), 0.01)

    def error(sr: Tensor) -> float:
        return (sr - gt).square().mean().item()

    natural = error(closed_form(2)(lq, kernel, sigma))
    assert natural < 0.8 * error(NETWORKS.build({"type": "bicubic", "scale": 2})(lq))
    assert natural < 0.8 * error(closed_form(2, prior="flat")(lq, kernel, sigma))
