"""Sample sheets: images beside each other under captions, as 8-bit RGB arrays."""

from collections.abc import Sequence

import cv2
import numpy as np

_FONT, _SCALE, _THICKNESS = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1
_LINE, _MARGIN, _GAP = 20, 4, 4
_BACKGROUND, _TEXT = 32, (255, 255, 255)
_SMALLEST, _FRAME, _COLOURS = 128, 3, {True: (40, 190, 60), False: (230, 40, 40)}
_SMALLEST_CELL, _WIDEST = 224, 2400
LARGEST_CELL = 640
"""The longest side of an image in `cells`; larger ones are shown smaller."""


def strip(images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Return one row: uint8 (H, W, 3) images brought to one height, each under its caption.

    Smaller images are enlarged by the largest whole factor that fits, by repeating pixels, so that a low-quality
    input shows its own pixels; what is left is filled. Captions wrap to the width of their image.
    """
    if len(images) != len(captions) or not images:
        raise ValueError(f"found {len(images)} images and {len(captions)} captions, expected as many, and at least one")
    height = max(image.shape[0] for image in images)
    enlarged = [_enlarge(image, height // image.shape[0]) for image in images]
    lines = [_wrap(caption, image.shape[1] - 2 * _MARGIN) for caption, image in zip(captions, enlarged, strict=True)]
    bar = max(len(of_one) for of_one in lines) * _LINE + _MARGIN
    cells = []
    for image, of_one in zip(enlarged, lines, strict=True):
        width = max([image.shape[1], *(_width(line) + 2 * _MARGIN for line in of_one)])
        cell = np.full((bar + height, width, 3), _BACKGROUND, np.uint8)
        cell[bar : bar + image.shape[0], : image.shape[1]] = image
        for row, line in enumerate(of_one):
            where = (_MARGIN, _LINE * (row + 1) - _MARGIN)
            cv2.putText(cell, line, where, _FONT, _SCALE, _TEXT, _THICKNESS, cv2.LINE_AA)
        cells += [cell, np.full((bar + height, _GAP, 3), _BACKGROUND, np.uint8)]
    return np.concatenate(cells[:-1], axis=1)


def cells(images: Sequence[np.ndarray], captions: Sequence[str]) -> list[np.ndarray]:
    """Return images under captions, all brought to about the size of the first, in as many strips as a screen needs."""
    height = images[0].shape[0]
    tallest = min(height * -(-_SMALLEST_CELL // height), LARGEST_CELL)
    shown = [_fitted(image, tallest) for image in images]
    per_row = max(2, _WIDEST // max(image.shape[1] for image in shown))
    per_row = -(-len(shown) // -(-len(shown) // per_row))  # rows of about equal length
    parts = [slice(first, first + per_row) for first in range(0, len(shown), per_row)]
    return [strip(shown[part], captions[part]) for part in parts]


def _fitted(image: np.ndarray, height: int) -> np.ndarray:
    """Enlarge by a whole factor, so that pixels stay pixels, or shrink where it would not fit."""
    factor = min(height // image.shape[0], LARGEST_CELL // image.shape[1])
    if factor >= 1:
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    share = min(height / image.shape[0], LARGEST_CELL / image.shape[1])
    size = (max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def sheet(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Lay strips below each other, filled up to the widest."""
    if not rows:
        raise ValueError("a sheet needs at least one row")
    width = max(row.shape[1] for row in rows)
    height = sum(row.shape[0] for row in rows) + _GAP * (len(rows) - 1)
    result = np.full((height, width, 3), _BACKGROUND, np.uint8)
    top = 0
    for row in rows:
        result[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0] + _GAP
    return result


def judged(cells: Sequence[tuple[np.ndarray, str, bool]], columns: int) -> np.ndarray:
    """Return a sheet of small images (H, W, 3) of one size under captions: framed green if they are good, else red."""
    rows = []
    for good in (True, False):
        kind = [(image, caption) for image, caption, is_good in cells if is_good == good]
        for first in range(0, len(kind), columns):
            images, captions = zip(*kind[first : first + columns], strict=True)
            large = [_enlarge(image, -(-_SMALLEST // image.shape[1])) for image in images]
            for image in large:
                cv2.rectangle(image, (0, 0), image.shape[1::-1], _COLOURS[good], 2 * _FRAME)
            rows.append(strip(large, captions))
    return sheet(rows)


def _enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"found an image {image.shape} {image.dtype}, expected (H, W, 3) uint8")
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _width(line: str) -> int:
    return cv2.getTextSize(line, _FONT, _SCALE, _THICKNESS)[0][0]


def _wrap(caption: str, width: int) -> list[str]:
    """Return lines that fit the width; a longer word stays whole, and its cell grows."""
    lines = [""]
    for word in caption.replace("×", "x").encode("ascii", "replace").decode().split():
        longer = f"{lines[-1]} {word}".strip()
        if _width(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
