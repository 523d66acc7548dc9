"""What goes into a paper: tables in Markdown and LaTeX, figures in PDF."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.ablating.report import Report, Scores, deviation
from models.benchmarking.figures import tex
from utils.images.plot import figure
from utils.logging import table
from utils.storage.files import replace_text

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b4ea3", "#b22222")
"""As on the page; told apart also by those who see fewer colours (Okabe and Ito, 2008)."""


def write_paper(report: Report, folder: Path) -> list[Path]:
    """Write `report.md`, `table.tex` and the figures; return the paths."""
    paths = [folder / "report.md", folder / "table.tex"]
    replace_text(paths[0], markdown(report))
    replace_text(paths[1], latex(report))
    return paths + write_figures(report, folder / "figures")


def markdown(report: Report) -> str:
    """Return a table for each set and number, the verdicts, and the options that differ."""
    parts = [f"# {report.name}", f"Compared with {report.baseline}. Measured by {report.protocol}."]
    parts.append("\n".join(f"- {text}" for text in report.verdicts()))
    for scores in report.scores:
        compared = scores.compared(report.baseline, report.over_seeds)
        rows = []
        for row, values in scores.values.items():
            about = [row, str(len(values)), scores.text(float(values.mean())), _spread(scores, values)]
            if (d := compared.get(row)) is not None:
                size = scores.text(d.mean, sign=True)
                interval = f"{scores.text(d.low, sign=True)} to {scores.text(d.high, sign=True)}"
                size = f"**{size}**" if d.is_seen else size
                rows.append([*about, size, interval, f"{d.p_holm:.3f}", f"{d.improved} of {d.images}"])
            else:
                rows.append([*about, "", "", "", ""])
        head = ["variant", "seeds", "mean", "± of seeds", "difference", "95 % interval", "p (Holm)", "images improved"]
        parts.append(f"## {scores.set_name}, {scores.number}\n\n{table(head, rows)}")
    parts.append("Bold: more than chance. Intervals by a paired hierarchical bootstrap over images and seeds.")
    lines = [[row, *line] for row in report.rows for line in report.changes.get(row, ())]
    if lines:
        parts.append("## Options\n\n" + table(["variant", "option", "baseline", "variant's"], lines))
    return "\n\n".join([*parts, *report.notes()]) + "\n"


def _spread(scores: Scores, values: np.ndarray) -> str:
    return "" if len(values) < 2 else scores.text(deviation(values))


def latex(report: Report) -> str:
    """Return a booktabs table: the judged number on each set, and its difference to the baseline with the interval."""
    judged = report.judged()
    compared = [scores.compared(report.baseline, report.over_seeds) for scores in judged]
    lines = [r"\begin{tabular}{l" + "rr" * len(judged) + "}", r"\toprule"]
    lines.append("".join(rf" & \multicolumn{{2}}{{c}}{{{tex(scores.set_name)}}}" for scores in judged) + r" \\")
    lines.append("".join(rf"\cmidrule(lr){{{2 + 2 * i}-{3 + 2 * i}}}" for i in range(len(judged))))
    lines.append("variant" + rf" & {tex(report.judge_by)} & difference" * len(judged) + r" \\" + "\n" + r"\midrule")
    for row in report.rows:
        cells = [tex(row)]
        for scores, differences in zip(judged, compared, strict=True):
            mean = scores.text(float(scores.values[row].mean())) if row in scores.values else "--"
            cells += [mean, _tex_difference(scores, differences.get(row))]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    about = f"% {report.name}: differences to {report.baseline} with 95 % intervals; bold: more than chance (Holm).\n"
    return about + "% \\usepackage{booktabs}\n" + "\n".join(lines) + "\n"


def _tex_difference(scores: Scores, d: Any) -> str:  # noqa: ANN401
    if d is None:
        return "--"
    size, low, high = (scores.text(value, sign=True) for value in (d.mean, d.low, d.high))
    size = rf"\mathbf{{{size}}}" if d.is_seen else size
    return f"${size}$ $[{low}, {high}]$"


# --- figures -------------------------------------------------------------------------------------------------------


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write the intervals of each judged set, and each curve, as PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []

    def save(name: str, draw: Any, height: float) -> None:  # noqa: ANN401
        with figure(5.5, height) as drawn:
            draw(drawn.add_subplot())
            paths.append(folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.pdf")
            drawn.savefig(paths[-1], metadata={"CreationDate": None})

    for scores in report.judged():
        save(
            f"intervals_{scores.set_name}",
            lambda axes, s=scores: _draw_intervals(axes, report, s),
            1 + 0.3 * len(report.rows),
        )
    for name, curve in report.curves.items():
        colours = dict(zip(report.rows, COLOURS * len(report.rows), strict=False))
        save(f"curves_{name}", lambda axes, c=curve, n=name, k=colours: _draw_curves(axes, c, n, k), 3.2)
    return paths


def _draw_intervals(axes: Any, report: Report, scores: Scores) -> None:  # noqa: ANN401
    compared = scores.compared(report.baseline, report.over_seeds)
    for place, d in enumerate(compared.values()):
        colour = "black" if d.is_seen else "0.55"
        axes.plot([d.low, d.high], [place, place], color=colour, solid_capstyle="butt")
        axes.plot(d.mean, place, "o", color=colour)
    axes.axvline(0, color="0.7", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(compared)), list(compared))
    axes.invert_yaxis()
    axes.set_xlabel(f"{scores.number} on {scores.set_name}, difference to {report.baseline} (95 % interval)")


def _draw_curves(axes: Any, curve: Any, name: str, colours: Mapping[str, str]) -> None:  # noqa: ANN401
    for row in (row for row in colours if row in curve.values):
        values, x = curve.values[row], curve.iterations[row]
        axes.plot(x, values.mean(axis=0), color=colours[row], label=row)
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colours[row], alpha=0.15, linewidth=0)
    axes.set_xlabel("iteration")
    axes.set_ylabel(name)
    axes.legend()
