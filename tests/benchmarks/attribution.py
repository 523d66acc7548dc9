"""Are folders of degraded photographs attributed to the pipeline that made them? (`python -m data.prepare match`)

    python -m tests.benchmarks.attribution PHOTOS GT [--folders 10] [--images 30] [--draws 600] [--out TRACES.npz]
    python -m tests.benchmarks.attribution PHOTOS GT --fits 8

Twenty pipelines for x2 degrade photographs; folders of some of them, with draws of their own, are compared with what
each pipeline makes of other photographs. Attributed is a folder whose nearest pipeline is its maker.

`--fits`: folders are made with ranges drawn at random within those of one wide pipeline, a fifth to two fifths as long,
and `--fit` narrows the wide one to each. Printed is how much of both ranges together they share (1: equal), of the wide
range and of the fitted one, and the energy distance of both.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from data.prepare.match import FITTED, match
from data.prepare.matching.distances import Traced, nearest
from data.prepare.matching.windows import Measured, common_window, measure_degraded
from degradations import Degradation, load_degradation
from utils.images.files import from_tensor, image_files, read_image, to_tensor, to_uint8, write_image
from utils.logging import Console, table
from utils.options.files import dump, load, merge, override
from utils.seeding import sample_stream

SCALE = 2


def blurred(low: float, high: float, **steps: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return an isotropic Gaussian blur, a bicubic halving, and further steps."""
    return {"type": "gaussian", "steps": {"blur": {"sigma_range": [low, high]}, **steps}}


def compressed(low: int, high: int) -> dict[str, Any]:
    return {"type": "jpeg", "quality_range": [low, high]}


PIPELINES: Mapping[str, dict[str, Any]] = {
    "bicubic": {"type": "bicubic"},
    "isotropic blur": blurred(0.2, 2.0),
    "wide blur": blurred(1.5, 3.0),
    "anisotropic blur": {"type": "gaussian", "steps": {"blur": {"sigma_range": [0.5, 4.0], "isotropic_prob": 0}}},
    "blur, noise to 15": blurred(0.2, 2.0, noise={"level_range": [0, 15]}),
    "blur, noise 15 to 30": blurred(0.2, 2.0, noise={"level_range": [15, 30]}),
    "blur, gray noise": blurred(0.2, 2.0, noise={"level_range": [2, 20], "kinds": {"color": 0.0, "gray": 1.0}}),
    "blur, Poisson": blurred(0.2, 2.0, noise={"type": "poisson_noise"}),
    "blur, JPEG 75 to 95": blurred(0.2, 1.0, jpeg=compressed(75, 95)),
    "blur, JPEG 30 to 60": blurred(0.2, 1.0, jpeg=compressed(30, 60)),
    "noise, JPEG 60 to 90": blurred(0.2, 1.0, noise={"level_range": [2, 15]}, jpeg=compressed(60, 90)),
    "camera": blurred(0.2, 1.0, noise={"type": "isp"}),
    "classical": {"type": "classical"},
    "bsrgan": {"type": "bsrgan"},
    "bsrgan, no noise": {"type": "bsrgan", "steps": {"noise": None}},
    "bsrgan_plus": {"type": "bsrgan_plus"},
    "realesrgan": {"type": "realesrgan"},
    "realesrgan, one order": {"type": "realesrgan", "orders": {"second": None}},
    "resshift": {"type": "resshift"},
    "stablesr": {"type": "stablesr"},
}


def pipelines(names: list[str] | None = None) -> dict[str, Degradation]:
    """Return the pipelines, or some of them."""
    return {name: load_degradation(merge({}, PIPELINES[name]), SCALE) for name in names or PIPELINES}


def attributed(
    folders: Mapping[str, Measured], candidates: Mapping[str, Measured], count: int, images: int, seed: int = 0
) -> dict[str, Counter[str]]:
    """Return by maker what its folders are taken for: `count` folders of so many images each, one draw of an image.

    Of one draw of all photographs as many folders are made as they fill, so those share none.
    """
    traced = {name: one.traced for name, one in candidates.items()}
    taken: dict[str, Counter[str]] = {}
    for name, made in folders.items():
        rng, numbers = np.random.default_rng(seed), made.traced.image
        photos = order = np.unique(numbers)
        taken[name] = Counter()
        for folder in range(count):
            draw, part = divmod(folder, len(photos) // images)
            order = rng.permutation(photos) if part == 0 else order
            few = order[part * images : (part + 1) * images]
            rows = [np.flatnonzero(numbers == image)[draw] for image in few]
            taken[name][nearest(Traced(made.traced.values[rows], np.arange(images)), traced)] += 1
    return taken


WIDE = {"blur.sigma_range": (0.2, 3.0), "noise.level_range": (0.0, 25.0), "jpeg.quality_range": (30.0, 95.0)}


def shared(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the length of what two ranges share over that of what they cover."""
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0])) / (max(one[1], other[1]) - min(one[0], other[0]))


def spelt(ranges: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return a pipeline with these ranges."""
    tree = blurred(0, 0, jpeg={"type": "jpeg"})
    for name, ends in ranges.items():
        tree = override(tree, f"steps.{name}", [int(v) if v == int(v) else float(v) for v in ends])
    return tree


def fits(photos: Path, gt: Path, count: int, images: int, draws: int, console: Console) -> None:
    """Print what was made, what was found, and how much they share."""
    rows = []
    for number in range(count):
        rng, truth = np.random.default_rng(number), {}
        for name, (low, high) in WIDE.items():
            length = (high - low) * rng.uniform(0.2, 0.4)
            start = rng.uniform(low, high - length)
            truth[name] = tuple(np.round([start, start + length], 0 if "quality" in name else 2).tolist())
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "wide.yml").write_text(dump({"scale": SCALE, **spelt(WIDE)}))
            degradation = load_degradation(spelt(truth), SCALE)
            for i, path in enumerate(image_files(photos)[:images]):
                image = read_image(path)
                image = image[: image.shape[0] // SCALE * SCALE, : image.shape[1] // SCALE * SCALE]
                stream = sample_stream(number, "fits", i)
                plan = degradation.sample(stream, (image.shape[0], image.shape[1]))
                lq = degradation.apply(to_tensor(image)[None], [plan]).lq[0]
                write_image(folder / "photos" / path.with_suffix(".png").name, to_uint8(from_tensor(lq)))
            quiet, fit = Console(1), folder / "fit.yml"
            wide = str(folder / "wide.yml")
            found = match(folder / "photos", [wide], gt, folder / "a.png", quiet, draws=draws, fit=fit)
            new = load(fit)["steps"] if fit.exists() else {}
        for name, ends in truth.items():
            step, option = name.split(".")
            got = new.get(step, {}).get(option, WIDE[name]) if FITTED in found else WIDE[name]
            rows.append([number, name, *ends, *got, shared(ends, WIDE[name]), shared(ends, got)])
            rows[-1] += [found["wide"].total.value, found[FITTED].total.value if FITTED in found else np.nan]
    for column, name in ((6, "wide"), (7, "fitted")):
        console.info(f"shared by the true and the {name} range: {np.mean([row[column] for row in rows]):.2f}")
    heads = ["folder", "range", "from", "to", "found from", "to", "wide shares", "fitted shares", "distance", "fitted"]
    console.info(table(heads, [[f"{v:.3g}" if isinstance(v, float) else v for v in row] for row in rows]))


def main() -> None:
    """Print how many folders are attributed rightly, and what is taken for what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="photographs that become the folders")
    parser.add_argument("gt", type=Path, help="other photographs, for the candidates")
    parser.add_argument("--folders", type=int, default=10, help="of each pipeline")
    parser.add_argument("--images", type=int, default=30, help="of each folder")
    parser.add_argument("--draws", type=int, default=600, help="of each candidate")
    parser.add_argument("--window", type=int, help="side in pixels of what is measured; default as `match` has it")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--out", type=Path, help="all traces")
    parser.add_argument("--fits", type=int, default=0, help="narrow the wide pipeline to so many folders instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, made = Console(), pipelines()
    if options.fits:
        fits(options.photos, options.gt, options.fits, options.images, options.draws, console)
        return
    photos, gt = image_files(options.photos), image_files(options.gt)
    # Folders are of windows, as large as photographs of low quality would have room for.
    window = options.window or common_window([], [*photos, *gt], SCALE)
    count = -(-options.folders // (len(photos) // options.images)) * len(photos)
    folders = measure_degraded(made, photos, window, count, 1, console, options.seed + 1)
    candidates = measure_degraded(made, gt, window, options.draws, 1, console, options.seed)
    if options.out:
        parts: dict[str, Any] = {f"photos {name}": one.traced.values for name, one in folders.items()}
        parts |= {f"gt {name}": one.traced.values for name, one in candidates.items()}
        parts |= {"photos": folders["bicubic"].traced.image, "gt": candidates["bicubic"].traced.image}
        np.savez(options.out, **parts)
    taken = attributed(folders, candidates, options.folders, options.images)
    right = sum(found[name] for name, found in taken.items())
    total = options.folders * len(taken)
    rows = []
    for name, found in taken.items():
        rows.append([name, found[name], ", ".join(f"{other} {n}" for other, n in found.items() if other != name)])
    console.info(table(["pipeline", f"right of {options.folders}", "taken for"], rows))
    console.info(
        f"{right} of {total} folders of {options.images} images attributed to their maker: {right / total:.1%}"
    )


if __name__ == "__main__":
    main()
