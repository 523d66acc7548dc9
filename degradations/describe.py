"""A degradation in words: its steps, their probabilities and ranges, in Markdown or LaTeX."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from degradations import check_degradation
from utils.options.components import Eager, Spec
from utils.options.fields import RangeSchedule

HEAD = r"""\begin{tabular}{p{0.15\linewidth}p{0.15\linewidth}rp{0.5\linewidth}}
\toprule
step & operation & probability & parameters \\
\midrule"""
TAIL = r"""\bottomrule
\end{tabular}"""
Row = tuple[str, str, float, str]


def latex_table(source: str | Path | Mapping[str, Any], scale: int | None = None) -> str:
    """Return the table of what `load_degradation` would build, for a paper's appendix; it needs the package booktabs.

    Every step stands in its own row, in the order of the options, with all its parameters, those at their defaults too.
    Raises OptionError as `load_degradation` does.
    """
    caption, rows = described(source, scale)
    lines = [f"{_latex(name)} & {_latex(kind)} & {prob:g} & {_latex(values)} \\\\" for name, kind, prob, values in rows]
    return "\n".join([f"% {caption}", HEAD, *lines, TAIL])


def described(source: str | Path | Mapping[str, Any], scale: int | None = None) -> tuple[str, list[Row]]:
    """Return the whole in a line, and each step: where it stands, its type, its probability, its parameters in words.

    Raises OptionError as `load_degradation` does.
    """
    spec, scale = check_degradation(source, scale)
    skipped = ("scale", "groups")
    own = {name: value for name, value in spec.options.items() if name not in skipped and not _holds_steps(value)}
    caption = f"{spec.name}, scale {scale}" + "".join(f", {name} {value}" for name, value in own.items())
    groups = [
        (", ".join(group.steps), "all or none", group.prob, "") for group in spec.values.get("groups", {}).values()
    ]
    return caption, [*_rows(spec), *groups]


def _rows(spec: Spec[Any]) -> Iterator[Row]:
    for name, value in spec.values.items():
        if _holds_steps(value):
            yield from _steps(value, "" if name in ("steps", "orders") else name)


def _steps(value: Any, where: str) -> Iterator[Row]:  # noqa: ANN401
    if isinstance(value, Eager):
        inner = {name: item for name, item in value.options.items() if not _holds_steps(item)}
        shown = "; ".join(f"{name} {_value(item)}" for name, item in inner.items() if item is not None)
        yield where, value.name, value.wrapper["prob"], shown
        for item in value.values.values():
            if _holds_steps(item):
                yield from _steps(item, where)
    elif isinstance(value, Mapping):
        if "prob" in value and not isinstance(value["prob"], Eager):
            yield where, "all of the following", value["prob"], ""
        for name, item in value.items():
            yield from _steps(item, f"{where}.{name}" if where else str(name))


def _holds_steps(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, Eager) or (isinstance(value, Mapping) and any(_holds_steps(v) for v in value.values()))


def _value(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, RangeSchedule):
        spans = [(step, f"[{low:g}, {high:g}]") for step, (low, high) in value.points]
        return spans[0][1] if len(spans) == 1 else ", ".join(f"{span} at step {step}" for step, span in spans)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        numbers = len(value) == 2 and all(isinstance(item, (int, float)) for item in value)
        return f"[{value[0]:g}, {value[1]:g}]" if numbers else ", ".join(_value(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _latex(text: str) -> str:
    """Escape what LaTeX would take for its own; ranges are set as mathematics."""
    escaped = "".join(f"\\{c}" if c in "_&%$#{}" else r"\textbackslash{}" if c == "\\" else c for c in text)
    return re.sub(r"\[[-+.e\d]+, [-+.e\d]+\]", r"$\g<0>$", escaped)
