"""Image quality metrics, each chosen by name; a protocol says on what pixels they are measured."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from utils.registry import Registry


class Metric:
    """A number that says how good an image is.

    Call with images as float64 arrays (H, W, C) on the 0…255 scale, prepared by a `Protocol` (rounded, cropped,
    RGB or one channel of luma).

    Attributes:
        higher_is_better: the direction of improvement.
        needs_gt: whether a ground truth is compared with; otherwise `gt` may be None.
    """

    higher_is_better: ClassVar[bool] = True
    needs_gt: ClassVar[bool] = True

    def __call__(self, sr: np.ndarray, gt: np.ndarray | None) -> float:
        raise NotImplementedError(f"{type(self).__name__} measures nothing")


METRICS: Registry[Metric] = Registry("metric", "utils.metrics", protocol=Metric)
