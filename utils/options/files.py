"""Reads option files: YAML by a safe loader, or JSON with // comments; `base:` inheritance; `--set` overrides."""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from utils.options.fields import OptionError
from utils.storage.files import located, read_text

MAX_DEPTH = 40
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*')


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2 numbers (2e-4 is a number), no dates, and no key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise OptionError(f"line {key_node.start_mark.line + 1}: {key!r} is given twice in one mapping")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":timestamp", ":float", ":int"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: it quotes a string such as '2e-4', which would come back as a number."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise OptionError(f"{key!r} is given twice in one mapping")
        found[key] = value
    return found


def parse(text: str, source: str, json_syntax: bool = False) -> Any:  # noqa: ANN401
    """Parse YAML, or JSON with // comments. Raises OptionError naming the source."""
    try:
        if json_syntax:
            value = json.loads(_without_comments(text), object_pairs_hook=_once)
        else:
            # Aliases are refused: a few lines of them can unfold into gigabytes. `base:` is the way to share.
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
                raise OptionError(f"{source}: YAML aliases (*name) are not read; use `base:` to share options")
            value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except RecursionError:
        raise OptionError(f"{source}: nested deeper than {MAX_DEPTH} levels") from None
    except OptionError as error:
        raise error if str(error).startswith(source) else OptionError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:  # from tags, as in `!!int x`
        raise OptionError(f"{source}: cannot be parsed: {error}") from error
    _check_depth(value, source)
    return value


def _without_comments(text: str) -> str:
    return _STRING_OR_COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else "", text)


def _check_depth(value: Any, source: str, depth: int = 0) -> None:  # noqa: ANN401
    if depth > MAX_DEPTH:
        raise OptionError(f"{source}: nested deeper than {MAX_DEPTH} levels")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(item, source, depth + 1)


def load(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the option tree of a file, its `base:` files merged below it and `--set a.b=value` overrides above.

    `${NAME}` in a text, such as a path, is the environment's variable.

    Raises OptionError if a file is missing, cannot be parsed, or inherits from itself, or a variable is not set.
    """
    options = _load_file(Path(path), ())
    for text in overrides:
        options = merge(options, _override(text))
    return _expanded(options, "")


def _expanded(value: Any, where: str) -> Any:  # noqa: ANN401
    """Return an option tree in which `${NAME}` is the environment's. Raises OptionError for one that is not set."""
    if isinstance(value, Mapping):
        return {key: _expanded(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, where) for item in value]
    if not isinstance(value, str):
        return value
    if unset := [name for name in _VARIABLE.findall(value) if name not in os.environ]:
        raise OptionError(f"{where}: ${{{unset[0]}}} is not set; export {unset[0]}=PATH, or write the path itself")
    return _VARIABLE.sub(lambda match: os.environ[match[1]], value)


def _load_file(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in below:
        raise OptionError("`base:` goes in a circle: " + " -> ".join(p.name for p in (*below, path)))
    if not path.is_file():
        who = f" (named by `base:` in {below[-1]})" if below else ""
        found = "is a folder, expected an option file" if path.is_dir() else "no such option file"
        raise OptionError(f"{path}: {found}{who}")
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read as text; save it as UTF-8: {error}") from error
    own = parse(text, str(path), json_syntax=path.suffix == ".json")
    if not isinstance(own, dict):
        raise OptionError(f"{path}: found {type(own).__name__} at the top level, expected a mapping")
    bases = own.pop("base", None) or []
    bases = bases if isinstance(bases, list) else [bases]
    if not all(isinstance(base, str) for base in bases):
        raise OptionError(f"{path}: base: found {bases!r}, expected a file name or a list of them")
    result: dict[str, Any] = {}
    for base in bases:
        result = merge(result, _load_file(located(base, path.parent), (*below, path)))
    return merge(result, own)


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise OptionError(f"--set {text}: expected path=value, such as degradation.steps.jpeg.prob=0")
    return _nested(key, parse(value, f"--set {text}"))


def _nested(path: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    for part in reversed(path.split(".")):
        value = {part.strip(): value}
    return value


def override(options: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the tree with the option at a dotted path replaced, as `--set` does it."""
    return merge(options, _nested(path, value))


def dump(options: Mapping[str, Any]) -> str:
    """Return YAML text that `load` reads back to an equal tree."""
    return yaml.dump(json.loads(json.dumps(options)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def differences(old: Any, new: Any, where: str = "", apart_from: Collection[str] = ()) -> list[str]:  # noqa: ANN401
    """Return the dotted paths at which two option trees differ, each with both values.

    Options whose paths are in `apart_from`, with all below them, do not count.
    """
    if where in apart_from:
        return []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(k for k in new if k not in old)]:
            found += differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key), apart_from)
        return found
    return [] if old == new else [f"{where}: was {old!r}, is {new!r}"]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge option trees: mappings merge key by key in order, everything else replaces.

    A mapping that names another `type` replaces as a whole, since the old type's keys mean nothing to it.
    A null stays in the result; whoever reads a mapping of components leaves such entries out.
    """
    kind = over.get("type")
    if kind is not None and base.get("type") not in (None, kind):
        return dict(over)
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, str) and "type" not in value:
            old = {"type": old}  # a bare name stands for a component without options
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
