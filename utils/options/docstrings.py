"""What docstrings tell of a component and of its parameters: the texts of `--help` and of editors."""

import ast
import inspect
import itertools
import re
import textwrap
from functools import cache
from typing import Any

_SECTION = re.compile(r"^(?:Args|Attributes|Raises|Returns):\n(?: +.*\n|\n)+", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*)(?: \(.*?\))?:\s(.*(?:\n {5,}.*)*)", re.MULTILINE)


def describe(component: Any) -> str:  # noqa: ANN401
    """Return the docstring of a class or function without its sections (Args, Raises, ...); empty if it has none."""
    text = inspect.getdoc(component) or ""
    generated = inspect.isclass(component) and text.startswith(f"{component.__name__}(")  # by `dataclass`
    return "" if generated else _SECTION.sub("", f"{text}\n").strip()


@cache
def describe_parameters(component: Any) -> dict[str, str]:  # noqa: ANN401
    """Return what is said of the parameters of a class or function, by name.

    That is the string below a field of a class, or the parameter's entry in the section Args (or Attributes) of the
    docstring of the class, of its constructor or of the function.
    """
    if not inspect.isclass(component):
        return _entries(component)
    texts: dict[str, str] = {}
    for kind in reversed(component.__mro__[:-1]):
        texts |= {**_entries(kind), **_below_fields(kind)}
    return {**texts, **_entries(component.__init__)}


def _entries(documented: Any) -> dict[str, str]:  # noqa: ANN401
    texts: dict[str, str] = {}
    for section in _SECTION.findall(inspect.cleandoc(documented.__doc__ or "") + "\n"):
        if section.startswith(("Args", "Attributes")):
            entries = ((names, " ".join(text.split())) for names, text in _ENTRY.findall(section))
            texts |= {name: text for names, text in entries for name in names.split(", ")}
    return texts


@cache
def _below_fields(kind: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return {}  # there is no source of what was made at run time
    body = [part for found in tree.body if isinstance(found, ast.ClassDef) for part in found.body]
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }
