"""Checkpoints on disk: a folder per save, complete or absent, checked by size and hash before it is used.

<run>/checkpoints/gan_00005000/   network_g.safetensors network_g_ema.safetensors … state.pt meta.json manifest.json
<run>/checkpoints/latest          the name of the newest one, for people and scripts
"""

import hashlib
import io
import json
import math
import os
import pickle
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from utils.options.fields import OptionError
from utils.storage.files import looked_in, replace_text, sync_folder, write_durably

Weights = Mapping[str, Tensor]
_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_PLAIN = (bool, int, float, str, bytes, type(None))


class CheckpointError(OptionError):
    """A checkpoint is missing, damaged or not ours. The message names the file."""


class SaveFailed(OSError):  # noqa: N818 - an event that training survives
    """The disk did not take a checkpoint. What was there before is untouched."""


class SaveRefused(ValueError):  # noqa: N818
    """The weights are not finite; saving them would spoil the newest checkpoint."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint holds: state dicts of networks by name, the training state, and the facts about it."""

    folder: Path
    networks: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    meta: dict[str, Any]


@dataclass(frozen=True)
class _Entry:
    """A checkpoint folder as its meta.json describes it; `number` counts the saves of a run."""

    folder: Path
    stage: str
    number: int
    iteration: int
    metrics: dict[str, float | None]
    final: bool


class Checkpoints:
    """The checkpoints of a run. Only the main process saves.

    Args:
        folder: holds one folder per save.
        keep_last: how many of the newest are kept.
        keep_best: how many of the best of each stage are kept besides, by `metric`.
        metric: the name among a save's metrics that decides what is best.
        lower_is_better: the direction of the metric.
        warn: takes messages about damaged checkpoints and those that cannot be removed.

    The newest checkpoint of each finished stage is always kept.
    """

    def __init__(
        self,
        folder: str | Path,
        keep_last: int = 2,
        keep_best: int = 0,
        metric: str | None = None,
        *,
        lower_is_better: bool = False,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}, expected at least 1")
        self.folder = Path(folder)
        self.keep_last, self.keep_best = keep_last, keep_best
        self.metric, self.lower_is_better = metric, lower_is_better
        self.warn = warn

    def clean(self) -> None:
        """Remove what a killed save left behind. For the main process, at the start, under the run's lock."""
        for path in self.folder.glob(".tmp-*"):
            original = self.folder / path.name.removeprefix(".tmp-old-")
            if path.name.startswith(".tmp-old-") and not original.exists():
                path.rename(original)  # killed between the two renames of a repeated save
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def save(
        self,
        stage: str,
        iteration: int,
        networks: Mapping[str, Weights],
        state: Mapping[str, Any],
        *,
        describe: Mapping[str, Mapping[str, Any]] | None = None,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, Any] | None = None,
        final: bool = False,
    ) -> Path:
        """Save and prune; return the new folder.

        Args:
            networks: state dicts by file name, such as `network_g` and `network_g_ema`.
            state: everything else a resume needs: tensors and plain Python values.
            describe: by network, what its weight file says about itself, such as its options and scale, so that
                it can be used alone. `network_g_ema` says what `network_g` says.
            meta: further facts for meta.json, such as the option tree.
            final: whether the stage is finished.

        Raises SaveFailed (disk), SaveRefused (weights not finite), TypeError (a state that could not be loaded).
        """
        if not _STAGE_NAME.fullmatch(stage):
            raise OptionError(f"stage name {stage!r}: expected letters, digits, '_', '.', '+' or '-'")
        for name, weights in networks.items():
            if not all_finite(weights):
                raise SaveRefused(f"{name} of {stage} at iteration {iteration} holds values that are not finite")
        _require_loadable(state, "state")
        about = {"stage": stage, "iteration": iteration, "number": self._next_number(), "final": final}
        about |= {"metrics": _finite_or_none(metrics or {}), "saved": time.strftime("%Y-%m-%d %H:%M:%S")}
        about |= {"versions": versions(), **(meta or {})}
        target = self.folder / f"{stage}_{iteration:08d}"
        aside = self.folder / f".tmp-{target.name}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            _write_all(aside, networks, state, describe or {}, about)
            self._put_in_place(aside, target)
            replace_text(self.folder / "latest", target.name + "\n")
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            free = shutil.disk_usage(next(path for path in target.absolute().parents if path.exists())).free
            kept = ", ".join(entry.folder.name for entry in self._entries()) or "none"
            reason = f"{error.strerror or error}; {free / 2**20:,.0f} MiB are free there; kept: {kept}"
            raise SaveFailed(error.errno, f"{target} could not be saved: {reason}") from error
        self.prune()
        return target

    def _put_in_place(self, aside: Path, target: Path) -> None:
        old = self.folder / f".tmp-old-{target.name}"
        if target.exists():  # the same iteration saved again, such as after falling back
            target.rename(old)
        aside.rename(target)
        sync_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def prune(self) -> None:
        """Remove all but the last k, the best k of each stage, and the newest of each finished stage."""
        entries = self._entries()
        kept = {entry.folder for entry in entries[-self.keep_last :]}
        for stage in {entry.stage for entry in entries}:
            of_stage = [entry for entry in entries if entry.stage == stage]
            kept |= {entry.folder for entry in of_stage if entry.final and entry == _last_final(of_stage)}
            kept |= {entry.folder for entry in self._ranked(of_stage)[: self.keep_best]}
        for entry in entries:
            if entry.folder not in kept:
                self._remove(entry.folder)

    def _ranked(self, entries: list[_Entry]) -> list[_Entry]:
        scored = [(entry.metrics.get(self.metric or ""), entry) for entry in entries]
        finite = [(score, entry) for score, entry in scored if score is not None]
        sign = 1 if self.lower_is_better else -1
        return [entry for _, entry in sorted(finite, key=lambda pair: (sign * pair[0], -pair[1].number))]

    def _remove(self, folder: Path) -> None:
        # Renamed first: a kill in the middle must not leave what looks like a damaged checkpoint.
        aside = folder.with_name(f".tmp-removed-{folder.name}")
        try:
            folder.rename(aside)
            shutil.rmtree(aside)
        except OSError as error:
            self.warn(f"{folder}: the old checkpoint cannot be removed ({error.strerror})")

    def newest(self) -> Path | None:
        """Return the newest undamaged checkpoint, or None if there is none at all.

        A damaged one is named in a warning and the one before is taken. Raises CheckpointError if all are damaged.
        """
        entries = self._entries(self.warn)
        for entry in reversed(entries):
            problem = find_damage(entry.folder)
            if problem is None:
                return entry.folder
            self.warn(f"checkpoint {entry.folder} is damaged ({problem}); falling back to the one before")
        if damaged := self._folders():
            raise CheckpointError(
                f"{self.folder}: all {len(damaged)} checkpoints are damaged; move them away to start anew"
            )
        return None

    def set_aside(self, stage: str) -> Path | None:
        """Move the checkpoints of a stage that is trained anew out of the way; return where they are, if any."""
        aside = self.folder.parent / "replaced" / time.strftime("%Y%m%d-%H%M%S")
        moved = [entry.folder for entry in self._entries() if entry.stage == stage]
        for folder in moved:
            aside.mkdir(parents=True, exist_ok=True)
            folder.rename(aside / folder.name)
        return aside if moved else None

    def finished(self, stage: str) -> Path | None:
        """Return the newest final checkpoint of a stage, or None if the stage is not finished."""
        last = _last_final([entry for entry in self._entries() if entry.stage == stage])
        return None if last is None else last.folder

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    def _entries(self, warn: Callable[[str], None] = lambda _: None) -> list[_Entry]:
        """List the oldest first, by the count of saves: names do not tell which stage came first, and clocks jump."""
        entries = []
        for folder in self._folders():
            try:
                meta = _read_json(folder / "meta.json")
                iteration, metrics = int(meta["iteration"]), dict(meta["metrics"])
                if meta.get("metrics_iteration", iteration) != iteration:  # of other weights than these
                    metrics = {}
                number, final = int(meta["number"]), bool(meta["final"])
                entries.append(_Entry(folder, meta["stage"], number, iteration, metrics, final))
            except (CheckpointError, KeyError, TypeError, ValueError) as error:
                warn(f"checkpoint {folder} is damaged ({_reason(error)}); it is passed over")
        return sorted(entries, key=lambda entry: entry.number)

    def _next_number(self) -> int:
        return max((entry.number for entry in self._entries()), default=0) + 1


def load(folder: str | Path, map_location: str | torch.device = "cpu") -> LoadedCheckpoint:
    """Read a checkpoint folder. Raises CheckpointError naming the file that is missing, damaged or unsafe."""
    folder = Path(folder)
    if (problem := find_damage(folder)) is not None:
        raise CheckpointError(f"checkpoint {folder} cannot be used: {problem}")
    networks = {p.stem: read_weights(p, map_location)[0] for p in sorted(folder.glob("*.safetensors"))}
    path = folder / "state.pt"
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: refused, it holds more than tensors and plain values ({reason})") from error
    except (OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: cannot be read ({_reason(error)})") from error
    return LoadedCheckpoint(folder, networks, state, _read_json(folder / "meta.json"))


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the facts about a checkpoint. Raises CheckpointError if they cannot be read."""
    return _read_json(folder / "meta.json")


def read_weights(
    path: str | Path, map_location: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict of a weight file, and what it says about itself: `network` (options), `scale`, …"""
    try:
        with safetensors.safe_open(str(path), framework="pt", device=str(map_location)) as file:
            said = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        return weights, {key: json.loads(value) for key, value in said.items() if key != "format"}
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({_reason(error)})") from error


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, or None: every file of its manifest, with its size and hash."""
    if not folder.is_dir():
        return f"there is no such folder{looked_in(folder)}"
    if not (folder / "manifest.json").is_file():
        return "it has no manifest.json; expected a checkpoint, such as runs/NAME/checkpoints/psnr_00001200"
    try:
        files = _read_json(folder / "manifest.json")["files"]
        for name, expected in files.items():
            path = folder / Path(name).name
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != expected["bytes"]:
                return f"{name} has {size} bytes, expected {expected['bytes']}"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    return f"{name} was altered, its sha256 differs"
        missing = {"state.pt", "meta.json"} - set(files)
        return f"manifest.json does not list {', '.join(sorted(missing))}" if missing else None
    except (CheckpointError, OSError) as error:
        return _reason(error)
    except (KeyError, TypeError, AttributeError):
        return "manifest.json is not a manifest"


def all_finite(weights: Weights) -> bool:
    """Return whether all floating-point tensors are finite; waits for the device once."""
    finite = [torch.isfinite(v).all() for v in weights.values() if v.is_floating_point() or v.is_complex()]
    return bool(torch.stack(finite).all()) if finite else True


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return what this process runs: git commit (`+changes` if the tree differs), Python, PyTorch, CUDA."""
    own = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=own.parent, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(own))  # fails in an environment that lies in somebody else's repository
        changed = git("status", "--porcelain", "--untracked-files=no")
        code = git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        code = "unknown"
    libraries = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    return {"code": code, **libraries}


def _write_all(
    folder: Path,
    networks: Mapping[str, Weights],
    state: Mapping[str, Any],
    describe: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
) -> None:
    """Write every file, the manifest last. The bytes are made in memory, so every failure is a plain OSError."""
    files = {}

    def put(name: str, content: bytes) -> None:
        write_durably(folder / name, content)
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    for name, weights in networks.items():
        said = {**describe.get(name.removesuffix("_ema"), {}), **describe.get(name, {})}
        said |= {"stage": about["stage"], "iteration": about["iteration"]}
        texts = {key: json.dumps(value, default=str) for key, value in said.items()}
        content = safetensors.torch.save(_portable(weights), metadata={"format": "pt", **texts})
        put(f"{name}.safetensors", content)
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    put("state.pt", buffer.getvalue())
    put("meta.json", json.dumps(about, indent=1, default=str).encode())
    write_durably(folder / "manifest.json", json.dumps({"files": files}, indent=1).encode())
    sync_folder(folder)


def _portable(weights: Weights) -> dict[str, Tensor]:
    """Return contiguous CPU copies: safetensors refuses views and storage shared by two keys."""
    return {k: v.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for k, v in weights.items()}


def _require_loadable(value: Any, where: str) -> None:  # noqa: ANN401
    """Raise TypeError for what `weights_only` would refuse: better at the first save than at the resume."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_loadable(key, f"a key of {where}")
            _require_loadable(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            _require_loadable(item, f"{where}[{index}]")
    elif not isinstance(value, Tensor) and type(value) not in _PLAIN:
        raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint takes tensors and plain Python values")


def _last_final(entries: list[_Entry]) -> _Entry | None:
    return next((entry for entry in reversed(entries) if entry.final), None)


def _finite_or_none(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path.name}: {os.strerror(error.errno or 0)}") from error
    except (ValueError, RecursionError) as error:  # the latter where a stranger nested it deeply
        raise CheckpointError(f"{path.name} is not JSON ({error})") from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
