#!/usr/bin/env bash
# safetensors 0.8.0 writes files that nobody but their owner may read (mode 600), whatever the umask says; and a file that
# others could read, written anew, can be read by its owner alone. Known as github.com/safetensors/safetensors/issues/782.
#
# Guessed: a new file has the mode that the umask gives, as of every other writer; an old file keeps its own.
# Seen, with umask 022:
#     new file 600, written anew over 640: 600, what save() returns, written by Python: 644
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet safetensors==0.8.0 numpy==2.4.6
umask 022
venv/bin/python - <<'PY'
from pathlib import Path

import numpy
from safetensors.numpy import save, save_file

tensors = {"x": numpy.ones(3, numpy.float32)}
new, old, own = Path("new.safetensors"), Path("old.safetensors"), Path("own.safetensors")
save_file(tensors, new)
old.write_bytes(b"")
old.chmod(0o640)
save_file(tensors, old)
own.write_bytes(save(tensors))
modes = [oct(path.stat().st_mode & 0o777)[2:] for path in (new, old, own)]
print(f"new file {modes[0]}, written anew over 640: {modes[1]}, what save() returns, written by Python: {modes[2]}")
assert modes == ["600", "600", "644"], "the behaviour has changed"
PY
