"""BSRGAN's degradation: shuffled blur, downsampling, noise and JPEG (Zhang et al., ICCV 2021, Sec. 3)."""

from collections.abc import Mapping

from degradations import DEGRADATIONS, StepEntry
from degradations.pipeline import Order, Pipeline

STEPS = {
    "halve": {"type": "halve", "prob": 0.25},
    "blur": {"type": "gaussian_blur"},
    "second_blur": {"type": "gaussian_blur"},
    "downsample": {"type": "random_downsample"},
    "fit": {"type": "resize_to_lq"},
    "noise": {"type": "gaussian_noise"},
    "jpeg": {"type": "jpeg", "prob": 0.9},
    "final_jpeg": {"type": "jpeg"},
}


@DEGRADATIONS.register("bsrgan", presets={"steps": STEPS})
def bsrgan(steps: Mapping[str, StepEntry], scale: int, shuffle: bool = True) -> Pipeline:
    """Halve perhaps; blur, blur, downsample, fit, add noise and compress in random order; compress again: BSRGAN.

    Args:
        steps: by name; they may be re-ranged, taken out (null) or added, and added ones join the shuffle.
        shuffle: whether their order is random; else they keep the order of the file.

    `fit` (the resize to the final size) comes after `downsample` always.

    >>> import numpy, torch
    >>> degradation = DEGRADATIONS.build({"type": "bsrgan", "steps": {"jpeg": {"prob": 0.5}}}, scale=4)
    >>> plan = degradation.sample(numpy.random.default_rng(0), (64, 96))
    >>> plan.steps[-1]
    ('final_jpeg', {'quality': 63})
    >>> degradation.apply(torch.rand(1, 3, 64, 96), [plan]).lq.shape
    torch.Size([1, 3, 16, 24])
    """
    order = Order(
        "shuffle" if shuffle else "fixed", first=("halve",), last=("final_jpeg",), in_order=("downsample", "fit")
    )
    return Pipeline(steps, scale, order)
