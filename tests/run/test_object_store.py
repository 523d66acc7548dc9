"""A run that learns from object storage and keeps its checkpoints there."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.prepare.__main__ import main as prepare
from tests.helpers import ROOT
from tests.object_store import object_store
from tests.programs import call, environment
from tests.run.tiny import assert_equal_states, final_states, finished, option_tree, pictures, write_options
from utils.storage.places import Place

pytest.importorskip("s3fs", reason="extra `cloud` is not installed")
pytest.importorskip("moto.server", reason="extra `test` is not installed")


@pytest.mark.slow
def test_killed_on_one_machine_it_goes_on_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(tmp_path / "images", count=9)
    tree = option_tree(images)
    expected = finished(write_options(tmp_path / "folder.yml", tree), tmp_path / "runs")
    with object_store() as (proxy, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert prepare(["shards", str(images), "--out", "s3://bucket/set", "--size", "20kB", "--workers", "1"]) == 0
        tree["data"]["train"]["pictures"] = {"type": "shards", "root": "s3://bucket/set", "cache": str(tmp_path / "c")}
        options = write_options(tmp_path / "shards.yml", tree)
        proxy.latency = 0.02
        proxy.faults.extend(["drop", "", "truncate", "500", "expired"])
        given = ["--opt", str(options), "--runs", "s3://bucket/runs", "--device", "cpu"]
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        first = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *given],
            cwd=tmp_path / "one",
            env=environment(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        place, deadline = Place("s3://bucket/runs/tiny"), time.monotonic() + 300
        while "checkpoints/psnr_00000005/manifest.json" not in place.names():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
        second = call("train", *given, cwd=tmp_path / "two")
        assert second.returncode == 0, second.stderr
        assert "brought from s3://bucket/runs/tiny: psnr_00000005" in second.stdout
        here = tmp_path / "two" / "runs" / "tiny"
        assert_equal_states(final_states(here), final_states(expected.folder))
        assert "checkpoints/gan_00000004/manifest.json" in place.names()
        written = [path.read_bytes() for path in here.rglob("*") if path.is_file()]
        assert all(b"geheim" not in content for content in (*written, second.stdout.encode(), second.stderr.encode()))


@pytest.mark.slow
def test_a_run_goes_on_when_its_folder_becomes_shards(tmp_path: Path) -> None:
    images, out = pictures(tmp_path / "images"), tmp_path / "set"
    tree = option_tree(images, psnr=3, gan=2)
    options = write_options(tmp_path / "folder.yml", tree)
    expected = finished(options, tmp_path / "expected")
    finished(options, tmp_path / "runs", "--stage", "psnr")
    assert prepare(["shards", str(images), "--out", str(out), "--workers", "1"]) == 0
    tree["data"]["train"]["pictures"] = {"type": "shards", "root": str(out)}
    done = finished(write_options(tmp_path / "shards.yml", tree), tmp_path / "runs")
    assert_equal_states(final_states(done.folder), final_states(expected.folder))


def test_too_many_unreadable_images_end_a_run_with_everything_saved(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    out = tmp_path / "set"
    assert prepare(["shards", str(images), "--out", str(out), "--size", "1", "--workers", "1"]) == 0
    (out / "000000.tar").unlink()
    tree = option_tree(images, psnr=30, save_every=1000)
    tree["data"] |= {"train": {"pictures": {"type": "shards", "root": str(out)}}, "max_unreadable": 0}
    done = call(
        "train", "--opt", write_options(tmp_path / "t.yml", tree), "--runs", tmp_path, "--device", "cpu", cwd=tmp_path
    )
    assert done.returncode == 1 and "more than max_unreadable (0)" in done.stderr
    assert "000000.tar" in done.stdout + done.stderr
    saved = list((tmp_path / "tiny" / "checkpoints").glob("psnr_*"))
    assert len(saved) == 1, "what was learned until then"
