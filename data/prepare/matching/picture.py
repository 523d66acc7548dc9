"""What a person looks at: windows of both sides, the ranking, and the distribution of every trace."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.prepare.matching.distances import Comparison
from data.prepare.matching.traces import TRACES
from data.prepare.matching.windows import Measured
from utils.images.plot import FILL, figure, pixels
from utils.images.sheet import sheet, strip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PHOTOS = "photographs"
_COLUMNS = 3
_ROW, _PANEL = 0.24, 4.6  # inches: of one folder, and across
_SHOWN = 240  # pixels of a window, at most
_BAND = (5, 25, 50, 75, 95)  # percent


def picture(photos: Measured, candidates: Mapping[str, Measured], found: Mapping[str, Comparison]) -> np.ndarray:
    """Draw the page (H, W, 3), uint8. `found` has the candidates in their order, the nearest first."""
    rows = [(PHOTOS, photos), *((name, candidates[name]) for name in found)]
    seen = [strip([_large(w) for w in one.shown], [name, *[""] * (len(one.shown) - 1)]) for name, one in rows]
    return sheet([_plots(rows, found), *seen])


def _large(window: np.ndarray) -> np.ndarray:
    """Enlarge by a whole factor, so that pixels are seen."""
    factor = max(1, _SHOWN // window.shape[0])
    return window.repeat(factor, axis=0).repeat(factor, axis=1)


def _plots(rows: Sequence[tuple[str, Measured]], found: Mapping[str, Comparison]) -> np.ndarray:
    lines = -(-(len(TRACES) + 1) // _COLUMNS)
    height = _ROW * len(rows) + 0.65
    with figure(_COLUMNS * _PANEL, lines * height) as drawn:
        axes = [drawn.add_subplot(lines, _COLUMNS, place + 1) for place in range(len(TRACES) + 1)]
        _ranking(axes[0], found)
        for number, (panel, (name, unit)) in enumerate(zip(axes[1:], TRACES.items(), strict=True)):
            _distributions(panel, f"{name}: {unit}", rows, number, found)
        return pixels(drawn)


def _ranking(axes: "Axes", found: Mapping[str, Comparison]) -> None:
    """Draw how far each candidate is, and its interval."""
    for place, one in enumerate(found.values()):
        axes.plot([one.total.low, one.total.high], [place, place], color=FILL, lw=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(one.total.value, place, "o", color=FILL, ms=4)
    axes.axvline(0, color="0.5", lw=0.8)
    names = [f"{name} ({one.nearest:.0%})" for name, one in found.items()]
    axes.set_yticks(range(len(names)), names)
    axes.set(title="energy distance (share of resamples that are nearest)", ylim=(len(names) - 0.5, -0.5))


def _distributions(
    axes: "Axes", title: str, rows: Sequence[tuple[str, Measured]], number: int, found: Mapping[str, Comparison]
) -> None:
    """Draw of each folder where its middle half, its middle 90 % and its median lie; the band is the photographs'."""
    for place, (name, one) in enumerate(rows):
        least, low, middle, high, most = np.percentile(one.traced.values[:, number], _BAND)
        colour = "0.15" if name == PHOTOS else FILL
        axes.plot([least, most], [place, place], color=colour, lw=0.9)
        axes.plot([low, high], [place, place], color=colour, lw=5, alpha=0.45, solid_capstyle="butt")
        axes.plot(middle, place, "|", color=colour, ms=9, mew=1.8)
        if name == PHOTOS:
            axes.axvspan(float(low), float(high), color="0.15", alpha=0.07, lw=0)
    labels = [name if name == PHOTOS else f"{name}  {found[name].traces[number].value:.2f}" for name, _ in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set(title=title, ylim=(len(rows) - 0.5, -0.5))
