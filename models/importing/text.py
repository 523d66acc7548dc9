"""Foreign option files as text, with their comments; and ours, written with a comment here and there and a table."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.importing.conversion import Conversion
from utils.options.fields import OptionError
from utils.options.files import parse
from utils.storage.files import read_text

WIDTH = 118
ORDER = ("name", "seed", "scale", "network_g", "init_g", "degradation", "data", "stages", "logger")
_PLAIN = re.compile(r"[A-Za-z_./~][\w./*+~-]*")
_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"}


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the tree of a foreign file and the comment behind each key, by dotted path. Nothing of it is executed.

    Raises OptionError for what is no text, cannot be parsed, or holds no mapping.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read as text; save it as UTF-8: {error}") from error
    if path.suffix == ".toml":
        try:
            tree: Any = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise OptionError(f"{path}: cannot be parsed: {error}") from error
    else:
        tree = parse(text, str(path), json_syntax=path.suffix == ".json")
    if not isinstance(tree, dict) or not tree:
        raise OptionError(f"{path}: holds no options, expected a mapping of names to values")
    found = _json_comments(text) if path.suffix == ".json" else _yaml_comments(text) if path.suffix != ".toml" else {}
    return tree, found


def _yaml_comments(text: str) -> dict[str, str]:
    lines = text.splitlines()

    def walk(node: yaml.Node | None, where: str) -> Iterator[tuple[str, str]]:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            path = f"{where}.{key.value}" if where else str(key.value)
            if isinstance(value, yaml.MappingNode):
                yield from walk(value, path)
            end = value.end_mark
            rest = lines[end.line][end.column :].strip() if end.line < len(lines) else ""
            if rest.startswith("#") and end.line == key.start_mark.line:
                yield path, rest.lstrip("# ")

    return dict(walk(yaml.compose(text, yaml.SafeLoader), ""))


def _json_comments(text: str) -> dict[str, str]:
    found, place = {}, []
    for line in text.splitlines():
        code, slashes, comment = line.partition("//")
        keys = re.findall(r'"(\w+)"\s*:', code)
        if slashes and keys and comment.strip():
            found[".".join([*place, keys[-1]])] = comment.strip()
        opened = re.findall(r'(?:"(\w+)"\s*:\s*)?([{}])', code)
        for key, brace in opened:
            if brace == "{":
                place.append(key or "")
            elif place:
                place.pop()
    return {path.removeprefix("."): comment for path, comment in found.items()}


def write(tree: Mapping[str, Any], parts: Sequence[Conversion], comments: Sequence[Mapping[str, str]]) -> str:
    """Return the text of our option file: its origin, the options with the comments of the file, and the table."""
    names = " and ".join(Path(part.source).name for part in parts)
    lines = [f"# Converted from {names}; the table at the end says what became of each key.", ""]
    kept = {
        path: said[key] for part, said in zip(parts, comments, strict=True) for path, key in part.origins.items()
        if key in said
    }  # fmt: skip
    for key, value in sorted(tree.items(), key=lambda item: ORDER.index(item[0])):
        lines += _entry(key, value, key, kept, "")
    for part in parts:
        lines += ["", f"# {Path(part.source).name}: key, value, what became of it", "#"]
        rows = part.rows()
        widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
        lines += [f"# {key:<{widths[0]}}  {value:<{widths[1]}}  {fate}" for key, value, fate in rows]
    return "\n".join(lines) + "\n"


def _entry(key: str, value: Any, path: str, comments: Mapping[str, str], indent: str) -> list[str]:  # noqa: ANN401
    inner = [p for p in comments if p.startswith(f"{path}.")]
    line = f"{indent}{scalar(key)}: {scalar(value)}"
    if not isinstance(value, Mapping) or (value and len(line) <= WIDTH and not inner and indent and _shallow(value)):
        comment = comments.get(path) or ""
        return [f"{line}  # {comment}" if comment else line]
    lines = [f"{indent}{scalar(key)}:"]
    for name, item in value.items():
        lines += _entry(str(name), item, f"{path}.{name}", comments, indent + "  ")
    return lines


def _shallow(value: Mapping[str, Any]) -> bool:
    return not any(isinstance(item, Mapping) and len(item) > 3 for item in value.values())


def scalar(value: Any) -> str:  # noqa: ANN401
    """Return a value in YAML's flow style, which our loader reads back to an equal one."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(k))}: {scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(scalar(item) for item in value) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value, ensure_ascii=False)
