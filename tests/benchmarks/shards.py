"""Shards in object storage against a local folder, and what a set of many images costs.

python -m tests.benchmarks.shards PHOTOS [--latency 0.02] [--rounds 3] [--parts throughput many shuffling]
"""

import argparse
import io
import os
import sys
import tarfile
import tempfile
import time
import warnings
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.ahead import loader_options
from data.prepare.shards import index_tars, make_shards
from data.sampler import LookingAhead, StepSampler, index_of
from data.source import Source, SourceEntry
from data.sources.folder import Folder
from data.sources.shards import Shards
from data.training import DataOptions, Mix, TrainingSet
from degradations import DEGRADATIONS
from tests.object_store import object_store
from utils.images.files import encode_image, image_files, read_image, write_image
from utils.logging import Console, table

TILE, CROP, BATCH, TILES = 512, 256, 16, 96


def serve(pipe: Connection, latency: float) -> None:
    """The store, in a process of its own; each message is answered by what was sent since the last."""
    with object_store() as (proxy, variables):
        proxy.latency, proxy.keeps = latency, True
        pipe.send(variables)
        while pipe.recv():
            pipe.send(dict(proxy.counts) | {"at once": proxy.most_at_once})
            proxy.counts.clear()


def tiles(photos: Path, out: Path) -> Path:
    """Tiles of 512 px, each of four parts of photographs."""
    files, rng = image_files(photos), np.random.default_rng(0)
    for number in range(TILES):
        parts = [read_image(files[i])[:256, :256] for i in rng.integers(len(files), size=4)]
        rows = [np.concatenate(parts[at : at + 2], 1) for at in (0, 2)]
        write_image(out / f"{number:04d}.png", np.concatenate(rows))
    return out


def training_set(source: Source) -> TrainingSet:
    """Crops of 256 px, which are not degraded."""
    mix = Mix((SourceEntry(source),), ("mine",), (DEGRADATIONS.build("bicubic", scale=4),))
    options = DataOptions(train={}, crop_size=CROP, batch_size=BATCH)
    return TrainingSet(mix, options, seed=0, stage="", batch_size=BATCH, in_worker=False)


def epoch(source: Source) -> tuple[float, float]:
    """Seconds of the clock and of the processor for each image once, in this process."""
    sampler = LookingAhead(StepSampler(BATCH, 1, TILES // BATCH), 1)
    loader = DataLoader(training_set(source), batch_sampler=sampler, **loader_options(0, torch.device("cpu")))
    clock, processor = time.monotonic(), time.process_time()
    for _ in loader:
        pass
    return time.monotonic() - clock, time.process_time() - processor


def throughput(photos: Path, folder: Path, latency: float, rounds: int, console: Console) -> None:
    """A folder of tiles and the same in object storage, cold, in turn."""
    local = tiles(photos, folder / "tiles")
    ours, theirs = get_context("spawn").Pipe()
    server = get_context("spawn").Process(target=serve, args=(theirs, latency), daemon=True)
    server.start()
    os.environ.update(ours.recv())
    make_shards(local, None, "s3://bucket/set", 16_000_000, None, (1, 1), 1, Console(rank=1))
    for tar in range(9):  # the proxy holds what it has served once, so that moto's own time is not measured
        if tar < len((known := Shards("s3://bucket/set")).index.tars):
            known.index.place.read(f"{tar:06d}.tar", 0, 1)
    found: dict[str, list[tuple[float, float]]] = {}
    sent: dict[str, dict[str, int]] = {}
    for number in range(rounds):
        sources: dict[str, Source] = {
            "folder": Folder(str(local)),
            "s3, no cache": Shards("s3://bucket/set"),
            "s3, cold cache": Shards("s3://bucket/set", cache=str(folder / f"cold{number}")),
            "s3, warm cache": Shards("s3://bucket/set", cache=str(folder / f"cold{number}")),
            "s3, locality 16": Shards("s3://bucket/set", cache=str(folder / f"runs{number}"), locality=16),
            "s3, one at a time": Shards("s3://bucket/set", requests=1),
        }
        for name, source in sources.items():
            ours.send(True)
            ours.recv()
            found.setdefault(name, []).append(epoch(source))
            ours.send(True)
            sent[name] = ours.recv()
    base = [median(column) for column in zip(*found["folder"], strict=True)]
    size = sum(path.stat().st_size for path in image_files(local)) / TILES
    rows = []
    for name, times in found.items():
        clock, processor = (median(column) for column in zip(*times, strict=True))
        each = sent[name].get("bytes", 0) / TILES
        rows.append(
            [
                name,
                f"{TILES / clock:.1f}",
                f"{base[0] / clock:.2f}",
                f"{1000 * processor / TILES:.1f}",
                f"{base[1] / processor:.2f}",
                sent[name].get("GET", 0),
                f"{each / 1000:.0f}",
                f"{each / (size * CROP**2 / TILE**2):.2f}",
            ]
        )
    heads = [
        "tiles from",
        "images/s",
        "of folder",
        "CPU ms/image",
        "folder's / it",
        "requests",
        "kB/image",
        "of the crop's share",
    ]
    console.info(table(heads, rows))
    ours.send(False)
    server.join()


def many(folder: Path, console: Console) -> None:
    """Start-up and memory by the number of images, each in a process of its own."""
    rows = []
    warnings.filterwarnings("ignore", "This DataLoader will create")
    for count in (1_000, 10_000, 100_000):
        root = folder / f"many{count}"
        root.mkdir()
        content = encode_image("x.png", np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
        for tar in range(max(1, count // 10_000)):
            with tarfile.open(root / f"{tar:06d}.tar", "w") as opened:
                for number in range(min(count, 10_000)):
                    member = tarfile.TarInfo(f"photos/{tar:06d}/{number:09d}.png")
                    member.size = len(content)
                    opened.addfile(member, io.BytesIO(content))
        ours, theirs = get_context("fork").Pipe()
        process = get_context("fork").Process(target=indexing, args=(theirs, str(root)))
        process.start()
        indexed = ours.recv()
        process.join()
        for workers in (0, 2, 8):
            process = get_context("fork").Process(target=opening, args=(theirs, str(root), workers))
            process.start()
            seconds, memory, private = ours.recv()
            process.join()
            rows.append([f"{count:,}", f"{indexed:.1f}", workers, f"{seconds:.2f}", f"{memory:.1f}", f"{private:.1f}"])
    console.info(
        table(["images", "indexed, CPU s", "workers", "opened, CPU s", "MB", "MB of its own per worker"], rows)
    )


def indexing(pipe: Connection, root: str) -> None:
    """Index tars."""
    started = time.process_time()
    index_tars(root, None, 1, Console(rank=1))
    pipe.send(time.process_time() - started)


def opening(pipe: Connection, root: str, workers: int) -> None:
    """Open a set, and read batches by workers."""
    Shards(str(Path(root).parent / "many1000"))  # what any first use costs
    before, started = resident("Rss"), time.process_time()
    source = Shards(root)
    seconds, memory = time.process_time() - started, resident("Rss") - before
    drawn = training_set(source)
    private = []
    for batch in DataLoader(
        Reporting(drawn), batch_sampler=StepSampler(16, 1, 16), num_workers=workers, collate_fn=list
    ):
        private += batch
    pipe.send((seconds, memory, median(private) if workers else 0.0))


class Reporting(torch.utils.data.Dataset[float]):
    """Reads samples, and gives how much the process's own memory has grown meanwhile."""

    def __init__(self, drawn: TrainingSet) -> None:
        self.drawn, self.before = drawn, -1.0

    def __getitems__(self, numbers: list[int]) -> list[float]:
        self.before = resident("Private_Dirty") if self.before < 0 else self.before
        for number in numbers:
            self.drawn.sample(number)
        return [resident("Private_Dirty") - self.before]


def resident(kind: str) -> float:
    """Megabytes of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(kind + ":"))) / 1024


def shuffling(console: Console) -> None:
    """How many different runs of neighbours a batch has, by `locality`, and how far apart runs of an image's are."""
    rows, count = [], 1_000_000
    for locality in (1, 16, 64, 256):
        numbers = range(2**16)
        runs = [index_of(n, 0, "", [count], [None], [locality])[1] // 64 for n in numbers]
        distinct = np.mean([len(set(runs[at : at + BATCH])) for at in range(0, len(runs), BATCH)])
        rows.append(
            [locality, f"{distinct:.2f} of {BATCH}", max(1000, 32 * locality) if locality > 1 else f"{count:,}"]
        )
    console.info(table(["locality", "different runs of 64 in a batch", "samples mixed with one another"], rows))


def main() -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["throughput", "many", "shuffling"])
    args, console = parser.parse_args(), Console()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        if "throughput" in args.parts:
            throughput(args.photos, Path(made), args.latency, args.rounds, console)
        if "many" in args.parts:
            many(Path(made), console)
        if "shuffling" in args.parts:
            shuffling(console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
