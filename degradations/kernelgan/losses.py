"""The losses of KernelGAN's generators (Bell-Kligler et al., NeurIPS 2019), and ours by power spectra.

Everything is a mean per kernel, (N,) for kernels (N, k, k).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.images.resize import weight_matrix


def downscaled(images: Tensor, kernels: Tensor) -> Tensor:
    """Return every second pixel of images (N, C, H, W) correlated with kernels (N, k, k), without the border."""
    by_image = images.transpose(0, 1)  # the kernels' images side by side as channels, their channels as a batch
    return F.conv2d(by_image, kernels[:, None], stride=2, groups=kernels.shape[0]).transpose(0, 1)


def kernel_losses(kernels: Tensor) -> dict[str, Tensor]:
    """Return how far kernels (N, k, k) are from what they should be like, (N,) each.

    Of `sum` 1, zero towards the `boundaries`, of a centre of mass in the middle (`central`), and `sparse` (KernelGAN,
    Sec. 4, Eq. 3); and ours: `smooth`, and not `negative`.
    """
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
    """Return weights (size, size), 0 in the middle, growing outwards to about 30 · 0.4 in the corners."""
    row = torch.exp(-0.5 * ((torch.arange(size) - (size - 1) / 2) / size) ** 2)
    weights = 30 * (1 - torch.outer(row, row) / row.max() ** 2)
    margin = (size - (size // 2 + size % 2)) // 2 - 1
    weights[margin:-margin, margin:-margin] = 0
    return weights


def bicubic_loss(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Average squared differences of outputs (N, 3, 26, 26) and bicubically halved inputs (N, 3, 64, 64), (N,).

    Quirk: the target is, in every channel, the sum over the channels. By default kernels start at the bicubic one
    instead, and no loss holds them there.
    """
    target = downscaled(inputs, bicubic_kernel().to(inputs).expand(inputs.shape[0], -1, -1))
    return ((outputs - target.sum(1, keepdim=True)) ** 2).mean((1, 2, 3))


@lru_cache
def bicubic_kernel() -> Tensor:
    """Return (13, 13): the antialiased cubic of `imresize` for 1/2 as a generator would have it."""
    taps = torch.from_numpy(weight_matrix(26, 13, 0.5)[6, 6:19])
    return torch.outer(taps, taps)


class Spectra:
    """Power spectra of 8-bit images, and what they say of the kernels that made them; ours, not KernelGAN's.

    Of scenes that look alike at all scales, with power |f|^-a, an image halved by k again, like KernelGAN's fakes, has
    at a frequency u (cycles per pixel) |K(u/2) K(u/4)|^2 of the scene's power, the image itself |K(u/2)|^2. So they
    differ by |K(u/4)|^2, up to a factor. To ask that they agree, as the discriminator does, finds K(u/2) / K(u/4)
    instead of K: for a Gaussian 3/4 of its variance. `share` (N,), 0 to 1: how much of what is compared is no noise.
    """

    ROUNDING = (0.299**2 + 0.587**2 + 0.114**2) / 12 / 255**2
    """What rounding to 8 bits adds to the gray image's power at every frequency; less power says nothing."""

    def __init__(self, images: Sequence[np.ndarray], device: torch.device | str = "cpu") -> None:
        """Measure arrays (H, W, 3) in [0, 1], 64 pixels or more each side."""
        grays = [image @ np.array([0.299, 0.587, 0.114]) for image in images]
        fine, coarse = (np.stack([_power(gray, size) for gray in grays]) for size in (64, 32))
        noise = np.stack([noise_power(gray, 64) for gray in grays]).clip(self.ROUNDING)
        # the noise is not of the scene: it has not passed the kernel, and halving averages it out
        scenes = (fine - noise).clip(0), (coarse - noise[:, ::2, ::2]).clip(0)
        self.fine, self.coarse = (torch.from_numpy(power).float().to(device) for power in scenes)
        u = np.fft.fftfreq(32)
        down, across = np.meshgrid(u, u, indexing="ij")
        # without what windows smear from 0, and what aliasing and compression hide
        band = (np.maximum(abs(down), abs(across)) <= 0.35) & (np.hypot(down, across) > 0.08)
        places = (u * 32).astype(int)
        shares = [scenes[0] / fine.clip(self.ROUNDING), scenes[1] / coarse.clip(self.ROUNDING)]
        certain = band * (shares[1] > 0.5) * (shares[0][:, places][:, :, places] * shares[1]) ** 2
        self.share = certain.sum((1, 2)) / band.sum()
        self.certain = torch.from_numpy(certain).float().to(device)
        self.quarter = torch.from_numpy(places % 128).to(device)

    def loss(self, kernels: Tensor) -> Tensor:
        """Return the variance (N,) over frequencies of the log of the factor by which spectra disagree with kernels.

        Frequencies are weighed by how little of their power is noise.
        """
        normed = kernels / kernels.sum((1, 2), keepdim=True)  # or they would hide in the rounding by being small
        response = torch.fft.fft2(normed, s=(128, 128)).abs() ** 2
        halved = self.fine.to(kernels) * response[:, ::2, ::2]
        folded = halved.unflatten(2, (2, 32)).unflatten(1, (2, 32)).mean((1, 3))  # aliases
        twice = self.coarse.to(kernels) * response[:, self.quarter][:, :, self.quarter]
        factors = torch.log((folded + self.ROUNDING) / (twice + self.ROUNDING))
        weights = self.certain.to(kernels) / self.certain.sum((1, 2), keepdim=True).clamp(min=1e-6)
        mean = (weights * factors).sum((1, 2), keepdim=True)
        return (weights * (factors - mean) ** 2).sum((1, 2))


def noise_power(gray: np.ndarray, size: int) -> np.ndarray:
    """Estimate the power spectrum (size, size) of the noise of an image (H, W), 0 if too little of it says so.

    That of the 5 % of its windows of 16 pixels with the least power at low frequencies, where scenes are flat. Only
    their higher frequencies count, which did not choose them; a smooth spectrum, the exponential of cosines up to two
    pixels of lag, goes on from there to the lower ones. Clipped and constant windows have lost their noise. What falls
    by more than a factor of 40 is a blurred scene without flat places, and is cut down to that.
    """
    kept = []
    for tiles in _tiles(gray, 16, 8):
        least, most = tiles.min((1, 2)), tiles.max((1, 2))
        kept.append(_powers(tiles[(least > 2 / 255) & (least < most) & (most < 253 / 255)]).astype(np.float32))
    powers = np.concatenate(kept)
    if len(powers) < 20:
        return np.zeros((size, size))
    radius = np.hypot(np.fft.fftfreq(16)[:, None], np.fft.fftfreq(16))
    low, high = (radius > 0) & (radius < 0.16), radius > 0.22
    flattest = powers[np.argsort(powers[:, low].mean(1))[: max(20, len(powers) // 20)]]
    logs = np.log(flattest[:, high].mean(0, dtype=np.float64) + 1e-12)
    power = np.exp(_cosines(size) @ np.linalg.lstsq(_cosines(16)[high], logs)[0])
    return np.minimum(power, 40 * max(power.min(), Spectra.ROUNDING))


def _cosines(size: int) -> np.ndarray:
    """Return products (size, size, 6) of cosines of the frequencies down and across, up to two pixels of lag in all."""
    waves = np.cos(2 * np.pi * np.outer(range(3), np.fft.fftfreq(size)))
    return np.stack([np.outer(waves[i], waves[j]) for i in range(3) for j in range(3 - i)], axis=-1)


def _power(gray: np.ndarray, size: int) -> np.ndarray:
    """Return the mean power spectrum (size, size) of windows, overlapping by 3/4, of an image (H, W)."""
    return np.mean([_powers(tiles).mean(0) for tiles in _tiles(gray, size, size // 4)], axis=0)


def _tiles(gray: np.ndarray, size: int, step: int) -> Iterator[np.ndarray]:
    """Yield rows (n, size, size) of windows that begin every `step` pixels of an image (H, W)."""
    for row in range(0, gray.shape[0] - size + 1, step):
        yield np.lib.stride_tricks.sliding_window_view(gray[row : row + size], size, axis=1)[:, ::step].swapaxes(0, 1)


def _powers(tiles: np.ndarray) -> np.ndarray:
    """Return the power spectra of windows (n, size, size), each less its mean; of white noise its variance."""
    window = np.outer(np.hanning(tiles.shape[1]), np.hanning(tiles.shape[1]))
    return np.abs(np.fft.fft2((tiles - tiles.mean((1, 2), keepdims=True)) * window)) ** 2 / (window**2).sum()
