"""Where KernelGAN's default fails, and whether that can be seen: truths of many families, JPEG, noise, two scales.

    python -m tests.benchmarks.kernel_truths PHOTOS --kernels KERNELS --out CASES.jsonl [--cases N]
    python -m tests.benchmarks.kernel_truths PHOTOS --kernels KERNELS --usrnet FILE --estimates CASES.jsonl \
        --out TOLD.jsonl
    python -m tests.benchmarks.kernel_truths --read CASES.jsonl

Photographs of at least 320x480 pixels are blurred by a kernel, decimated, made noisy or compressed. Each line of
CASES.jsonl is a case, in random order, so that a run that was stopped is a sample of the whole:

- `error`: root of the summed squared difference from the true kernel over that of the truth itself, both with their
  centres of mass at one place (0 is perfect, 1 is no better than nothing), of the estimate, of sigma 1.5, and of the
  Gaussian without direction that is nearest to the truth (`isotropic`, which knows the truth: an oracle);
- `restored`: of the photograph, on luma less 20 pixels of border, restored by our untrained closed form told each of
  these, or the truth, and the standard deviation of what noise or compression did;
- what an estimate shows without the truth: `losses`, `flaws`, `share`, `spectra` and `noise`.

TOLD.jsonl has the same lines, of cases of one scale, with `restored` by a USRNet that is told the same.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.ndimage import correlate, gaussian_filter

from degradations.kernelgan.estimate import KernelGAN, estimate_kernels
from degradations.kernelgan.losses import Spectra, bicubic_kernel, noise_power
from degradations.kernelgan.shape import IRREGULAR, flaws, irregularity, moved_to_centre, outlying
from degradations.kernels.families import elliptic
from degradations.kernels.files import read_bank
from degradations.kernels.motion import motion_kernel
from models.network import Network
from models.networks.closed_form import ClosedForm
from models.restoring.generator import load_generator
from models.restoring.nonblind import extended
from tests.benchmarks.kernel_recovery import photos_of, true_kernel
from utils.images.files import from_tensor, to_tensor
from utils.logging import Console, table

BATCH = 16
TOLD = ("estimate", "isotropic", "truth")
WRONG, COST, HARM = 0.5, 1.0, 0.1
"""What is a failure: a relative error of the kernel, or so many decibels lost against the truth, or sigma 1.5."""
BORDER = 20
LUMA = np.array([0.299, 0.587, 0.114])
DAMAGE = ("clean", "noise 2.5", "noise 5", "noise 10", "jpeg 95", "jpeg 75", "jpeg 50")
"""Standard deviation of white noise in levels, or JPEG's quality."""


@dataclass(frozen=True)
class Case:
    """What is made, and how."""

    family: str
    kernel: np.ndarray
    scale: int
    damage: str
    photo: int


def disk(radius: float) -> np.ndarray:
    """Return a disk (13, 13) of uniform weight with a soft rim."""
    y, x = np.mgrid[-6:7, -6:7]
    kernel = (radius + 0.5 - np.hypot(y, x)).clip(0, 1)
    return kernel / kernel.sum()


def families(folder: Path) -> dict[str, list[np.ndarray]]:
    """Return true kernels by family, not yet aligned."""
    bicubic, rng = bicubic_kernel().double().numpy(), np.random.default_rng(3)
    motion = [motion_kernel(rng, 13) for _ in range(40)]
    moving = [kernel for kernel in motion if 0.03 < kernel.max() < 0.12][:3]  # neither a dot nor smeared over all
    twelve, levin = read_bank(str(folder / "kernels_12.mat")), read_bank(str(folder / "Levin09.mat"))
    return {
        "gaussian": [true_kernel(2.2, 1.0, 0.6), true_kernel(2.8, 1.2, 2.2), true_kernel(1.2, 1.2, 0)],
        "motion": moving,
        "disk": [disk(1.5), disk(2.5)],
        "bicubic x gaussian": [gaussian_filter(np.pad(bicubic, 4), sigma) for sigma in (0.7, 1.3)],
        "twelve": [twelve[i] for i in (1, 3, 6, 8)],  # a Gaussian, two slanting ones, a motion
        "levin": [levin[i] for i in (2, 4)],
    }


def aligned(kernel: np.ndarray, scale: int) -> np.ndarray:
    """Return a kernel that leaves an image centred after every `scale`-th pixel is kept, without negative values but
    those of bicubic interpolation."""
    moved = moved_to_centre(np.asarray(kernel, np.float64), scale)
    return moved / moved.sum()


def cases(folder: Path, photos: int) -> list[Case]:
    """Return all cases in random order: each kernel and damage with two photographs at x2, with one at x4."""
    made, number = [], 0
    for family, kernels in families(folder).items():
        for kernel in kernels:
            for damage in DAMAGE:
                for scale in (2, 2, 4):
                    made.append(Case(family, aligned(kernel, scale), scale, damage, number % photos))
                    number += 1
    order = np.random.default_rng(0).permutation(len(made))
    return [made[i] for i in order]


def low_quality(case: Case, photo: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Return the image (h, w, 3) uint8, and the standard deviation of noise or compression in it, of 1 for white."""
    blurred = np.stack([correlate(c.astype(float), case.kernel) for c in np.moveaxis(photo, 2, 0)], 2)
    clean = blurred[:: case.scale, :: case.scale]
    what, _, level = case.damage.partition(" ")
    image = clean.round().clip(0, 255).astype(np.uint8)
    if what == "noise":
        noisy = clean + float(level) * np.random.default_rng(seed).standard_normal(clean.shape)
        image = noisy.round().clip(0, 255).astype(np.uint8)
    if what == "jpeg":
        _, code = cv2.imencode(".jpg", image[..., ::-1].copy(), [cv2.IMWRITE_JPEG_QUALITY, int(level)])
        image = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)[..., ::-1].copy()
    return image, float((image - clean).std() / 255)


def restored(image: np.ndarray, kernel: np.ndarray, sigma: float, photo: np.ndarray, network: Network) -> float:
    """Return the PSNR of luma of an image restored by a network that is told a kernel, which is correlated."""
    scale = len(photo) // len(image)
    told = torch.from_numpy(kernel[::-1, ::-1].copy()).float()[None]
    lq = extended(to_tensor(image)[None], scale, kernel.shape[0])
    with torch.no_grad():
        sr = network(lq, kernel=told, sigma=torch.tensor([sigma]))
    result = from_tensor(sr[0, :, : photo.shape[0], : photo.shape[1]]).clip(0, 1) * 255
    difference = ((result - photo) @ LUMA)[BORDER:-BORDER, BORDER:-BORDER]
    return float(10 * np.log10(255**2 / (difference**2).mean()))


def error(found: np.ndarray, true: np.ndarray) -> float:
    """Return the relative error of a kernel, both in odd frames of their own and centred for one scale."""
    size = max(len(found), len(true))
    a, b = (np.pad(kernel, (size - len(kernel)) // 2) for kernel in (found, true))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def nearest_isotropic(true: np.ndarray, scale: int) -> np.ndarray:
    """Return the aligned Gaussian without direction that is nearest to the truth: what no estimate without direction
    can be better than."""
    side = 13 if scale == 2 else 33
    shift = -(scale - 1) / 2
    candidates = [elliptic(side, 0, s * s, s * s, shift=shift) for s in np.arange(0.4, 6, 0.05)]
    return min(candidates, key=lambda kernel: error(kernel, true))


def candidates(case: Case, estimate: np.ndarray) -> dict[str, np.ndarray]:
    """Return the kernels that compete in a case by name."""
    side = 13 if case.scale == 2 else 33
    return {
        "estimate": estimate,
        "sigma 1.5": elliptic(side, 0, 2.25, 2.25, shift=-(case.scale - 1) / 2),
        "isotropic": nearest_isotropic(case.kernel, case.scale),
    }


def restored_by_all(
    network: Network, kernels: dict[str, np.ndarray], case: Case, image: np.ndarray, sigma: float, photo: np.ndarray
) -> dict[str, float]:
    """Return what a network makes of an image when it is told each kernel, and the truth."""
    told = {**kernels, "truth": case.kernel}
    return {name: restored(image, kernel, sigma, photo, network) for name, kernel in told.items()}


def measured(case: Case, image: np.ndarray, sigma: float, photo: np.ndarray, found: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return everything about a case, its estimate in `found`."""
    kernels = candidates(case, found.kernel)
    spectra = Spectra([image / 255])
    narrow = {
        "estimate": found.raw,
        "bicubic": bicubic_kernel().numpy(),
        **{f"{s:.1f}": true_kernel(s, s, 0) for s in np.arange(0.6, 3.05, 0.2)},
    }
    by_spectrum = spectra.loss(torch.from_numpy(np.stack(list(narrow.values()))).float()).tolist()
    return {
        **{"family": case.family, "scale": case.scale, "damage": case.damage, "photo": case.photo, "sigma": sigma},
        "error": {name: error(kernel, case.kernel) for name, kernel in kernels.items()},
        "restored": restored_by_all(ClosedForm(case.scale), kernels, case, image, sigma, photo),
        "losses": found.losses,
        "flaws": flaws(found.kernel, case.scale),
        "share": float(spectra.share[0]),
        "spectra": dict(zip(narrow, by_spectrum, strict=True)),
        "noise": float(noise_power(image / 255 @ LUMA, 64).mean() ** 0.5 * 255),
        **{"kernel": found.kernel.round(6).tolist(), "raw": found.raw.astype(float).round(6).tolist()},
        "truth": case.kernel.round(6).tolist(),
    }


def run(photos: list[np.ndarray], wanted: list[Case], out: Path) -> None:
    """Estimate all cases, a batch at once, and append them to a file."""
    for some in _batches(wanted):
        made = [low_quality(case, photos[case.photo], i) for i, case in enumerate(some)]
        found = estimate_kernels([image for image, _ in made], KernelGAN(scale=some[0].scale))  # type: ignore[arg-type]
        with out.open("a", encoding="utf-8") as file:
            for case, (image, sigma), one in zip(some, made, found, strict=True):
                file.write(json.dumps(measured(case, image, sigma, photos[case.photo], one)) + "\n")


def tell(photos: list[np.ndarray], wanted: list[Case], estimates: Path, generator: Path, out: Path) -> None:
    """Let a USRNet restore the cases of its scale whose kernels were estimated before, and append them to a file."""
    network = load_generator(generator).network
    lines = (json.loads(line) for line in estimates.read_text(encoding="utf-8").splitlines())
    of_batches = ((i, case) for some in _batches(wanted) for i, case in enumerate(some))
    for line, (i, case) in zip(lines, of_batches, strict=False):  # a file may end early
        if case.scale != network.scale:
            continue
        photo = photos[case.photo]
        image, sigma = low_quality(case, photo, i)
        assert (line["family"], line["damage"], line["sigma"]) == (case.family, case.damage, sigma)
        kernels = candidates(case, np.array(line["kernel"]))
        line["restored"] = restored_by_all(network, kernels, case, image, sigma, photo)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _batches(wanted: list[Case]) -> Iterator[list[Case]]:
    """Yield batches of one scale, a batch of x4 after each two of x2."""
    queues = {scale: [case for case in wanted if case.scale == scale] for scale in (2, 4)}
    while any(queues.values()):
        for scale in (2, 2, 4):
            batch, queues[scale] = queues[scale][:BATCH], queues[scale][BATCH:]
            if batch:
                yield batch


# --- what was found --------------------------------------------------------------------------------------------------


def interval(values: Sequence[float], groups: Sequence[int]) -> str:
    """Return the mean and its 95 % interval over photographs, which are resampled."""
    by_group = [[v for v, g in zip(values, groups, strict=True) if g == group] for group in sorted(set(groups))]
    sums, counts = np.array([sum(v) for v in by_group]), np.array([len(v) for v in by_group])
    drawn = np.random.default_rng(0).integers(0, len(counts), (2000, len(counts)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return f"{np.mean(values):.2f} ({low:.2f} to {high:.2f})"


def roc_area(badness: np.ndarray, failed: np.ndarray) -> float:
    """Return how often a failure looks worse than a success; equal looks count half."""
    bad, good = badness[failed], badness[~failed]
    return float(((bad[:, None] > good) + 0.5 * (bad[:, None] == good)).mean()) if len(bad) and len(good) else np.nan


def criteria(found: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return what may predict a failure, larger is worse."""
    total = np.array([one["losses"]["total"] for one in found])
    spectra = [one["spectra"] for one in found]
    kernels = [np.array(one["kernel"]) for one in found]
    isotropic = np.array([min(v for k, v in s.items() if k[0].isdigit()) for s in spectra])
    own = np.array([s["estimate"] for s in spectra])
    others = [[flaw for flaw in one["flaws"] if flaw != "irregular"] for one in found]
    outliers = np.array(_outlying_by_folder(found, total))
    before = np.array([bool(flawed) for flawed in others]) | outliers
    now = np.array([bool(flaws(k, one["scale"])) for k, one in zip(kernels, found, strict=True)]) | outliers
    irregular = [irregularity(k) / IRREGULAR[one["scale"]] for k, one in zip(kernels, found, strict=True)]
    return {
        "`accepted` without `irregular`": before.astype(float),
        "`accepted`": now.astype(float),
        "irregularity": np.array(irregular),
        "total loss": total,
        "discriminator": -np.array([one["losses"]["gan"] for one in found]),
        "disagreement of spectra": own,
        "that of the best Gaussian": isotropic,
        "noise": np.array([one["noise"] for one in found]),
        "little but noise": -np.array([one["share"] for one in found]),
    }


def _outlying_by_folder(found: list[dict[str, Any]], total: np.ndarray) -> list[bool]:
    """Judge losses as in a pool: of all images of one scale and damage."""
    keys = [(one["scale"], one["damage"]) for one in found]
    judged = {key: outlying([t for t, k in zip(total, keys, strict=True) if k == key]) for key in set(keys)}
    counters = {key: iter(flags) for key, flags in judged.items()}
    return [bool(next(counters[key])) for key in keys]


def report(path: Path) -> None:
    """Print tables of what was measured."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    console = Console()
    for by in ("family", "damage", "scale"):
        rows = []
        for key in [*sorted({str(one[by]) for one in found}), "all"]:
            some = [one for one in found if key in (str(one[by]), "all")]
            photos = [one["photo"] for one in some]
            row = [key, len(some)]
            row += [interval([one["error"][n] for one in some], photos) for n in ("estimate", "isotropic", "sigma 1.5")]
            row += [interval([one["restored"][n] - one["restored"]["sigma 1.5"] for one in some], photos) for n in TOLD]
            rows.append(row)
        errors = ["error: estimate", "oracle Gaussian", "sigma 1.5"]
        console.info(table([by, "cases", *errors, *(f"dB over sigma 1.5: {n}" for n in TOLD)], rows) + "\n")
    restored = {name: np.array([one["restored"][name] for one in found]) for name in ("sigma 1.5", "truth", "estimate")}
    failures = {
        f"error above {WRONG}": np.array([one["error"]["estimate"] for one in found]) > WRONG,
        f"{COST} dB below the truth": restored["truth"] - restored["estimate"] > COST,
        f"{HARM} dB below sigma 1.5": restored["sigma 1.5"] - restored["estimate"] > HARM,
    }
    rng, rows = np.random.default_rng(0), []
    for name, badness in criteria(found).items():
        row: list[Any] = [name]
        for failed in failures.values():
            drawn = [roc_area(badness[i], failed[i]) for i in rng.integers(0, len(found), (2000, len(found)))]
            low, high = np.nanpercentile(drawn, [2.5, 97.5])
            row.append(f"{roc_area(badness, failed):.2f} ({low:.2f} to {high:.2f})")
        rows.append(row)
    heads = [f"{name} ({failed.sum()} of {len(found)})" for name, failed in failures.items()]
    console.info(table(["area under ROC", *heads], rows))


def main() -> None:
    """Measure, or print the tables of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="folder of photos")
    parser.add_argument("--kernels", type=Path, help="folder with kernels_12.mat and Levin09.mat")
    parser.add_argument("--out", type=Path, help="where cases go")
    parser.add_argument("--cases", type=int, help="only so many")
    parser.add_argument("--usrnet", type=Path, help="its weights: restore again, told the kernels of --estimates")
    parser.add_argument("--estimates", type=Path, help="cases whose kernels were estimated before")
    parser.add_argument("--read", type=Path, help="print the tables of what was measured")
    options = parser.parse_args()
    if options.read:
        report(options.read)
        return
    if not (options.photos and options.kernels and options.out):
        parser.error("expected a folder of photos, --kernels and --out, or --read")
    torch.set_num_threads(1)
    photos = photos_of(options.photos, 24)
    wanted = cases(options.kernels, len(photos))
    if options.usrnet:
        tell(photos, wanted, options.estimates, options.usrnet, options.out)
    else:
        run(photos, wanted[: options.cases], options.out)


if __name__ == "__main__":
    main()
