"""Photographs that are already on the disk: they ship inside scikit-image and scikit-learn."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from data.source import DATASETS, Source
from data.sources.folder import read_listed
from utils.options.fields import OptionError

# Only files inside the wheels, read by path: the packages' own loaders may download. Chosen by eye: natural scenes,
# in focus, at least 400 pixels high for training. Left out: micrographs, sky surveys, the soft or drawn ones, and the
# right half of the motorcycle's stereo pair.
_IMAGE, _LEARN = "skimage/data", "sklearn/datasets/images"
_TRAIN = (
    f"{_IMAGE}/astronaut.png",  # 512x512
    f"{_LEARN}/china.jpg",  # 427x640
    f"{_IMAGE}/motorcycle_left.png",  # 500x741
    f"{_IMAGE}/rocket.jpg",  # 427x640
    f"{_IMAGE}/camera.png",  # 512x512 gray
    f"{_IMAGE}/grass.png",  # 512x512 gray
    f"{_IMAGE}/gravel.png",  # 512x512 gray
)
_VALIDATION = (
    f"{_IMAGE}/chelsea.png",  # 300x451
    f"{_IMAGE}/coffee.png",  # 400x600
    f"{_LEARN}/flower.jpg",  # 427x640
)
_SPLITS = {"train": _TRAIN, "validation": _VALIDATION, "all": _TRAIN + _VALIDATION}


@DATASETS.register("photos")
class Photos(Source):
    """The ten photographs inside scikit-image and scikit-learn: enough to see a model learn, without any download.

    Args:
        split: `train` (seven, of which three are gray), `validation` (three, all in colour) or `all`.

    Raises:
        OptionError: scikit-image or scikit-learn is not installed.
    """

    def __init__(self, split: Literal["train", "validation", "all"] = "train") -> None:
        self._names = _SPLITS[split]
        for name in self._names:
            _locate(name)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def path(self, index: int) -> Path:
        return _locate(self._names[index])

    def read(self, index: int) -> np.ndarray:
        return _photo(self._names[index])


@cache
def _photo(name: str) -> np.ndarray:
    """Decode a photo once per process; read-only, since everybody gets the same array."""
    image = read_listed(_locate(name))
    image.flags.writeable = False
    return image


def _locate(name: str) -> Path:
    package, _, rest = name.partition("/")
    spec = find_spec(package)  # finds the folder without importing the package, which takes a second
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / rest
    if path is None or not path.is_file():
        raise OptionError(
            f"the photo {name} is not installed; run `python -m pip install -e '.[demo]'`, "
            "or train on your own images with `type: folder`"
        )
    return path
