"""Which checkpoint a run goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.logging import Console
from utils.options import files as option_files
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import Processes
from utils.storage import checkpoint
from utils.storage.checkpoint import Checkpoints, LoadedCheckpoint

MAY_CHANGE = ("name", "logger", "performance", "data.workers", "data.validation", "data.max_unreadable")
"""Options that a resumed run may have otherwise than the run it resumes."""


def choose_resume(
    wish: str, anyway: bool, folder: Path, tree: Mapping[str, Any], processes: Processes, console: Console
) -> LoadedCheckpoint | None:
    """The checkpoint to go on from, said in words, or None to start anew.

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
        found = checkpoint.load(chosen)
        _refuse_differences(found, tree, anyway)
    why = "the newest in the run folder" if wish == "auto" else "as --resume says"
    console.info(
        f"resuming from {found.folder} ({why}): stage {found.meta['stage']}, iteration {found.meta['iteration']}"
    )
    return found


def _refuse_differences(found: LoadedCheckpoint, tree: Mapping[str, Any], accepted: bool) -> None:
    if found.meta["stage"] not in tree["stages"]:
        raise OptionError(f"{found.folder} is of stage {found.meta['stage']}, which the option file does not have")
    different = [d for d in option_files.differences(found.meta["options"], tree) if not d.startswith(MAY_CHANGE)]
    if different and not accepted:
        raise OptionError(
            f"{found.folder} was trained with other options:\n  "
            + "\n  ".join(different)
            + "\nresume with the old ones, choose another `name`, or accept the new ones with --resume-anyway"
        )
