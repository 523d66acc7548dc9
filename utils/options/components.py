"""Constructors as the schema of options. The file reads downwards:

1. a constructor's parameters are read from its signature;
2. they become a pydantic validator of mappings (`fields_of`), by what each annotation asks for (`check_of`);
3. a registry chooses the constructor by `type:` and gives a `Spec`: checked, and built later;
4. pydantic's errors become sentences with dotted paths (`check_tree`), all problems at once.

Annotations decide:

- a class that a registry serves (its protocol, or its entry class) is a sub-tree built by that registry;
- `Spec[X]` is the same, checked now but built later by whoever holds it;
- a frozen dataclass is a sub-tree of fields; `Mapping[str, X]` is an ordered mapping of sub-trees;
- of a sub-tree or a leaf (`StepEntry | Prob`), mappings and names are the first, all else the second;
- anything else is a leaf, checked by pydantic in strict mode.
"""

import dataclasses
import difflib
import importlib
import inspect
import json
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError, PydanticOmit, SchemaValidator, core_schema

from utils.options.fields import OptionError
from utils.options.files import merge

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[Any, ValidationInfo], Any]
"""Returns a value as checked, or raises what pydantic makes an error of. The context is `info.context`."""

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


# --- 1. signatures -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a constructor."""

    annotation: Any
    default: Any = MISSING


@cache
def parameters_of(factory: Any) -> dict[str, Parameter]:  # noqa: ANN401
    """Return the parameters of a class or function by name, without *args and **kwargs."""
    fields = getattr(factory, "__dataclass_fields__", {})
    made = {n: f.default_factory() for n, f in fields.items() if f.default_factory is not dataclasses.MISSING}
    annotated = factory if fields or not inspect.isclass(factory) else factory.__init__
    hints = typing.get_type_hints(annotated, include_extras=True)
    return {
        name: Parameter(hints.get(name, Any), made.get(name, parameter.default))
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def defaults_of(parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the defaults of those parameters that have one."""
    return {name: parameter.default for name, parameter in parameters.items() if parameter.default is not MISSING}


def nearest(name: str, known: list[str]) -> str:
    """Return the end of a message on an unknown name: the nearest known one in any case, or all of them."""
    lowered = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[close[0]]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


# --- 2. a constructor becomes a validator --------------------------------------------------------------------------


@cache
def fields_of(factory: Any, registry: "Registry[Any] | None" = None) -> SchemaValidator:  # noqa: ANN401
    """Return what checks a mapping against a constructor's parameters, and those that its registry wraps around it.

    It gives the checked values of the keys that are given, in the order of the parameters.
    """
    around, supplied = (registry.wrapper, registry.context) if registry is not None else ({}, ())
    parameters = {**parameters_of(factory), **around}
    known = [name for name in parameters if name not in supplied] + ["type"] * (registry is not None)

    def unknown(_: Any) -> Any:  # noqa: ANN401
        raise PydanticCustomError("unknown_option", "unknown option", {"known": known})

    fields = {
        name: core_schema.typed_dict_field(
            core_schema.with_info_plain_validator_function(partial(_check_field, name, parameter, name in supplied)),
            required=parameter.default is MISSING and name not in supplied,
        )
        for name, parameter in parameters.items()
    }
    extras = core_schema.no_info_plain_validator_function(unknown)
    return SchemaValidator(core_schema.typed_dict_schema(fields, extras_schema=extras, extra_behavior="allow"))


def _check_field(name: str, parameter: Parameter, supplied: bool, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
    """Check one option. A file may repeat what the builder supplies, but not contradict it."""
    assert info.context is not None
    if value is None and parameter.default is not MISSING and not takes_none(parameter.annotation):
        raise PydanticOmit  # null takes back what a `base:` set
    supplied = supplied and name in info.context
    if supplied and value != info.context[name]:
        raise _refusal(f"found {value!r}, but {name} is {info.context[name]!r} elsewhere; say it once")
    checked = check_of(parameter.annotation)(value, info)
    if supplied:
        raise PydanticOmit
    return checked


@cache
def check_of(annotation: Any) -> Check:  # noqa: ANN401
    """Return what checks one value against an annotation (see the module's docstring for what annotations mean)."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not is_tree(annotation):
        return partial(_check_leaf, annotation)
    if origin in (Union, types.UnionType):
        tree = check_of(next(a for a in arguments if is_tree(a)))
        leaf = next((check_of(a) for a in arguments if not is_tree(a) and a is not types.NoneType), tree)
        return partial(_check_either, tree, leaf, types.NoneType in arguments)
    if (registry := registry_of(annotation)) is not None:
        kind = Spec if origin is Spec else partial(Eager, bare=annotation is not registry.entry)
        return partial(registry.bind, kind=kind)
    if origin is not None:
        return partial(_check_entries, arguments[1])
    return partial(_check_dataclass, annotation)


def _check_either(tree: Check, leaf: Check, optional: bool, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
    if value is None and optional:
        return None
    return (tree if isinstance(value, (Mapping, str)) else leaf)(value, info)


def _check_entries(annotation: Any, value: Any, info: ValidationInfo) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, Mapping):
        raise _refusal(f"found {value!r}, expected a mapping of names to entries")
    entries = {name: entry for name, entry in value.items() if entry is not None}  # null removes an entry

    def check(entry: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        if isinstance(entry, PydanticCustomError):
            raise entry
        return check_of(annotation)(entry, info)

    for name, entry in entries.items():
        # An override of an entry that does not exist is most often a slip in its name.
        close = difflib.get_close_matches(str(name), [n for n in value if n != name and value[n] is not None], n=1)
        if close and isinstance(entry, Mapping) and "type" not in entry and _has_type(annotation):
            entries[name] = _refusal(f"is a new entry, so it needs a `type:`; did you mean {close[0]!r}?")
    checks = core_schema.with_info_plain_validator_function(check)
    validator = SchemaValidator(core_schema.dict_schema(core_schema.any_schema(), checks))
    return validator.validate_python(entries, context=info.context)


def _check_dataclass(annotation: Any, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
    if not isinstance(value, Mapping):
        raise _refusal(f"found {value!r}, expected a mapping with some of: {', '.join(parameters_of(annotation))}")
    values = fields_of(annotation).validate_python(value, context=info.context)
    try:
        return annotation(**built(values, info.context or {}))
    except ValueError as error:
        raise _refusal(str(error)) from error


def _check_leaf(annotation: Any, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        value = {name: entry for name, entry in value.items() if entry is not None}  # null removes an entry here too
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise _refusal(f"found {value!r}, expected a plain, finite value") from None
    return adapter_of(annotation).validate_json(text, strict=True)  # as JSON, whose lists are tuples


@cache
def adapter_of(annotation: Any) -> TypeAdapter[Any]:  # noqa: ANN401
    """Return what checks a leaf."""
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
    except PydanticSchemaGenerationError as error:
        raise TypeError(f"{annotation} cannot be an option") from error


def registry_of(annotation: Any) -> "Registry[Any] | None":  # noqa: ANN401
    """Return the registry of parameters with this annotation: its protocol, its entry class, or a `Spec` of them."""
    served = get_args(annotation)[0] if get_origin(annotation) is Spec else annotation
    return vars(served).get("__registry__") if inspect.isclass(served) else None


def _has_type(annotation: Any) -> bool:  # noqa: ANN401
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_has_type(a) for a in get_args(annotation))
    return registry_of(annotation) is not None


def takes_none(annotation: Any) -> bool:  # noqa: ANN401
    """Tell whether null is a value of an annotation, and not only takes back what a base says."""
    return annotation is Any or (
        get_origin(annotation) in (Union, types.UnionType) and types.NoneType in get_args(annotation)
    )


def is_tree(annotation: Any) -> bool:  # noqa: ANN401
    """Tell whether there are options inside an annotation's values; the others are leaves, which are pydantic's."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(is_tree(a) for a in arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return is_tree(arguments[1])
    return dataclasses.is_dataclass(annotation) or registry_of(annotation) is not None


# --- 3. registries, and what they give -----------------------------------------------------------------------------


@dataclasses.dataclass
class Spec(Generic[T]):
    """A checked component that is not built yet.

    Attributes:
        values: its constructor's options, as far as they are given.
        wrapper: the keys of its registry's entry or settings, all of them.
        where: its place in the option file.
    """

    factory: Callable[..., Any]
    name: str
    values: dict[str, Any]
    where: str = ""
    registry: "Registry[T] | None" = None
    wrapper: dict[str, Any] = dataclasses.field(default_factory=dict)

    def build(self, **context: Any) -> T:
        """Return the component, inside its entry where its registry has one. `context` goes to who asks for it."""
        component = self.component(**context)
        if self.registry is None or self.registry.entry is None:
            return component
        return self.registry.entry(**{self.registry.component_field: component}, **built(self.wrapper, context))

    def component(self, **context: Any) -> Any:  # noqa: ANN401
        """Return the bare component. Raises OptionError if its class (by `problems`) or its constructor refuses."""
        if problems := self.problems():
            raise OptionsError(problems)
        place, accepted = self.where or self.name, parameters_of(self.factory)
        if lacking := self.lacking(context):
            raise OptionError(f"{place}: {lacking[0]} is missing and has no default")
        extra = {key: value for key, value in context.items() if key in accepted and key not in self.values}
        try:
            return self.factory(**built(self.values, context), **extra)
        except ValueError as error:
            if isinstance(error, OptionError) and str(error).startswith(place):
                raise  # from deeper in the tree, and already said where
            raise OptionError(f"{place}: {error}") from error

    def lacking(self, context: Mapping[str, Any]) -> list[str]:
        """Return the parameters that have no value yet."""
        required = (name for name, p in parameters_of(self.factory).items() if p.default is MISSING)
        return [name for name in required if name not in self.values and name not in context]

    def problems(self) -> list[Problem]:
        """Return what the component's class has against its options (its `problems`), seen without building."""
        told = getattr(self.factory, "problems", lambda _: [])(self.values)
        return [Problem(_joined(self.where, option), text) for option, text in told]

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options, those that stand at their defaults too."""
        return defaults_of(parameters_of(self.factory)) | self.values

    @property
    def settings(self) -> Any:  # noqa: ANN401
        """The wrapper keys as an instance of the registry's `settings`."""
        assert self.registry is not None and self.registry.settings is not None
        return self.registry.settings(**built(self.wrapper, {}))


@dataclasses.dataclass
class Eager(Spec[T]):
    """A spec that its holder's build also builds, without its entry if it is `bare`."""

    bare: bool = False


def built(value: Any, context: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return checked values with everything built that is not left to its holder."""
    if isinstance(value, Eager):
        return value.component(**context) if value.bare else value.build(**context)
    return {k: built(v, context) for k, v in value.items()} if isinstance(value, dict) else value


def flat(value: Any, where: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Return every option of a checked tree by its dotted path, those that stand at their defaults too."""
    inner = _inner(value)
    if inner is None:
        return {where: list(value) if isinstance(value, tuple) else value}
    kind = {_joined(where, "type"): value.name} if isinstance(value, Spec) else {}
    return {**kind, **{k: v for key, item in inner.items() for k, v in flat(item, _joined(where, key)).items()}}


def _inner(value: Any) -> Mapping[str, Any] | None:  # noqa: ANN401
    """Return what a checked tree consists of, by name, or None for a leaf."""
    if isinstance(value, Spec):
        return {**value.options, **value.wrapper}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return value if isinstance(value, Mapping) else None


class Registry(Generic[T]):
    """Components of one kind by name, filled on first look-up by importing the modules of `package`.

    `Registry[T]` gives `T`: entries where it has them, bare components else.

    Args:
        kind: the word for messages, such as "network".
        package: dotted name whose modules register components.
        protocol: the class that annotates parameters of this kind.
        entry: a frozen dataclass that holds the component, in a field annotated with the protocol, and wrapper keys
            (`weight`, `prob`, …).
        settings: a frozen dataclass of keys beside the component's own, read through `Spec.settings`.
        context: constructor parameters that the builder supplies, so that an option file need not say them.
        probe: build each component once while checking, to report what only its constructor can see. For
            kinds that are cheap to build.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        *,
        protocol: type[Any],
        entry: type[T] | None = None,
        settings: type[Any] | None = None,
        context: tuple[str, ...] = (),
        probe: bool = False,
    ) -> None:
        self.kind, self.package, self.entry, self.settings = kind, package, entry, settings
        self.context, self.probe = context, probe
        self.wrapper = dict(parameters_of(entry or settings)) if entry or settings else {}
        self.component_field = next((name for name, p in self.wrapper.items() if p.annotation is protocol), "")
        self.wrapper.pop(self.component_field, None)
        self._factories: dict[str, Callable[..., Any]] = {}
        self.presets: dict[str, Mapping[str, Any]] = {}
        self._filled = False
        for served in (protocol, entry) if entry else (protocol,):
            setattr(served, "__registry__", self)  # noqa: B010

    def register(self, name: str, presets: Mapping[str, Any] | None = None) -> Callable[[F], F]:
        """Enter the class or function decorated under `name`. Raises ValueError if the name is taken.

        `presets` is an option tree that a file's options merge over.
        """

        def enter(factory: F) -> F:
            if name in self._factories:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {self._factories[name]} and {factory}")
            self._factories[name] = factory
            self.presets[name] = presets or {}
            return factory

        return enter

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        if not self._filled:
            self._filled = True
            name = __name__.removesuffix("utils.options.components") + self.package  # below `blind_sr.` where installed
            package = importlib.import_module(name)
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                if not module.ispkg:
                    importlib.import_module(f"{name}.{module.name}")
        return sorted(self._factories)

    def get(self, name: str) -> Callable[..., Any]:
        """Return the constructor of `name`. Raises OptionError naming the nearest known name."""
        if name not in self.names():
            raise OptionError(f"no {self.kind} is called {name!r}{nearest(name, self.names())}")
        return self._factories[name]

    def check(self, options: Any, where: str = "", **context: Any) -> Spec[T]:  # noqa: ANN401
        """Bind options to a constructor. Raises OptionsError with every problem."""
        return _checked(self.bind, options, where, "", context)

    def build(self, options: Any, *, where: str = "", **context: Any) -> T:  # noqa: ANN401
        """Check and build in one call: `NETWORKS.build({"type": "rrdbnet", "scale": 4})`."""
        return self.check(options, where, **context).build(**context)

    def bind(self, options: Any, info: ValidationInfo, kind: Callable[..., Spec[T]] = Spec) -> Spec[T]:  # noqa: ANN401
        """Check options against the constructor that their `type` names."""
        if isinstance(options, str):
            options = {"type": options}
        if not isinstance(options, Mapping):
            raise _refusal(f"found {options!r}, expected a mapping with `type:` ({self.kind})")
        if (name := options.get("type")) not in self.names():
            found = "no `type:` is given" if name is None else f"no {self.kind} is called {name!r}"
            raise _refusal(found + nearest("" if name is None else str(name), self.names()), "type")
        factory, context = self._factories[name], info.context or {}
        given = {key: value for key, value in merge(self.presets[name], options).items() if key != "type"}
        values = fields_of(factory, self).validate_python(given, context=context)
        wrapper = defaults_of(self.wrapper) | {key: values.pop(key) for key in [*values] if key in self.wrapper}
        spec = kind(factory, name, values, registry=self, wrapper=wrapper)
        if self.probe and not spec.lacking(context):
            try:
                spec.component(**context)
            except OptionError as error:
                raise _refusal(str(error).removeprefix(f"{name}: ")) from error
        return spec


# --- 4. errors become sentences --------------------------------------------------------------------------------------


def check_tree(kind: type[T], options: Any, source: str = "", **context: Any) -> T:  # noqa: ANN401
    """Check a whole option tree against a dataclass and build it. Raises OptionsError with every problem."""
    return _checked(check_of(kind), options, "", source, context)


def _checked(check: Check, options: Any, where: str, source: str, context: Mapping[str, Any]) -> Any:  # noqa: ANN401
    validator = SchemaValidator(core_schema.with_info_plain_validator_function(check))
    try:
        checked = validator.validate_python(options, context=context)
    except ValidationError as error:
        found = sorted(error.errors(include_url=False), key=lambda item: _position(options, item["loc"]))
        raise OptionsError([_problem(item, where) for item in found], source) from None
    _tell_places(checked, where)
    return checked


def _tell_places(value: Any, where: str) -> None:  # noqa: ANN401
    """Write into specs where they stand, which pydantic tells no validator."""
    if isinstance(value, Spec):
        value.where = where
    for name, item in (_inner(value) or {}).items():
        _tell_places(item, _joined(where, name))


def _position(options: Any, path: tuple[int | str, ...]) -> list[int]:  # noqa: ANN401
    """Return what sorts problems as their places follow in the file; what is missing comes last."""
    position = []
    for part in path:
        keys = [*options] if isinstance(options, Mapping) else []
        position.append(keys.index(part) if part in keys else len(keys))
        options = options[part] if part in keys else None
    return position


def _problem(error: Any, where: str) -> Problem:  # noqa: ANN401
    told = error.get("ctx", {})
    # Of `X | Y`, pydantic names the branch too, such as function-plain[parse()].
    parts = [str(part) for part in (*error["loc"], *told.get("below", ())) if not str(part).startswith("function-")]
    match error["type"]:
        case "refused":
            message = error["msg"]
        case "unknown_option":
            message = f"unknown option{nearest(parts[-1], told['known'])}"
        case "missing":
            message = "is missing and has no default"
        case _:
            message = f"found {error['input']!r}: {error['msg'].removeprefix('Value error, ')}"
    return Problem(_joined(where, *parts), message)


def _refusal(sentence: str, *below: str) -> PydanticCustomError:
    """Return an error that is a whole sentence, on what is checked or a key `below` it."""
    return PydanticCustomError("refused", "{sentence}", {"sentence": sentence, "below": below})


def _joined(*path: str) -> str:
    return ".".join(str(part) for part in path if part != "")
