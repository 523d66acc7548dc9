"""Where curves and pictures are looked at: TensorBoard, and Weights & Biases (extra `wandb`)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from utils.options.fields import OptionError

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

GROUPS = ("1 validation", "2 losses", "3 rate and speed", "4 health")
"""Groups of curves, numbered as they are looked at: boards sort by name."""
_GROUP_OF: dict[str, str] = dict.fromkeys(("lr", "speed", "wait_share", "ram", "ram_peak", "cuda_peak"), GROUPS[2])


def tag(name: str, is_loss: bool = False) -> str:
    """Return a number's place on a board: those of validation are called such as `set/PSNR`."""
    if "/" in name:
        return f"{GROUPS[0]}/{name.replace('/', ' ')}"
    return f"{GROUPS[1] if is_loss else _GROUP_OF.get(name, GROUPS[3])}/{name}"


class Board(Protocol):
    """A place for curves and pictures, by tags."""

    def scalars(self, stage: str, iteration: int, values: Mapping[str, float]) -> None: ...

    def image(self, stage: str, iteration: int, tag: str, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3), uint8."""
        ...

    def resume(self, stage: str, iteration: int) -> None:
        """Hide what comes after an iteration, as far as the board can."""
        ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files; each stage is a run of its own (`tensorboard/<stage>`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"
        self._writers: dict[str, SummaryWriter] = {}
        self._resumed_at: dict[str, int] = {}

    def scalars(self, stage: str, iteration: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer(stage).add_scalar(name, value, iteration)

    def image(self, stage: str, iteration: int, tag: str, picture: np.ndarray) -> None:
        self._writer(stage).add_image(tag, picture, iteration, dataformats="HWC")

    def resume(self, stage: str, iteration: int) -> None:
        self._resumed_at[stage] = iteration
        if stage in self._writers:
            self._writers.pop(stage).close()

    def _writer(self, stage: str) -> SummaryWriter:
        if stage not in self._writers:
            from torch.utils.tensorboard.writer import SummaryWriter  # takes a second, and not every run wants it

            purge = self._resumed_at[stage] + 1 if stage in self._resumed_at else None
            self._writers[stage] = SummaryWriter(str(self.folder / stage), purge_step=purge)
        return self._writers[stage]

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """A run there, called as the run folder, by the account and mode (WANDB_MODE, WANDB_PROJECT) that wandb knows.

    A resumed run goes on in the same one. What was logged after the iteration that it resumes from stays there, and is
    drawn twice.

    Raises:
        OptionError: the package is missing, or nobody is logged in.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise OptionError("logger.wandb: needs the package wandb; pip install -e '.[wandb]'") from error
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "blind-sr"),
                name=folder.name,
                id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
                resume="allow",
                dir=str(folder),
                config=dict(options),
                settings=wandb.Settings(console="off"),  # our lines are in console.log
            )
        except wandb.Error as error:
            raise OptionError(f"logger.wandb: {error}; `wandb login`, or WANDB_MODE=offline") from error
        self._image = wandb.Image
        self._known: set[str] = set()

    def _log(self, stage: str, iteration: int, values: Mapping[str, Any]) -> None:
        if stage not in self._known:
            self._known.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/iteration")
        named = {f"{stage}/{tag}": value for tag, value in values.items()}
        self._run.log({f"{stage}/iteration": iteration, **named})

    def scalars(self, stage: str, iteration: int, values: Mapping[str, float]) -> None:
        self._log(stage, iteration, values)

    def image(self, stage: str, iteration: int, tag: str, picture: np.ndarray) -> None:
        self._log(stage, iteration, {tag: self._image(picture)})

    def resume(self, stage: str, iteration: int) -> None:
        """Do nothing: what is there stays."""

    def close(self) -> None:
        self._run.finish()
