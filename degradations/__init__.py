"""Degradations: how low-quality images are made from good ones. Each is a pipeline of named steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from utils.options import files
from utils.options.components import Registry, Spec
from utils.options.fields import OptionError

STEPS: Registry[StepEntry] = Registry("step", "degradations.steps", protocol=Step, entry=StepEntry, probe=True)
DEGRADATIONS: Registry[Degradation] = Registry(
    "degradation",
    "degradations.systems",
    protocol=Degradation,
    settings=DegradationSettings,
    context=("scale",),
    probe=True,
)


def load_degradation(source: str | Path | Mapping[str, Any], scale: int | None = None) -> Degradation:
    """Build a degradation that draws plans (`sample`) and applies them (`apply`), for any training loop.

    Args:
        source: an option file (ours, or only its `degradation` part), the name of a preset such as `bsrgan`,
            `realesrgan`, `resshift`, `stablesr`, or a mapping such as {"type": "bsrgan", "steps": {"jpeg": None}}.
        scale: how many times smaller the low-quality images are; an option file says it itself.

    Raises:
        OptionError: the source is none of these or has problems, all of which are named; or no scale is known.
    """
    spec, scale = check_degradation(source, scale)
    return spec.build(scale=scale)


def check_degradation(
    source: str | Path | Mapping[str, Any], scale: int | None = None
) -> tuple[Spec[Degradation], int]:
    """Return what `load_degradation` would build, checked but not built, and its scale. It raises the same."""
    presets = DEGRADATIONS.names()
    tree: Mapping[str, Any]
    if isinstance(source, Mapping):
        tree, name = source, "the mapping"
    elif str(source) in presets:
        tree, name = {"type": str(source)}, str(source)
    elif Path(source).suffix in (".yml", ".yaml", ".json"):
        tree, name = files.load(source), str(source)
    else:
        raise OptionError(f"{source}: is no option file (.yml, .json), and no preset: {', '.join(presets)}")
    told: Any = tree.get("scale") if scale is None else scale
    if not isinstance(told, int):
        raise OptionError(f"{name}: tells no scale; give `scale`, how many times smaller the images become")
    if "type" not in tree and "degradation" not in tree:
        raise OptionError(f"{name}: found neither `degradation` nor `type`, expected an option file or a degradation")
    options = {k: v for k, v in tree.items() if k != "scale"} if "type" in tree else tree["degradation"]
    return DEGRADATIONS.check(options, "degradation", scale=told), told
