"""JPEG compression."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.operations.diffjpeg import diffjpeg_ragged
from degradations.operations.libjpeg import jpeg
from utils.options.fields import QualityRange, RangeSchedule


@STEPS.register("jpeg")
class Jpeg(Step):
    """Compress as JPEG does, with a quality drawn uniformly (both ends included).

    Args:
        quality_range: [low, high] within 1…100, or a schedule of ranges over iterations.
        table: `libjpeg`, whose qualities are whole numbers, or `released`: Real-ESRGAN's own, with real-valued
            qualities and a result that is not rounded to 8 bits (see `diffjpeg`).
    """

    def __init__(
        self,
        quality_range: QualityRange = RangeSchedule.fixed(30, 95),  # noqa: B008
        table: Literal["libjpeg", "released"] = "libjpeg",
    ) -> None:
        self.quality_range, self.table = quality_range, table

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        low, high = self.quality_range.at(state.iteration)
        if self.table == "released":
            return {"quality": float(rng.uniform(low, high))}
        return {"quality": int(rng.integers(round(low), round(high) + 1))}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        codec = jpeg if self.table == "libjpeg" else diffjpeg_ragged
        return codec(images, [values["quality"] for values in drawn])
