"""Shards in object storage: a real S3 server, behind a proxy that adds latency and faults."""

import fcntl
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.ahead import loader_options
from data.prepare.__main__ import main as prepare
from data.sampler import LookingAhead, StepSampler
from data.shard_cache import Cache
from data.source import Source, SourceEntry, UnreadableImageError
from data.sources.folder import Folder
from data.training import DataOptions, Mix, TrainingSet
from degradations import DEGRADATIONS
from tests.object_store import Proxy, object_store
from tests.unit.test_shards import assert_same, build, photos
from utils.options.fields import OptionError
from utils.storage import places
from utils.storage.places import Place

pytest.importorskip("s3fs", reason="extra `cloud` is not installed")
pytest.importorskip("moto.server", reason="extra `test` is not installed")

ROOT = "s3://bucket/set"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Proxy, dict[str, str]]]:
    with object_store() as store:
        yield store


@pytest.fixture
def proxy(served: tuple[Proxy, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """An empty bucket."""
    proxy, variables = served
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(places, "FIRST_WAIT", 0.001)
    yield proxy
    proxy.latency = 0
    proxy.faults.clear()
    bucket = Place("s3://bucket")
    for name in bucket.names():
        bucket.remove(name)


@pytest.fixture
def folder(tmp_path: Path, proxy: Proxy) -> Path:
    """Images, which are in the bucket, too."""
    root = photos(tmp_path / "photos", 23)
    assert prepare(["shards", str(root), "--out", ROOT, "--size", "40kB", "--workers", "1"]) == 0
    proxy.counts.clear()
    proxy.most_at_once = 0
    return root


def batches(source: Source, workers: int, steps: int = 5, start: str | None = None) -> list[torch.Tensor]:
    mix = Mix((SourceEntry(source),), ("mine",), (DEGRADATIONS.build("bicubic", scale=2),))
    options = DataOptions(train={}, crop_size=32, batch_size=8)
    drawn = TrainingSet(mix, options, seed=3, stage="psnr", batch_size=8, in_worker=True)
    sampler = LookingAhead(StepSampler(8, 1, steps), max(1, workers))
    how = {**loader_options(workers, torch.device("cpu")), "multiprocessing_context": start}
    return [batch.lq for batch in DataLoader(drawn, batch_sampler=sampler, **how)]


# --- samples -------------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_folder_through_faults_and_a_cache_that_is_full(
    folder: Path, proxy: Proxy, tmp_path: Path
) -> None:
    expected = batches(Folder(str(folder)), 0)
    proxy.latency = 0.003
    for cache in ({}, {"cache": str(tmp_path / "cache")}, {"cache": str(tmp_path / "small"), "cache_size": "30kB"}):
        proxy.faults.extend(["drop", "", "500", "truncate", "slow_down", "", "corrupt", "expired"])
        source = build(root=ROOT, **cache)
        for mine, theirs in zip(batches(source, 0), expected, strict=True):
            assert torch.equal(mine, theirs)
        assert not proxy.faults
    assert_same(build(root=ROOT), Folder(str(folder)))
    assert 2 < proxy.most_at_once <= 8, "read ahead"


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_for_themselves(folder: Path, start: str, tmp_path: Path) -> None:
    source = build(root=ROOT, cache=str(tmp_path / "cache"))
    source.ahead([0, 1])
    source.read(0)  # the parent has connections and threads when the workers start
    for mine, theirs in zip(batches(source, 2, start=start), batches(Folder(str(folder)), 0), strict=True):
        assert torch.equal(mine, theirs)


def test_only_what_is_needed_is_read(folder: Path, proxy: Proxy) -> None:
    source = build(root=ROOT)
    proxy.counts.clear()
    source.read(3)
    assert proxy.counts == {"GET": 1, "bytes": Path(Folder(str(folder)).name(3)).stat().st_size}


def test_ranks_read_what_their_samples_need_and_nothing_twice(folder: Path, proxy: Proxy, tmp_path: Path) -> None:
    """Two ranks of a node share its cache; an epoch is one request an image."""
    sources = [build(root=ROOT, cache=str(tmp_path / "cache")) for _ in range(2)]
    mixes = [Mix((SourceEntry(s),), ("mine",), (DEGRADATIONS.build("bicubic", scale=2),)) for s in sources]
    options = DataOptions(train={}, crop_size=32, batch_size=12)
    proxy.counts.clear()
    for rank, mix in enumerate(mixes):
        drawn = TrainingSet(mix, options, seed=3, stage="psnr", batch_size=12, in_worker=False)
        for numbers in StepSampler(12, 1, 2, rank, 2):  # 24 images in all
            drawn.__getitems__(numbers)
        assert proxy.counts["GET"] == 12 * (rank + 1)


def test_runs_of_neighbours_are_one_request(folder: Path, proxy: Proxy, tmp_path: Path) -> None:
    source = build(root=ROOT, cache=str(tmp_path / "cache"), locality=8)
    proxy.counts.clear()
    read = [source.read(i) for i in range(len(source))]
    theirs = Folder(str(folder))
    assert all(np.array_equal(mine, theirs.read(i)) for i, mine in enumerate(read))
    tars = len(source.index.tars)
    assert proxy.counts["GET"] <= 24 // 8 + tars
    with pytest.raises(OptionError, match="locality: .* `cache`"):
        build(root=ROOT, locality=8)


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop", "500", "truncate", "slow_down", "corrupt", "expired"])
def test_faults_that_stay_are_an_unreadable_image(
    folder: Path, proxy: Proxy, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = build(root=ROOT)
    caplog.set_level(logging.INFO)
    proxy.faults.extend([fault] * 50)
    with pytest.raises(UnreadableImageError, match=rf"a0\.b\.png: .*after {places.TRIES} tries") as refused:
        source.read(0)
    proxy.faults.clear()
    assert "geheim" not in str(refused.value) + caplog.text
    np.testing.assert_array_equal(source.read(0), Folder(str(folder)).read(0))  # and then it is over


def test_a_tar_that_is_replaced_or_gone(folder: Path) -> None:
    source, place = build(root=ROOT), Place(ROOT)
    place.write("000000.tar", bytes(100_000))
    with pytest.raises(UnreadableImageError, match="checksum is another than in the index"):
        source.read(0)
    place.remove("000000.tar")
    started = time.monotonic()
    with pytest.raises(UnreadableImageError, match="no such file"):
        source.read(0)
    assert time.monotonic() - started < 1, "is not tried again"


def test_other_kinds_of_urls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web server that knows ranges serves a set; a missing library is named."""
    Place(ROOT)._files().chmod(ROOT, "public-read", recursive=True)  # noqa: SLF001
    assert_same(build(root=f"{os.environ['AWS_ENDPOINT_URL']}/bucket/set"), Folder(str(folder)))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(OptionError, match=r"gs://bucket/set: .*gcsfs"):
        build(root="gs://bucket/set")


def test_what_is_no_set(proxy: Proxy) -> None:
    with pytest.raises(OptionError, match=r"s3://bucket/none has no manifest\.json"):
        build(root="s3://bucket/none")
    proxy.faults.clear()


# --- preparing -----------------------------------------------------------------------------------------------------


def test_preparing_goes_on_where_it_stopped(tmp_path: Path, proxy: Proxy) -> None:
    root = photos(tmp_path / "photos")
    command = ["shards", str(root), "--out", ROOT, "--size", "20kB", "--workers", "1"]
    assert prepare([*command, "--part", "1/2"]) == 0 and prepare([*command, "--part", "2/2"]) == 0
    Place(ROOT).remove("000001.tar.json")
    before = Place(ROOT).names()
    proxy.counts.clear()
    assert prepare(command) == 0
    assert proxy.counts["PUT"] == 3, "a tar, its index and the manifest"
    assert set(Place(ROOT).names()) == {*before, "000001.tar.json"}
    Place(ROOT).remove("manifest.json")
    assert prepare(["index", ROOT, "--out", str(tmp_path / "index"), "--workers", "1"]) == 0
    assert_same(build(root=str(tmp_path / "index")), Folder(str(root)))


# --- the cache -----------------------------------------------------------------------------------------------------


def stored(folder: Path) -> int:
    sizes = []
    for path in folder.glob("??/*"):
        with suppress(FileNotFoundError):  # removed meanwhile
            sizes.append(path.stat().st_size)
    return sum(sizes)


def test_the_cache_saves_requests_and_mends_itself(folder: Path, proxy: Proxy, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    source = build(root=ROOT, cache=str(cache))
    first = [source.read(i) for i in range(len(source))]
    proxy.counts.clear()
    again = build(root=ROOT, cache=str(cache))
    proxy.counts.clear()
    assert all(np.array_equal(again.read(i), expected) for i, expected in enumerate(first))
    assert proxy.counts["GET"] == 0
    for number, path in enumerate(sorted(cache.glob("??/*"))[:2]):
        content = path.read_bytes()
        path.write_bytes(content[:-9] if number else b"!" + content[1:])
    assert all(np.array_equal(again.read(i), expected) for i, expected in enumerate(first))
    assert proxy.counts["GET"] == 2


def whole(content: bytes) -> str | None:
    return None if len(set(content)) == 1 else "mixed"


def test_the_oldest_go_first_and_the_size_is_never_passed(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 1000)
    for number in range(9):
        cache.put(str(number), bytes([number]) * 100)
        os.utime(cache._path(str(number)), (number, number))  # noqa: SLF001
    assert cache.get("0", whole) is not None, "now the newest"
    cache.put("9", b"9" * 100)
    cache.put("10", b"x" * 100)
    assert stored(tmp_path) <= 1000
    assert cache.get("0", whole) is not None and cache.get("1", whole) is None and cache.get("10", whole) is not None
    cache.put("large", b"1" * 901)
    assert cache.get("large", whole) is None
    Cache(str(tmp_path), 300)
    assert stored(tmp_path) <= 300, "made smaller"


def _write_for_ever(folder: str, start: int) -> None:
    cache = Cache(folder, 200_000)
    for number in range(start, start + 10**6):
        cache.put(str(number % 300), bytes([number % 256]) * 5000)


def test_two_writers_and_a_kill_leave_whole_files_within_the_size(tmp_path: Path) -> None:
    writers = [
        multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(str(tmp_path), start))
        for start in (0, 150)
    ]
    for writer in writers:
        writer.start()
    try:
        for _ in range(20):
            time.sleep(0.02)
            assert stored(tmp_path) <= 200_000 + 2 * 5000  # what is being written aside
    finally:
        for writer in writers:
            os.kill(writer.pid or 0, signal.SIGKILL)
            writer.join()
    cache = Cache(str(tmp_path), 200_000)
    assert stored(tmp_path) <= 200_000
    found = [cache.get(str(number), whole) for number in range(300)]
    assert any(found) and all(len(content) == 5000 for content in found if content is not None)
    assert int((tmp_path / "total").read_text()) == stored(tmp_path)


def test_a_fork_does_not_keep_a_lock(tmp_path: Path) -> None:
    """Workers may be forked while a thread of their parent has one."""
    cache = Cache(str(tmp_path), 1000)
    with cache.lock("total"):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    with (tmp_path / "locks" / "total").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    worker.kill()
    worker.join()


def test_a_cache_that_serves_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"cache_size": "5kB"}, r"cache_size: found 5000, expected at least \d+ bytes for the largest image"),
        ({"cache_size": "50kB", "locality": 8}, "for what locality 8 reads together"),
        ({"cache": str(folder / "deep.png")}, r"cache: cannot use the folder .*deep\.png"),
    ):
        with pytest.raises(OptionError, match=message):
            build(root=ROOT, **{"cache": str(tmp_path / "cache"), **options})


def test_a_cache_that_cannot_be_written_is_warned_of(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"), 1000)
    (tmp_path / "cache" / "total").unlink()
    (tmp_path / "cache" / "total").mkdir()
    with pytest.warns(UserWarning, match="the cache cannot be written"):
        cache.put("a", b"a")
