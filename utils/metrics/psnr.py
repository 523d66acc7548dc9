"""Peak signal-to-noise ratio."""

import math

import numpy as np

from utils.metrics import METRICS, Metric, check_pair


@METRICS.register("psnr")
class Psnr(Metric):
    """Measure the peak signal-to-noise ratio in dB: one mean squared error over all pixels and channels, peak 255.

    Identical images give infinity. Raises ValueError unless both images have the same shape.

    >>> METRICS.build("psnr")(np.full((8, 8, 3), 100.0), np.full((8, 8, 3), 125.5))
    20.0
    """

    def __call__(self, sr: np.ndarray, gt: np.ndarray | None) -> float:
        gt = check_pair(sr, gt)
        error = float(np.mean((sr - gt) ** 2))
        return math.inf if error == 0 else 10 * math.log10(255**2 / error)
