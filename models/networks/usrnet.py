"""USRNet (Zhang, Van Gool, Timofte: Deep Unfolding Network for Image Super-Resolution, CVPR 2020).

Non-blind: blur kernel, noise level and scale are given with each image. Half-quadratic splitting is unfolded into
`n_iter` rounds of a closed-form data step and a learned denoiser, one set of weights for every scale. Keys are KAIR's.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network import NETWORKS, Network
from utils.options.fields import PositiveInt

ActMode = Literal["R", "L", "BR"]
DownsampleMode = Literal["strideconv", "avgpool"]
UpsampleMode = Literal["convtranspose", "pixelshuffle", "upconv"]

# Of `init: closed_form` and `start: natural`, in powers of ten: the variance that is best for Set5 at x2 if one
# data step is all, and about the least that exact images gain from in float32; noise in 8-bit levels.
VARIANCE, FLOOR = 0.01, 1e-8
KNOTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


def data_step(x: Tensor, lq: Tensor, kernel: Tensor, alpha: Tensor | float, scale: int) -> Tensor:
    """Return the image nearest to `x` that explains `lq`: argmin over z of ‖lq − (z ⊗ k)↓s‖² + α‖z − x‖² (Eq. 7 to 9).

    ⊗ is circular convolution, ↓s keeps every s-th pixel from the first. Solved exactly, for any size and scale.

    Args:
        x: (B, C, h·scale, w·scale), the present estimate.
        lq: (B, C, h, w).
        kernel: (B, kh, kw), sum 1, centred as by `psf_on_canvas`.
        alpha: (B, 1, 1, 1) or a number above 0, the weight of `x`: μσ² in the paper.

    Returns:
        z like `x`, computed in float32 at least, also under autocast.

    Raises:
        ValueError: if the kernel is larger than the image `x`.
    """
    height, width = x.shape[-2:]
    return DataTerm.of(lq, psf_on_canvas(kernel, (height, width)), scale).step(x, alpha)


def natural_step(x: Tensor, lq: Tensor, psf: Tensor, alpha: Tensor | float, scale: int) -> Tensor:
    """Do `data_step` with ‖z − x‖² weighted as photographs are made: argmin ‖lq − Gz‖² + α‖P^(−½)(z − x)‖².

    P is diagonal in frequency and falls as 1/|f|² (Field 1987), mean 1, constant below the lowest frequency of the
    image. `psf` (B, H, W) is that of `psf_on_canvas`.
    """
    amplitude = _natural_amplitude(psf)
    # With x = Lu and LLᵀ = P, u is white: the flat problem, with the blur kL.
    whitened = _filtered(x.to(psf.dtype), amplitude.reciprocal())
    return _filtered(DataTerm.of(lq, _filtered(psf, amplitude), scale).step(whitened, alpha), amplitude)


def _filtered(image: Tensor, transfer: Tensor) -> Tensor:
    """Multiply the half spectrum of (..., H, W)."""
    return torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=image.shape[-2:])


def _natural_amplitude(like: Tensor) -> Tensor:
    """Return the square root of P over the half spectrum (H, W//2 + 1) of images (..., H, W)."""
    size = like.shape[-2:]
    fy, fx = (torch.fft.fftfreq(side, dtype=like.dtype, device=like.device) for side in size)
    power = (fy[:, None].square() + fx.square()).clamp_min(1 / max(size) ** 2).reciprocal()
    return (power / power.mean()).sqrt()[:, : size[1] // 2 + 1]


def psf_on_canvas(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Lay kernels (B, kh, kw) out as point spread functions (B, H, W) of images of `size`, centred at pixel (0, 0).

    The centre of k taps is tap ⌊k/2⌋, so an even kernel's lies half a tap to the lower right. In float32 at least.
    Raises ValueError if the kernel is larger than `size`.
    """
    (kh, kw), (height, width) = kernel.shape[-2:], size
    if kh > height or kw > width:
        raise ValueError(
            f"found a blur kernel of {kh}x{kw} (height x width) for a high-resolution image of {height}x{width}, "
            "expected one that is not larger than the image; use larger images or crop the kernel"
        )
    canvas = F.pad(_at_least_float32(kernel), (0, width - kw, 0, height - kh))
    return canvas.roll((-(kh // 2), -(kw // 2)), (-2, -1))


@dataclass(frozen=True)
class DataTerm:
    """‖lq − Gz‖² with G = blur, then decimation: what all data steps of an image share.

    The paper (Eq. 7 and 8) divides the normal equations' right side by their matrix at high resolution. We take the
    equal form that the matrix inversion lemma gives, z = x + Gᵀ(GGᵀ + α)⁻¹(lq − Gx), since it divides by no small α.
    G is diagonal on phases: with z_p the s² low-resolution images of every s-th pixel, Gz = Σ_p k_p ⊗ z_p. So the
    spectra are half spectra of real images at low resolution, and the paper's mean over aliases is the sum over p.

    Attributes:
        lq: spectrum (B, C, h, w//2 + 1).
        blur: spectra of k_p (B, 1, s, s, h, w//2 + 1). adjoint: their conjugates.
        energy: spectrum of GGᵀ, Σ_p |k_p|² (B, 1, h, w//2 + 1).
        size: (h, w). scale: s.
    """

    lq: Tensor
    blur: Tensor
    adjoint: Tensor
    energy: Tensor
    size: tuple[int, int]
    scale: int

    @classmethod
    def of(cls, lq: Tensor, psf: Tensor, scale: int) -> Self:
        """Prepare for `lq` (B, C, h, w) and its blur (B, h·scale, w·scale), see `psf_on_canvas`."""
        height, width = lq.shape[-2:]
        with torch.autocast(lq.device.type, enabled=False):
            # Gᵀ convolves with the mirrored blur, so the phases of that are what interleaves to an image.
            mirrored = psf.flip(-2, -1).roll((1, 1), (-2, -1))
            adjoint = torch.fft.rfft2(_phases(mirrored[:, None], scale))
            energy = (adjoint.real.square() + adjoint.imag.square()).sum((2, 3))
            spectrum = torch.fft.rfft2(_at_least_float32(lq))
            return cls(spectrum, adjoint.conj().resolve_conj(), adjoint, energy, (height, width), scale)

    def step(self, x: Tensor, alpha: Tensor | float) -> Tensor:
        """Do `data_step` from `x`."""
        with torch.autocast(x.device.type, enabled=False):
            x = _at_least_float32(x)
            blurred = (self.blur * torch.fft.rfft2(_phases(x, self.scale))).sum((2, 3))
            # A real reciprocal once, since complex division is slow.
            residual = (self.lq - blurred) * (self.energy + alpha).reciprocal()
            correction = torch.fft.irfft2(self.adjoint * residual[:, :, None, None], s=self.size)
            return x + _interleaved(correction)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _phases(x: Tensor, scale: int) -> Tensor:
    """Sort (B, C, h·s, w·s) into (B, C, s, s, h, w).

    A view, which pixel_unshuffle (three times as slow on the CPU) is not.
    """
    return x.unflatten(-1, (-1, scale)).unflatten(-3, (-1, scale)).permute(0, 1, 3, 5, 2, 4)


def _interleaved(phases: Tensor) -> Tensor:
    """Invert `_phases`."""
    return phases.permute(0, 1, 4, 2, 5, 3).flatten(-2).flatten(-3, -2)


class HyPaNet(nn.Module):
    """Map noise level (B,) and scale to all α, then all β, (B, 2·n_iter, 1, 1): the hyper-parameter module.

    In the weights' precision also under autocast, since α spans decades. The floor 1e-6 (after softplus) keeps the
    data step solvable; at σ = 0 the paper's α = μσ² would be 0.
    """

    def __init__(self, n_iter: int, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(2, channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 2 * n_iter, 1),
            nn.Softplus(),
        )

    @torch.no_grad()
    def become_closed_form(self) -> None:
        """Fill the weights so that α = 10 σ² / VARIANCE + FLOOR and β = √α in every round, and every layer can learn.

        Random weights make every α about 0.7 whatever σ is, while deconvolution needs α to span decades within the
        first levels of noise. So hidden units bend at KNOTS; between these, log α is linear. Units that are left start
        without a say.
        """
        first, second, last = (layer for layer in self.mlp if isinstance(layer, nn.Conv2d))
        channels, outputs = first.out_channels, last.out_channels
        knots = torch.tensor(KNOTS[:channels]) / 255
        count = len(knots)
        first.weight[:count] = 0
        first.weight[:count, 0, 0, 0] = -knots.reciprocal()  # max(0, 1 - σ / knot)
        nn.init.ones_(first.get_parameter("bias")[:count])
        second.weight[:count] = 0
        second.weight[range(count), range(count)] = 1
        nn.init.zeros_(second.get_parameter("bias")[:count])
        nn.init.zeros_(last.weight)
        alpha = 10 * torch.cat((torch.zeros(1), knots)).square() / VARIANCE + FLOOR
        for rows, wanted in ((slice(outputs // 2), alpha), (slice(outputs // 2, outputs), alpha.sqrt())):
            before = wanted.expm1().log()  # softplus
            slopes = before.diff() / torch.cat((knots[:1], knots.diff()))
            last.weight[rows, :count, 0, 0] = torch.cat((slopes.diff(), -slopes[-1:])) * knots
            last.get_parameter("bias")[rows] = before[-1]

    def forward(self, sigma: Tensor, scale: int) -> Tensor:
        given = torch.stack((sigma, torch.full_like(sigma, scale)), 1)[:, :, None, None]
        with torch.autocast(sigma.device.type, enabled=False):
            return self.mlp(given.to(next(self.parameters()).dtype)) + 1e-6


class ResBlock(nn.Module):
    """Apply two 3x3 convolutions without bias, an activation between; the result is added to the input."""

    def __init__(self, channels: int, act_mode: ActMode) -> None:
        super().__init__()
        norm = [nn.BatchNorm2d(channels, eps=1e-4, momentum=0.9)] if act_mode == "BR" else []
        act = nn.LeakyReLU(0.2, inplace=True) if act_mode == "L" else nn.ReLU(inplace=True)
        self.res = nn.Sequential(_conv(channels, channels), *norm, act, _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


class ResUNet(nn.Module):
    """Denoise (B, in_nc, H, W) to (B, out_nc, H, W): the prior module, a U-Net of four levels of residual blocks.

    Skips are added, no layer has a bias. Images of any size are extended to multiples of 8 at the bottom and right.
    """

    def __init__(
        self,
        in_nc: int,
        out_nc: int,
        nc: tuple[int, int, int, int],
        nb: int,
        act_mode: ActMode,
        downsample_mode: DownsampleMode,
        upsample_mode: UpsampleMode,
    ) -> None:
        super().__init__()

        def blocks(channels: int) -> list[nn.Module]:
            return [ResBlock(channels, act_mode) for _ in range(nb)]

        self.m_head = _conv(in_nc, nc[0])
        for level, (fine, coarse) in enumerate(pairwise(nc), start=1):
            down = nn.Sequential(*blocks(fine), *_downsample(fine, coarse, downsample_mode))
            self.add_module(f"m_down{level}", down)
        # Quirk: released code does not wrap a single block, and keys tell.
        self.m_body = nn.Sequential(*blocks(nc[3])) if nb > 1 else ResBlock(nc[3], act_mode)
        for level, (fine, coarse) in reversed(list(enumerate(pairwise(nc), start=1))):
            self.add_module(f"m_up{level}", nn.Sequential(*_upsample(coarse, fine, upsample_mode), *blocks(fine)))
        self.m_tail = _conv(nc[0], out_nc)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        features = [self.m_head(F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate"))]
        for level in (1, 2, 3):
            features.append(self.get_submodule(f"m_down{level}")(features[-1]))
        x = self.m_body(features[3])
        for level in (3, 2, 1):
            x = self.get_submodule(f"m_up{level}")(x + features[level])
        return self.m_tail(x + features[0])[..., :height, :width]

    @torch.no_grad()
    def become_identity(self) -> None:
        """Fill the weights so that the output is the first out_nc input channels, and every layer can learn.

        Head and tail pass these channels on, and the last upsampling gives zero, as does every residual branch.
        """
        out_nc, channels = self.m_tail.weight.shape[:2]
        if channels < out_nc:
            raise ValueError(
                f"found {channels} channels at the first level, expected {out_nc} or more to pass the image"
            )
        for conv in (self.m_head, self.m_tail):
            nn.init.zeros_(conv.weight[:out_nc])
            conv.weight[range(out_nc), range(out_nc), 1, 1] = 1
        up = self.get_submodule("m_up1").modules()
        nn.init.zeros_(next(layer.weight for layer in up if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))))
        for block in self.modules():
            if isinstance(block, ResBlock):
                nn.init.zeros_(block.get_parameter(f"res.{len(block.res) - 1}.weight"))


def _conv(in_nc: int, out_nc: int) -> nn.Conv2d:
    return nn.Conv2d(in_nc, out_nc, 3, padding=1, bias=False)


def _downsample(in_nc: int, out_nc: int, mode: DownsampleMode) -> list[nn.Module]:
    if mode == "avgpool":
        return [nn.AvgPool2d(2), _conv(in_nc, out_nc)]
    return [nn.Conv2d(in_nc, out_nc, 2, stride=2, bias=False)]


def _upsample(in_nc: int, out_nc: int, mode: UpsampleMode) -> list[nn.Module]:
    match mode:
        case "pixelshuffle":
            return [_conv(in_nc, 4 * out_nc), nn.PixelShuffle(2)]
        case "upconv":
            return [nn.Upsample(scale_factor=2, mode="nearest"), _conv(in_nc, out_nc)]
        case _:
            return [nn.ConvTranspose2d(in_nc, out_nc, 2, stride=2, bias=False)]


@NETWORKS.register("usrnet")
class USRNet(Network):
    """Map `lq` (B, out_nc, h, w), `kernel` (B, k, k), `sigma` (B,) to `sr` (B, out_nc, h·scale, w·scale) by USRNet.

    Borders are circular. The LQ pixel (0, 0) lies on the HR pixel (0, 0), as after blur and decimation.

    Args:
        scale: the nominal scale, used where a call gives none. The released models know scales 1 to 4.
        n_iter: rounds of data step and prior: 8, tiny model 6.
        h_nc: channels of the hyper-parameter module: 64, tiny model 32.
        in_nc: channels of the prior's input: those of the image and one of the noise level β.
        out_nc: channels of the image.
        nc: channels of the prior's four levels; tiny model 16, 32, 64, 64.
        nb: residual blocks a level.
        act_mode: activation of the residual blocks: `R` (ReLU), `L` (leaky ReLU of slope 0.2), or `BR` (batch
            normalisation and ReLU).
        downsample_mode: between levels: a strided convolution, or averages of 2x2 and a convolution.
        upsample_mode: back: a transposed convolution, a pixel shuffle, or nearest neighbours and a convolution.
        start: the first estimate. `nearest`: `lq` upscaled, as released. `natural`: the best linear one for images with
            spectra as photographs have, see `closed_form`.
        init: weights at the start of training. `identity`: the prior returns its image. `closed_form`: and α follows
            the noise level as in `closed_form`, so training starts from what that network does without a prior.

    Raises:
        ValueError: if in_nc is not out_nc + 1, or the first level is too narrow for `init: identity`.

    >>> network = NETWORKS.build({"type": "usrnet", "scale": 2, "n_iter": 2, "h_nc": 8, "nc": [8, 8, 8, 8], "nb": 1})
    >>> network(torch.rand(1, 3, 16, 24), kernel=torch.full((1, 5, 5), 1 / 25), sigma=torch.zeros(1)).shape
    torch.Size([1, 3, 32, 48])
    """

    conditions = ("kernel", "sigma", "scale")
    recomputable = ("p",)

    def __init__(
        self,
        scale: PositiveInt,
        n_iter: PositiveInt = 8,
        h_nc: PositiveInt = 64,
        in_nc: PositiveInt = 4,
        out_nc: PositiveInt = 3,
        nc: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (64, 128, 256, 512),
        nb: PositiveInt = 2,
        act_mode: ActMode = "R",
        downsample_mode: DownsampleMode = "strideconv",
        upsample_mode: UpsampleMode = "convtranspose",
        start: Literal["nearest", "natural"] = "nearest",
        init: Literal["default", "identity", "closed_form"] = "default",
    ) -> None:
        super().__init__()
        if in_nc != out_nc + 1:
            raise ValueError(
                f"found in_nc {in_nc} and out_nc {out_nc}, expected in_nc to be out_nc + 1 (the noise level)"
            )
        self.scale, self.start = scale, start
        self.p = ResUNet(in_nc, out_nc, nc, nb, act_mode, downsample_mode, upsample_mode)
        self.h = HyPaNet(n_iter, h_nc)
        if init != "default":
            self.p.become_identity()
        if init == "closed_form":
            self.h.become_closed_form()

    def forward(self, lq: Tensor, kernel: Tensor, sigma: Tensor, scale: int | None = None) -> Tensor:
        """Restore `lq`, blurred by `kernel` (sum 1), decimated by `scale`, with noise of standard deviation `sigma`.

        `sigma` in [0, 1] units. Raises ValueError if the kernel is larger than the output.
        """
        scale = scale or self.scale
        alphas, betas = self.h(sigma, scale).chunk(2, 1)
        x = F.interpolate(lq, scale_factor=scale, mode="nearest")
        height, width = x.shape[-2:]
        psf = psf_on_canvas(kernel, (height, width))
        if self.start == "natural":
            with torch.autocast(lq.device.type, enabled=False):
                strength = sigma.to(psf.dtype).square()[:, None, None, None] / VARIANCE + FLOOR
                x = natural_step(torch.zeros_like(x), lq, psf, strength, scale)
        term = DataTerm.of(lq, psf, scale)
        for alpha, beta in zip(alphas.split(1, 1), betas.split(1, 1), strict=True):
            z = term.step(x, alpha)
            x = self.p(torch.cat((z, beta.to(z.dtype).expand(-1, -1, height, width)), 1))
        return x
