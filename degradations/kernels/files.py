"""Blur kernels from files, checked and aligned; and those of USRNet's table that have closed forms."""

import glob
import hashlib
import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, pi
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.ndimage
from scipy.io.matlab import MatReadError

from degradations.kernels.families import anisotropic_gaussian, isotropic_gaussian
from degradations.plan import MissingPoolError
from utils.options.fields import OptionError
from utils.storage.files import DAMAGED_ARRAY, looked_in

CLOSED_FORMS = "usrnet_8"
"""The word that stands for `usrnet_kernels` instead of a path."""


def usrnet_kernels() -> list[np.ndarray]:
    """Return the first 8 of the 12 kernels of USRNet's table (Zhang et al., CVPR 2020, Table 1), (25, 25) float64.

    Four isotropic Gaussians and four anisotropic ones; the other four are recorded camera shakes.
    """
    widths = ((0, 7, 2), (0.8 * pi, 9, 1.5), (0.25 * pi, 8, 1.5), (0.29 * pi, 7, 5))
    isotropic = [isotropic_gaussian(25, sigma) for sigma in (0.7, 1.2, 1.6, 2.0)]
    return isotropic + [anisotropic_gaussian(25, *width) for width in widths]


@dataclass(frozen=True)
class Bank:
    """Kernels from files, a hash of them all, and the scale that they are made for, where the files say one."""

    kernels: list[np.ndarray]
    hash: str
    scale: int | None = None

    @classmethod
    def read(cls, path: str) -> "Bank":
        """Read as `read_bank`. Raises OptionError if the kernels are for several scales."""
        scales = {} if path == CLOSED_FORMS else {scale: file for file in bank_files(path) if (scale := _scale(file))}
        if len(scales) > 1:
            some = ", ".join(f"{file} for x{scale}" for scale, file in scales.items())
            raise OptionError(f"{path}: found kernels of several scales ({some}), expected one; name the files of it")
        kernels = read_bank(path)
        return cls(kernels, content_hash(kernels), next(iter(scales), None))


def read_bank(path: str) -> list[np.ndarray]:
    """Read the kernels of the files that a path means (see `bank_files`), or `usrnet_kernels` for the word `usrnet_8`.

    Raises OptionError.
    """
    return usrnet_kernels() if path == CLOSED_FORMS else [k for file in bank_files(path) for k in read_kernels(file)]


def bank_files(path: str) -> list[Path]:
    """List a file, those that a pattern (`results/*/*_x4.mat`) names, or all below a folder, ordered by path.

    `~` is the home folder. Of a folder with pools as `python -m data.prepare kernels` writes them, the pools.

    Raises MissingPoolError.
    """
    path = os.path.expanduser(path)
    if Path(path).is_dir():
        files = list(Path(path).glob("kernels_x*.npz"))
        files = files or [file for file in Path(path).rglob("*") if file.suffix.lower() in _READERS]
    else:
        files = [Path(path)] if Path(path).exists() else [Path(name) for name in glob.glob(path, recursive=True)]
    if not files:
        raise MissingPoolError(
            f"{path}: found no file of kernels{looked_in(path)} ({', '.join(_READERS)}), "
            "expected a file, folder, pattern, or usrnet_8; "
            "`python -m data.prepare kernels IMAGES --out FOLDER` estimates kernels"
        )
    return sorted(files)


def read_kernels(path: Path) -> list[np.ndarray]:
    """Read the kernels of one file: odd squares (k, k), float64, sum 1, possibly with negative values.

    `.mat` files hold a cell array `kernels` (USRNet), a matrix `Kernel` (KernelGAN), or one variable of any name;
    those of MATLAB 7.3 need the package h5py. `.npy` and `.npz` files hold kernels or stacks (n, k, k); of a pool of
    estimates, the accepted ones are taken. KernelGAN's kernels and such pools are made to be correlated with images,
    and come turned by 180 degrees, so that convolving does the same. No file can run code.

    Raises OptionError naming file and kernel for what is none; one whose sum is not 1 to 1e-3 is warned of.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise OptionError(f"{path}: found a {path.suffix or 'nameless'} file, expected one of {', '.join(_READERS)}")
    try:
        kernels = reader(path)
    except OptionError:
        raise
    except _UNREADABLE as error:
        raise OptionError(f"{path}: cannot be read as a {path.suffix} file: {error}") from error
    if not kernels:
        raise OptionError(f"{path}: holds no kernels")
    return [_checked(np.asarray(kernel), f"{path}, kernel {i}") for i, kernel in enumerate(kernels)]


def _checked(kernel: np.ndarray, where: str) -> np.ndarray:
    if kernel.dtype.kind not in "fiu":
        raise OptionError(f"{where}: found values of type {kernel.dtype}, expected numbers")
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.size == 0:
        raise OptionError(f"{where}: found the shape {'x'.join(map(str, kernel.shape))}, expected a square")
    if kernel.shape[0] % 2 == 0:
        side = kernel.shape[0]
        raise OptionError(
            f"{where}: {side}x{side} has no middle pixel, expected an odd size; add a row and a column of zeros on the "
            f"side where its middle is meant to be one pixel farther from the border, giving {side + 1}x{side + 1}"
        )
    kernel = kernel.astype(np.float64)
    if not np.isfinite(kernel).all():
        raise OptionError(f"{where}: holds values that are not finite")
    total = kernel.sum()
    if total < 1e-3 * max(1, np.abs(kernel).sum()):
        raise OptionError(f"{where}: sums to {total:.3g}, expected 1; an image blurred by it would be black")
    if abs(total - 1) > 1e-3:
        warnings.warn(f"{where}: sums to {total:.4g}, expected 1; it is divided by that", stacklevel=3)
    return kernel / total


# --- formats ---------------------------------------------------------------------------------------------------------

_UNREADABLE = (OSError, *DAMAGED_ARRAY, LookupError, RuntimeError, MemoryError, struct.error, MatReadError)


def _from_mat(path: Path) -> list[Any]:
    try:
        variables = scipy.io.loadmat(path)
    except NotImplementedError:  # MATLAB 7.3, which is HDF5
        return _from_hdf5(path)
    name, value = _chosen({name: v for name, v in variables.items() if not name.startswith("__")})
    return _to_convolve(name, list(value.ravel()) if value.dtype == object else [value])


def _from_hdf5(path: Path) -> list[Any]:
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OptionError(
            f"{path}: is a file of MATLAB 7.3, which needs h5py; `pip install h5py`, or save it in MATLAB with -v7"
        ) from error
    with h5py.File(path) as file:
        name, variable = _chosen({name: v for name, v in file.items() if name != "#refs#"})
        value = np.asarray(variable)
        # MATLAB writes column by column, so everything stands transposed.
        cells = [np.asarray(file[cell]).T for cell in value.T.ravel()] if value.dtype == object else [value.T]
        return _to_convolve(name, cells)


def _to_convolve(name: str, kernels: list[Any]) -> list[Any]:
    """Turn the kernels of KernelGAN's variable by 180 degrees: it correlates, where all others convolve."""
    return [np.flip(kernel) for kernel in kernels] if name == "Kernel" else kernels


def _chosen(variables: Mapping[str, Any]) -> tuple[str, Any]:
    for name in ("kernels", "Kernel", *(variables if len(variables) == 1 else ())):
        if name in variables:
            return name, variables[name]
    raise ValueError(f"found the variables {', '.join(variables) or 'none'}, expected kernels, Kernel, or only one")


def _from_npy(path: Path) -> list[Any]:
    return _unstacked(np.load(path, allow_pickle=False))


def _from_npz(path: Path) -> list[Any]:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if other := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{other[0]} in it is no array")  # NumPy gives the bytes of other members of the archive
    if "accepted" in arrays:
        return _accepted(path, arrays)
    return [kernel for array in arrays.values() for kernel in _unstacked(array)]


def _accepted(path: Path, pool: Mapping[str, np.ndarray]) -> list[Any]:
    accepted = pool["accepted"].astype(bool)
    if not accepted.any():
        why = Counter(flaw for row in pool["flaws"] for flaw in str(row).split(",") if flaw)
        counts = ", ".join(f"{flaw} {count}" for flaw, count in why.most_common())
        raise MissingPoolError(
            f"{path}: none of its {len(accepted)} kernels is accepted (flaws: {counts or 'not said'}); look at the "
            "sheet beside it, and estimate from more or larger images"
        )
    return list(np.flip(pool["kernels"][accepted], (1, 2)))


def _scale(path: Path) -> int | None:
    """Return the scale that a pool, or a file's name by KernelGAN (`NAME_kernel_x4.mat`), says its kernels are for."""
    if path.suffix.lower() != ".npz":
        name = re.search(r"_kernel_x(\d+)$", path.stem)
        return None if name is None else int(name[1])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return int(arrays["scale"]) if "accepted" in arrays else None
    except _UNREADABLE:
        return None  # `read_kernels` says what is wrong


def _unstacked(array: np.ndarray) -> list[np.ndarray]:
    return list(array) if array.ndim == 3 else [array]


_READERS = {".mat": _from_mat, ".npy": _from_npy, ".npz": _from_npz}


# --- use -------------------------------------------------------------------------------------------------------------


def content_hash(kernels: Sequence[np.ndarray]) -> str:
    """Return 16 hexadecimal digits that tell one list of kernels from another."""
    digest = hashlib.sha256()
    for kernel in kernels:
        digest.update(f"{kernel.shape}".encode())
        digest.update(np.ascontiguousarray(kernel, np.float64).tobytes())
    return digest.hexdigest()[:16]


def centred(kernel: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Move a kernel's centre of mass to `shift` pixels to the upper left of its middle pixel.

    Linear interpolation keeps sum and sign, and moves the centre of mass by what it moves the kernel. The frame grows
    where it would cut off more than 1e-6 of the kernel.
    """
    places = np.arange(kernel.shape[0])
    mass = np.array([kernel.sum(1) @ places, kernel.sum(0) @ places]) / kernel.sum()
    move = kernel.shape[0] // 2 - shift - mass
    if np.abs(move).max() < 1e-6:
        return kernel
    margin = ceil(np.abs(move).max())
    moved = scipy.ndimage.shift(np.pad(kernel, margin), move, order=1)
    inner = moved[margin:-margin, margin:-margin]
    cut = np.abs(moved).sum() - np.abs(inner).sum()
    return moved if cut > 1e-6 else inner / inner.sum()
