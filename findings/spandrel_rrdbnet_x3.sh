#!/usr/bin/env bash
# spandrel 0.4.2 takes an RRDBNet (ESRGAN) of scale 3 for one of scale 2, and gives images of the wrong size without a word:
# one upsampling step has the same shapes for both. That the class can be built for scale 3 makes one expect more.
#
# Guessed: what spandrel's own class made for scale 3 is read as that, or refused.
# Seen:
#     made for x3: (1, 3, 48, 48); read as x2: (1, 3, 32, 32)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet spandrel==0.4.2 torch==2.14.1 torchvision==0.29.1
cat > body.py <<'PY'
import spandrel
import torch
from spandrel.architectures.ESRGAN import ESRGAN

torch.manual_seed(0)
network = ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=3).eval()
read = spandrel.ModelLoader("cpu").load_from_state_dict(network.state_dict())
image = torch.rand(1, 3, 16, 16)
with torch.no_grad():
    made, again = tuple(network(image).shape), tuple(read(image).shape)
print(f"made for x3: {made}; read as x{read.scale}: {again}")
assert made[-1] == 48 and read.scale == 2 and again[-1] == 32, "the behaviour has changed"
PY
venv/bin/python body.py
