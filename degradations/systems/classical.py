"""The classical degradation of non-blind super-resolution: y = (x ⊗ k)↓s + n, as USRNet is trained (CVPR 2020)."""

from collections.abc import Mapping

from degradations import DEGRADATIONS, StepEntry
from degradations.pipeline import Pipeline
from utils.options.fields import PositiveInt

STEPS = {
    "blur": {
        "type": "one_of",
        "of": {
            "motion": {"type": "motion_blur", "prob": 0.5},
            "gaussian": {"type": "shifted_gaussian_blur", "prob": 0.5},
        },
    },
    "truncate": {"type": "truncate", "prob": 0},
    "downsample": {"type": "every_nth"},
    "noise": {
        "type": "gaussian_noise",
        "kinds": {"color": 1.0},
        "level_range": [0, 24],
        "clean_prob": 1 / 9,
        "clip": False,
    },
}


@DEGRADATIONS.register("classical", presets={"steps": STEPS})
def classical(steps: Mapping[str, StepEntry], scale: int, scales: tuple[PositiveInt, ...] = ()) -> Pipeline:
    """Blur circularly by a motion or a Gaussian kernel, keep every s-th pixel from the upper left, add Gaussian noise.

    Args:
        steps: by name. With `truncate.prob: 1` the blurred image is cut to 8 bits as the published table's;
            `truncate: {type: round}` rounds it instead.
        scales: training draws from these, one for each optimizer step.

    It tells the `kernel` on the ground truth's grid and the noise's `sigma`. Not clipped, since clipped noise is no
    longer what `sigma` says.

    >>> import numpy, torch
    >>> degradation = DEGRADATIONS.build("classical", scale=3)
    >>> plan = degradation.sample(numpy.random.default_rng(0), (60, 90))
    >>> made = degradation.apply(torch.rand(1, 3, 60, 90), [plan])
    >>> made.lq.shape, made.kernel.shape, made.sigma.shape
    (torch.Size([1, 3, 20, 30]), torch.Size([1, 25, 25]), torch.Size([1]))
    """
    return Pipeline(steps, scale, conditions=("kernel", "sigma"), scales=scales)
