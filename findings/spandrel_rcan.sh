#!/usr/bin/env bash
# spandrel 0.4.2 and RCAN: the model multiplies the image that it is given by 255, in place, so the caller's tensor is another
# after the call. And an RCAN made for images in [0, 1] (rgb_range=1) is read as one for [0, 255], without a word, although
# the bias of its mean shift, 255 times as large otherwise, tells.
#
# Guessed: a call leaves its input alone; a network that spandrel's own class made is read as it was, or refused.
# Seen:
#     rgb_range 255: input changed by 254.0, read with a difference of 0
#     rgb_range 1: input changed by 254.0, read with a difference of 0.65
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet spandrel==0.4.2 torch==2.14.1 torchvision==0.29.1
cat > body.py <<'PY'
import spandrel
import torch
from spandrel.architectures.RCAN import RCAN

torch.manual_seed(0)
image = torch.rand(1, 3, 16, 16)
differences = {}
for rgb_range in (255, 1):
    network = RCAN(scale=4, n_resgroups=2, n_resblocks=2, n_feats=16, rgb_range=rgb_range).eval()
    read = spandrel.ModelLoader("cpu").load_from_state_dict(network.state_dict())
    given = image.clone()
    read(given)
    changed = float((given - image).abs().max())
    with torch.no_grad():
        made, again = network(image.clone()), read.model.eval()(image.clone())
    differences[rgb_range] = float((made - again).abs().max())
    print(f"rgb_range {rgb_range}: input changed by {changed:.1f}, read with a difference of {differences[rgb_range]:.2g}")
    assert changed > 200, "the input is left alone now"
assert differences[255] == 0 and differences[1] > 0.1, "the behaviour has changed"
PY
venv/bin/python body.py
