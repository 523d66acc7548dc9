"""Natural image quality evaluator (NIQE): how far an image's statistics are from those of sharp photographs.

    python -m utils.metrics.niqe fit DIR --out FILE

fits the model of sharp photographs that the metric `niqe` needs. Source: Mittal, Soundararajan and Bovik, "Making a
'completely blind' image quality analyzer", IEEE Signal Processing Letters 20(3), 2013, and its released code, on which
published values rest. Numbers from different models cannot be compared.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from pydantic import Field
from scipy.special import gamma

from utils.images.colour import rgb2y
from utils.images.files import ImageError, changes, headers, list_images, read_image, to_float, to_uint8
from utils.images.resize import imresize
from utils.logging import Console
from utils.metrics import METRICS, Metric
from utils.options.arguments import Arg, parse_command
from utils.options.fields import OptionError
from utils.storage.files import DAMAGED_ARRAY, replace_bytes

BLOCK = 96
"""Side of the blocks of which features are taken, at full size; half of it at half size."""
FEATURES = 36
SHARPNESS = 0.75
"""A model is fitted on blocks whose mean local deviation is above this share of the image's sharpest."""

_WINDOW, _SIGMA = 7, 7 / 6
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbours beside, above, and along the two diagonals
_SHAPES = np.arange(0.2, 10.001, 0.001)
# Of a generalized Gaussian of each shape: the square of its mean magnitude over its mean square. Increases.
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))
_FLAT = 1e-6
_KEYS = (("mu", "cov"), ("mu_pris_param", "cov_pris_param"))
_TWO_WAYS = (
    "fit one on sharp photographs by `python -m utils.metrics.niqe fit DIR --out FILE`, or use published parameters, "
    "such as the niqe_pris_params.npz of BasicSR"
)


# --- features --------------------------------------------------------------------------------------------------------


def luma(image: np.ndarray) -> np.ndarray:
    """Return studio luma (H, W) of BT.601, rounded to whole levels, of (H, W, 3) RGB or (H, W, 1) luma in 0…255."""
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"found an image of shape {image.shape}, expected (H, W, 3) or (H, W, 1)")
    return np.round(image[..., 0] if image.shape[2] == 1 else rgb2y(image / 255) * 255)


def block_features(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, 36) and sharpness (n,) of the whole blocks of a luma image (H, W) in 0…255, row by row.

    Of each of two scales: shape and scale of the normalised luma, then shape, mean, left and right scale of its
    products with four neighbours. Sharpness is the mean local deviation at full size. Features of a block without
    texture are NaN, but for its shapes.

    Raises:
        ValueError: the image is smaller than one block.
    """
    if min(image.shape) < BLOCK:
        raise ValueError(f"found {image.shape[0]}x{image.shape[1]} pixels, expected at least a block {BLOCK}x{BLOCK}")
    height, width = (side - side % BLOCK for side in image.shape)
    full = np.ascontiguousarray(image[:height, :width], dtype=np.float64)
    half = imresize(torch.from_numpy(full), scale=0.5).numpy()
    normalised, deviation = normalise(full)
    sharpness = _blocks(deviation, BLOCK).mean(axis=(1, 2))
    parts = [_statistics(_blocks(normalised, BLOCK)), _statistics(_blocks(normalise(half)[0], BLOCK // 2))]
    return np.concatenate(parts, axis=1), sharpness


def normalise(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean-subtracted, contrast-normalised luma, and the local deviation, both (H, W): equations 1 to 3."""
    mean = _local_mean(image)
    deviation = np.sqrt(np.abs(_local_mean(image**2) - mean**2))
    difference = image - mean
    # Sums in floating point leave signs at random in flat areas, and signs are what the features count.
    difference[np.abs(difference) < _FLAT] = 0
    return difference / (deviation + 1), deviation


def _local_mean(image: np.ndarray) -> np.ndarray:
    window = cv2.getGaussianKernel(_WINDOW, _SIGMA)
    return cv2.sepFilter2D(image, cv2.CV_64F, window, window, borderType=cv2.BORDER_REPLICATE)


def _blocks(image: np.ndarray, side: int) -> np.ndarray:
    """Cut (H, W) into (n, side, side)."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return image.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def _statistics(blocks: np.ndarray) -> np.ndarray:
    """Return the 18 features (n, 18) of normalised blocks (n, h, w) at one scale."""
    shape, left, right = fit_asymmetric(blocks)
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        # Neighbours of the last row and column are those of the first, as in the released code (`circshift`).
        shape, left, right = fit_asymmetric(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return np.stack(features, axis=1)


def fit_asymmetric(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit shape, left and right scale of an asymmetric generalized Gaussian, by moments, of each block (n, h, w).

    Source: Lasmar, Stitou and Berthoumieu, ICIP 2009. Shapes are looked up between 0.2 and 10 in steps of 0.001.
    """
    values = blocks.reshape(len(blocks), -1)
    squares = values**2
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (
            np.sqrt(np.where(side, squares, 0).sum(axis=1) / side.sum(axis=1)) for side in (values < 0, values > 0)
        )
        skew = left / right
        ratio = np.abs(values).mean(axis=1) ** 2 / squares.mean(axis=1)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    above = np.searchsorted(_RATIOS, ratio).clip(1, len(_RATIOS) - 1)
    nearest = np.where(np.abs(_RATIOS[above - 1] - ratio) <= np.abs(_RATIOS[above] - ratio), above - 1, above)
    # Quirk: the released code's search for the minimum among NaN stops at the first shape, so that blocks without
    # texture count with it in the mean. Published values of drawings and screenshots depend on this.
    shape = _SHAPES[np.where(np.isnan(ratio), 0, nearest)]
    spread = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * spread, right * spread


# --- the model of sharp photographs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class NiqeModel:
    """A multivariate Gaussian of the features of sharp photographs: mean (36,), covariance (36, 36)."""

    mean: np.ndarray
    covariance: np.ndarray

    def distance(self, features: np.ndarray) -> float:
        """Return equation 10: how far the Gaussian of an image's features (n, 36) is from this one.

        Raises ValueError if fewer than two blocks have texture, which have no covariance.
        """
        complete = features[~np.isnan(features).any(axis=1)]
        if len(complete) < 2:
            raise ValueError(
                f"found {len(complete)} blocks {BLOCK}x{BLOCK} with texture of {len(features)}, expected at least two"
            )
        difference = self.mean - np.nanmean(features, axis=0)
        inverse = np.linalg.pinv((self.covariance + np.cov(complete, rowvar=False)) / 2)
        return math.sqrt(max(0.0, float(difference @ inverse @ difference)))

    @classmethod
    def load(cls, path: Path) -> NiqeModel:
        """Read `mu` and `cov`, or `mu_pris_param` and `cov_pris_param`. Raises OptionError naming the file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: np.asarray(file[key], np.float64) for keys in _KEYS for key in keys if key in file}
        except FileNotFoundError:
            raise OptionError(f"model: there is no file {path}; {_TWO_WAYS}") from None
        except (OSError, *DAMAGED_ARRAY) as error:  # a TypeError is a single array's (.npy), which has no keys
            raise OptionError(f"model: {path} cannot be read as .npz ({error}); {_TWO_WAYS}") from error
        pair = next(((arrays[mean], arrays[cov]) for mean, cov in _KEYS if {mean, cov} <= arrays.keys()), None)
        if pair is None:
            raise OptionError(f"model: {path} holds no `mu` and `cov`; {_TWO_WAYS}")
        if pair[0].size != FEATURES or pair[1].shape != (FEATURES, FEATURES):
            shapes = f"{pair[0].shape} and {pair[1].shape}"
            raise OptionError(
                f"model: {path} holds arrays {shapes}, expected ({FEATURES},) and ({FEATURES}, {FEATURES})"
            )
        if not all(np.isfinite(array).all() for array in pair):
            raise OptionError(f"model: {path} holds values that are not finite; fit it again")
        return cls(pair[0].reshape(FEATURES), pair[1])

    def save(self, path: Path) -> None:
        """Write `mu` and `cov` as .npz; the file is whole or absent."""
        content = io.BytesIO()
        np.savez(content, mu=self.mean, cov=self.covariance)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, content.getvalue())


def fit_model(images: Iterable[np.ndarray], sharpness: float = SHARPNESS) -> tuple[NiqeModel, int]:
    """Return the model of photographs, as luma (H, W) in 0…255, and of how many blocks.

    Args:
        images: each at least one block large.
        sharpness: only blocks above this share of the sharpest of their image count.

    Raises:
        ValueError: the blocks are too few for a covariance of full rank.
    """
    kept = [np.empty((0, FEATURES))]
    for image in images:
        features, sharp = block_features(image)
        features = features[sharp > sharpness * sharp.max()]
        kept.append(features[~np.isnan(features).any(axis=1)])
    features = np.concatenate(kept)
    if len(features) <= FEATURES:
        raise ValueError(
            f"found {len(features)} sharp blocks {BLOCK}x{BLOCK}, expected more than {FEATURES} (better hundreds): "
            "use more photographs, or larger ones"
        )
    return NiqeModel(features.mean(axis=0), np.cov(features, rowvar=False)), len(features)


# --- the metric ------------------------------------------------------------------------------------------------------


@METRICS.register("niqe")
class Niqe(Metric):
    """Distance of an image's statistics to those of sharp photographs; lower is better, and no ground truth is needed.

    Luma is rounded. Beyond the last whole block of 96 pixels nothing counts. Calls raise ValueError unless the image
    has two blocks with texture.

    Args:
        model: .npz file with the statistics of sharp photographs: `mu` (36,) and `cov` (36, 36), or BasicSR's
            `mu_pris_param` and `cov_pris_param`.

    Raises:
        OptionError: there is no model, or it cannot be read.
    """

    higher_is_better = False
    needs_gt = False
    channels = ("y",)

    def __init__(self, model: str | None = None) -> None:
        if model is None:
            raise OptionError(f"model: niqe needs a file with the statistics of sharp photographs; {_TWO_WAYS}")
        self.model = NiqeModel.load(Path(model).expanduser())

    def __call__(self, sr: np.ndarray, gt: np.ndarray | None) -> float:
        return self.model.distance(block_features(luma(sr))[0])


# --- command line ----------------------------------------------------------------------------------------------------


def fit_folder(folder: Path, out: Path, sharpness: float, console: Console) -> None:
    """Fit a model on the images of a folder and write it. Images that cannot be used are named and left out."""
    listing = list_images(folder)
    paths = listing.files
    for remark in filter(None, [listing.remark, *changes(headers(paths))]):
        console.info(remark)
    used = []

    def photographs() -> Iterable[np.ndarray]:
        with console.progress(len(paths), desc="niqe fit") as progress:
            for path in paths:
                try:
                    image = luma(to_uint8(to_float(read_image(path))).astype(np.float64))
                except ImageError as error:
                    console.warn(f"left out: {error}")
                else:
                    if min(image.shape) >= BLOCK:
                        used.append(path)
                        yield image
                    else:
                        console.warn(f"left out: {path} is smaller than a block {BLOCK}x{BLOCK}")
                progress.update()

    try:
        model, blocks = fit_model(photographs(), sharpness)
    except ValueError as error:
        raise OptionError(f"{folder}: {error}") from error
    model.save(out)
    console.info(f"{out}: fitted on {blocks} sharp blocks of {len(used)} of {len(paths)} images")


@dataclass(frozen=True)
class Fit:
    """Fits a model on photographs."""

    folder: Annotated[Path, Arg("DIR", positional=True)]
    """Photographs: sharp, natural, without artefacts."""
    out: Annotated[Path, Arg("FILE")]
    """Model to write, .npz."""
    sharpness: Annotated[float, Field(ge=0, lt=1)] = SHARPNESS
    """See the paper."""


def main() -> int:
    """Run the command line; return the exit status."""
    description = (__doc__ or "").split("\n")[0]
    fit = parse_command({"fit": Fit}, prog="python -m utils.metrics.niqe", description=description)
    console = Console()
    try:
        fit_folder(fit.folder, fit.out, fit.sharpness, console)
    except (OptionError, OSError) as error:
        console.error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
