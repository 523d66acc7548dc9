"""The plain version of Real-ESRGAN's degradation, in the manner of the released code, to be measured against.

PyTorch in float32, one sample at a time: dense sharpening by 51x51 and blurs by 21x21 convolutions, floating-point
JPEG by tensor products over blocks, levels counted by `unique`. Our own code after the facts of the paper; it draws
from the global generators as the released code does.
"""

import random
from functools import cache
from math import pi

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import j1
from torch import Tensor

from degradations.operations.diffjpeg import CHROMA, LUMA

FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)


def sinc(size: int, cutoff: float) -> np.ndarray:
    """The circular low-pass in a frame of 21x21."""
    x = np.arange(size) - size // 2
    radius = np.sqrt(x[:, None] ** 2 + x[None] ** 2)
    with np.errstate(all="ignore"):
        kernel = cutoff * j1(cutoff * radius) / (2 * pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * pi)
    return np.pad(kernel / kernel.sum(), (21 - size) // 2)


def mixed_kernel(top: float) -> Tensor:
    """A random blur kernel of 21x21, widths up to `top`."""
    size = random.choice(range(7, 22, 2))
    if np.random.uniform() < 0.1:
        return torch.FloatTensor(sinc(size, np.random.uniform(pi / 3 if size < 13 else pi / 5, pi)))
    family = random.choices(FAMILIES, SHARES)[0]
    widths, theta = np.random.uniform(0.2, top, 2), np.random.uniform(-pi, pi)
    if not family.endswith("aniso"):
        widths, theta = widths[[0, 0]], 0
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    inverse = np.linalg.inv(turn @ np.diag(widths**2) @ turn.T)
    x = np.arange(size) - size // 2
    grid = np.stack(np.meshgrid(x, x), -1)
    q = np.sum((grid @ inverse) * grid, 2)
    if "_" in family:
        low, high = (0.5, 4) if family.startswith("generalized") else (1, 2)
        q = q ** (np.random.uniform(low, 1) if np.random.uniform() < 0.5 else np.random.uniform(1, high))
    kernel = 1 / (1 + q) if family.startswith("plateau") else np.exp(-0.5 * q)
    return torch.FloatTensor(np.pad(kernel / kernel.sum(), (21 - size) // 2))


def filtered(image: Tensor, kernel: Tensor) -> Tensor:
    """Dense filtering, mirrored borders."""
    k, (b, c, h, w) = kernel.shape[-1], image.shape
    padded = F.pad(image, (k // 2,) * 4, mode="reflect").reshape(b * c, 1, h + k - 1, w + k - 1)
    return F.conv2d(padded, kernel.view(1, 1, k, k)).view(b, c, h, w)


@cache
def usm_kernel() -> Tensor:
    """51x51, the outer product of OpenCV's Gaussian."""
    row = cv2.getGaussianKernel(51, 0)
    return torch.FloatTensor(row @ row.T)


def sharpened(image: Tensor) -> Tensor:
    """Unsharp mask with a blurred mask."""
    residual = image - filtered(image, usm_kernel())
    soft = filtered((residual.abs() * 255 > 10).float(), usm_kernel())
    return soft * (image + 0.5 * residual).clip(0, 1) + (1 - soft) * image


@cache
def cosines() -> Tensor:
    """(8, 8, 8, 8): pixel row and column, vertical and horizontal frequency."""
    n = np.arange(8)
    rows = np.cos((2 * n[:, None] + 1) * n[None] * pi / 16) / 2
    rows[:, 0] /= np.sqrt(2)
    return torch.FloatTensor(np.einsum("xu,yv->xyuv", rows, rows))


def coded(plane: Tensor, table: Tensor) -> Tensor:
    """A plane (B, H, W) through quantised coefficients."""
    b, h, w = plane.shape
    blocks = plane.view(b, h // 8, 8, w // 8, 8).permute(0, 1, 3, 2, 4).contiguous().view(b, -1, 8, 8)
    values = torch.round(torch.tensordot(blocks - 128, cosines(), dims=2) / table) * table
    blocks = torch.tensordot(values, cosines().permute(2, 3, 0, 1), dims=2) + 128
    return blocks.view(b, h // 8, w // 8, 8, 8).permute(0, 1, 3, 2, 4).contiguous().view(b, h, w)


def jpeg(image: Tensor) -> Tensor:
    """JPEG in floating point with a random quality."""
    quality = image.new_zeros(1).uniform_(30, 95).item()
    factor = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    h, w = image.shape[2:]
    x = F.pad(image.clamp(0, 1), (0, -w % 16, 0, -h % 16)).permute(0, 2, 3, 1) * 255
    matrix = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = torch.tensordot(x, matrix.T, dims=1) + torch.tensor([0.0, 128, 128])
    planes = [coded(ycc[..., 0], torch.FloatTensor(LUMA.T) * factor)]
    for channel in (1, 2):
        half = F.avg_pool2d(ycc[..., channel].unsqueeze(1), 2).squeeze(1)
        half = coded(half, torch.FloatTensor(CHROMA) * factor)
        planes.append(half.repeat_interleave(2, 1).repeat_interleave(2, 2))
    matrix = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
    rgb = torch.tensordot(torch.stack(planes, -1) - torch.tensor([0.0, 128, 128]), matrix.T, dims=1)
    return rgb.clamp(0, 255).permute(0, 3, 1, 2)[..., :h, :w] / 255


def noisy(image: Tensor, level: float, strength: float) -> Tensor:
    """Gaussian or Poisson noise, gray in 0.4 of the cases."""
    gray = random.random() < 0.4
    if np.random.uniform() < 0.5:
        shape = (1, 1, *image.shape[2:]) if gray else image.shape
        noise = torch.randn(shape) * np.random.uniform(1, level) / 255
    else:
        weights = torch.tensor([0.2989, 0.587, 0.114])[:, None, None]
        counted = (image * weights).sum(1, keepdim=True) if gray else image
        counted = torch.clamp((counted * 255).round(), 0, 255) / 255
        peak = 2 ** np.ceil(np.log2(len(torch.unique(counted))))
        noise = (torch.poisson(counted * peak) / peak - counted) * np.random.uniform(0.05, strength)
    return (image + noise).clamp(0, 1)


def factor(weights: tuple[float, float, float], low: float, high: float) -> float:
    """Up, down or keep."""
    kind = random.choices(["up", "down", "keep"], weights)[0]
    return {"up": np.random.uniform(1, high), "down": np.random.uniform(low, 1), "keep": 1.0}[kind]


def mode() -> str:
    """One of the three interpolations."""
    return random.choice(["area", "bilinear", "bicubic"])


def realesrgan(gt: Tensor, scale: int = 4, gt_size: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """The whole degradation of one image (1, 3, H, W): crops of LQ, ground truth and sharpened ground truth."""
    h, w = gt.shape[2:]
    x = filtered(sharpened(gt), mixed_kernel(3))
    x = F.interpolate(x, scale_factor=factor((0.2, 0.7, 0.1), 0.15, 1.5), mode=mode())
    x = jpeg(noisy(x, 30, 3))
    second = mixed_kernel(1.5)
    if np.random.uniform() < 0.8:
        x = filtered(x, second)
    f = factor((0.3, 0.4, 0.3), 0.3, 1.2)
    x = F.interpolate(x, size=(int(h / scale * f), int(w / scale * f)), mode=mode())
    x = noisy(x, 25, 2.5)
    low_pass = torch.zeros(21, 21)
    low_pass[10, 10] = 1
    if np.random.uniform() < 0.8:
        low_pass = torch.FloatTensor(sinc(random.choice(range(7, 22, 2)), np.random.uniform(pi / 3, pi)))
    if np.random.uniform() < 0.5:
        x = jpeg(filtered(F.interpolate(x, size=(h // scale, w // scale), mode=mode()), low_pass))
    else:
        x = filtered(F.interpolate(jpeg(x), size=(h // scale, w // scale), mode=mode()), low_pass)
    lq = torch.clamp((x * 255.0).round(), 0, 255) / 255.0
    size = gt_size // scale
    top, left = random.randint(0, h // scale - size), random.randint(0, w // scale - size)
    crop = gt[..., top * scale : top * scale + gt_size, left * scale : left * scale + gt_size]
    return lq[..., top : top + size, left : left + size], crop, sharpened(crop)
