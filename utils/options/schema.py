"""JSON schemas of option files, by which editors complete, explain and check them.

A file with `base:` may leave out whatever its base says, so it has a schema of its own, in which nothing is required.
Where a preset of the chosen `type` already has an entry, its `type` is known without being said again.
"""

import inspect
import json
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from utils.options.components import (
    MISSING,
    Parameter,
    Registry,
    adapter_of,
    defaults_of,
    is_tree,
    parameters_of,
    registry_of,
    takes_none,
)
from utils.options.docstrings import describe, describe_parameters
from utils.options.fields import RangeSchedule
from utils.options.files import merge

Schema = dict[str, Any]
SCHEMA_FILE = "schema.json"
"""What a schema is called in the folder of option files that it is for."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NULL: Schema = {"type": "null"}
BASE: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "The option file that this one changes, or several of them: mappings merge, lists replace",
}


def tree_schema(title: str, *kinds: Any) -> Schema:  # noqa: ANN401
    """Return the schema of a whole option tree with the fields of these dataclasses."""
    shapes = _Shapes(False, {})
    return {"$schema": DIALECT, "title": title, **shapes.tree(kinds), "$defs": shapes.definitions}


def file_schema(title: str, *kinds: Any, shared: Schema | None = None) -> Schema:  # noqa: ANN401
    """Return the schema of an option file with the fields of these dataclasses, whole or with a `base:`.

    It refers to the schema `shared`, in the folder above, for whatever is defined there.
    """
    definitions: dict[str, Schema] = {}
    elsewhere = [] if shared is None else list(shared["$defs"])
    whole, part = (_Shapes(partial, definitions, elsewhere).tree(kinds) for partial in (False, True))
    part["properties"] = {"base": BASE, **part["properties"]}
    return {
        "$schema": DIALECT,
        "title": title,
        "type": "object",
        "properties": dict.fromkeys(part["properties"], {}),  # what they are is said below
        "additionalProperties": False,
        "if": {"required": ["base"]},
        "then": part,
        "else": whole,
        "$defs": definitions,
    }


def _with_null(leaf: Schema) -> Schema:
    """Let null stand for an entry of a mapping, which it removes."""
    if isinstance(leaf.get("anyOf"), list):
        return {**leaf, "anyOf": [_with_null(kind) for kind in leaf["anyOf"]]}
    if isinstance(entry := leaf.get("additionalProperties"), dict):
        return {**leaf, "additionalProperties": {"anyOf": [entry, NULL]}}
    return leaf


class _Shapes:
    """Schemas of annotations. Those that occur at several places are `definitions`, to which the others refer.

    Args:
        partial: nothing is required, and null takes back what a base says.
        elsewhere: what is defined in the schema of the folder above.
    """

    def __init__(self, partial: bool, definitions: dict[str, Schema], elsewhere: Sequence[str] = ()) -> None:
        self.partial, self.definitions, self.elsewhere = partial, definitions, elsewhere

    def tree(self, kinds: tuple[Any, ...]) -> Schema:
        """Return the schema of a mapping with the fields of all these dataclasses."""
        found = [self.dataclass(kind, {}) for kind in kinds]
        merged = {**found[0], "properties": {name: s for shape in found for name, s in shape["properties"].items()}}
        required = [name for shape in found for name in shape.get("required", [])]
        return {**merged, "required": required} if required else merged

    def fields(
        self, parameters: Mapping[str, Parameter], texts: Mapping[str, str], preset: Mapping[str, Any]
    ) -> Schema:
        """Return the schema of a mapping with these keys; `preset` holds values that are there if a file says none."""
        known = {**defaults_of(parameters), **preset}
        properties = {}
        for name, parameter in parameters.items():
            shape = self.value(parameter.annotation, preset.get(name, MISSING))
            if self.partial and name in known and not takes_none(parameter.annotation):
                shape = {"anyOf": [shape, NULL]}
            if (default := _plain(known.get(name, MISSING))) is not MISSING:
                shape = {**shape, "default": default}
            properties[name] = {**shape, "description": texts[name]} if name in texts else shape
        required = [] if self.partial else [name for name in parameters if name not in known]
        shape = {"type": "object", "properties": properties, "additionalProperties": False}
        return {**shape, "required": required} if required else shape

    def value(self, annotation: Any, preset: Any = MISSING) -> Schema:  # noqa: ANN401
        """Return the schema of an annotation."""
        origin, arguments = get_origin(annotation), get_args(annotation)
        if not is_tree(annotation):
            return _with_null(adapter_of(annotation).json_schema())
        if origin in (Union, types.UnionType):
            kinds = [
                NULL if a is types.NoneType else self.value(a, preset if is_tree(a) else MISSING) for a in arguments
            ]
            return {"anyOf": kinds}
        if (registry := registry_of(annotation)) is not None:
            return self.component(registry, preset)
        if origin is not None:
            entries = preset if isinstance(preset, Mapping) else {}
            known = {name: {"anyOf": [self.value(arguments[1], entry), NULL]} for name, entry in entries.items()}
            other = {"anyOf": [self.value(arguments[1]), NULL]}
            return {"type": "object", **({"properties": known} if known else {}), "additionalProperties": other}
        if isinstance(preset, Mapping):
            return self.dataclass(annotation, preset)
        return self._defined(annotation.__name__, lambda: self.dataclass(annotation, {}))

    def dataclass(self, kind: Any, preset: Mapping[str, Any]) -> Schema:  # noqa: ANN401
        """Return the schema of the fields of a dataclass."""
        return self.fields(parameters_of(kind), describe_parameters(kind), preset)

    def component(self, registry: Registry[Any], preset: Any) -> Schema:  # noqa: ANN401
        """Return the schema of any component of a registry, or of the one that a preset has at this place."""
        preset = {"type": preset} if isinstance(preset, str) else preset
        chosen = self._defined(registry.kind, lambda: self.any_of(registry))
        if not isinstance(preset, Mapping) or "type" not in preset:
            return chosen
        kind, known = preset["type"], _Shapes(True, self.definitions, self.elsewhere)
        if any(isinstance(value, Mapping) for value in preset.values()):
            return _unless_typed(chosen, known.variant(registry, kind, preset))
        own = f"{known.component(registry, None)['$ref']}/then/anyOf/{registry.names().index(kind)}"
        return self._defined(f"{registry.kind} {kind} or another", lambda: _unless_typed(chosen, {"$ref": own}))

    def any_of(self, registry: Registry[Any]) -> Schema:
        """Return the schema of any component of a registry; a bare name stands for one without options."""
        variants = [self.variant(registry, name, {}) for name in registry.names()]
        chosen = {"anyOf": [*variants, {"enum": registry.names()}]}
        return _unless_typed(chosen, _merged(variants)) if self.partial else chosen

    def variant(self, registry: Registry[Any], name: str, preset: Mapping[str, Any]) -> Schema:
        """Return the schema of one component of a registry; `preset` is over its own."""
        factory = registry.get(name)
        kept = {n: p for n, p in parameters_of(factory).items() if not _is_object(registry, n, p.annotation)}
        around = registry.entry or registry.settings
        texts = {**describe_parameters(factory), **(describe_parameters(around) if around else {})}
        shape = self.fields({**kept, **registry.wrapper}, texts, merge(registry.presets[name], preset))
        shape["properties"] = {"type": {"const": name}, **shape["properties"]}
        if not self.partial:
            required = [key for key in shape.get("required", []) if key not in registry.context]
            shape["required"] = ["type", *required]
        if text := describe(factory):
            shape["description"] = text.split("\n\n")[0].replace("\n", " ")
        return shape

    def _defined(self, name: str, make: Callable[[], Schema]) -> Schema:
        name += " in part" if self.partial else ""
        if name in self.elsewhere:
            return {"$ref": f"../{SCHEMA_FILE}#/$defs/{name}"}
        if name not in self.definitions:
            self.definitions[name] = {}  # what it holds may refer to itself
            self.definitions[name] = make()
        return {"$ref": f"#/$defs/{name}"}


def _unless_typed(chosen: Schema, known: Schema) -> Schema:
    """Return the schema of a component that is `chosen` by its type, or `known` without one."""
    return {"if": {"required": ["type"]}, "then": chosen, "else": known}


def _merged(shapes: list[Schema]) -> Schema:
    """Return the schema of a mapping that is one of these, it is not known which: each key as any of them has it."""
    keys = dict.fromkeys(key for shape in shapes for key in shape.get("properties", {}))
    merged = {
        key: _either([shape["properties"][key] for shape in shapes if key in shape.get("properties", {})])
        for key in keys
    }
    others = [shape["additionalProperties"] for shape in shapes if shape["additionalProperties"] is not False]
    return {"type": "object", "properties": merged, "additionalProperties": _either(others) if others else False}


def _either(shapes: list[Schema]) -> Schema:
    """Return the schema of what fits any of these."""
    told = ("anyOf", "default", "description")
    ways = [way for s in shapes for way in (s.get("anyOf", [s]) if set(s).issubset(told) else [s])]
    mappings = [way for way in ways if "additionalProperties" in way]
    ways = [*([_merged(mappings)] if mappings else []), *(way for way in ways if way not in mappings)]
    texts = [{"description": shape["description"]} for shape in shapes if "description" in shape]
    return {"anyOf": [way for n, way in enumerate(ways) if way not in ways[:n]], **(texts[0] if texts else {})}


def _is_object(registry: Registry[Any], name: str, annotation: Any) -> bool:  # noqa: ANN401
    """Tell whether a parameter takes what only a builder has, such as the stage's generator."""
    return name in registry.context and inspect.isclass(annotation) and annotation not in (bool, int, float, str)


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a default as JSON has it, or MISSING where it is a whole component."""
    if isinstance(value, RangeSchedule):
        return json.loads(repr(value))
    return value if isinstance(value, (bool, int, float, str, types.NoneType, tuple, list)) else MISSING
