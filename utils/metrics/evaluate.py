"""Scores of restored images, and the baselines that every table starts with."""

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.images.files import from_tensor
from utils.images.resize import imresize
from utils.metrics import METRICS, Metric
from utils.metrics.protocol import Protocol, prepare

SMOOTHING_SIGMAS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.4, 2.8, 3.2)


def default_metrics() -> dict[str, Metric]:
    """Return PSNR and SSIM."""
    return {"PSNR": METRICS.build("psnr"), "SSIM": METRICS.build("ssim")}


def to_8bit(image: Tensor) -> np.ndarray:
    """Turn (1, C, H, W) or (C, H, W) in [0, 1], RGB or gray, into (H, W, 3) uint8, rounded and clipped."""
    flat = (image[0] if image.dim() == 4 else image).expand(3, -1, -1)
    return np.round(from_tensor(flat.detach().float().cpu().clamp(0, 1)) * 255).astype(np.uint8)


def score(
    sr: Tensor,
    gt: Tensor | None,
    metrics: Mapping[str, Metric],
    protocol: Protocol,
    scale: int,
    gray: bool = False,
) -> dict[str, float]:
    """Return metrics of one restored image (1, 3, H, W) against its ground truth (of a `gray` file?), on 8-bit values.

    Metrics that are not measured on the protocol's channels are left out, and without a ground truth those that need
    one.
    """
    image = prepare(to_8bit(sr), protocol, scale, gray)
    truth = None if gt is None else prepare(to_8bit(gt), protocol, scale, gray)
    return {
        name: metric(image, truth if metric.needs_gt else None)
        for name, metric in metrics.items()
        if protocol.channels in metric.channels and (truth is not None or not metric.needs_gt)
    }


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over images."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}


def bicubic(lq: Tensor, scale: int) -> Tensor:
    """Upscale by MATLAB's bicubic, clipped."""
    return imresize(lq, scale=scale).clamp(0, 1)


def smoothed(image: Tensor, sigma: float) -> Tensor:
    """Smooth by a Gaussian with σ in pixels, mirrored borders."""
    if sigma == 0:
        return image
    array = np.ascontiguousarray(from_tensor(image[0].float().cpu()))
    blurred = cv2.GaussianBlur(array, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return torch.from_numpy(np.ascontiguousarray(blurred.reshape(array.shape).transpose(2, 0, 1)))[None]


def smoothing_scores(upscaled: Tensor, gt: Tensor, protocol: Protocol, scale: int) -> dict[float, float]:
    """Return the PSNR of a bicubic image after Gaussian smoothing, by σ."""
    metric = {"PSNR": METRICS.build("psnr")}
    return {s: score(smoothed(upscaled, s), gt, metric, protocol, scale)["PSNR"] for s in SMOOTHING_SIGMAS}


def best_smoothing(pairs: Iterable[tuple[Tensor, Tensor]], protocol: Protocol, scale: int) -> float:
    """Return the σ with which Gaussian smoothing of the bicubic images brings their mean PSNR to its maximum.

    `pairs` gives (bicubic upscaled, ground truth). This is the honest baseline under noise: a network that does not
    beat it has only learned to blur.
    """
    return best_sigma([smoothing_scores(upscaled, gt, protocol, scale) for upscaled, gt in pairs])


def best_sigma(rows: Sequence[Mapping[float, float]]) -> float:
    """Return the σ with the greatest sum of PSNR over images, from `smoothing_scores` of each."""
    return max(SMOOTHING_SIGMAS, key=lambda sigma: sum(row[sigma] for row in rows))
