"""What several tests share."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.images.files import write_image

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
SHARED = Path(os.environ.get("BLIND_SR_SHARED", ROOT.parent / "shared"))
"""Third-party data for measuring; tests that need it skip where it is absent."""


def write_noise_pool(folder: Path, count: int = 3, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    """Patches of white noise round gray, beside what else `python -m data.prepare noise` writes."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        patch = np.rint(rng.normal(128, 6, (*size, 3))).clip(0, 255).astype(np.uint8)
        write_image(folder / f"photo_{i:03}.png", patch)
    write_image(folder / "sheet.png", np.zeros((8, 8, 3), np.uint8))
    (folder / "statistics.json").write_text("{}")
    return folder


def write_kernel_pool(
    folder: Path, kernels: Sequence[np.ndarray], scale: int, flaws: Sequence[str] | None = None
) -> Path:
    """A pool of estimates of one size, of which those without flaws are accepted."""
    flaws = [""] * len(kernels) if flaws is None else flaws
    folder.mkdir(parents=True, exist_ok=True)
    about = {"accepted": [not flaw for flaw in flaws], "flaws": flaws, "scale": scale, "version": "1"}
    about |= {"sources": [f"{i}.png" for i in range(len(kernels))], "losses": [0.1] * len(kernels)}
    np.savez(folder / f"kernels_x{scale}.npz", kernels=np.stack(kernels), **{k: np.array(v) for k, v in about.items()})
    return folder / f"kernels_x{scale}.npz"
