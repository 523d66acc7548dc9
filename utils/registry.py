"""Components chosen by `type:` in an option file. The typed constructor is the schema (see `utils.checking`)."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from utils.checking import MISSING, OptionsError, Problem, Spec, check_fields, fields_schema, nearest, parameters_of
from utils.fields import OptionError

T = TypeVar("T")


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
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                if module.name not in self.skip and not module.ispkg:
                    importlib.import_module(f"{self.package}.{module.name}")
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


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merges option trees: mappings merge key by key in order, everything else replaces.

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
