"""Degradations: how low-quality images are made from good ones. Each is a pipeline of named steps."""

from degradations.operations.ragged import Ragged, Size
from degradations.plan import (
    Batch,
    Degradation,
    DegradationSettings,
    Degraded,
    Drawn,
    Plan,
    Shared,
    State,
    Step,
    StepEntry,
    paired_crop,
    run_steps,
)
from utils.options.components import Registry

STEPS: Registry[Step] = Registry("step", "degradations.steps", protocol=Step, entry=StepEntry, probe=True)
DEGRADATIONS: Registry[Degradation] = Registry(
    "degradation",
    "degradations.systems",
    protocol=Degradation,
    entry=DegradationSettings,
    context=("scale",),
    probe=True,
)
