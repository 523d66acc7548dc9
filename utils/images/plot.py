"""Small plots as 8-bit RGB arrays: enough to see a distribution, without a plotting library. And pictures that show
one sample's way through its degradation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from utils.images.sheet import strip

_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
_WIDTH, _HEIGHT, _MARGIN, _LINE, _GAP = 320, 190, 10, 18, 6
_PAPER, _FRAME, _TEXT, _FILL = (255, 255, 255), (190, 190, 190), (30, 30, 30), (70, 120, 190)
_BINS = 40
_SMALLEST_CELL, _WIDEST = 224, 2400
LARGEST_CELL = 640
"""The longest side of an image in `cells`; larger ones are shown smaller."""

Steps = Sequence[tuple[str, Mapping[str, Any]]]
"""(name, what was drawn) of each step of one sample."""


def bars(title: str, labels: Sequence[str], shares: Sequence[float]) -> np.ndarray:
    """Horizontal bars, one under the other, each with its label and its share in percent; a full bar is 100 %."""
    if len(labels) != len(shares):
        raise ValueError(f"found {len(labels)} labels and {len(shares)} shares, expected equally many")
    panel = _paper(title, max(_HEIGHT, _MARGIN + _LINE * (len(labels) + 1) + _MARGIN))
    left = _MARGIN + max((_text_width(label) for label in labels), default=0) + 8
    room = max(20, _WIDTH - left - _MARGIN - _text_width("100.0 %") - 6)
    for row, (label, share) in enumerate(zip(labels, shares, strict=True), 1):
        base = _MARGIN + _LINE * (row + 1) - 4
        _write(panel, label, _MARGIN, base)
        right = left + max(1, round(room * min(share, 1)))
        cv2.rectangle(panel, (left, base - 10), (right, base + 1), _FILL, cv2.FILLED)
        _write(panel, f"{share:.1%}".replace("%", " %"), right + 6, base)
    return panel


def histogram(title: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """A histogram with the least, the median and the greatest value below. Bins hold equally many whole numbers."""
    array = np.asarray(values, np.float64)
    if array.size == 0:
        raise ValueError("found no values, expected at least one")
    panel = _paper(title, _HEIGHT)
    counts, edges = np.histogram(array, _edges(array))
    if len(counts) == 1:  # one value: a bar among empty bins looks like what it is
        counts, edges = np.pad(counts, 5), edges[0] + np.arange(-5, 7)
    left, right, top, bottom = _MARGIN, _WIDTH - _MARGIN, _MARGIN + _LINE + 6, _HEIGHT - 2 * _LINE - 6
    at = np.rint(left + (right - left) * (edges - edges[0]) / (edges[-1] - edges[0])).astype(int)
    for count, a, b in zip(counts, at[:-1], at[1:], strict=True):
        height = round((bottom - top) * count / counts.max())
        if count:
            cv2.rectangle(
                panel, (int(a), bottom - max(1, height)), (max(int(a), int(b) - 2), bottom), _FILL, cv2.FILLED
            )
    cv2.line(panel, (left, bottom + 1), (right, bottom + 1), _TEXT, 1)
    low, middle, high = (f"{v:.4g}" for v in (array.min(), np.median(array), array.max()))
    _write(panel, low, left, bottom + _LINE)
    _write(panel, high, right - _text_width(high), bottom + _LINE)
    text = f"median {middle}"
    _write(panel, text, (left + right - _text_width(text)) // 2, bottom + 2 * _LINE)
    return panel


def scatter(
    title: str, points: np.ndarray, values: np.ndarray, axes: str, caption: str, period: float | None = None
) -> np.ndarray:
    """Points (n, 2) coloured by their values (n,), gray where NaN; below, words about the axes and the colours' scale.

    With a `period`, values lie in [0, period) and their colours come round.
    """
    panel = _paper(title, _WIDTH + 4 * _LINE)
    known = np.isfinite(values)
    low, high = (0.0, period) if period else (values[known].min(), values[known].max()) if known.any() else (0.0, 0.0)
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_HSV if period else cv2.COLORMAP_VIRIDIS)
    ramp = cv2.cvtColor(ramp, cv2.COLOR_BGR2RGB)[0]
    shown = np.where(known, 255 * (values - low) / max(high - low, 1e-12), 0).astype(int)
    left, right, top, bottom = _MARGIN, _WIDTH - _MARGIN, _MARGIN + _LINE + 6, _WIDTH
    span = np.maximum(np.ptp(points, axis=0), 1e-12)
    at = (points - points.min(0)) / span * [right - left - 12, top - bottom + 12] + [left + 6, bottom - 6]
    for i in [*np.flatnonzero(~known), *np.flatnonzero(known)]:  # those without a value lie below
        colour = ramp[shown[i]].tolist() if known[i] else list(_FRAME)
        cv2.circle(panel, (round(at[i, 0]), round(at[i, 1])), 3, colour, cv2.FILLED, cv2.LINE_AA)
    cv2.rectangle(panel, (left, top), (right, bottom), _FRAME, 1)
    _write(panel, axes, left, bottom + _LINE - 2)
    panel[bottom + _LINE + 6 : bottom + 2 * _LINE, left:right] = ramp[np.linspace(0, 255, right - left).astype(int)]
    ends = (f"{low:.3g}", f"{high:.3g}") if known.any() else ("", "")
    _write(panel, ends[0], left, bottom + 3 * _LINE)
    _write(panel, ends[1], right - _text_width(ends[1]), bottom + 3 * _LINE)
    _write(panel, caption, (left + right - _text_width(caption)) // 2, bottom + 3 * _LINE)
    return panel


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Panels in rows, each row as high as its highest panel."""
    if not rows or not all(rows):
        raise ValueError("found an empty grid or row, expected at least one panel in each")
    width = max(sum(panel.shape[1] + _GAP for panel in row) for row in rows) + _GAP
    height = sum(max(panel.shape[0] for panel in row) + _GAP for row in rows) + _GAP
    result = np.full((height, width, 3), 235, np.uint8)
    top = _GAP
    for row in rows:
        left, tallest = _GAP, max(panel.shape[0] for panel in row)
        for panel in row:
            result[top : top + tallest, left : left + panel.shape[1]] = 255
            result[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
            left += panel.shape[1] + _GAP
        top += tallest + _GAP
    return result


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if np.all(values == np.rint(values)):  # bins of unequally many whole numbers would show steps that are not there
        width = -(-(high - low + 1) // _BINS)
        return low - 0.5 + width * np.arange(-(-(high - low + 1) // width) + 1)
    count = int(np.clip(np.sqrt(len(values)), 5, _BINS))  # more would show little but chance
    return np.linspace(low, high, count + 1) if high > low else np.array([low - 0.5, low + 0.5])


def _paper(title: str, height: int) -> np.ndarray:
    panel = np.full((height, _WIDTH, 3), _PAPER, np.uint8)
    _write(panel, title, _MARGIN, _MARGIN + _LINE - 8)
    cv2.line(panel, (_MARGIN, _MARGIN + _LINE - 2), (_WIDTH - _MARGIN, _MARGIN + _LINE - 2), _FRAME, 1)
    return panel


def _write(panel: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(panel, text.encode("ascii", "replace").decode(), (x, y), _FONT, _SCALE, _TEXT, 1, cv2.LINE_AA)


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0]


def cells(images: Sequence[np.ndarray], captions: Sequence[str]) -> list[np.ndarray]:
    """Images under their captions, all brought to about the size of the first, in as many strips as a screen needs."""
    height = images[0].shape[0]
    tallest = min(height * -(-_SMALLEST_CELL // height), LARGEST_CELL)
    shown = [_fitted(image, tallest) for image in images]
    per_row = max(2, _WIDEST // max(image.shape[1] for image in shown))
    per_row = -(-len(shown) // -(-len(shown) // per_row))  # rows of about equal length
    parts = [slice(first, first + per_row) for first in range(0, len(shown), per_row)]
    return [strip(shown[part], captions[part]) for part in parts]


def _fitted(image: np.ndarray, height: int) -> np.ndarray:
    """Enlarged by a whole factor, so that pixels stay pixels, or shrunk where it would not fit."""
    factor = min(height // image.shape[0], LARGEST_CELL // image.shape[1])
    if factor >= 1:
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    share = min(height / image.shape[0], LARGEST_CELL / image.shape[1])
    size = (max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


# --- what was drawn --------------------------------------------------------------------------------------------------


def drawn_picture(samples: Sequence[Steps]) -> np.ndarray:
    """One row for each step: how often it stands at which position (from 1), and the distribution of each value."""
    positions, values = collect_drawn(samples)
    total, longest = len(samples), max(len(steps) for steps in samples)
    shares = [len(places) / total for places in positions.values()]
    rows = [[bars(f"share of {total} samples", list(positions), shares)]]
    for name, places in positions.items():
        at = range(1, longest + 1)
        row = [bars(f"{name}: position", [str(place) for place in at], [places.count(place) / total for place in at])]
        for key, (holders, flat) in values[name].items():
            if _is_word(flat[0]):
                kinds = sorted(set(flat))
                row.append(bars(f"{name}: {key}", [str(k) for k in kinds], [flat.count(k) / total for k in kinds]))
            else:
                row.append(histogram(f"{name}: {key} ({holders / total:.0%} of samples)", flat))
        rows.append(row)
    return grid(rows)


def drawn_table(samples: Sequence[Steps]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: the share of samples that hold a value, and its quantiles."""
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
    """Drawn values for a caption. Seeds are left out, of matrices only the size is told."""

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
    """Of each step its positions, and by key how many samples have it and all values; a list gives each element."""
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
