"""A pool of estimated kernels: those of a folder of real images, judged, in one file that `kernel_bank` reads."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from data.prepare.work import named_images, refuse_inside, stamp
from degradations.kernelgan.estimate import SHAVED, SIZE_G, estimate_kernels
from degradations.kernelgan.settings import KernelGAN
from degradations.kernelgan.shape import flaws, irregularity, outlying
from utils.images.files import ImageError, read_image, write_image
from utils.images.sheet import judged
from utils.logging import Console, table
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import Processes
from utils.storage.files import replace_bytes, replace_text

VERSION = 1
_PARTS = "parts"
_SHOWN = 96  # kernels of each kind on the sheet


@dataclass(frozen=True)
class Pool:
    """A pool in the making: its folder, the images by name, and where their estimates with these settings lie."""

    out: Path
    names: Mapping[str, Path]
    settings: KernelGAN

    @property
    def file(self) -> Path:
        return self.out / f"kernels_x{self.settings.scale}.npz"

    def part(self, name: str) -> Path:
        """Return the estimate of one image. Other settings have other folders, so that nothing is estimated twice."""
        key = json.dumps([VERSION, asdict(self.settings)])
        return self.out / _PARTS / hashlib.sha256(key.encode()).hexdigest()[:8] / f"{name}.json"

    def estimate(self, name: str) -> dict[str, Any] | None:
        """Return what was estimated of an image, unless it has changed since."""
        try:
            found = json.loads(self.part(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found if found["stamp"] == stamp(self.names[name]) else None


def collect_kernels(
    settings: KernelGAN,
    source: Path,
    out: Path,
    processes: Processes,
    console: Console,
    batch: int = 16,
    mat: Path | None = None,
) -> int:
    """Estimate the kernels of all images of a folder, shared among the processes; goes on where a call was stopped.

    Each batch of images is trained at once, and its estimates are written below OUT/parts. At the end
    OUT/kernels_x4.npz (of scale 4) has `kernels` (n, k, k), with `accepted`, `flaws` (after commas), `irregularity`
    (which predicts best what is wrong, the larger the likelier), `sources` and `losses` of each, and `scale` and
    `version`; kernels_x4.png shows them. `mat` is for the accepted ones as KernelGAN writes them,
    MAT/NAME/NAME_kernel_x4.mat.

    Returns:
        How many images could not be used; each is named on the console.

    Raises:
        OptionError: there are no images, no kernel is good, or `out` lies in `source`.
        OSError: the disk refuses.
    """
    with distributed.together():
        refuse_inside(out, source)
        pool = Pool(out, named_images(source, console=console), settings)
        todo = [name for name in pool.names if pool.estimate(name) is None]
    mine = todo[processes.rank :: processes.world_size]
    failed = 0
    batches = [mine[first : first + batch] for first in range(0, len(mine), batch)]
    console.info(f"kernels: {len(pool.names)} images, {len(pool.names) - len(todo)} done before")
    with distributed.together(), console.progress(len(batches) * settings.steps, desc="kernels") as progress:
        for names in batches:
            images, stamps = {}, {name: stamp(pool.names[name]) for name in names}
            for name in names:
                try:
                    images[name] = usable(pool.names[name], settings)
                except ImageError as error:
                    failed += 1
                    console.error(f"left out: {error}")
            estimates = estimate_kernels([*images.values()], settings, processes.device, lambda _: progress.update())
            for name, estimate in zip(images, estimates, strict=True):
                part = pool.part(name)
                part.parent.mkdir(parents=True, exist_ok=True)
                content = {"stamp": stamps[name], "losses": estimate.losses}
                content |= {"kernel": estimate.kernel.tolist(), "raw": estimate.raw.tolist()}
                replace_text(part, json.dumps(content))
    with distributed.together():
        if processes.is_main:
            _gather(pool, mat, console)
    return sum(distributed.gather_objects(failed))


def usable(path: Path, settings: KernelGAN) -> np.ndarray:
    """Return (H, W, 3) uint8. Raises ImageError for what is not read, is smaller than the crops or has no content."""
    image = read_image(path)
    least = SIZE_G + (0 if settings.real_image else 2 * SHAVED)
    if min(image.shape[:2]) < least:
        size = "x".join(map(str, image.shape[:2]))
        raise ImageError(f"{path}: {size} is too small for the crops of {least}x{least}; take it out of the folder")
    if image.min() == image.max():
        raise ImageError(f"{path}: all its pixels have one value, which tells nothing of a blur; take it out")
    return image if image.dtype == np.uint8 else np.rint(image / 257).astype(np.uint8)


def _gather(pool: Pool, mat: Path | None, console: Console) -> None:
    """Judge all kernels, and write the pool and its sheet. Raises OptionError if none is good."""
    estimates = {name: part for name in pool.names if (part := pool.estimate(name)) is not None}
    if not estimates:
        raise OptionError(f"{pool.out}: there is no kernel, since no image could be used")
    kernels = {name: np.array(part["kernel"]) for name, part in estimates.items()}
    losses = [part["losses"]["total"] for part in estimates.values()]
    faults = {
        name: flaws(kernel, pool.settings.scale) + ["loss"] * bool(worse)
        for (name, kernel), worse in zip(kernels.items(), outlying(losses), strict=True)
    }
    good = {name for name, of_one in faults.items() if not of_one}
    if not good and (good := {name for name, of_one in faults.items() if of_one == ["irregular"]}):
        console.warn(
            f"{pool.file}: no kernel is without flaw, so {len(good)} are taken that are irregular alone, which "
            f"mostly prove wrong; look at {pool.file.stem}.png"
        )
    accepted = [name in good for name in estimates]
    size = max(kernel.shape[0] for kernel in kernels.values())  # the frame grows with the shift of the alignment
    content = io.BytesIO()
    np.savez_compressed(
        content,
        kernels=np.stack([np.pad(kernel, (size - kernel.shape[0]) // 2) for kernel in kernels.values()]),
        accepted=np.array(accepted),
        flaws=np.array([",".join(of_one) for of_one in faults.values()]),
        irregularity=np.array([irregularity(kernel) for kernel in kernels.values()]),
        sources=np.array([str(pool.names[name]) for name in estimates]),
        losses=np.array(losses),
        scale=np.array(pool.settings.scale),
        version=np.array(str(VERSION)),
    )
    replace_bytes(pool.file, content.getvalue())
    write_image(pool.file.with_suffix(".png"), _sheet(kernels, faults, good))
    for name in (name for name in estimates if mat is not None and name in good):
        assert mat is not None
        stem = Path(name).name
        (mat / name).mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(mat / name / f"{stem}_kernel_x{pool.settings.scale}.mat", {"Kernel": kernels[name]})
    counts = Counter(flaw for of_one in faults.values() for flaw in of_one)
    rows = [["accepted", sum(accepted)], *counts.most_common(), ["all", len(estimates)]]
    console.info(table(["kernels (one may have several flaws)", "count"], rows))
    if not any(accepted):
        raise OptionError(
            f"{pool.file}: none of {len(estimates)} kernels is good; look at {pool.file.stem}.png, and take larger "
            "photographs with fine detail, or more iterations"
        )
    console.info(f"{pool.file}: {sum(accepted)} kernels; look at {pool.file.stem}.png")


def _sheet(kernels: Mapping[str, np.ndarray], faults: Mapping[str, list[str]], good: set[str]) -> np.ndarray:
    cells = []
    for taken in (True, False):
        for name in [name for name in kernels if (name in good) == taken][:_SHOWN]:
            levels = np.rint(255 * (kernels[name] / kernels[name].max()).clip(0, 1)).astype(np.uint8)
            cells.append((levels[..., None].repeat(3, axis=2), " ".join([Path(name).name, *faults[name]]), taken))
    return judged(cells, columns=12)
