"""Show what plans drew: pictures, tables and captions of many samples' steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.images.plot import bars, figure, histogram, pixels

Steps = Sequence[tuple[str, Mapping[str, Any]]]
"""(name, what was drawn) of each step of one sample."""
_PANEL = (2.9, 1.75)
"""Width and height of a plot, in inches."""


def drawn_picture(samples: Sequence[Steps]) -> np.ndarray:
    """Draw a row for each step: how often it stands at which position (from 1), and the distribution of each value."""
    positions, values = collect_drawn(samples)
    total, longest = len(samples), max(len(steps) for steps in samples)
    columns = 1 + max(len(of_step) for of_step in values.values())
    height = max(_PANEL[1], 0.18 * len(positions) + 0.4)
    with figure(_PANEL[0] * columns, height + _PANEL[1] * len(positions)) as drawn:
        heights = [height, *[_PANEL[1]] * len(positions)]
        grid = drawn.add_gridspec(len(heights), columns, height_ratios=heights)
        shares = [len(places) / total for places in positions.values()]
        bars(drawn.add_subplot(grid[0, 0]), f"share of {total} samples", list(positions), shares)
        for row, (name, places) in enumerate(positions.items(), 1):
            axes = drawn.add_subplot(grid[row, 0])
            histogram(axes, f"{name}: position ({len(places) / total:.0%} of samples)", places)
            axes.set_xlim(0.4, longest + 0.6)
            for column, (key, (holders, flat)) in enumerate(values[name].items(), 1):
                axes = drawn.add_subplot(grid[row, column])
                if _is_word(flat[0]):
                    kinds = sorted(set(flat))
                    bars(axes, f"{name}: {key}", [str(k) for k in kinds], [flat.count(k) / total for k in kinds])
                else:
                    histogram(axes, f"{name}: {key} ({holders / total:.0%} of samples)", flat)
        return pixels(drawn)


def drawn_table(samples: Sequence[Steps]) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows: the share of samples that hold a value, and its quantiles."""
    rows, (positions, values) = [], collect_drawn(samples)
    total, blank = len(samples), [""] * 5
    for name, places in positions.items():
        rows.append([name, "", f"{len(places) / total:.3f}", *blank])
        for key, (holders, flat) in values[name].items():
            if _is_word(flat[0]):
                kinds = sorted(set(flat))
                rows += [["", f"{key} {kind}", f"{flat.count(kind) / total:.3f}", *blank] for kind in kinds]
            else:
                points = np.quantile(flat, [0, 0.05, 0.5, 0.95, 1])
                rows.append(["", key, f"{holders / total:.3f}", *(f"{value:.4g}" for value in points)])
    return ["step", "key", "share", "min", "5 %", "median", "95 %", "max"], rows


def drawn_text(drawn: Mapping[str, Any]) -> str:
    """Write drawn values for a caption. Seeds are left out, of matrices only the size is told."""

    def word(key: str, value: Any) -> str:  # noqa: ANN401
        if isinstance(value, list) and value and isinstance(value[0], list):
            return f"{key} {len(value)}x{len(value[0])}"
        if isinstance(value, list):
            return f"{key} " + ("x" if key == "size" else ",").join(f"{v:.3g}" for v in value)
        return f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"

    return ", ".join(word(key, value) for key, value in drawn.items() if key != "seed")


def _is_word(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, (str, bool))


def collect_drawn(samples: Sequence[Steps]) -> tuple[dict[str, list[int]], dict[str, dict[str, tuple[int, list[Any]]]]]:
    """Gather of each step its positions, and by key how many samples have it and all values; a list gives each one."""
    positions: dict[str, list[int]] = {}
    values: dict[str, dict[str, tuple[int, list[Any]]]] = {}
    for steps in samples:
        for position, (name, drawn) in enumerate(steps, 1):
            positions.setdefault(name, []).append(position)
            of_step = values.setdefault(name, {})
            for key, value in drawn.items():
                if key != "seed" and value not in (None, []):
                    holders, flat = of_step.get(key, (0, []))
                    flat += np.asarray(value).ravel().tolist()
                    of_step[key] = holders + 1, flat
    if not positions:
        raise ValueError("found no sample with any step, so there is nothing to show")
    early = sorted(positions, key=lambda name: float(np.mean(positions[name])))
    return {name: positions[name] for name in early}, values
