"""Loading crops in one process: images per second from photographs (decoded each time, or kept), tiles and LMDB."""

import random
import shutil
import tempfile
from pathlib import Path

import cv2
import lmdb
import numpy as np
import torch

from data.cache import ImageCache
from data.prepare.convert import convert
from data.prepare.lmdb import write_database
from data.prepare.tiles import Tiles
from data.source import Source, SourceEntry
from data.sources.folder import Folder
from data.sources.lmdb import Lmdb
from data.training import DataOptions, Mix, TrainingSet
from degradations import DEGRADATIONS
from tests.benchmarks.measuring import Row, Work, against
from tests.golden.training_inputs import synthetic_batch
from utils.images.files import image_files, write_image
from utils.logging import Console

CROP, BATCH, PHOTO = 256, 8, (1356, 2040)
"""Side of the crops, crops in a batch, size of a photograph (as in DIV2K)."""


def rows(calls: int) -> list[Row]:
    """All kinds of storage; the device has no part in it."""
    found, silent = [], Console(rank=1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for i, image in enumerate(synthetic_batch(2, *PHOTO, 0)):
            for kind in ("png", "jpg"):
                photo = (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
                write_image(folder / kind / f"{i}.{kind}", photo)
        convert(Tiles(480, 240, 0), folder / "png", folder / "tiles", "", 0, silent)
        write_database(folder / "tiles", folder / "tiles.lmdb", "", 0, silent)
        shutil.copytree(folder / "tiles.lmdb", folder / "plain.lmdb")  # LMDB opens none twice in a process
        sources: dict[str, Source] = {
            "PNG": Folder(str(folder / "png")),
            "JPEG": Folder(str(folder / "jpg")),
            "tiles of 480 px": Folder(str(folder / "tiles")),
            "tiles in LMDB": Lmdb(str(folder / "tiles.lmdb")),
        }
        for name, source in sources.items():
            versions = {"ours": loaded(source)}
            if name in ("PNG", "JPEG"):
                kept = Folder(str(folder / ("png" if name == "PNG" else "jpg")))
                kept.cache = ImageCache(folder / "cache")
                versions["ours, data.cache"] = loaded(kept)
            stored = folder / {"PNG": "png", "JPEG": "jpg", "tiles in LMDB": "plain.lmdb"}.get(name, "tiles")
            plain = (PlainLoader(stored), 1)
            found += against(f"crops of {CROP} px from {name}", "images", plain, versions, calls, torch.device("cpu"))
    return found


def loaded(source: Source) -> Work:
    """Load a batch of crops a call."""
    mix = Mix((SourceEntry(source),), ("photos",), (DEGRADATIONS.build("bicubic", scale=4),))
    options = DataOptions(train={}, crop_size=CROP, batch_size=BATCH)
    crops = TrainingSet(mix, options, seed=0, stage="", batch_size=BATCH, in_worker=False)
    return lambda i: crops.__getitems__(range(i * BATCH, (i + 1) * BATCH)), BATCH


class PlainLoader:
    """In the manner of the released data sets: the whole image in float32, then the crop, its turn and a tensor."""

    def __init__(self, stored: Path) -> None:
        self.database = lmdb.open(str(stored), readonly=True, lock=False) if stored.suffix == ".lmdb" else None
        if self.database is None:
            self.keys = [str(path) for path in image_files(stored)]
        else:
            self.keys = [line.split(".")[0] for line in (stored / "meta_info.txt").read_text().splitlines()]

    def __call__(self, i: int) -> torch.Tensor:
        """One crop (3, H, W)."""
        key = self.keys[i % len(self.keys)]
        if self.database is None:
            data = Path(key).read_bytes()
        else:
            with self.database.begin() as transaction:
                data = transaction.get(key.encode())
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(np.float32) / 255
        top, left = (random.randint(0, side - CROP) for side in image.shape[:2])
        crop = image[top : top + CROP, left : left + CROP]
        crop = cv2.flip(crop, 1) if random.random() < 0.5 else crop
        crop = crop.transpose(1, 0, 2) if random.random() < 0.5 else crop
        rgb = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_BGR2RGB)
        return torch.from_numpy(rgb.transpose(2, 0, 1)).float()
