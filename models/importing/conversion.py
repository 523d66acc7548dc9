"""A foreign option file on its way to ours: what is read, what is made of it, and a line about each of its keys."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from degradations import DEGRADATIONS
from models.network import NETWORKS
from models.training.experiment import check_experiment
from utils.options.components import OptionsError, Problem, flat
from utils.options.fields import OptionError
from utils.options.files import merge, override

MISSING = object()
NUMBER = (int, float)
ANY_POOL = {"source": ".", "out": "."}
"""Pools of kernels and noise may still have to be made; with this, as `prepare`, an option file passes without them."""


class ForeignFileError(OptionError):
    """Why a foreign option file cannot be converted, all reasons at once."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__(f"{source} cannot be converted, nothing is written:\n" + "\n".join(f"  {p}" for p in problems))


@dataclass(frozen=True)
class Told:
    """What the person who converts says beside the file.

    `gpus`: how many processes a batch per GPU is for where the file leaves it open. `iterations`: the length of a
    training that the file does not end. `images`: size of the training set, which makes epochs iterations. `exact`:
    draw once per batch and code JPEG as Real-ESRGAN's released code does.
    """

    gpus: int = 1
    iterations: int | None = None
    images: int | None = None
    exact: bool = False


@dataclass(frozen=True)
class Fate:
    """One thing that a foreign key became: an option of ours at `path`, or only what `text` says."""

    text: str = ""
    path: str | None = None

    def told(self, tree: Mapping[str, Any]) -> str:
        """Say it in words; what the tree does not hold was our default."""
        if self.path is None:
            return self.text
        if at(tree, self.path) is None:
            return f"equal to our default, {self.path}"
        return f"derived: {self.path}, {self.text}" if self.text else f"taken over as {self.path}"


@dataclass
class Conversion:
    """Reads a foreign tree by dotted keys and builds ours, with one line about each key.

    `tree` is our option tree, `fates` what became of each foreign key, `origins` the foreign keys behind each path of
    ours, `stage` the name of the stage that the file describes, `before` the iterations of stages converted before it.
    """

    source: str
    foreign: Mapping[str, Any]
    told: Told = Told()
    before: int = 0
    stage: str = "psnr"
    tree: dict[str, Any] = field(default_factory=dict)
    fates: dict[str, list[Fate]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """Return the foreign value at a dotted key; `default` where it is missing or null.

        A value that cannot be reckoned with, as a default that is a number or a list can, is noted as a problem.
        """
        value: Any = self.foreign
        for part in key.split("."):
            if isinstance(value, Mapping):
                value = value.get(part, MISSING)
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                return default
        if value is MISSING or value is None:
            return default
        if (expected := _unlike(value, default)) is not None:
            self.note(f"{key}: found {value!r}, expected {expected}")
            return default
        return value

    def note(self, problem: str) -> None:
        """Note a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def need(self, key: str, kind: type | tuple[type, ...], default: Any) -> Any:  # noqa: ANN401
        """Return the value at a key that the foreign framework cannot do without. Where it is missing or of another
        type, that is noted as a problem and `default` stands in, so that all problems are found."""
        value = self.get(key)
        if value is None:
            self.note(f"{key}: is missing, and the framework that this file is for has no default for it")
        elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.note(f"{key}: found {value!r}, expected {_words(kind)}")
        elif (expected := _unlike(value, default)) is not None:
            self.note(f"{key}: found {value!r}, expected {expected}")
        else:
            return value
        return default

    def find(self, key: str) -> str:
        """Find where a key stands that some frameworks have at the top and others in a section."""
        places = (f"{section}{key}" for section in ("", "degradations.", "datasets.train."))
        return next((place for place in places if self.get(place, MISSING) is not MISSING), key)

    def put(self, path: str, value: Any, *keys: str, why: str = "") -> None:  # noqa: ANN401
        """Set a path of ours. The foreign keys behind it are said to be taken over, or derived as `why` says."""
        self.tree = override(self.tree, path, value)
        for key in keys:
            if self.get(key, MISSING) is not MISSING:
                self.origins.setdefault(path, key)
                self.fates.setdefault(key, []).append(Fate(why, path))

    def drop(self, key: str, because: str) -> None:
        """Say why a key, or what is left of the keys below it, is not carried."""
        self._say(key, f"not carried, because {because}")

    def drop_all(self, reasons: Mapping[str, str]) -> None:
        """Drop each key with its reason."""
        for key, because in reasons.items():
            self.drop(key, because)

    def same(self, *keys: str, what: str) -> None:
        """Say that keys of which nothing was said yet state what holds here anyway."""
        for key in keys:
            self._say(key, f"equal to our default, {what}")

    def _say(self, key: str, text: str) -> None:
        for leaf, _ in leaves(self.foreign):
            if (leaf == key or leaf.startswith(f"{key}.")) and not self._fates(leaf):
                self.fates[leaf] = [Fate(text)]

    def no_network(self, key: str, name: str, known: Iterable[str]) -> None:
        """Note a network that is not built here."""
        self.problems.append(
            f"{key}: found {name}, which is not among the networks here: {', '.join(known)}; with a weight file that "
            "spandrel reads, options/realesrgan/finetune_spandrel.yml trains it on"
        )

    def contradiction(self, text: str) -> None:
        """Note what the file says in two ways."""
        self.problems.append(f"{text}; make the file say one thing")

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (foreign key, its value, what became of it), in the order of the file."""
        unknown = [Fate("not carried, because this converter does not know the key")]
        return [
            (key, _short(value), "; ".join(fate.told(self.tree) for fate in self._fates(key) or unknown))
            for key, value in leaves(self.foreign)
        ]

    @property
    def unknown(self) -> list[str]:
        """Return foreign keys that this converter does not know."""
        return [key for key, _ in leaves(self.foreign) if not self._fates(key)]

    def _fates(self, key: str) -> list[Fate]:
        """Return what became of a key; the fate of a mapping is that of all in it."""
        parts = key.split(".")
        found = (self.fates.get(".".join(parts[:length])) for length in range(len(parts), 0, -1))
        return next((fates for fates in found if fates), [])

    def leave_out_defaults(self) -> None:
        """Take what our degradations and networks have by themselves out of the tree."""
        places = {"degradation": DEGRADATIONS, "network_g": NETWORKS, f"stages.{self.stage}.network_d": NETWORKS}
        for place, registry in places.items():
            own = at(self.tree, place)
            if not isinstance(own, Mapping):
                continue
            context = {"scale": self.tree.get("scale")}
            try:
                bare, full = (flat(registry.check(o, place, **context), place) for o in ({"type": own["type"]}, own))
            except OptionError:
                continue  # `check` says it in full
            for path in [p for p in self.origins if p.startswith(f"{place}.") and p != f"{place}.type"]:
                below = [p for p in full if p == path or p.startswith(f"{path}.")]
                if below and all(p in bare and bare[p] == full[p] for p in below) and at(self.tree, path) is not None:
                    self.tree = without(self.tree, path)

    def check(self) -> None:
        """Refuse what stands against a conversion, of the file or of what was made of it, by a ForeignFileError."""
        for key, value in leaves(self.foreign):
            if any("CHANGE" in str(item) for item in (value if isinstance(value, list) else [value])):
                self.problems.append(f"{key}: found {value!r}; this is a template, put your own value there")
        if not self.problems:
            try:
                check_experiment({**self.tree, "prepare": ANY_POOL})
            except OptionsError as error:
                self.problems += [self._explained(problem) for problem in error.problems]
        if self.problems:
            raise ForeignFileError(self.source, self.problems)

    def _explained(self, problem: Problem) -> str:
        origin = next((key for path, key in self.origins.items() if path and problem.where.startswith(path)), None)
        return f"{problem}" + (f" (from {origin})" if origin else "")


def _unlike(value: Any, default: Any) -> str | None:  # noqa: ANN401
    """Say what was expected of a value that cannot be reckoned with as its default can."""
    if isinstance(default, list):
        if not isinstance(value, list):
            return "a list"
        numbers = default and all(isinstance(item, NUMBER) for item in default)
        return "a list of numbers" if numbers and not all(isinstance(item, NUMBER) for item in value) else None
    number = isinstance(default, NUMBER) and not isinstance(default, bool)
    return "a number" if number and not isinstance(value, NUMBER) else None


def _words(kind: type | tuple[type, ...]) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a mapping",
        bool: "true or false",
    }
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(dict.fromkeys(names[k] for k in kinds))


def _short(value: Any, most: int = 48) -> str:  # noqa: ANN401
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def leaves(tree: Any, where: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield (dotted key, value) of all in an option tree that is no mapping; entries of lists of mappings by number."""
    inside = dict(enumerate(tree)) if isinstance(tree, list) and any(isinstance(i, Mapping) for i in tree) else tree
    if isinstance(inside, Mapping) and inside:
        for key, value in inside.items():
            yield from leaves(value, f"{where}.{key}" if where else str(key))
    else:
        yield where, tree


def at(tree: Any, path: str) -> Any:  # noqa: ANN401
    """Return what stands at a dotted path, or None."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def without(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the tree without what stands at a dotted path, nor mappings that this leaves empty."""
    first, _, rest = path.partition(".")
    inner = without(tree[first], rest) if rest else {}
    return {k: inner if k == first else v for k, v in tree.items() if k != first or inner}


def joined(parts: Sequence[Conversion]) -> dict[str, Any]:
    """Join several stages, a file each, into one option tree. Raises ForeignFileError where, besides stages, name,
    logger and what the first leaves open, a later file says something else than the first."""
    tree = parts[0].tree
    for part in parts[1:]:
        mine, theirs = dict(leaves(tree)), dict(leaves(part.tree))
        shared = [path for path in {**mine, **theirs} if path.split(".")[0] not in ("name", "logger", "stages")]
        differing = [
            f"{path}: {mine.get(path, 'our default')!r} in {parts[0].source}, "
            f"{theirs.get(path, 'our default')!r} in {part.source}; stages of one file share it"
            for path in shared
            if (path in mine and path in theirs) or path.split(".")[0] in ("degradation", "network_g")
            if mine.get(path) != theirs.get(path)
        ]
        if differing:
            raise ForeignFileError(part.source, differing)
        tree = merge(tree, {**part.tree, "name": tree["name"], "logger": tree.get("logger", {})})
    return tree
