"""Weights from files, ours or published, in any layout and key style.

`load_weights` fills a network, `read_weights` reads a file without one, `guess_network` tells which generator a
published file belongs to.
"""

import json
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from models.weights.guess import UnknownNetwork, guess_network
from models.weights.key_styles import State, canonical_names, is_contrastive
from models.weights.kinds import file_kind
from models.weights.layouts import Prefer, flat_tensors, unwrap
from models.weights.ncnn import read_ncnn
from utils.options.fields import OptionError
from utils.storage.files import looked_in

# What unpickling a damaged file may raise, besides torch's own errors.
_READ_ERRORS = (
    *(pickle.UnpicklingError, RuntimeError, OSError, EOFError),
    *(ValueError, LookupError, TypeError, AttributeError, ImportError, MemoryError, struct.error),
)
_SHOWN = 10


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` found.

    Attributes:
        missing: keys of the network that the file does not have.
        unexpected: keys of the file (as written there) that the network does not have.
        mismatched: key → (shape in the file, shape in the network).
        renamed: name in the file → canonical name, where they differ.
        set_aside: keys of the file that only contrastive training uses (DASR's and CDSR's key encoder and queue).
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether file and network agree entirely."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Say what was not taken, by kind, one line each."""
        lines = ["every weight fits" if self.complete else "what fits by name and shape was taken"]
        lines += _listed("missing in the file, left as it was", self.missing)
        lines += _listed("unknown to the network, dropped", self.unexpected)
        lines += _listed("of another shape, dropped", _shapes(self))
        return "\n".join([*lines, *_listed("of contrastive training, not of the network", self.set_aside)])


def load_weights(
    network: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    prefer: Prefer = "ema",
    strict: bool = True,
) -> LoadReport:
    """Fill a network from a file or a state dict, by name, after renaming published key styles.

    Args:
        network: filled in place, on its device and in its dtype.
        source: a `.safetensors` or pickled file, or what such a file holds.
        prefer: which weights to take from a file that holds averaged and raw ones.
        strict: whether any difference is an error. If not, what fits by name and shape is loaded.

    Raises:
        OptionError: if the file cannot be read or, with `strict`, differs from the network, which stays untouched.
    """
    wanted = network.state_dict()
    found = _tensors(source)
    if not wanted.keys() <= found.keys():  # words of wrapping may also be names of a network's own parts
        found = unwrap(found, prefer, getattr(network, "role", "generator"))
    names = _names_towards(found, wanted)
    mismatched = {
        new: (tuple(found[old].shape), tuple(wanted[new].shape))
        for old, new in names.items()
        if new in wanted and found[old].shape != wanted[new].shape
    }
    have = set(names.values())
    strangers = [old for old, new in names.items() if new not in wanted]
    report = LoadReport(
        # Files older than this counter (PyTorch 0.4.1) lack it, and it has no influence at a fixed momentum.
        missing=[key for key in wanted if key not in have and not key.endswith("num_batches_tracked")],
        unexpected=[key for key in strangers if not is_contrastive(key)],
        mismatched=mismatched,
        renamed={old: new for old, new in names.items() if old != new},
        set_aside=[key for key in strangers if is_contrastive(key)],
    )
    if strict and not report.complete:
        raise OptionError(_complaint(_name_of(source), report, found, wanted))
    fitting = {new: found[old] for old, new in names.items() if new in wanted and new not in mismatched}
    network.load_state_dict(fitting, strict=False)
    return report


def read_weights(source: str | Path | Mapping[str, Any], prefer: Prefer = "ema") -> State:
    """Return the flat state dict of the generator in a file, on the CPU, under the names written there.

    What other programs wrap it in is taken off, see `models.weights.layouts`.

    Raises:
        OptionError: if there is no such file, it is damaged, holds anything but plain data, or holds no weights.
    """
    return unwrap(_tensors(source), prefer)


def as_written(path: Path) -> State:
    """Return all tensors of a file by their dotted names, nothing taken off. Raises OptionError as `read_weights`."""
    return _tensors(path)


def stated_network(path: Path) -> dict[str, Any] | None:
    """Return the network options that a file states itself, ours or ncnn's; None where keys and shapes must tell.

    Raises OptionError if the file is damaged, or a graph of a network that is not known here.
    """
    kind = file_kind(path)
    if kind == "ncnn graph":
        return read_ncnn(path).options
    if kind != "safetensors":
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("network", "null"))
    except (OSError, ValueError, SafetensorError) as error:
        raise OptionError(f"{path}: is no whole safetensors file ({error}); download or save it again") from error
    return said if isinstance(said, dict) else None  # other programs may say other things there


def _tensors(source: str | Path | Mapping[str, Any]) -> State:
    held = source if isinstance(source, Mapping) else _read_file(Path(source))
    tensors = flat_tensors(held)
    if not tensors:
        found = f"entries {', '.join(map(str, list(held)[:_SHOWN]))}" if isinstance(held, Mapping) else type(held)
        raise OptionError(
            f"{_name_of(source)}: holds no network weights; found {found}, expected tensors by name, or a dict of "
            "them under params_ema, params, state_dict or the like"
        )
    return tensors


def _read_file(path: Path) -> object:
    if not path.is_file():
        found = "is a folder, expected one file of weights" if path.is_dir() else f"no such file{looked_in(path)}"
        raise OptionError(f"{path}: {found}")
    kind = file_kind(path)
    try:
        match kind:
            case "safetensors":
                return load_file(path, device="cpu")
            case "ncnn graph":
                return read_ncnn(path).state
            case "pickle":
                return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise OptionError(f"{path}: is no whole safetensors file ({error}); download or save it again") from error
    except _READ_ERRORS as error:
        # Torch's own text of a refused pickle recommends to load it unsafely, so it is not passed on.
        text = str(error).strip() or type(error).__name__
        if refused := re.search(r"GLOBAL ([\w.]+)", text):
            raise OptionError(
                f"{path}: holds the Python object {refused[1]}; only tensors and plain data are loaded, since other "
                "objects can run code; save the bare state dict"
            ) from error
        cause = "no pickle of plain data" if "weights_only" in text else text.splitlines()[0][:200]
        raise OptionError(f"{path}: is damaged or no PyTorch file ({cause}); download or save it again") from error
    raise OptionError(f"{path}: holds no weights that can be read; it is {kind}")


def _names_towards(found: State, wanted: State) -> dict[str, str]:
    """Return by name in the file the name to load it as: as written, or canonical if that meets more of the network."""
    plain = {key: key for key in found}
    renamed = canonical_names(found)
    return max((plain, renamed), key=lambda names: sum(new in wanted for new in names.values()))


def _name_of(source: object) -> str:
    return "the given weights" if isinstance(source, Mapping) else str(source)


def _complaint(name: str, report: LoadReport, found: State, wanted: State) -> str:
    lines = [f"{name}: does not fit the network"]
    lines += _listed("missing in the file", [f"{key} {_shape(wanted[key])}" for key in report.missing])
    lines += _listed("unknown to the network", [f"{key} {_shape(found[key])}" for key in report.unexpected])
    lines += _listed("of another shape", _shapes(report))
    lines.append(f"  {advice(found)}")
    return "\n".join(lines)


def advice(found: State) -> str:
    """Return what to do with weights that do not fit a network."""
    try:
        options = ", ".join(f"{key}: {value}" for key, value in guess_network(found).items())
        return f"the file looks like {{{options}}}: set the network so"
    except OptionError as error:
        known = not isinstance(error, UnknownNetwork)
        return str(error) if known else "set the network's options to those the file was made with"


def _listed(title: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = [f"    … and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [f"  {title} ({len(items)}):", *(f"    {item}" for item in items[:_SHOWN]), *more]


def _shapes(report: LoadReport) -> list[str]:
    return [f"{key}: file {list(a)}, network {list(b)}" for key, (a, b) in report.mismatched.items()]


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
