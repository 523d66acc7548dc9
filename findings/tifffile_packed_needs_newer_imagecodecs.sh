#!/usr/bin/env bash
# tifffile 2026.3.3 asks for imagecodecs>=2025.11.11 (its extra `codecs`), but packs integers of fewer than 8 bits by an
# argument, `runlen`, that imagecodecs has since 2026.3.6 only: a TIFF of 4 bits cannot be written with the ones between.
#
# Guessed: a version that the stated range allows writes what the newest writes.
# Seen (imagecodecs: what imwrite(..., bitspersample=4) of 8x9 values below 16 gave):
#     2025.11.11: TypeError, packints_encode() got an unexpected keyword argument 'runlen'
#     2026.1.14: TypeError, packints_encode() got an unexpected keyword argument 'runlen'
#     2026.3.6: read back equal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet tifffile==2026.3.3 numpy==2.4.6
cat > body.py <<'PY'
import io
import sys
from importlib.metadata import requires, version

import numpy as np
import tifffile

stated = [line for line in requires("tifffile") if line.startswith("imagecodecs") and "codecs" in line.partition(";")[2]]
assert any(">=2025.11.11" in line for line in stated), f"another range is stated now: {stated}"
array = (np.arange(72, dtype=np.uint8) % 16).reshape(8, 9)
file = io.BytesIO()
try:
    tifffile.imwrite(file, array, photometric="minisblack", bitspersample=4)
    file.seek(0)
    seen = "read back equal" if np.array_equal(tifffile.imread(file), array) else "read back otherwise"
except TypeError as error:
    seen = f"TypeError, {error}"
print(f"{version('imagecodecs')}: {seen}")
assert seen.startswith(sys.argv[1]), "behaves otherwise now"
PY
for expected in 2025.11.11:TypeError 2026.1.14:TypeError 2026.3.6:read; do
    venv/bin/python -m pip install --quiet --no-deps "imagecodecs==${expected%%:*}"
    venv/bin/python body.py "${expected##*:}"
done
