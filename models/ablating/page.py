"""The page: one HTML file that needs nothing else, with everything that a report tells."""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from degradations.drawn import collect_drawn
from models.ablating.report import Report, Scores, deviation
from utils import pages
from utils.images.files import read_image
from utils.metrics.evaluate import to_8bit

TEMPLATE = Path(__file__).with_name("page.html")
EXTREMES = 3
"""Worst and best images of each comparison that are shown."""
ALL_SHOWN = 12
"""Sets of up to so many images are shown whole."""
LARGEST = 640
"""Side of the part that is shown of a larger image: where the rows differ most."""
QUALITY = 92
"""Of the WebP images on the page."""
BINS = 24


def write_page(report: Report, path: Path) -> None:
    """Write the page, to be opened from disk."""
    pages.write_page(TEMPLATE, path, report.name, page_data(report))


def page_data(report: Report) -> dict[str, Any]:
    """Return all that the page knows, for JSON."""
    return {
        "name": report.name,
        "baseline": report.baseline,
        "rows": report.rows,
        "judge": report.judge_by,
        "protocol": report.protocol,
        "overSeeds": report.over_seeds,
        "sets": {s.valid.name: f"{len(s.valid)} images, low-quality images {s.origin}" for s in report.sets},
        "states": dict(report.states),
        "notes": report.notes(),
        "changes": {row: list(map(list, lines)) for row, lines in report.changes.items()},
        "scores": [_scores_data(report, scores) for scores in report.scores],
        "curves": _curves_data(report),
        "histograms": _histograms(report),
        "images": {name: images for name, images in _images(report).items() if images},
        "verdicts": report.verdicts(),
    }


def _scores_data(report: Report, scores: Scores) -> dict[str, Any]:
    compared = scores.compared(report.baseline, report.over_seeds)
    rows: dict[str, Any] = {}
    for row, values in scores.values.items():
        rows[row] = {"mean": float(values.mean()), "deviation": _finite(deviation(values)), "seeds": scores.seeds[row]}
        if (d := compared.get(row)) is not None:
            rows[row] |= {"difference": d.mean, "low": d.low, "high": d.high, "p": d.p_holm, "seen": bool(d.is_seen)}
            rows[row] |= {"improved": d.improved, "words": report.words(scores, d)}
            rows[row]["images"] = [round(v, 5) for v in scores.difference_by_image(row, report.baseline).tolist()]
    about = {"set": scores.set_name, "number": scores.number, "digits": 2 if scores.is_in_db else 4}
    return {**about, "higher": scores.higher_is_better, "names": scores.images, "rows": rows}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _curves_data(report: Report) -> dict[str, Any]:
    return {
        name: {
            row: {
                "x": curve.iterations[row],
                "mean": values.mean(axis=0).tolist(),
                "low": values.min(axis=0).tolist(),
                "high": values.max(axis=0).tolist(),
            }
            for row, values in curve.values.items()
            if row in report.rows and values.size
        }
        for name, curve in report.curves.items()
    }


# --- the degradations ----------------------------------------------------------------------------------------------


def _histograms(report: Report) -> list[dict[str, Any]]:
    """Return for each value that some row draws: its distribution in each row, over the same bins."""
    collected = {row: collect_drawn(samples) for row, samples in report.drawn.items() if any(samples)}
    keys = dict.fromkeys((step, key) for _, values in collected.values() for step in values for key in values[step])
    found = [{"title": "steps of a sample", **_counts({row: _lengths(report.drawn[row]) for row in report.drawn})}]
    for step in dict.fromkeys(step for positions, _ in collected.values() for step in positions):
        places = {row: positions.get(step, []) for row, (positions, _) in collected.items()}
        found.append({"title": f"{step}: position", **_counts(places, {r: len(s) for r, s in report.drawn.items()})})
        for key in (key for s, key in keys if s == step):
            values = {row: drawn.get(step, {}).get(key, (0, []))[1] for row, (_, drawn) in collected.items()}
            found.append({"title": f"{step}: {key}", **_counts(values)})
    return found if collected else []


def _lengths(samples: Any) -> list[int]:  # noqa: ANN401
    return [len(steps) for steps in samples]


def _counts(values: Mapping[str, list[Any]], totals: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return shares by bin and row; of a row's values, or of its samples (`totals`)."""
    flat = [value for own in values.values() for value in own]
    if any(isinstance(value, (str, bool)) for value in flat) or (len(set(flat)) <= BINS and _all_whole(flat)):
        labels = sorted(set(flat), key=lambda value: (isinstance(value, str), value))
        counts = {row: [own.count(label) for label in labels] for row, own in values.items()}
        names = [f"{label:g}" if isinstance(label, float) else str(label) for label in labels]
    else:
        edges = np.histogram_bin_edges(flat, BINS)
        counts = {row: np.histogram(own, edges)[0].tolist() for row, own in values.items()}
        names = [f"{low:.3g} to {high:.3g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    shares = {row: [count / max(1, (totals or {}).get(row, sum(own))) for count in own] for row, own in counts.items()}
    return {"labels": names, "shares": shares}


def _all_whole(values: list[Any]) -> bool:
    return all(float(value).is_integer() for value in values)


# --- images --------------------------------------------------------------------------------------------------------


def _images(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Return by set the images shown: the low-quality one, what each row made of it, and the ground truth."""
    found: dict[str, list[dict[str, Any]]] = {}
    for tested in report.sets:
        name = tested.valid.name
        shown = _shown(report, name, tested.images)
        found[name] = []
        for index in (i for i, image in enumerate(tested.images) if image in shown):
            files = {
                row: folders[name] / f"{tested.images[index]}.png"
                for row, folders in report.pictures.items()
                if name in folders
            }
            restored = {row: read_image(file) for row, file in files.items() if row in report.rows and file.is_file()}
            if not restored:
                continue
            batch = tested.valid[index].batch
            gt = batch.targets.get("plain")
            about = {"name": tested.images[index], "scale": tested.valid.scale}
            found[name].append({**about, **_pictures(to_8bit(batch.lq), restored, None if gt is None else to_8bit(gt))})
    return found


def _shown(report: Report, set_name: str, images: list[str]) -> set[str]:
    """Return all images of a small set; else the worst and the best of each comparison."""
    chosen: set[str] = set(images) if len(images) <= ALL_SHOWN else set()
    for scores in (scores for scores in report.scores if scores.set_name == set_name):
        for row in (row for row in scores.values if row != report.baseline and scores.number == report.judge_by):
            order = np.argsort(scores.difference_by_image(row, report.baseline))
            chosen.update(scores.images[i] for i in (*order[:EXTREMES], *order[-EXTREMES:]))
    return chosen or set(images[:ALL_SHOWN])


def _pictures(lq: np.ndarray, restored: Mapping[str, np.ndarray], gt: np.ndarray | None) -> dict[str, Any]:
    height, width = next(iter(restored.values())).shape[:2]
    scale = height // lq.shape[0]
    top, left = _window(list(restored.values()), scale)
    cut = np.s_[top : top + LARGEST, left : left + LARGEST]
    small = np.s_[top // scale : (top + LARGEST) // scale, left // scale : (left + LARGEST) // scale]
    whole = max(height, width) <= LARGEST
    return {
        "size": [min(width, LARGEST), min(height, LARGEST)],
        "part": "" if whole else f"part of {min(width, LARGEST)}x{min(height, LARGEST)} pixels from ({left}, {top})",
        "lq": _webp(lq[small]),
        "gt": None if gt is None else _webp(gt[cut]),
        "rows": {row: _webp(image[cut]) for row, image in restored.items()},
    }


def _window(images: list[np.ndarray], scale: int) -> tuple[int, int]:
    """Return the corner of the part to show of a large image: where the rows differ most."""
    height, width = images[0].shape[:2]
    stack = np.stack([image.mean(axis=2) for image in images])
    sums = cv2.integral(stack.std(axis=0).astype(np.float32))
    h, w = min(height, LARGEST), min(width, LARGEST)
    total = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    top, left = np.unravel_index(int(total.argmax()), total.shape)
    return int(top) // scale * scale, int(left) // scale * scale


def _webp(image: np.ndarray) -> str:
    done, content = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not done:
        raise ValueError(f"an image of {image.shape} cannot be written as WebP")
    return "data:image/webp;base64," + base64.b64encode(content.tobytes()).decode()
