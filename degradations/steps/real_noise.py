"""Recorded noise: patches of flat places in real images, less their mean, added to the image (RealSR)."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import lmdb
import numpy as np

from degradations import STEPS, Drawn, Ragged, Size, State, Step
from degradations.operations.ragged import on_device
from degradations.plan import MissingPoolError, require_same
from utils.images.files import ImageError, decode_image, image_files, to_float
from utils.images.header import parse_header
from utils.options.fields import OptionError
from utils.storage.files import looked_in
from utils.storage.lmdb_reader import reader

PLAN, STATISTICS, SHEET = ".patches.json", "statistics.json", "sheet.png"
"""Files of a pool: what is to be collected, facts of what was, written last, and the overview, which is no patch."""
_DECODED = 1024  # patches kept in memory by each process, 200 MB of 256x256


@dataclass(frozen=True, eq=False)
class NoisePool:
    """Patches of noise by number, in the order of their names, with their sizes; `hash` tells them from others."""

    root: str
    names: tuple[str, ...]
    sizes: tuple[Size, ...]
    hash: str

    @classmethod
    def read(cls, root: str) -> "NoisePool":
        """Read a folder of images at any depth, or an LMDB database of them. The same files are looked at only once.

        Raises:
            MissingPoolError: where there is none or it is not finished.
            OptionError: for a file that is no image.
        """
        root = os.path.expanduser(root)
        if (Path(root) / PLAN).exists() and not (Path(root) / STATISTICS).exists():
            raise MissingPoolError(
                f"{root}: its collection was stopped before the end; the same command (`python -m data.prepare noise`) "
                "goes on"
            )
        try:
            if _is_database(root):
                files, names = [Path(root) / "data.mdb"], tuple(reader(root).keys())
            else:
                files = [path for path in image_files(root) if path != Path(root) / SHEET]
                # In the order of the keys of the same patches in a database, which have no endings.
                files.sort(key=lambda path: path.relative_to(root).with_suffix("").as_posix())
                names = tuple(path.relative_to(root).as_posix() for path in files)
            if names:
                return _read(root, names, tuple((s.st_size, s.st_mtime_ns) for s in (file.stat() for file in files)))
        except NotADirectoryError:
            pass
        except (OSError, lmdb.Error) as error:
            raise OptionError(f"{root}: cannot be read as a pool of noise ({error})") from error
        raise MissingPoolError(
            f"{root}: found no patches of noise{looked_in(root)}, expected a folder of images or an LMDB database; "
            "`python -m data.prepare noise IMAGES --out FOLDER` collects them"
        )

    def patch(self, index: int) -> np.ndarray:
        """Return a patch (h, w, 3), float32 in [0, 1]. Raises ImageError for a file that is gone."""
        return to_float(_decoded(self, index))


@lru_cache(maxsize=8)
def _read(root: str, names: tuple[str, ...], stamps: tuple[tuple[int, int], ...]) -> NoisePool:
    digest, sizes = hashlib.sha256(), []
    for name in names:
        data = _bytes(root, name)
        header = parse_header(data)
        sizes.append(header.size or decode_image(data, f"{root}/{name}").shape[:2])
        if header.damage is not None:
            raise ImageError(f"{root}/{name}: {header.damage}")
        digest.update(hashlib.sha256(data).digest())
    return NoisePool(root, names, tuple(sizes), digest.hexdigest()[:16])


@lru_cache(maxsize=_DECODED)
def _decoded(pool: NoisePool, index: int) -> np.ndarray:
    return decode_image(_bytes(pool.root, pool.names[index]), f"{pool.root}/{pool.names[index]}")


def _is_database(root: str) -> bool:
    return (Path(root) / "data.mdb").is_file()


def _bytes(root: str, name: str) -> bytes:
    try:
        return (reader(root).get(name) or b"") if _is_database(root) else (Path(root) / name).read_bytes()
    except (OSError, lmdb.Error) as error:
        raise ImageError(f"{root}/{name}: cannot be read ({error})") from error


@STEPS.register("real_noise")
class RealNoise(Step):
    """Add noise from a pool: a crop of a patch, less the crop's mean in each channel; clipped (Ji et al., "Real-World
    Super-Resolution via Kernel Estimation and Noise Injection", CVPRW 2020, Sec. 3.2).

    An image larger than the patch gets the patch mirrored to and fro, from a random place on, which has no seams.
    Training crops of that size are refused. A plan holds a hash of the whole pool; with another one it is refused.

    Args:
        path: a folder of patches, or an LMDB database (see `NoisePool`).
        augment: turn the noise by a random number of quarters and mirror it half of the time (released: never).
    """

    def __init__(self, path: str, augment: bool = True) -> None:
        self.path, self.augment = path, augment
        with suppress(MissingPoolError):  # what is still to be made is missed by the first draw
            _ = self.pool

    @cached_property
    def pool(self) -> NoisePool:
        """Return the patches; reading them may raise OptionError."""
        return NoisePool.read(self.path)

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        pool = self.pool
        if state.shared.get("training_crop"):
            self._check(state.size)
        index = int(rng.integers(len(pool.names)))
        turns = int(rng.integers(4)) if self.augment else 0
        mirrored = bool(rng.integers(2)) if self.augment else False
        size = state.size[::-1] if turns % 2 else state.size
        top, left = (int(rng.integers(_places(*pair))) for pair in zip(pool.sizes[index], size, strict=True))
        return {"pool": pool.hash, "index": index, "top": top, "left": left, "turns": turns, "mirrored": mirrored}

    def _check(self, size: Size) -> None:
        """Raise MissingPoolError for an image that some patch does not cover."""
        sides = [min(patch) for patch in self.pool.sizes]
        least = sides.index(min(sides))
        if sides[least] < max(size):
            height, width = self.pool.sizes[least]
            raise MissingPoolError(
                f"{self.path}/{self.pool.names[least]}: a patch of {height}x{width} does not cover a low-quality crop "
                f"of {size[0]}x{size[1]}; collect larger patches (`python -m data.prepare noise --size {max(size)}`), "
                "or take a smaller crop_size"
            )

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        fields = [self.noise(d, size) for d, size in zip(drawn, images.sizes, strict=True)]
        return images.per_image(lambda image, i: image + on_device(fields[i], image.device)).clip()

    def noise(self, drawn: Drawn, size: Size) -> np.ndarray:
        """Return the drawn noise (3, h, w) of zero mean for an image of this size, float32 in [0, 1] units."""
        require_same(drawn["pool"], self.pool.hash, "noise", self.path)
        patch = self.pool.patch(drawn["index"])
        height, width = size[::-1] if drawn["turns"] % 2 else size
        rows = _to_and_fro(drawn["top"], height, patch.shape[0])
        columns = _to_and_fro(drawn["left"], width, patch.shape[1])
        crop = np.rot90(patch[rows][:, columns], drawn["turns"])
        crop = crop[::-1] if drawn["mirrored"] else crop
        mean = crop.mean((0, 1), dtype=np.float64)  # of a whole image, float32 would lose digits
        return np.ascontiguousarray((crop - mean).transpose(2, 0, 1), np.float32)


def _places(length: int, size: int) -> int:
    """Count the first pixels there are to draw from, for `size` pixels from a patch of `length`."""
    return length - size + 1 if size <= length else max(1, 2 * length - 2)


def _to_and_fro(start: int, count: int, length: int) -> np.ndarray:
    """Return `count` indices from `start` on, turning round at both ends, where none is repeated."""
    at = (start + np.arange(count)) % max(1, 2 * length - 2)
    return np.minimum(at, 2 * length - 2 - at)
