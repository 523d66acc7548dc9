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
    """Take the steps that are not taken yet, or whose images, options or version have changed. All ranks call it.

    Warns of validation images among the sources. Images that cannot be used are named and left out.

    Raises OptionError as the steps do, and as `check`.
    """
    check(settings, scale, processes, console, validation)
    for step in steps(settings, scale, processes, console):
        step.take(processes, console)


def check(
    settings: Prepare,
    scale: int,
    processes: Processes,
    console: Console,
    validation: Mapping[str, Source] | None = None,
) -> None:
    """Say what is wrong before anything is made: not after kernels were estimated for hours. All ranks call it.

    Raises OptionError if the scales differ, a folder holds no images, or one lies where the results go.
    """
    folders = sources(settings)
    out = Path(settings.out).expanduser()
    with distributed.together():
        if settings.kernels is not None and settings.kernels.scale != scale:
            raise OptionError(
                f"prepare.kernels.scale: found {settings.kernels.scale}, expected the run's scale, {scale}"
            )
        for name, folder in folders.items():
            try:
                named_images(folder)
                refuse_inside(out, folder)
            except OptionError as error:
                raise OptionError(f"prepare.{name}: {error}") from error
        check_folders(folders["source"], folders.get("target"), out / "hr")
        if processes.is_main and validation:
            for text in overlap({n: Folder(str(folder)) for n, folder in folders.items()}, validation, "prepare."):
                console.warn(text)


def sources(settings: Prepare) -> dict[str, Path]:
    """Return the folders of images, `source` and perhaps `target`."""
    given = {"source": settings.source, "target": settings.target}
    return {name: Path(folder).expanduser() for name, folder in given.items() if folder is not None}


def steps(settings: Prepare, scale: int, processes: Processes, console: Console) -> list[Step]:
    """Return the steps that are asked for, in order."""
    folders, out = sources(settings), Path(settings.out).expanduser()
    source, asked_for = folders["source"], []
    if (kernels := settings.kernels) is not None:

        def estimate(folder: Path) -> None:
            collect_kernels(kernels, source, folder, processes, console, settings.batch)

        asked_for.append(Step("kernels", out, {"version": kernel_pool.VERSION, **asdict(kernels)}, [source], estimate))
    if (noise := settings.noise) is not None:

        def collect(folder: Path) -> None:
            collect_noise(noise, source, folder, cores(), console)

        asked_for.append(Step("noise", out, {"version": noise_step.VERSION, **asdict(noise)}, [source], collect))
    if (hr := settings.hr) is not None:

        def clean(folder: Path) -> None:
            make_hr(hr, scale, source, folders.get("target"), folder, cores(), console)

        options = {"version": hr_step.VERSION, "scale": scale, **asdict(hr)}
        asked_for.append(Step("hr", out, options, [*folders.values()], clean))
    return asked_for


@dataclass(frozen=True)
class Step:
    """A step, what it depends on, and the images that it reads; noted beside its results. `run` fills a folder."""

    name: str
    out: Path
    options: Mapping[str, Any]
    sources: Sequence[Path]
    run: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        return self.out / self.name

    @property
    def note(self) -> Path:
        """What they were made of."""
        return self.out / f"{self.name}.json"

    def notes(self) -> tuple[str, str]:
        """Return what is noted while the step is taken, and at its end."""
        key = {"options": self.options, "images": [[str(source), _digest(source)] for source in self.sources]}
        begun, finished = (json.dumps({**key, "finished": is_so}, indent=1) for is_so in (False, True))
        return begun, finished

    def noted(self) -> str | None:
        """Return what stands there."""
        return self.note.read_text(encoding="utf-8") if self.note.exists() else None

    def is_done(self) -> bool:
        """Tell whether the results are there, of these images and options."""
        return self.folder.is_dir() and self.noted() == self.notes()[1]

    def take(self, processes: Processes, console: Console) -> None:
        """Make the results, unless they are there; older ones are removed before.

        Raises OptionError if what lies there is not of a `prepare:` section.
        """
        folder, note = self.folder, self.note
        with distributed.together():
            begun, finished = self.notes()
            noted, done = self.noted(), self.is_done()
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
            self.run(folder)
        with distributed.together():
            if processes.is_main:
                if not shared:
                    self.run(folder)
                replace_text(note, finished)


def _digest(folder: Path) -> str:
    """Tell one list of files, with sizes and times of change, from another. Raises OptionError for an empty one."""
    return hashlib.sha256(
        repr([(str(path), stamp(path)) for path in named_images(folder).values()]).encode()
    ).hexdigest()
