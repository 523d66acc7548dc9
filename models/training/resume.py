"""The checkpoints of a run: written for all ranks together, and the one that it goes on from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from utils.logging import Console
from utils.options import files as option_files
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import AgreedError, Processes
from utils.storage import checkpoint
from utils.storage.checkpoint import Checkpoints, LoadedCheckpoint, SaveFailed, SaveRefused

MAY_CHANGE = ("name", "logger", "performance", "data.workers", "data.validation", "data.max_unreadable")
"""Options that a resumed run may have otherwise than the run it resumes."""


class Saver:
    """Saves checkpoints from the main process. One that fails (a full disk) is only warned of, until `limit` in a row
    have, since training may outlive it."""

    def __init__(self, checkpoints: Checkpoints, limit: int, processes: Processes, console: Console) -> None:
        self.checkpoints, self.limit, self.processes, self.console = checkpoints, limit, processes, console
        self.failures = 0

    def save(self, stage: str, iteration: int, *contents: Any, final: bool, **more: Any) -> None:  # noqa: ANN401
        """Call `Checkpoints.save` with these arguments. Raises AgreedError on every rank alike."""
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
            folder = self.checkpoints.folder.parent
            raise AgreedError(
                f"{self.failures} checkpoints in a row could not be saved in {folder}; free some disk space"
            )
        if refused and final:
            raise AgreedError(f"stage {stage} ends with weights that are not finite; its checkpoints are kept")


def choose_resume(
    wish: str, anyway: bool, folder: Path, tree: Mapping[str, Any], processes: Processes, console: Console
) -> LoadedCheckpoint | None:
    """Return the checkpoint to go on from, said in words, or None to start anew.

    Args:
        wish: `auto` for the newest in the run folder, `none`, or the path of a checkpoint folder.
        anyway: accept that options differ.
        tree: the option tree of this run.

    Raises OptionError when options differ in what matters, or when `none` meets a folder with checkpoints.
    """
    path = None if wish in ("auto", "none") else Path(wish)
    with distributed.together():
        if processes.is_main and path is None:  # one rank decides, the others follow
            path = Checkpoints(folder / "checkpoints", warn=console.warn).newest()
            if path is not None and wish == "none":
                raise OptionError(
                    f"{folder} already holds checkpoints; choose another `name`, or leave out --resume none"
                )
    if not (chosen := distributed.broadcast_string(str(path or ""))):
        return None
    with distributed.together():
        saved = checkpoint.load(chosen)
        _refuse_differences(saved, tree, anyway)
    why = "the newest in the run folder" if wish == "auto" else "as --resume says"
    stage, iteration = saved.meta["stage"], saved.meta["iteration"]
    console.info(f"resuming from {saved.folder} ({why}): stage {stage}, iteration {iteration}")
    return saved


def _refuse_differences(saved: LoadedCheckpoint, tree: Mapping[str, Any], accepted: bool) -> None:
    if saved.meta["stage"] not in tree["stages"]:
        raise OptionError(f"{saved.folder} is of stage {saved.meta['stage']}, which the option file does not have")
    different = [d for d in option_files.differences(saved.meta["options"], tree) if not d.startswith(MAY_CHANGE)]
    if different and not accepted:
        raise OptionError(
            f"{saved.folder} was trained with other options:\n  "
            + "\n  ".join(different)
            + "\nresume with the old ones, choose another `name`, or accept the new ones with --resume-anyway"
        )
