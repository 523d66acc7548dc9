"""KAIR's second degradation (`degradation_bsrgan_plus` of the released code): two rounds of blur, resize and noise."""

from collections.abc import Mapping

from degradations import DEGRADATIONS, StepEntry
from degradations.pipeline import Order, Pipeline
from degradations.steps.sharpen import Sharpen
from utils.options.fields import Prob

NOISE = ("noise", "poisson", "speckle", "isp")
SECOND_NOISE = tuple(f"second_{name}" for name in NOISE)
PLACES = ("blur", "resize", *NOISE, "jpeg", "second_blur", "second_resize", *SECOND_NOISE)
"""The order before any shuffle. `isp` and `second_isp` are empty places unless the options fill them."""

STEPS = {
    "blur": {"type": "gaussian_blur"},
    "resize": {"type": "resize_up_down_keep"},
    "noise": {"type": "gaussian_noise"},
    "poisson": {"type": "poisson_noise", "prob": 0.1},
    "speckle": {"type": "speckle_noise", "prob": 0.1},
    "jpeg": {"type": "jpeg"},
    "second_blur": {"type": "gaussian_blur"},
    "second_resize": {"type": "resize_up_down_keep"},
    "second_noise": {"type": "gaussian_noise"},
    "second_poisson": {"type": "poisson_noise", "prob": 0.1},
    "second_speckle": {"type": "speckle_noise", "prob": 0.1},
    "fit": {"type": "resize_to_lq"},
    "final_jpeg": {"type": "jpeg"},
}


@DEGRADATIONS.register("bsrgan_plus", presets={"steps": STEPS})
def bsrgan_plus(
    steps: Mapping[str, StepEntry], scale: int, shuffle_prob: Prob = 0.1, sharpen_gt: bool = False
) -> Pipeline:
    """Blur, resize, add noises, compress, blur, resize, add noises, fit to the final size, compress: BSRGAN+.

    Args:
        steps: by name; added ones follow the thirteen and join the full shuffle alone. Camera noise, off as released,
            joins at its places with `steps: {isp: {type: isp, prob: 0.1}, second_isp: {type: isp, prob: 0.1}}`.
        shuffle_prob: how often all thirteen places are permuted; otherwise only the noises of each round among
            themselves.
        sharpen_gt: sharpen the ground truth first (USM), and so the target and the low-quality image.

    >>> import numpy, torch
    >>> degradation = DEGRADATIONS.build({"type": "bsrgan_plus", "sharpen_gt": True}, scale=2)
    >>> plans = [degradation.sample(numpy.random.default_rng(i), (64, 96)) for i in range(2)]
    >>> degradation.apply(torch.rand(2, 3, 64, 96), plans).lq.shape
    torch.Size([2, 3, 32, 48])
    """
    known = {name: steps[name] for name in PLACES if name in steps}
    steps = {**known, **{name: entry for name, entry in steps.items() if name not in known}}
    if sharpen_gt:
        steps = {"sharpen": StepEntry(Sharpen()), **steps}
    order = Order("local_shuffle", last=("fit", "final_jpeg"), groups=(NOISE, SECOND_NOISE), full_prob=shuffle_prob)
    return Pipeline(steps, scale, order, gt_steps=("sharpen",) if sharpen_gt else ())
