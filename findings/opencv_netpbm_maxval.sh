#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93 treats MAXVAL of gray Netpbm files three ways: plain files (P2) of up to 8 bits are
# stretched to 0...255, binary ones (P5) are not, and those of more than 8 bits are stretched in neither form. So one
# picture with MAXVAL 100 has two brightnesses by its form, and a 10-bit one comes at 1/64 of the range of its 16-bit
# array. It also returns None for a plain file whose last number is not followed by white space, which the format allows.
#
# Guessed: MAXVAL is honoured, or ignored, alike in both forms; a final newline does not matter.
# Seen:
#     P2 of 50, 100 with MAXVAL 100: [[127, 255]]     P5: [[50, 100]]
#     P2 of 512, 1023 with MAXVAL 1023: [[512, 1023]] P5: [[512, 1023]]
#     P2 without a final newline: None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet opencv-python-headless==5.0.0.93 numpy==2.4.6
OPENCV_LOG_LEVEL=SILENT venv/bin/python - <<'PY'
from pathlib import Path

import cv2


def read(content: bytes) -> list | None:
    Path("x.pgm").write_bytes(content)
    image = cv2.imread("x.pgm", cv2.IMREAD_UNCHANGED)
    return None if image is None else image.tolist()


seen = {
    "P2, 100": read(b"P2\n2 1\n100\n50 100\n"),
    "P5, 100": read(b"P5\n2 1\n100\n" + bytes([50, 100])),
    "P2, 1023": read(b"P2\n2 1\n1023\n512 1023\n"),
    "P5, 1023": read(b"P5\n2 1\n1023\n" + bytes([2, 0, 3, 255])),
    "P2, no newline": read(b"P2\n2 1\n255\n50 100"),
}
print(cv2.__version__, *(f"{name}: {value}" for name, value in seen.items()), sep="\n")
assert list(seen.values()) == [[[127, 255]], [[50, 100]], [[512, 1023]], [[512, 1023]], None], "the behaviour has changed"
PY
