#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93 turns a JPEG, PNG and WebP upright by its EXIF orientation in IMREAD_COLOR, but not an
# AVIF, neither by EXIF nor by the rotation (irot) in its container, which there is no metadata but a part of the
# picture. And tRNS, the transparent colour of a PNG, becomes alpha (IMREAD_UNCHANGED) for RGB, and is dropped for gray.
#
# Guessed: all four are turned; tRNS becomes alpha for both.
# Seen: 40x24 (width, height) turned by a quarter: jpg (40, 24), png (40, 24), webp (40, 24), avif (24, 40) (rows, columns)
#       tRNS: RGB (24, 40, 4), gray (24, 40)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet opencv-python-headless==5.0.0.93 numpy==2.4.6 pillow==13.0.0
venv/bin/python - <<'PY'
import cv2
import numpy as np
from PIL import Image, ImageOps

picture = Image.fromarray(np.dstack([np.tile(np.arange(40, dtype=np.uint8), (24, 1))] * 3))
exif = Image.Exif()
exif[274] = 6
shapes = {}
for kind in ("jpg", "png", "webp", "avif"):
    picture.save(f"x.{kind}", exif=exif)
    assert ImageOps.exif_transpose(Image.open(f"x.{kind}")).size == (24, 40)
    shapes[kind] = cv2.imread(f"x.{kind}", cv2.IMREAD_COLOR).shape[:2]
assert b"irot" in open("x.avif", "rb").read()
picture.save("rgb.png", transparency=(7, 7, 7))
picture.convert("L").save("gray.png", transparency=7)
for name in ("rgb", "gray"):
    shapes[name] = cv2.imread(f"{name}.png", cv2.IMREAD_UNCHANGED).shape
print(cv2.__version__, shapes)
turned = dict.fromkeys(("jpg", "png", "webp"), (40, 24))
assert shapes == {**turned, "avif": (24, 40), "rgb": (24, 40, 4), "gray": (24, 40)}, "the behaviour has changed"
PY
