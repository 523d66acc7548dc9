"""Structural similarity."""

from typing import Literal

import cv2
import numpy as np

from utils.metrics import METRICS, Metric, check_pair

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@METRICS.register("ssim")
class Ssim(Metric):
    """Measure structural similarity (Wang et al., TIP 2004), 1 for identical images, mean over pixels and channels.

    As KAIR and BasicSR: Gaussian window of 11 pixels with sigma 1.5, only where it fits inside the image, population
    moments. Raises ValueError unless both images have the same shape, with sides of at least 11.

    Args:
        luma: `dasr` measures as DASR's code, on luma only. Quirk: there the weights of luma, made for a division by
            256, are divided by 255 (for SSIM alone, not for PSNR), so that white is 235.86; 1e-5 lower.

    >>> METRICS.build("ssim")(np.full((16, 16, 3), 80.0), np.full((16, 16, 3), 80.0))
    1.0
    """

    def __init__(self, luma: Literal["studio", "dasr"] = "studio") -> None:
        self.luma = luma
        if luma == "dasr":
            self.channels = ("y",)

    def __call__(self, sr: np.ndarray, gt: np.ndarray | None) -> float:
        gt = check_pair(sr, gt)
        if self.luma == "dasr":
            sr, gt = ((image - 16) * (256 / 255) + 16 for image in (sr, gt))
        if min(sr.shape[:2]) < _WINDOW:
            raise ValueError(f"found {sr.shape[0]}x{sr.shape[1]} pixels, expected at least {_WINDOW}x{_WINDOW}")
        mean_sr, mean_gt = _local_mean(sr), _local_mean(gt)
        product = mean_sr * mean_gt
        squares = mean_sr**2 + mean_gt**2
        covariance = _local_mean(sr * gt) - product
        variances = _local_mean(sr**2 + gt**2) - squares
        ssim = (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
        return float(ssim.mean())


def _local_mean(image: np.ndarray) -> np.ndarray:
    """Return Gaussian means (H - 10, W - 10[, C]) where the whole window lies inside."""
    window = cv2.getGaussianKernel(_WINDOW, _SIGMA)
    margin = _WINDOW // 2
    return cv2.sepFilter2D(image, cv2.CV_64F, window, window)[margin:-margin, margin:-margin]
