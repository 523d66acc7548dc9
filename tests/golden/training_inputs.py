"""Inputs of the training goldens: networks filled by the frozen rule, synthetic images, the sharpened target."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.weights.key_styles import canonical_names
from tests.golden.kair.synth import frozen_value


def fill(network: nn.Module, published: Iterable[str] = ()) -> None:
    """Fills a network by the frozen rule under published names; a larger network's names will do, sizes are its own."""
    old_name = {new: old for old, new in canonical_names(published).items()}
    state = network.state_dict()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            state[name] = torch.from_numpy(frozen_value(old_name.get(name, name), tuple(value.shape)))
    network.load_state_dict(state)


def synthetic(height: int, width: int, k: int) -> np.ndarray:
    """`syn` of golden/realesrgan/README.md: gradients, a chirp, edges and a checker board, (H, W, 3) in [0, 1]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.zeros((height, width, 3))
    for c in range(3):
        f1, f2 = 0.010 + 0.006 * ((3 * k + c) % 7), 0.035 + 0.021 * ((5 * k + 2 * c) % 9)
        angle = 0.37 * k + 0.21 * c
        u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
        waves = 0.5 + 0.22 * np.sin(2 * np.pi * f1 * u + c) + 0.10 * np.sin(2 * np.pi * f2 * v + 0.5 * k)
        edges = 0.18 * np.tanh(12 * np.sin(2 * np.pi * (0.012 + 0.003 * (k % 5)) * (u + 0.4 * v)))
        r2 = ((x - 0.61 * width) ** 2 + (y - 0.37 * height) ** 2) / (height * width)
        rings = 0.12 * np.cos(2 * np.pi * (18 + 6 * (k % 4)) * r2) * np.exp(-4 * r2)
        checker = 0.09 * (2 * ((x // (5 + k % 6) + y // (4 + (k + c) % 5)) % 2) - 1)
        corner = (x > 0.55 * width) & (y > 0.5 * height)
        image[..., c] = waves + edges + rings + np.where(corner, checker, 0)
    return image.clip(0, 1)


def synthetic_batch(count: int, height: int, width: int, k: int) -> Tensor:
    """Images k … k + count - 1, (count, 3, H, W) float32."""
    images = np.stack([synthetic(height, width, k + i).transpose(2, 0, 1) for i in range(count)])
    return torch.from_numpy(images.astype(np.float32))


def sharpened(image: Tensor) -> Tensor:
    """Real-ESRGAN's sharpened target: unsharp masking where the detail is above 10 grey levels (its defaults)."""
    offsets = torch.arange(51, dtype=torch.float64) - 25
    taps = torch.exp(-(offsets**2) / (2 * 8.0**2))  # OpenCV's sigma for 51 taps
    taps = (taps / taps.sum()).float()

    def blurred(x: Tensor) -> Tensor:
        channels = x.shape[1]
        padded = F.pad(x, (25, 25, 25, 25), mode="reflect")
        down = F.conv2d(padded, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(down, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    detail = image - blurred(image)
    mask = blurred((detail.abs() * 255 > 10).float())
    return mask * (image + 0.5 * detail).clamp(0, 1) + (1 - mask) * image
