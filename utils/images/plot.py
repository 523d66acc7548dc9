"""Draw bars, histograms, scatters and curves by matplotlib, in one style."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = {
    "font.size": 8,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.5",
    "figure.dpi": 110,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # letters in a PDF stay letters
}
"""What all plots and figures look like, as matplotlib's rcParams."""
FILL = "#4678be"
_BINS = 40


@contextmanager
def figure(width: float, height: float) -> Iterator["Figure"]:
    """Give an empty figure, sides in inches; what is drawn and saved within the block has the house's style."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):  # type: ignore[arg-type]  # its names of parameters are literals
        drawn = Figure((width, height), layout="constrained")
        FigureCanvasAgg(drawn)
        yield drawn


def pixels(drawn: "Figure") -> np.ndarray:
    """Return a figure as an image (H, W, 3), uint8."""
    drawn.canvas.draw()
    return np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]


def bars(axes: "Axes", title: str, labels: Sequence[str], shares: Sequence[float]) -> None:
    """Draw horizontal bars, one under the other, each with its label and its share in percent; 1 fills the width."""
    drawn = axes.barh(range(len(labels)), shares, color=FILL, height=0.7)
    axes.bar_label(drawn, [f"{share:.1%}" for share in shares], padding=2)
    axes.set(title=title, xlim=(0, 1.25), xticks=[], ylim=(max(len(labels), 3) - 0.5, -0.5))  # from above
    axes.set_yticks(range(len(labels)), labels)
    axes.spines["bottom"].set_visible(False)


def histogram(axes: "Axes", title: str, values: Sequence[float] | np.ndarray) -> None:
    """Draw a histogram and mark the median. Bins hold equally many whole numbers. Raises ValueError for no values."""
    array = np.asarray(values, np.float64)
    if array.size == 0:
        raise ValueError("found no values, expected at least one")
    edges = _edges(array)
    axes.hist(array, edges.tolist(), color=FILL, rwidth=0.9)
    if len(edges) == 2:  # one value: a bar among empty bins looks like what it is
        axes.set_xlim(edges[0] - 5, edges[1] + 5)
    median = float(np.median(array))
    axes.axvline(median, color="0.2", linewidth=0.8)
    axes.set(title=title, xlabel=f"{array.min():.4g} to {array.max():.4g}, median {median:.4g}", yticks=[])
    axes.locator_params(axis="x", nbins=5, integer=bool(np.all(array == np.rint(array))))


def scatter(
    axes: "Axes", title: str, points: np.ndarray, values: np.ndarray, caption: str, period: float | None = None
) -> None:
    """Draw points (n, 2) coloured by their values (n,), gray where NaN, and what `caption` says beside the colours.

    With a `period`, values lie in [0, period) and their colours come round.
    """
    known = np.isfinite(values)
    axes.scatter(*points[~known].T, s=9, color="0.75", linewidths=0)  # those without a value lie below
    limits = (0.0, period) if period else (None, None)
    colours = "hsv" if period else "viridis"
    seen = axes.scatter(*points[known].T, s=9, c=values[known], cmap=colours, vmin=limits[0], vmax=limits[1], lw=0)
    assert axes.figure is not None
    axes.figure.colorbar(seen, ax=axes, location="bottom", label=caption, shrink=0.9, aspect=40)
    axes.set(title=title, xticks=[], yticks=[])


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if np.all(values == np.rint(values)):  # bins of unequally many whole numbers would show steps that are not there
        width = -(-(high - low + 1) // _BINS)
        return low - 0.5 + width * np.arange(-(-(high - low + 1) // width) + 1)
    count = int(np.clip(np.sqrt(len(values)), 5, _BINS))  # more would show little but chance
    return np.linspace(low, high, count + 1) if high > low else np.array([low - 0.5, low + 0.5])
