"""The steps of a `prepare:` section: kernels, noise and ground truths of real photographs, made once."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.overlap import overlap
from data.prepare import hr as hr_step
from data.prepare import kernels as kernel_pool
from data.prepare import noise as noise_step
from data.prepare.hr import check_folders, make_hr
from data.prepare.kernels import collect_kernels
from data.prepare.noise import collect_noise
from data.prepare.section import Prepare
from data.prepare.work import cores, named_images, refuse_inside, stamp
from data.source import Source
from data.sources.folder import Folder
from utils.logging import Console
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import Processes
from utils.storage.files import replace_text


def prepare(
    settings: Prepare,
    scale: int,
    processes: Processes,
    console: Console,
    validation: Mapping[str, Source] | None = None,
) -> None:
    """Takes the steps that are not taken yet, or whose images, options or version have changed. All ranks call it.

    Warns of validation images among the sources. Images that cannot be used are named and left out.

    Raises OptionError as the steps do, if the scales differ, or if something else lies where the results go.
    """
    source, out = Path(settings.source).expanduser(), Path(settings.out).expanduser()
    target = None if settings.target is None else Path(settings.target).expanduser()
    with distributed.together():
        if settings.kernels is not None and settings.kernels.scale != scale:
            raise OptionError(
                f"prepare.kernels.scale: found {settings.kernels.scale}, expected the run's scale, {scale}"
            )
        folders = {"source": source, **({} if target is None else {"target": target})}
        for name, folder in folders.items():
            try:
                named_images(folder)
                refuse_inside(out, folder)
            except OptionError as error:
                raise OptionError(f"prepare.{name}: {error}") from error
        check_folders(source, target, out / "hr")  # said before kernels are estimated for hours
        if processes.is_main and validation:
            for text in overlap({n: Folder(str(folder)) for n, folder in folders.items()}, validation, "prepare."):
                console.warn(text)
    if (kernels := settings.kernels) is not None:
        step = _Step("kernels", out, {"version": kernel_pool.VERSION, **asdict(kernels)}, [source])
        step.take(
            lambda folder: collect_kernels(kernels, source, folder, processes, console, settings.batch),
            processes,
            console,
        )
    if (noise := settings.noise) is not None:
        step = _Step("noise", out, {"version": noise_step.VERSION, **asdict(noise)}, [source])
        step.take(lambda folder: collect_noise(noise, source, folder, cores(), console), processes, console)
    if (hr := settings.hr) is not None:
        step = _Step("hr", out, {"version": hr_step.VERSION, "scale": scale, **asdict(hr)}, [*folders.values()])
        step.take(lambda folder: make_hr(hr, scale, source, target, folder, cores(), console), processes, console)


@dataclass(frozen=True)
class _Step:
    """A step, what it depends on, and the images that it reads; noted beside its results."""

    name: str
    out: Path
    options: Mapping[str, Any]
    sources: Sequence[Path]

    def take(self, run: Callable[[Path], object], processes: Processes, console: Console) -> None:
        """Calls `run` with the folder for the results, unless they are there; older ones are removed before.

        Raises OptionError if what lies there is not of a `prepare:` section.
        """
        folder, note = self.out / self.name, self.out / f"{self.name}.json"
        with distributed.together():
            key = {"options": self.options, "images": [[str(source), _digest(source)] for source in self.sources]}
            begun, finished = (json.dumps({**key, "finished": is_so}, indent=1) for is_so in (False, True))
            noted = note.read_text(encoding="utf-8") if note.exists() else None
            done = noted == finished and folder.is_dir()
        if done:
            console.info(f"prepare.{self.name}: {folder} is up to date")
            return
        shared = self.name == "kernels"  # among the ranks; it knows by itself which kernels it can keep
        with distributed.together():
            if processes.is_main:
                if noted is None and folder.exists():
                    raise OptionError(f"prepare.out: {folder} is there, but {note} is not; choose another folder")
                if noted not in (None, begun, finished):
                    console.info(f"prepare.{self.name}: images or options have changed; {folder} is made anew")
                    if shared:  # what was estimated is kept; a pool of another scale would be a second one
                        for pool in folder.glob("kernels_x*"):
                            pool.unlink()
                    else:
                        shutil.rmtree(folder, ignore_errors=True)
                self.out.mkdir(parents=True, exist_ok=True)
                replace_text(note, begun)
        if shared:
            run(folder)
        with distributed.together():
            if processes.is_main:
                if not shared:
                    run(folder)
                replace_text(note, finished)


def _digest(folder: Path) -> str:
    """Tells one list of files, with sizes and times of change, from another. Raises OptionError for an empty one."""
    return hashlib.sha256(
        repr([(str(path), stamp(path)) for path in named_images(folder).values()]).encode()
    ).hexdigest()
