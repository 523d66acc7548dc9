#!/usr/bin/env bash
# The same picture as a TIFF of 8 and of 16 bits is read by opencv-python-headless 5.0.0.93 in two ways, thrice:
# - WhiteIsZero is turned into light at 8 bits, and comes as stored, so negative, at 16 (pillow 13.0.0 does the same);
# - one plane after another (PlanarConfiguration 2) is right at 8 bits, and other pixels at 16;
# - colours with unassociated alpha come multiplied by alpha at 8 bits, and as stored at 16; associated ones as stored.
#
# Guessed: depth makes no difference but of depth; unassociated alpha is not multiplied in, as for PNG.
# Seen:
#     8 bits:  white is turned, planes are right, unassociated (100, 50, 0, 128) is (50, 25, 0, 128)
#     16 bits: white is as stored, planes are wrong, unassociated (100, 50, 0, 128) is (100, 50, 0, 128)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet opencv-python-headless==5.0.0.93 numpy==2.4.6 tifffile==2026.3.3 pillow==13.0.0
venv/bin/python - <<'PY'
import cv2
import numpy as np
import tifffile
from PIL import Image


def read(array: np.ndarray, **how: object) -> tuple[np.ndarray, np.ndarray]:
    """What OpenCV (channels in the order of the file) and Pillow make of an uncompressed TIFF that tifffile writes."""
    tifffile.imwrite("x.tif", array, **how)
    assert np.array_equal(tifffile.imread("x.tif"), array)
    image = cv2.imread("x.tif", cv2.IMREAD_UNCHANGED)
    image = image[..., [2, 1, 0, 3][: image.shape[2]]] if image.ndim == 3 else image
    return image, np.asarray(Image.open("x.tif"))


y, x = np.mgrid[0:24, 0:40]
found = {}
for top in (255, 65535):
    kind = np.uint8 if top == 255 else np.uint16
    picture = (np.dstack([x * 6, y * 10, (x + y) * 4]) * (top // 255)).astype(kind)
    white = [np.array_equal(a, top - picture[..., 0]) for a in read(picture[..., 0], photometric="miniswhite")]
    stored = [np.array_equal(a, picture[..., 0]) for a in read(picture[..., 0], photometric="miniswhite")]
    planes = read(np.moveaxis(picture, 2, 0), photometric="rgb", planarconfig="separate")[0]
    pixel = np.full((8, 8, 4), np.array([100, 50, 0, 128]) * (top // 255), kind)
    alpha = {k: read(pixel, photometric="rgb", extrasamples=[k])[0][0, 0] // (top // 255) for k in ("unassalpha", "assocalpha")}
    alpha = {name: value.tolist() for name, value in alpha.items()}
    found[top] = white, stored, bool(np.array_equal(planes, picture)), alpha
    print(f"{top}: white turned (OpenCV, Pillow) {white}, as stored {stored}, planes right {found[top][2]}, alpha {alpha}")
both, none, plain, multiplied = [True, True], [False, False], [100, 50, 0, 128], [50, 25, 0, 128]
assert found[255] == (both, none, True, {"unassalpha": multiplied, "assocalpha": plain}), "the behaviour has changed"
assert found[65535] == (none, both, False, {"unassalpha": plain, "assocalpha": plain}), "the behaviour has changed"
PY
