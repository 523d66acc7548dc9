"""Which files hold the weights that a path means, and what they are called."""

from pathlib import Path
from typing import Literal

from models.weights.layouts import Prefer
from models.weights.zoo import PREFIX, zoo_file
from utils.options.fields import OptionError
from utils.storage.checkpoint import Checkpoints

OUR_FILES: dict[Prefer, str] = {"ema": "network_g_ema.safetensors", "raw": "network_g.safetensors"}


def weight_files(path: Path, weights_of: Literal["ema", "raw", "both"]) -> list[Path]:
    """Return the weight files that a path means: itself, those of a checkpoint folder of ours, of a
    run's newest checkpoint, or of `zoo:NAME`.

    Raises OptionError if the folder or the zoo has none.
    """
    if str(path).startswith(PREFIX):
        return [zoo_file(str(path))]
    if not path.is_dir():
        return [path]
    if (path / "checkpoints").is_dir() or (path / "run.lock").is_file():  # the latter of a run that was refused
        newest = Checkpoints(path / "checkpoints").newest()
        if newest is None:
            raise OptionError(f"{path}: this run has no checkpoint yet")
        path = newest
    wanted: tuple[Prefer, ...] = ("ema", "raw") if weights_of == "both" else (weights_of,)
    files = [path / OUR_FILES[prefer] for prefer in wanted]
    if missing := [file.name for file in files if not file.is_file()]:
        raise OptionError(
            f"{path}: this folder has no {' and no '.join(missing)}; expected a weight file, a run such as "
            "runs/NAME, or a checkpoint folder such as runs/NAME/checkpoints/psnr_00001200"
        )
    return files


def checkpoint_names(paths: list[Path]) -> list[str]:
    """Return a short name for each weight file, unique: `psnr_00001200/ema` for ours, the file's name for others."""
    parts = []
    for path in paths:
        own = {file: prefer for prefer, file in OUR_FILES.items()}.get(path.name)
        folders = list(path.absolute().parent.parts[1:])
        parts.append([*folders[:-1], f"{folders[-1]}/{own}"] if own and folders else [*folders, path.stem])
    depths = [1] * len(paths)
    while True:
        names = ["/".join(of_one[-depth:]) for of_one, depth in zip(parts, depths, strict=True)]
        longer = [d + (names.count(n) > 1 and d < len(p)) for n, d, p in zip(names, depths, parts, strict=True)]
        if longer == depths:
            break
        depths = longer
    if len(set(names)) < len(names):
        raise OptionError(f"--weights: the same file is given twice: {', '.join(map(str, paths))}")
    return names
