#!/usr/bin/env bash
# pnnx 20261020 with fp16=1, its default: a weight below 2^-14, the smallest normal number of float16, is written as 0,
# although float16 has subnormal numbers down to 2^-24 there and ncnn reads them. In networks with many small weights this is no
# rounding: of Real-ESRGAN's x4plus-anime, as ncnn files of it exist, 2,183 weights lie there.
#
# Guessed: weights are rounded to the nearest number of float16, as PyTorch and NumPy do.
# Seen (weight: by NumPy, by pnnx):
#     6.2e-05: 6.199e-05, 6.199e-05
#     6e-05: 6.002e-05, 0
#     3e-05: 2.998e-05, 0
#     1e-06: 1.013e-06, 0
#     -4e-05: -3.999e-05, -0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet pnnx==20261020 torch==2.14.1 numpy==2.4.6
cat > body.py <<'PY'
import subprocess

import numpy as np
import torch
from torch import nn

weights = [0.5, 6.2e-05, 6e-05, 3e-05, 1e-06, -4e-05, 0.25, -0.5, 1.0]
layer = nn.Conv2d(1, 1, 3, padding=1, bias=False).eval()
with torch.no_grad():
    layer.weight.copy_(torch.tensor(weights).view(1, 1, 3, 3))
torch.jit.trace(layer, torch.zeros(1, 1, 8, 8)).save("layer.pt")
subprocess.run(["pnnx", "layer.pt", "inputshape=[1,1,8,8]"], check=True, capture_output=True)
with open("layer.ncnn.bin", "rb") as file:
    data = file.read()
assert data[:4].hex() == "476b3001", "the weights are not written as float16 any more"
written = np.frombuffer(data[4 : 4 + 2 * len(weights)], np.float16)
nearest = np.array(weights, np.float16)
for weight, by_numpy, by_pnnx in list(zip(weights, nearest, written))[1:6]:
    print(f"{weight:g}: {by_numpy:.4g}, {by_pnnx:.4g}")
subnormal = np.abs(nearest) < np.finfo(np.float16).smallest_normal
assert np.array_equal(written[~subnormal], nearest[~subnormal]), "other weights differ too"
assert not written[subnormal].any(), "subnormal numbers are written now"
PY
PATH="$folder/venv/bin:$PATH" venv/bin/python -W ignore body.py
