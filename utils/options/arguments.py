"""Command lines from dataclasses: a field is an option, its type says what is allowed, the string below it is the help.

    >>> from dataclasses import dataclass
    >>> from pathlib import Path
    >>> from typing import Annotated, Literal
    >>> @dataclass(frozen=True)
    ... class Computing:
    ...     batch: PositiveInt = 1
    ...     '''Tiles at once.'''
    ...     compile: bool = False
    >>> @dataclass(frozen=True)
    ... class Arguments:
    ...     '''Enlarge images.'''
    ...
    ...     images: Annotated[tuple[Path, ...], Arg("IMAGE", positional=True)]
    ...     out: Annotated[Path, Arg("DIR", flags=("-o", "--out"))]
    ...     '''Where results go.'''
    ...     alpha: Literal["resize", "network"] = "resize"
    ...     overrides: Overrides = ()
    ...     computing: Computing = Computing()
    ...
    ...     def __post_init__(self) -> None:
    ...         if len(self.images) > 1 and self.out.suffix:
    ...             raise ValueError(f"-o {self.out} is one file, but there are {len(self.images)} images")
    >>> args = parse(Arguments, ["a.png", "-o", "x", "--set", "scale=2", "--batch", "4", "--compile"])
    >>> args.images == (Path("a.png"),), args.alpha, args.overrides, args.computing
    (True, 'resize', ('scale=2',), Computing(batch=4, compile=True))

A tuple takes several values; `tuple[float, float]` and ranges take two; `Literal` is a choice; a bool is `--flag` and
`--no-flag`; a field that is a dataclass is a group in `--help`, whose fields are options like the others. What `Arg`
says goes before these rules. `parse_command` takes a dataclass for each subcommand.

Values are checked as those of option files are. What is wrong, by a `ValueError` of `__post_init__` too, ends the
program with the usage, every problem with its flag, and exit status 2.
"""

import argparse
import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from utils.options.components import MISSING, OptionsError, Parameter, Problem, check_tree, parameters_of
from utils.options.docstrings import describe, describe_parameters
from utils.options.fields import PositiveInt, RangeSchedule  # noqa: F401 - PositiveInt in the example above
from utils.options.files import override

T = TypeVar("T")


class Arg(NamedTuple):
    """How a field stands on the command line, where that does not follow from its name and type.

    Attributes:
        metavar: what stands for the value in `--help`.
        flags: instead of `--field-name`.
        positional: the value stands alone, without a flag.
        repeated: the flag may be given several times, each with one value of the tuple.
        nargs: as argparse has it, such as "*" for a tuple that may be given empty.
    """

    metavar: str | None = None
    flags: tuple[str, ...] = ()
    positional: bool = False
    repeated: bool = False
    nargs: str | None = None


OptionFile = Annotated[Path, Arg("FILE", flags=("--opt",))]
Overrides = Annotated[tuple[str, ...], Arg("PATH=VALUE", flags=("--set",), repeated=True)]
"""`--set path=value`, for `utils.options.files.load`."""


def parse(
    kind: type[T],
    given: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str | None = None,
    epilog: str | None = None,
) -> T:
    """Return what a command line says, as an instance of a dataclass.

    Args:
        kind: the dataclass.
        given: the words of the command line; `sys.argv[1:]` by default.
        prog: what the program is called in messages, such as `python -m data.prepare`.
        description: stands at the top of `--help` instead of the docstring of `kind`.
        epilog: stands at its end.

    Raises:
        SystemExit: the command line is wrong (status 2), or asks for help (0).
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description or describe(kind), epilog=epilog, formatter_class=_Formatter
    )
    fields = _Fields(kind, parser)
    return fields.read(*parser.parse_known_intermixed_args(given))


def parse_command(
    kinds: Mapping[str, type[T]],
    given: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str | None = None,
    epilog: str | None = None,
) -> T:
    """Return what the command line of a subcommand says, as an instance of the dataclass of that subcommand.

    The docstrings of `kinds` tell in `--help` what the subcommands do; `epilog` stands below the help of each, too.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, epilog=epilog, formatter_class=_Formatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fields = {}
    for name, kind in kinds.items():
        text = describe(kind)
        about = {"help": text.split("\n\n")[0], "description": text, "epilog": epilog, "formatter_class": _Formatter}
        fields[name] = _Fields(kind, commands.add_parser(name, **about))
    values, unknown = parser.parse_known_args(given)
    return fields[values.command].read(values, unknown)


_Formatter = argparse.RawDescriptionHelpFormatter


class _Fields(Generic[T]):
    """The fields of a dataclass as arguments of a parser."""

    def __init__(self, kind: type[T], parser: argparse.ArgumentParser) -> None:
        self.kind, self.parser = kind, parser
        self.shown: dict[str, str] = {}  # what each field is called in messages, by its dotted path
        self._add(parser, kind, "")

    def _add(self, group: Any, kind: Any, where: str) -> None:  # noqa: ANN401 - argparse has no public name for it
        texts = describe_parameters(kind)
        for name, parameter in parameters_of(kind).items():
            if dataclasses.is_dataclass(parameter.annotation):
                title = texts.get(name, name.replace("_", " ")).rstrip(".")
                inner = self.parser.add_argument_group(title, describe(parameter.annotation))
                self._add(inner, parameter.annotation, f"{where}{name}.")
                continue
            arg, how = _arg(parameter.annotation), _how(name, parameter)
            how |= {"help": _help(texts.get(name, ""), parameter.default), "default": argparse.SUPPRESS}
            if arg.positional:
                group.add_argument(where + name, **how)
                self.shown[where + name] = how["metavar"]
            else:
                flags = arg.flags or ("--" + name.replace("_", "-"),)
                group.add_argument(*flags, dest=where + name, required=parameter.default is MISSING, **how)
                self.shown[where + name] = flags[-1]

    def read(self, values: argparse.Namespace, unknown: Sequence[str]) -> T:
        """Return the checked instance. Ends the program if something is wrong or unknown."""
        if unknown:
            close = difflib.get_close_matches(unknown[0], list(self.shown.values()), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            self.parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        tree = {n: {} for n, p in parameters_of(self.kind).items() if dataclasses.is_dataclass(p.annotation)}
        for place, value in vars(values).items():
            if place in self.shown:
                tree = override(tree, place, value)
        try:
            return check_tree(self.kind, tree)
        except OptionsError as error:
            lines = [self._sentence(problem) for problem in error.problems]
        self.parser.error(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems:", *lines]))

    def _sentence(self, problem: Problem) -> str:
        place = next((p for p in self.shown if f"{problem.where}.".startswith(f"{p}.")), None)
        return problem.message if place is None else f"{self.shown[place]}: {problem.message}"


# --- types to keywords of argparse -----------------------------------------------------------------------------------


def _how(name: str, parameter: Parameter) -> dict[str, Any]:
    """Return the keywords of `add_argument` that follow from a field's type and its `Arg`."""
    kind, arg = _bare(parameter.annotation), _arg(parameter.annotation)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    variadic = get_origin(kind) is tuple and ... in get_args(kind)
    parts = [_bare(part) for part in get_args(kind) if part is not ...] if get_origin(kind) is tuple else [kind]
    choices = get_args(parts[0]) if get_origin(parts[0]) is Literal else ()
    item = type(choices[0]) if choices else parts[0]
    metavar = {int: "N", float: "X", RangeSchedule: "X", Path: "PATH"}.get(item, name.upper())
    how: dict[str, Any] = {
        "type": _number if item in (int, float, RangeSchedule) else str,
        "metavar": arg.metavar or (f"{{{','.join(map(str, choices))}}}" if choices else metavar),
    }
    if arg.repeated:
        return {**how, "action": "append"}
    optional = arg.positional and parameter.default is not MISSING
    count = ("*" if optional else "+") if variadic else 2 if item is RangeSchedule else len(parts)
    nargs = arg.nargs or ("?" if optional and count == 1 else count)
    return how if nargs == 1 else {**how, "nargs": nargs}


def _arg(annotation: Any) -> Arg:  # noqa: ANN401
    notes = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((note for note in notes if isinstance(note, Arg)), Arg())


def _bare(annotation: Any) -> Any:  # noqa: ANN401
    """Return a type without `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _bare(next(part for part in get_args(annotation) if part is not types.NoneType))
    return annotation


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # the check refuses it, or knows what it means


def _help(text: str, default: Any) -> str:  # noqa: ANN401
    text = text.removesuffix(".")
    if default is not MISSING and default is not None and default is not False and default not in ("", ()):
        shown = [f"{one:g}" if isinstance(one, float) else str(one) for one in _listed(default)]
        text = f"{text} (default: {' '.join(shown)})".lstrip()
    return text.replace("%", "%%")


def _listed(value: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return value if isinstance(value, tuple) else (value,)
