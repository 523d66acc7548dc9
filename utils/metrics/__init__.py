"""Image quality metrics, each chosen by name; a protocol says on what pixels they are measured."""

import numpy as np

from utils.options.components import Registry


class Metric:
    """A number that says how good an image is.

    Call with images as float64 arrays (H, W, C) on the 0…255 scale, prepared by a `Protocol` (rounded, cropped,
    RGB or one channel of luma).

    Attributes:
        higher_is_better: the direction of improvement.
        needs_gt: whether a ground truth is compared with; otherwise `gt` may be None.
        channels: of which protocols it takes images: those of RGB, of luma (`y`), or both.
        remark: what a reader of its numbers must know, said below tables.
    """

    higher_is_better: bool = True
    needs_gt: bool = True
    channels: tuple[str, ...] = ("rgb", "y")
    remark: str = ""

    def __call__(self, sr: np.ndarray, gt: np.ndarray | None) -> float:
        raise NotImplementedError(f"{type(self).__name__} measures nothing")


METRICS: Registry[Metric] = Registry("metric", "utils.metrics", protocol=Metric, context=("device",))


def check_pair(sr: np.ndarray, gt: np.ndarray | None) -> np.ndarray:
    """Return the ground truth. Raises ValueError if it is missing or has not exactly the shape of the other image."""
    if gt is None:
        raise ValueError("this metric compares with a ground truth, and there is none")
    if sr.shape != gt.shape:
        raise ValueError(f"found images of shapes {sr.shape} and {gt.shape}, expected equal ones")
    return gt
