"""Checks option trees against constructors' signatures, collecting every problem at once. Annotations decide:

- a class that a registry serves (its protocol, or its entry class) is a sub-tree built by that registry;
- `Spec[Protocol]` is the same, checked now but built later by whoever holds it;
- a frozen dataclass is a sub-tree of fields; `Mapping[str, X]` is an ordered mapping of sub-trees;
- of a sub-tree or a leaf (`StepEntry | Prob`), mappings and names are the first, all else the second;
- anything else is a leaf, checked by pydantic in strict mode.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import json
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from utils.options.fields import OptionError
from utils.options.files import merge

T = TypeVar("T")
MISSING = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing wrong with an option file: the dotted path and a sentence."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where or '(top level)'}: {self.message}"


class OptionsError(OptionError):
    """All problems of an option file."""

    def __init__(self, problems: list[Problem], source: str = "") -> None:
        self.problems = problems
        head = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" + (f" in {source}" if source else "")
        super().__init__(f"{head}:\n" + "\n".join(f"  {p}" for p in problems))


@dataclasses.dataclass(frozen=True)
class Spec(Generic[T]):
    """A checked component that is not built yet."""

    factory: Callable[..., T]
    name: str
    values: dict[str, Any]
    where: str = ""
    registry: Registry[Any] | None = None
    wrapper: dict[str, Any] = dataclasses.field(default_factory=dict)

    def build(self, **context: Any) -> T:
        """The component, inside its entry class where its registry has one. `context` goes to who asks for it."""
        component = self.component(**context)
        if self.registry is None or self.registry.component_field is None:
            return component
        entry = self.registry.entry
        assert entry is not None
        return entry(**{self.registry.component_field: component}, **built(self.wrapper, context))

    def component(self, **context: Any) -> T:
        """The bare component."""
        accepted = parameters_of(self.factory)
        extra = {k: v for k, v in context.items() if k in accepted and k not in self.values}
        for name, parameter in accepted.items():
            if parameter.default is MISSING and name not in self.values and name not in extra:
                raise OptionError(f"{self.where or self.name}: {name} is missing and has no default")
        try:
            return self.factory(**built(self.values, context), **extra)
        except ValueError as error:
            place = self.where or self.name
            if isinstance(error, OptionError) and str(error).startswith(place):
                raise  # from deeper in the tree, and already said where
            raise OptionError(f"{place}: {error}") from error

    @property
    def settings(self) -> Any:  # noqa: ANN401
        """The wrapper keys as an instance of the registry's entry class (registries whose entry has no component)."""
        assert self.registry is not None and self.registry.entry is not None
        return self.registry.entry(**built(self.wrapper, {}))


def built(value: Any, context: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if isinstance(value, Eager):
        return value.spec.component(**context) if value.bare else value.spec.build(**context)
    if isinstance(value, dict):
        return {k: built(v, context) for k, v in value.items()}
    if isinstance(value, list):
        return [built(v, context) for v in value]
    return value


@dataclasses.dataclass(frozen=True)
class Eager:
    """Marks a spec that its holder's build also builds."""

    spec: Spec[Any]
    bare: bool = False


def flat(value: Any, where: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Every option of a checked tree by its dotted path, those that stand at their defaults too."""
    if isinstance(value, Eager):
        value = value.spec
    if isinstance(value, Spec):
        entry = None if value.registry is None else value.registry.entry
        defaults = {**parameters_of(value.factory), **parameters_of(entry)}
        kept = {k: p.default for k, p in defaults.items() if p.default is not MISSING}
        inner: Mapping[str, Any] = {"type": value.name, **kept, **value.values, **value.wrapper}
    elif isinstance(value, Mapping):
        inner = value
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        inner = {name: getattr(value, name) for name in value.__dataclass_fields__}
    else:
        return {where: list(value) if isinstance(value, tuple) else value}
    found = {}
    for key, item in inner.items():
        found |= flat(item, f"{where}.{key}" if where else str(key))
    return found


# --- signatures ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a constructor."""

    annotation: Any
    default: Any = MISSING


@cache
def parameters_of(factory: Any) -> dict[str, Parameter]:  # noqa: ANN401
    if factory is None:
        return {}
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(target, include_extras=True)
    if dataclasses.is_dataclass(factory):
        hints = typing.get_type_hints(factory, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = parameter.default
        if dataclasses.is_dataclass(factory) and default is not MISSING:
            default = _dataclass_default(factory, name, default)
        found[name] = Parameter(hints.get(name, Any), default)
    return found


def _dataclass_default(factory: Any, name: str, default: Any) -> Any:  # noqa: ANN401
    field = next(f for f in dataclasses.fields(factory) if f.name == name)
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else default


def nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


# --- checking --------------------------------------------------------------------------------------------------


def check_fields(
    parameters: Mapping[str, Parameter],
    given: Mapping[str, Any],
    where: str,
    problems: list[Problem],
    context: Mapping[str, Any],
    supplied: tuple[str, ...] = (),
    known: list[str] | None = None,
) -> dict[str, Any]:
    """Checks given options against parameters; returns the checked values and adds every problem found.

    A parameter in `supplied` comes from the context; the file may repeat it, but not contradict it.
    """
    values: dict[str, Any] = {}
    for key, value in given.items():
        path = f"{where}.{key}" if where else str(key)
        parameter = parameters.get(key)
        if parameter is None:
            names = [n for n in [*parameters, *(known or [])] if n not in supplied]
            problems.append(Problem(path, f"unknown option{nearest(str(key), names)}"))
            continue
        if value is None and parameter.default is not MISSING and not _takes_none(parameter.annotation):
            continue  # null takes back what a `base:` set
        if key in supplied and key in context and value != context[key]:
            problems.append(Problem(path, f"found {value!r}, but {key} is {context[key]!r} elsewhere; say it once"))
            continue
        before = len(problems)
        checked = check_value(parameter.annotation, value, path, problems, context)
        if len(problems) == before and not (key in supplied and key in context):
            values[key] = checked
    for key, parameter in parameters.items():
        if key not in given and parameter.default is MISSING and key not in supplied:
            problems.append(Problem(f"{where}.{key}" if where else key, "is missing and has no default"))
    return values


def check_value(
    annotation: Any,  # noqa: ANN401
    value: Any,  # noqa: ANN401
    where: str,
    problems: list[Problem],
    context: Mapping[str, Any],
) -> Any:  # noqa: ANN401
    """Checks one value against one annotation (see the module's docstring for what annotations mean)."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType) and any(_is_tree(a) for a in arguments):
        if value is None and type(None) in arguments:
            return None
        leaves = [a for a in arguments if not _is_tree(a) and a is not type(None)]
        if leaves and not isinstance(value, (Mapping, str)):
            return _check_leaf(leaves[0], value, where, problems)
        annotation = next(a for a in arguments if _is_tree(a))
        origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Spec:
        return arguments[0].__registry__.collect(value, where, problems, context)
    if (registry := _served_by(annotation)) is not None:
        spec = registry.collect(value, where, problems, context)
        return None if spec is None else Eager(spec, bare=annotation is not registry.entry)
    if _is_mapping(origin) and _is_tree(annotation):
        if not isinstance(value, Mapping):
            problems.append(Problem(where, f"found {value!r}, expected a mapping of names to entries"))
            return None
        kept = {name: entry for name, entry in value.items() if entry is not None}  # null removes an entry
        for name, entry in list(kept.items()):
            # An override of an entry that does not exist is most often a slip in its name.
            close = difflib.get_close_matches(str(name), [n for n in kept if n != name], n=1)
            if close and isinstance(entry, Mapping) and "type" not in entry and _has_type(arguments[1]):
                text = f"is a new entry, so it needs a `type:`; did you mean {close[0]!r}?"
                problems.append(Problem(f"{where}.{name}", text))
                del kept[name]
        return {n: check_value(arguments[1], e, f"{where}.{n}", problems, context) for n, e in kept.items()}
    if dataclasses.is_dataclass(annotation):
        return _check_dataclass(annotation, value, where, problems, context)
    return _check_leaf(annotation, value, where, problems)


def _check_dataclass(
    annotation: Any,  # noqa: ANN401
    value: Any,  # noqa: ANN401
    where: str,
    problems: list[Problem],
    context: Mapping[str, Any],
) -> Any:  # noqa: ANN401
    if not isinstance(value, Mapping):
        names = ", ".join(parameters_of(annotation))
        problems.append(Problem(where, f"found {value!r}, expected a mapping with some of: {names}"))
        return None
    before = len(problems)
    values = check_fields(parameters_of(annotation), value, where, problems, context)
    if len(problems) > before:
        return None
    try:
        return annotation(**built(values, context))
    except ValueError as error:
        problems.append(Problem(where, str(error)))
        return None


def _check_leaf(annotation: Any, value: Any, where: str, problems: list[Problem]) -> Any:  # noqa: ANN401
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        problems.append(Problem(where, f"found {value!r}, expected a plain, finite value"))
        return None
    try:
        return _adapter(annotation).validate_json(text, strict=True)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            inner = "".join(f".{part}" for part in item["loc"] if not str(part).startswith("function-"))
            found = "" if item["type"] == "missing" else f"found {item['input']!r}: "
            problems.append(Problem(where + inner, found + item["msg"].removeprefix("Value error, ")))
        return None


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:  # noqa: ANN401
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
    except PydanticSchemaGenerationError as error:
        raise TypeError(f"{annotation} cannot be an option") from error


def _served_by(annotation: Any) -> Registry[Any] | None:  # noqa: ANN401
    """The registry that builds parameters with this annotation: of its protocol or its entry class itself."""
    return vars(annotation).get("__registry__") if inspect.isclass(annotation) else None


def _has_type(annotation: Any) -> bool:  # noqa: ANN401
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_has_type(a) for a in get_args(annotation))
    return get_origin(annotation) is Spec or _served_by(annotation) is not None


def _takes_none(annotation: Any) -> bool:  # noqa: ANN401
    return annotation is Any or (
        get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)
    )


def _is_mapping(origin: Any) -> bool:  # noqa: ANN401
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_tree(annotation: Any) -> bool:  # noqa: ANN401
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return False
    if origin is Spec or dataclasses.is_dataclass(annotation) or _served_by(annotation) is not None:
        return True
    if origin in (Union, types.UnionType):
        return any(_is_tree(a) for a in arguments)
    if _is_mapping(origin):
        return _is_tree(arguments[1])
    return False


# --- schema ----------------------------------------------------------------------------------------------------


def fields_schema(parameters: Mapping[str, Parameter], definitions: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with these parameters."""
    properties, required = {}, []
    for name, parameter in parameters.items():
        shape = value_schema(parameter.annotation, definitions)
        if parameter.default is MISSING:
            required.append(name)
        elif isinstance(parameter.default, (bool, int, float, str, type(None), tuple, list)):
            shape = {**shape, "default": parameter.default}
        properties[name] = shape
    result: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**result, "required": required} if required else result


def value_schema(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """The JSON schema of one annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Spec:
        return arguments[0].__registry__.schema(definitions)
    if (registry := _served_by(annotation)) is not None:
        return registry.schema(definitions)
    if origin in (Union, types.UnionType) and _is_tree(annotation):
        return {"anyOf": [value_schema(a, definitions) if a is not type(None) else {"type": "null"} for a in arguments]}
    if _is_tree(annotation) and origin is not None:
        return {
            "type": "object",
            "additionalProperties": {"anyOf": [value_schema(arguments[1], definitions), {"type": "null"}]},
        }
    if dataclasses.is_dataclass(annotation):
        name = str(getattr(annotation, "__name__", annotation))
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = fields_schema(parameters_of(annotation), definitions)
        return {"$ref": f"#/$defs/{name}"}
    return _adapter(annotation).json_schema()


def check_tree(dataclass_type: type[T], options: Any, source: str = "", **context: Any) -> T:  # noqa: ANN401
    """Checks a whole option tree against a dataclass and builds it. Raises OptionsError with every problem."""
    problems: list[Problem] = []
    value = _check_dataclass(dataclass_type, options, "", problems, context)
    if problems:
        raise OptionsError(problems, source)
    return value


def tree_schema(dataclass_type: Any, title: str) -> dict[str, Any]:  # noqa: ANN401
    """The JSON schema of a whole option tree, for editors."""
    definitions: dict[str, Any] = {}
    root = fields_schema(parameters_of(dataclass_type), definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **root, "$defs": definitions}


# --- registries ------------------------------------------------------------------------------------------------


class Registry(Generic[T]):
    """Components of one kind by name, filled on first look-up by importing the modules of `package`.

    Args:
        kind: the word for messages, such as "network".
        package: dotted name whose modules register components; `skip` names modules left out (entry points).
        protocol: the class that annotates parameters of this kind.
        entry: a frozen dataclass of wrapper keys (`weight`, `prob`, …). A field annotated with the protocol
            receives the component; without such a field the entry is read through `Spec.settings`.
        context: constructor parameters that the builder supplies, so that an option file need not say them.
        probe: build each component once while checking, to report what only its constructor can see. For
            kinds that are cheap to build.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        *,
        protocol: type[T],
        entry: type | None = None,
        context: tuple[str, ...] = (),
        skip: tuple[str, ...] = (),
        probe: bool = False,
    ) -> None:
        self.kind, self.package, self.entry, self.context, self.skip = kind, package, entry, context, skip
        self.probe = probe
        self._factories: dict[str, Callable[..., T]] = {}
        self._presets: dict[str, Mapping[str, Any]] = {}
        self._filled = False
        self.component_field: str | None = None
        if entry is not None:
            hints = typing.get_type_hints(entry)
            self.component_field = next((name for name, hint in hints.items() if hint is protocol), None)
            entry.__registry__ = self
        setattr(protocol, "__registry__", self)  # noqa: B010

    def register(self, name: str, presets: Mapping[str, Any] | None = None) -> Callable[[Callable[..., T]], Any]:
        """Decorator: enters a class or function under `name`. Raises ValueError if the name is taken.

        `presets` is an option tree that a file's options merge over.
        """

        def enter(factory: Callable[..., T]) -> Callable[..., T]:
            if name in self._factories:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {self._factories[name]} and {factory}")
            self._factories[name] = factory
            self._presets[name] = presets or {}
            return factory

        return enter

    def names(self) -> list[str]:
        """All registered names, sorted."""
        if not self._filled:
            self._filled = True
            name = __name__.removesuffix("utils.options.components") + self.package  # below `blind_sr.` where installed
            package = importlib.import_module(name)
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                if module.name not in self.skip and not module.ispkg:
                    importlib.import_module(f"{name}.{module.name}")
        return sorted(self._factories)

    def get(self, name: str) -> Callable[..., T]:
        """The constructor of `name`. Raises OptionError naming the nearest known name."""
        if name not in self.names():
            raise OptionError(f"no {self.kind} is called {name!r}{nearest(name, self.names())}")
        return self._factories[name]

    def check(self, options: Any, where: str = "", **context: Any) -> Spec[T]:  # noqa: ANN401
        """Binds options to a constructor. Raises OptionsError with every problem."""
        problems: list[Problem] = []
        spec = self.collect(options, where, problems, context)
        if problems or spec is None:
            raise OptionsError(problems)
        return spec

    def build(self, options: Any, *, where: str = "", **context: Any) -> T:  # noqa: ANN401
        """Checks and builds in one call: `NETWORKS.build({"type": "rrdbnet", "scale": 4})`."""
        return self.check(options, where, **context).build(**context)

    def collect(
        self,
        options: Any,  # noqa: ANN401
        where: str,
        problems: list[Problem],
        context: Mapping[str, Any],
    ) -> Spec[T] | None:
        """As `check`, but adds problems to a list and returns None when the tree cannot be built."""
        if isinstance(options, str):
            options = {"type": options}
        if not isinstance(options, Mapping):
            problems.append(Problem(where, f"found {options!r}, expected a mapping with `type:` ({self.kind})"))
            return None
        name = options.get("type")
        if name not in self.names():
            found = "no `type:` is given" if name is None else f"no {self.kind} is called {name!r}"
            hint = nearest("" if name is None else str(name), self.names())
            problems.append(Problem(f"{where}.type" if where else "type", found + hint))
            return None
        factory = self._factories[name]
        options = merge(self._presets[name], options)
        given = {key: value for key, value in options.items() if key != "type"}
        before = len(problems)
        wrapper_fields = {k: p for k, p in parameters_of(self.entry).items() if k != self.component_field}
        wrapper_given = {k: given.pop(k) for k in list(given) if k in wrapper_fields}
        wrapper = check_fields(wrapper_fields, wrapper_given, where, problems, {})
        values = check_fields(
            parameters_of(factory), given, where, problems, context, self.context, known=list(wrapper_fields)
        )
        if len(problems) > before:
            return None
        spec = Spec(factory, name, values, where, self, wrapper)
        if self.probe:
            _probe(spec, problems, context)
        return spec if len(problems) == before else None

    def _is_object(self, name: str, annotation: Any) -> bool:  # noqa: ANN401
        """Whether a parameter takes what only a builder has, such as the stage's generator."""
        return name in self.context and inspect.isclass(annotation) and annotation not in (bool, int, float, str)

    def schema(self, definitions: dict[str, Any]) -> dict[str, Any]:
        """A JSON schema reference to any component of this kind; its definition is added to `definitions`."""
        if self.kind not in definitions:
            definitions[self.kind] = {}
            wrapper = {k: p for k, p in parameters_of(self.entry).items() if k != self.component_field}
            variants = []
            for name in self.names():
                factory = self._factories[name]
                own = {k: p for k, p in parameters_of(factory).items() if not self._is_object(k, p.annotation)}
                shape = fields_schema({**own, **wrapper}, definitions)
                shape["properties"] = {"type": {"const": name}, **shape["properties"]}
                supplied = (*self.context, *self._presets[name])
                shape["required"] = ["type", *(key for key in shape.get("required", []) if key not in supplied)]
                if summary := inspect.getdoc(factory):
                    shape["description"] = summary.split("\n\n")[0].replace("\n", " ")
                variants.append(shape)
            # A bare name stands for a component without options.
            definitions[self.kind] = {"anyOf": [*variants, {"enum": self.names()}]}
        return {"$ref": f"#/$defs/{self.kind}"}


def _probe(spec: Spec[Any], problems: list[Problem], context: Mapping[str, Any]) -> None:
    needed = [n for n, p in parameters_of(spec.factory).items() if p.default is MISSING and n not in spec.values]
    if all(name in context for name in needed):
        try:
            spec.component(**context)
        except OptionError as error:
            text = str(error)
            prefix = f"{spec.where}: "
            problems.append(Problem(spec.where, text.removeprefix(prefix)))
