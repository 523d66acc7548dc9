"""The losses of KernelGAN's generators (Bell-Kligler et al., NeurIPS 2019), and ours by power spectra.

Everything is a mean per kernel, (N,) for kernels (N, k, k).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.resize import weight_matrix


def downscaled(images: Tensor, kernels: Tensor) -> Tensor:
    """Every second pixel of images (N, C, H, W) correlated with kernels (N, k, k), without the border."""
    by_image = images.transpose(0, 1)  # the kernels' images side by side as channels, their channels as a batch
    return F.conv2d(by_image, kernels[:, None], stride=2, groups=kernels.shape[0]).transpose(0, 1)


def kernel_losses(kernels: Tensor) -> dict[str, Tensor]:
    """What kernels (N, k, k) should be like, (N,) each: of `sum` 1, zero towards the `boundaries`, of a centre of mass
    in the middle (`central`), and `sparse` (KernelGAN, Sec. 4, Eq. 3); and ours: `smooth`, and not `negative`."""
    size = kernels.shape[-1]
    places = torch.arange(size, device=kernels.device, dtype=kernels.dtype)
    total = kernels.sum((1, 2))
    mass = torch.stack([kernels.sum(2) @ places, kernels.sum(1) @ places], dim=1) / total[:, None]
    middle = size // 2 + 0.5 * (2 - size % 2)
    laplacian = kernels.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return {
        "sum": (1 - total).abs(),
        "boundaries": (kernels * _border_weights(size).to(kernels)).abs().mean((1, 2)),
        "central": ((mass - middle) ** 2).mean(1),
        "sparse": (kernels.abs() ** 0.2).mean((1, 2)),
        "smooth": (F.conv2d(kernels[:, None], laplacian, padding=2) ** 2).sum((1, 2, 3)),
        "negative": (-kernels).clamp(min=0).sum((1, 2)),
    }


@lru_cache
def _border_weights(size: int) -> Tensor:
    """(size, size), 0 in the middle, growing outwards to about 30 · 0.4 in the corners."""
    row = torch.exp(-0.5 * ((torch.arange(size) - (size - 1) / 2) / size) ** 2)
    weights = 30 * (1 - torch.outer(row, row) / row.max() ** 2)
    margin = (size - (size // 2 + size % 2)) // 2 - 1
    weights[margin:-margin, margin:-margin] = 0
    return weights


def bicubic_loss(outputs: Tensor, inputs: Tensor) -> Tensor:
    """(N,): mean squared difference of outputs (N, 3, 26, 26) and inputs (N, 3, 64, 64) halved bicubically.

    Quirk: the target is, in every channel, the sum over the channels. By default kernels start at the bicubic one
    instead, and no loss holds them there.
    """
    target = downscaled(inputs, bicubic_kernel().to(inputs).expand(inputs.shape[0], -1, -1))
    return ((outputs - target.sum(1, keepdim=True)) ** 2).mean((1, 2, 3))


@lru_cache
def bicubic_kernel() -> Tensor:
    """(13, 13): the antialiased cubic of `imresize` for 1/2 as a generator would have it."""
    taps = torch.from_numpy(weight_matrix(26, 13, 0.5)[6, 6:19])
    return torch.outer(taps, taps)


class Spectra:
    """Power spectra of 8-bit images, and what they say of the kernels that made them; ours, not KernelGAN's.

    Of scenes that look alike at all scales, with power |f|^-a, an image halved by k again, like KernelGAN's fakes, has
    at a frequency u (cycles per pixel) |K(u/2) K(u/4)|^2 of the scene's power, the image itself |K(u/2)|^2. So they
    differ by |K(u/4)|^2, up to a factor. To ask that they agree, as the discriminator does, finds K(u/2) / K(u/4)
    instead of K: for a Gaussian 3/4 of its variance.
    """

    NOISE = (0.299**2 + 0.587**2 + 0.114**2) / 12 / 255**2
    """What rounding to 8 bits adds to the gray image's power at every frequency; less power says nothing."""

    def __init__(self, images: Sequence[np.ndarray], device: torch.device | str = "cpu") -> None:
        """Of arrays (H, W, 3) in [0, 1], 64 pixels or more each side."""
        grays = [image @ np.array([0.299, 0.587, 0.114]) for image in images]
        fine, coarse = (np.stack([_power(gray, size) for gray in grays]) - self.NOISE for size in (64, 32))
        self.fine, self.coarse = (torch.from_numpy(power.clip(0)).float().to(device) for power in (fine, coarse))
        u = np.fft.fftfreq(32)
        down, across = np.meshgrid(u, u, indexing="ij")
        # without what windows smear from 0, and what aliasing and compression hide
        band = (np.maximum(abs(down), abs(across)) <= 0.35) & (np.hypot(down, across) > 0.08)
        self.band = torch.from_numpy(band).to(device)
        self.quarter = torch.from_numpy((u * 32).astype(int) % 128).to(device)

    def loss(self, kernels: Tensor) -> Tensor:
        """(N,): variance over frequencies of the log of the factor by which the spectra disagree with kernels."""
        normed = kernels / kernels.sum((1, 2), keepdim=True)  # or they would hide in the noise by being small
        response = torch.fft.fft2(normed, s=(128, 128)).abs() ** 2
        halved = self.fine.to(kernels) * response[:, ::2, ::2]
        folded = halved.unflatten(2, (2, 32)).unflatten(1, (2, 32)).mean((1, 3))  # aliases
        twice = self.coarse.to(kernels) * response[:, self.quarter][:, :, self.quarter]
        return torch.log((folded[:, self.band] + self.NOISE) / (twice[:, self.band] + self.NOISE)).var(1, correction=0)


def _power(gray: np.ndarray, size: int) -> np.ndarray:
    """(size, size): mean power spectrum of windows, overlapping by 3/4, of an image (H, W) less its mean; of white
    noise its variance."""
    step, window = size // 4, np.outer(np.hanning(size), np.hanning(size))
    total, count = np.zeros((size, size)), 0
    for row in range(0, gray.shape[0] - size + 1, step):
        tiles = np.lib.stride_tricks.sliding_window_view(gray[row : row + size], size, axis=1)[:, ::step].swapaxes(0, 1)
        tiles = (tiles - tiles.mean((1, 2), keepdims=True)) * window
        total += (np.abs(np.fft.fft2(tiles)) ** 2).sum(0)
        count += len(tiles)
    return total / (count * (window**2).sum())
