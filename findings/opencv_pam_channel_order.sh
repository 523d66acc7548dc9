#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93 hands on the channels of a PAM (P7, TUPLTYPE RGB) in the file's order, RGB, while every
# other colour format, PPM among them, comes as BGR. Writing PAM mirrors it: what it writes of a BGR array other programs
# see with red and blue exchanged; its own round trip hides that.
#
# Guessed: cv2.imread gives BGR whatever the file is.
# Seen (one red pixel, 200 10 20):
#     ppm [[[20, 10, 200]]]
#     pam [[[200, 10, 20]]]
#     written of a BGR array (20, 10, 200), bytes in the file: [20, 10, 200]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet opencv-python-headless==5.0.0.93 numpy==2.4.6
venv/bin/python - <<'PY'
from pathlib import Path

import cv2
import numpy as np

red = bytes([200, 10, 20])
Path("x.ppm").write_bytes(b"P6\n1 1\n255\n" + red)
Path("x.pam").write_bytes(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + red)
ppm, pam = (cv2.imread(name, cv2.IMREAD_UNCHANGED).tolist() for name in ("x.ppm", "x.pam"))
cv2.imwrite("y.pam", np.array([[[20, 10, 200]]], np.uint8))
written = list(Path("y.pam").read_bytes()[-3:])
print(cv2.__version__, "\nppm", ppm, "\npam", pam, "\nwritten", written)
assert ppm == [[[20, 10, 200]]] and pam == [[[200, 10, 20]]] and written == [20, 10, 200], "the behaviour has changed"
PY
