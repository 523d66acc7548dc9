#!/usr/bin/env bash
# submitit 1.5.4, LocalExecutor, which stands in for SLURM on one machine: job.cancel() ends the job's own process and not what
# it has started, so a job that launches a training (torchrun, a shell) leaves it running without a parent, where SLURM
# ends all of a job's processes. And a job that a signal killed, or that left by sys.exit, has the state FINISHED like one
# that succeeded; only result() tells.
#
# Guessed: a cancelled job's processes end, as on SLURM; a killed job's state says FAILED.
# Seen:
#     cancelled: INTERRUPTED, its program: alive
#     killed: FINISHED, result() raises UncompletedJobError
#     raised: FINISHED, result() raises FailedJobError
#     succeeded: FINISHED, result() returns 7
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet submitit==1.5.4
cat > body.py <<'PY'
import os
import signal
import subprocess
import time
from pathlib import Path

import submitit


def launches():
    program = subprocess.Popen(["sleep", "120"])
    Path("program").write_text(str(program.pid))
    return program.wait()


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def raised():
    raise ValueError("something")


def is_alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


executor = submitit.LocalExecutor(folder="jobs")
executor.update_parameters(timeout_min=5)
job = executor.submit(launches)
while not (Path("program").exists() and Path("program").read_text()):
    time.sleep(0.1)
job.cancel()
while job.state == "RUNNING":
    time.sleep(0.5)
time.sleep(3)  # time enough for whoever ends the rest
pid = int(Path("program").read_text())
alive = is_alive(pid)
print(f"cancelled: {job.state}, its program: {'alive' if alive else 'ended'}")
if alive:
    os.kill(pid, signal.SIGKILL)

states = {}
for name, work in (("killed", killed), ("raised", raised), ("succeeded", lambda: 7)):
    job = executor.submit(work)
    try:
        outcome = f"returns {job.result()}"
    except submitit.core.utils.UncompletedJobError as error:
        outcome = f"raises {type(error).__name__}"
    states[name] = (job.state, outcome)
    print(f"{name}: {job.state}, result() {outcome}")
assert alive, "what a cancelled job started ends with it now"
assert {state for state, _ in states.values()} == {"FINISHED"}, "the state tells of failures now"
PY
venv/bin/python body.py 2> said || { cat said; exit 1; }
