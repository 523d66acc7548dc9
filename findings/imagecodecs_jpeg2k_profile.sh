#!/usr/bin/env bash
# imagecodecs 2026.3.6: jpeg2k_decode converts the colours of a JPEG 2000 file that carries an ICC profile, as no other
# decoder of imagecodecs does with its format, and does so wrongly where values have 10 or 12 bits: they are taken for the
# values of 16 bits, and clipped to those of 12.
#
# Guessed: values come as they are stored, as from png_decode, jpeg8_decode and avif_decode, and as Pillow reads the file.
# Seen (bits: stored values | decoded | converted to sRGB by Little CMS over their whole range; the middle pixel):
#     8: 200 60 40 | 219 37 12 | 219 37 12
#     12: 3200 960 640 | 1487 165 120 | 3504 585 200
#     16: 51200 15360 10240 | 56070 9365 3191 | 56071 9362 3195
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet imagecodecs==2026.3.6 numpy==2.4.6
cat > body.py <<'PY'
import struct

import imagecodecs
import numpy as np

P3 = (0.68, 0.32, 1, 0.265, 0.69, 1, 0.15, 0.06, 1)
profile = imagecodecs.cms_profile("rgb", whitepoint=(0.3127, 0.3290, 1), primaries=P3, gamma=2.2)


def with_profile(data):
    """Put the profile (method 2, ISO 15444-1, I.5.3.3) where the colours are named."""
    inner, outer = data.index(b"colr") - 4, data.index(b"jp2h") - 4
    (old,), box = struct.unpack_from(">I", data, inner), b"colr\2\0\0" + profile
    length = struct.unpack_from(">I", data, outer)[0] - old + 4 + len(box)
    start = data[:outer] + struct.pack(">I", length) + data[outer + 4 : inner]
    return start + struct.pack(">I", 4 + len(box)) + box + data[inner + old :]


for bits in (8, 12, 16):
    dtype, full = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    stored = np.full((8, 8, 3), np.array([200, 60, 40]) * 2 ** (bits - 8), dtype)
    plain = imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, bitspersample=bits)
    assert np.array_equal(imagecodecs.jpeg2k_decode(plain), stored), "without a profile it is lossless"
    decoded = imagecodecs.jpeg2k_decode(with_profile(plain))[4, 4].astype(int)
    whole = np.rint(stored / (2**bits - 1) * full).astype(dtype)
    srgb = imagecodecs.cms_profile("srgb")
    right = imagecodecs.cms_transform(whole, profile, srgb, colorspace="rgb", outcolorspace="rgb")[4, 4]
    right = np.rint(right / full * (2**bits - 1)).astype(int)
    print(f"{bits}:", *stored[4, 4], "|", *decoded, "|", *right)
    near = np.abs(decoded - right).max() <= 2 ** (bits - 8)
    assert near == (bits != 12), f"{bits} bits are converted otherwise now"
    assert np.abs(decoded - stored[4, 4]).max() > 2 ** (bits - 8), "nothing is converted any more"
PY
venv/bin/python body.py
