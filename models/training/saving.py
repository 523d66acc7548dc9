"""Checkpoints that ranks write together, and what happens when one cannot be written."""

from __future__ import annotations

from typing import Any

import torch

from utils.logging import Console
from utils.processes import distributed
from utils.processes.distributed import AgreedError, Processes
from utils.storage.checkpoint import Checkpoints, SaveFailed, SaveRefused


class Saver:
    """Writes checkpoints from the main process. One that fails (a full disk) is only warned of, until `limit` in a row
    have, since training may outlive it."""

    def __init__(self, checkpoints: Checkpoints, limit: int, processes: Processes, console: Console) -> None:
        self.checkpoints, self.limit, self.processes, self.console = checkpoints, limit, processes, console
        self.failures = 0

    def save(self, stage: str, iteration: int, *contents: Any, final: bool, **more: Any) -> None:  # noqa: ANN401
        """`Checkpoints.save` with these arguments. Raises AgreedError on every rank alike."""
        failed = refused = 0
        if self.processes.is_main:
            try:
                self.checkpoints.save(stage, iteration, *contents, final=final, **more)
            except (SaveFailed, SaveRefused) as error:
                failed, refused = int(isinstance(error, SaveFailed)), int(isinstance(error, SaveRefused))
                self.console.warn(f"checkpoint not saved, training goes on: {error}")
        failed, refused = distributed.agree(torch.tensor([failed, refused]))
        self.failures = self.failures + 1 if failed else 0
        if self.failures >= self.limit or (failed and final):
            text = f"{self.failures} checkpoints in a row could not be saved in"
            raise AgreedError(f"{text} {self.checkpoints.folder.parent}; free some disk space")
        if refused and final:
            raise AgreedError(f"stage {stage} ends with weights that are not finite; its checkpoints are kept")
