"""One run folder, one run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.options.fields import OptionError
from utils.storage.lock import RunLock

ROOT = Path(__file__).resolve().parents[2]
# The holder forks a child that outlives it, as data workers do.
HOLD = """
import os, sys, time
from utils.storage.lock import RunLock
lock = RunLock(sys.argv[1])
if sys.argv[2] == "fork" and os.fork() == 0:
    time.sleep(60)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def hold(folder: Path, fork: str = "no") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), fork]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize("fork", ["no", "fork"])
def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path: Path, fork: str) -> None:
    process = hold(tmp_path, fork)
    try:
        with pytest.raises(OptionError) as refused:
            RunLock(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert f"pid {process.pid}, started 20" in str(refused.value)
        process.kill()
        process.wait()
        RunLock(tmp_path).release()
    finally:
        os.killpg(process.pid, signal.SIGKILL) if fork == "fork" else process.kill()
        process.wait()


def test_a_released_folder_can_be_used_by_another(tmp_path: Path) -> None:
    with RunLock(tmp_path / "new" / "run") as lock:
        assert lock.path.is_file()
    lock.release()
    process = hold(tmp_path / "new" / "run")
    assert process.poll() is None
    process.kill()
    process.wait()


def test_an_old_lock_file_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text('{"host": "gone", "pid": 1, "started": "long ago"}' + "long ago" * 99)
    with RunLock(tmp_path) as lock:
        assert str(os.getpid()) in lock.path.read_text()
        assert "long ago" not in lock.path.read_text()


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OptionError, match=f"{folder}: a file is where this folder should be"):
            RunLock(folder)
