"""The plain version: work done in the manner of the released code, to be measured against.

Degradations: scipy.ndimage on three channels at once with a dense kernel, kernels built pixel by pixel from a density
function, MATLAB's resize by a loop over rows, one sample at a time, in NumPy, drawing from the global generators as the
released code does. USRNet's data steps: whole complex spectra. Our own code after the facts of the papers.
"""

import random

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy import linalg, ndimage, stats
from torch import Tensor

MODES = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)


def anisotropic_kernel(size: int, theta: float, l1: float, l2: float) -> np.ndarray:
    """A bivariate normal density, evaluated pixel by pixel."""
    v = np.array([[np.cos(theta), np.sin(theta)], [np.sin(theta), -np.cos(theta)]])
    covariance = v @ np.diag([l1, l2]) @ np.linalg.inv(v)
    kernel = np.zeros((size, size))
    centre = (size - 1) / 2
    for y in range(size):
        for x in range(size):
            kernel[y, x] = stats.multivariate_normal.pdf([x - centre, y - centre], mean=[0, 0], cov=covariance)
    return kernel / kernel.sum()


def gaussian_kernel(size: int, sigma: float) -> np.ndarray:
    """fspecial('gaussian')."""
    x = np.arange(size) - (size - 1) / 2
    kernel = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * sigma * sigma))
    return kernel / kernel.sum()


def filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Dense convolution, mirrored borders."""
    return ndimage.convolve(image, kernel[:, :, None], mode="mirror")


def matlab_down(image: np.ndarray, sf: int) -> np.ndarray:
    """MATLAB's bicubic by an even factor, a loop over output rows, then columns."""
    pad, at = (3 * sf + 2) // 2, np.arange(4 * sf + 2) - (4 * sf + 1) / 2
    x = np.abs(at) / sf
    w = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
    w = w / w.sum()
    for _ in range(2):
        n = image.shape[0]
        padded = np.concatenate([image[pad - 1 :: -1], image, image[: n - pad - 1 : -1]])
        out = np.zeros((n // sf, *image.shape[1:]), np.float32)
        for i in range(n // sf):
            for c in range(image.shape[2]):
                out[i, :, c] = padded[sf * i : sf * i + len(w), :, c].T @ w
        image = out.transpose(1, 0, 2)
    return image


def blur(image: np.ndarray, sf: int) -> np.ndarray:
    """Isotropic or anisotropic, each half of the time."""
    if random.random() < 0.5:
        l1, l2 = (4 + sf) * random.random(), (4 + sf) * random.random()
        kernel = anisotropic_kernel(2 * random.randint(2, 11) + 3, random.random() * np.pi, l1 + 1e-6, l2 + 1e-6)
    else:
        kernel = gaussian_kernel(2 * random.randint(2, 11) + 3, (2 + 0.2 * sf) * random.random() + 1e-3)
    return filtered(image, kernel)


def noise(image: np.ndarray) -> np.ndarray:
    """Colour, gray or correlated Gaussian noise."""
    level, kind = random.randint(2, 25) / 255, np.random.rand()
    if kind > 0.6:
        image = image + np.random.normal(0, level, image.shape)
    elif kind < 0.4:
        image = image + np.random.normal(0, level, (*image.shape[:2], 1))
    else:
        m = linalg.orth(np.random.rand(3, 3))
        covariance = np.abs((25 / 255) ** 2 * m.T @ np.diag(np.random.rand(3)) @ m)
        image = image + np.random.multivariate_normal(np.zeros(3), covariance, image.shape[:2])
    return np.clip(image.astype(np.float32), 0, 1)


def jpeg(image: np.ndarray) -> np.ndarray:
    """OpenCV's encoder and decoder."""
    bgr = cv2.cvtColor(np.uint8((image.clip(0, 1) * 255).round()), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, random.randint(30, 95)])[1]
    return cv2.cvtColor(np.float32(cv2.imdecode(data, 1) / 255), cv2.COLOR_BGR2RGB)


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """OpenCV's resize with a random interpolation, clipped."""
    return np.clip(cv2.resize(image, (width, height), interpolation=random.choice(MODES)), 0, 1)


def bsrgan(image: np.ndarray, sf: int = 4, lq_size: int = 72) -> tuple[np.ndarray, np.ndarray]:
    """BSRGAN's degradation of a float32 (H, W, 3) image: (lq crop, gt crop)."""
    gt, scale = image.copy(), sf
    if sf == 4 and random.random() < 0.25:
        h, w = image.shape[:2]
        image = resized(image, w // 2, h // 2) if np.random.rand() < 0.5 else np.clip(matlab_down(image, 2), 0, 1)
        sf = 2
    order = random.sample(range(6), 6)
    a, b = order.index(2), order.index(3)
    if a > b:
        order[a], order[b] = order[b], order[a]
    width = height = 0
    for step in order:
        if step in (0, 1):
            image = blur(image, sf)
        elif step == 2:
            height, width = image.shape[:2]
            if random.random() < 0.75:
                f = random.uniform(1, 2 * sf)
                image = resized(image, int(width / f), int(height / f))
            else:
                kernel = gaussian_kernel(25, random.uniform(0.1, 0.6 * sf))
                kernel = ndimage.shift(kernel, -(sf - 1) / 2, order=1, mode="nearest")
                image = np.clip(filtered(image, kernel / kernel.sum())[::sf, ::sf], 0, 1)
        elif step == 3:
            image = resized(image, width // sf, height // sf)
        elif step == 4:
            image = noise(image)
        elif random.random() < 0.9:
            image = jpeg(image)
    image = jpeg(image)
    top, left = random.randint(0, image.shape[0] - lq_size), random.randint(0, image.shape[1] - lq_size)
    lq = image[top : top + lq_size, left : left + lq_size]
    top, left, size = top * scale, left * scale, lq_size * scale
    return lq, gt[top : top + size, left : left + size]


def poisson(image: np.ndarray) -> np.ndarray:
    """Counts of photons, of colours or of luma."""
    image, peak = np.clip((image * 255).round(), 0, 255) / 255, 10 ** (2 * random.random() + 2)
    if random.random() < 0.5:
        return np.clip(np.random.poisson(image * peak).astype(np.float32) / peak, 0, 1)
    gray = np.clip((np.dot(image, [0.299, 0.587, 0.114]) * 255).round(), 0, 255) / 255
    counted = np.random.poisson(gray * peak).astype(np.float32) / peak - gray
    return np.clip(image + counted[..., None], 0, 1).astype(np.float32)


def bsrgan_plus(image: np.ndarray, sf: int = 4, lq_size: int = 72) -> tuple[np.ndarray, np.ndarray]:
    """BSRGAN+ of a float32 (H, W, 3) image: (lq crop, gt crop)."""
    gt, (h, w) = image.copy(), image.shape[:2]
    order = list(range(13))
    if random.random() < 0.1:
        random.shuffle(order)
    else:
        order[2:6], order[9:13] = random.sample(order[2:6], 4), random.sample(order[9:13], 4)
    for step in order:
        if step in (0, 7):
            image = blur(image, sf)
        elif step in (1, 8):
            kind = random.random()
            f = random.uniform(1, 2) if kind > 0.8 else random.uniform(0.5 / sf, 1) if kind < 0.7 else 1.0
            image = resized(image, int(f * image.shape[1]), int(f * image.shape[0]))
        elif step in (2, 9):
            image = noise(image)
        elif step in (3, 4, 10, 11) and random.random() < 0.1:
            image = poisson(image) if step in (3, 10) else np.clip(image + image * (noise(image) - image), 0, 1)
        elif step == 6:
            image = jpeg(image)
    image = jpeg(resized(image, w // sf, h // sf))
    top, left = random.randint(0, h // sf - lq_size), random.randint(0, w // sf - lq_size)
    lq = image[top : top + lq_size, left : left + lq_size]
    top, left, size = top * sf, left * sf, lq_size * sf
    return lq, gt[top : top + size, left : left + size]


def classical(image: np.ndarray, sf: int = 4) -> np.ndarray:
    """Circular blur by a Gaussian, every sf-th pixel, noise."""
    kernel = anisotropic_kernel(25, random.random() * np.pi, random.uniform(0.5, 8), random.uniform(0.5, 8))
    kernel = ndimage.shift(kernel, (sf - 1) / 2, order=1, mode="nearest")
    image = ndimage.convolve(image, kernel[:, :, None], mode="wrap")[::sf, ::sf]
    return image + np.random.normal(0, random.uniform(0, 24) / 255, image.shape).astype(np.float32)


def gaussian(image: np.ndarray, sf: int = 4) -> np.ndarray:
    """Isotropic blur, MATLAB's bicubic, rounding."""
    image = matlab_down(filtered(image, gaussian_kernel(21, random.uniform(0.2, 4))), sf)
    return np.clip((image * 255).round(), 0, 255) / 255


def usrnet_data_steps(lq: Tensor, kernel: Tensor, alphas: list[Tensor], scale: int) -> Tensor:
    """USRNet's data steps one after another (no prior between), by its Eq. 7 and 8 on full complex spectra.

    As released, what depends on kernel and LQ image alone is computed once, the alias mean of |FB|² in every step.
    """
    height, width = (scale * side for side in lq.shape[-2:])
    otf = torch.zeros(len(kernel), 1, height, width)
    otf[..., : kernel.shape[-2], : kernel.shape[-1]] = kernel[:, None]
    for axis in (-2, -1):
        otf = torch.roll(otf, -int(kernel.shape[axis] / 2), axis)
    fb = torch.fft.fftn(otf, dim=(-2, -1))
    fbc, f2b = torch.conj(fb), torch.abs(fb) ** 2
    upsampled = torch.zeros(*lq.shape[:2], height, width)
    upsampled[..., ::scale, ::scale] = lq
    fbfy = fbc * torch.fft.fftn(upsampled, dim=(-2, -1))

    def alias_mean(spectrum: Tensor) -> Tensor:
        rows = torch.stack(torch.chunk(spectrum, scale, dim=2), dim=4)
        return torch.cat(torch.chunk(rows, scale, dim=3), dim=4).mean(-1)

    x = F.interpolate(lq, scale_factor=scale, mode="nearest")
    for alpha in alphas:
        fr = fbfy + torch.fft.fftn(alpha * x, dim=(-2, -1))
        inverse = alias_mean(fb * fr) / (alias_mean(f2b) + alpha)
        x = torch.real(torch.fft.ifftn((fr - fbc * inverse.repeat(1, 1, scale, scale)) / alpha, dim=(-2, -1)))
    return x
