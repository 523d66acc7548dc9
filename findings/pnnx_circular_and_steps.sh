#!/usr/bin/env bash
# pnnx 20261020 to ncnn: padding with mode "circular" becomes padding with zeros, and a slice with a step, x[:, :, ::2, 1::2],
# becomes nothing at all. Neither is refused or named in what it prints, unlike other operations that ncnn lacks (a line
# "ignore ..."), and it exits with 0. The first concerns whoever deblurs in the Fourier domain or trains with wrapped
# borders: all is right but a rim as wide as the kernel. The second is "random" or regular downsampling as papers write it.
# Padding by "reflect" and "replicate" and pixel_unshuffle arrive right.
#
# Guessed: what ncnn has no layer for is named, as pnnx does for torch.gt or torch.var.
# Seen:
#     reflect     differs by 1.5e-07
#     replicate   differs by 1.5e-07
#     unshuffle   differs by 1.5e-07
#     circular    differs by 0.79 in a rim, and by 1.5e-07 within
#     steps       (3, 16, 20) where PyTorch has (3, 8, 10)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet pnnx==20261020 ncnn==1.0.20261020 torch==2.14.1 numpy==2.4.6
cat > body.py <<'PY'
import subprocess

import ncnn
import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad, pixel_unshuffle

OPERATIONS = {
    "reflect": lambda x: pad(x, (3, 3, 3, 3), mode="reflect"),
    "replicate": lambda x: pad(x, (3, 3, 3, 3), mode="replicate"),
    "unshuffle": lambda x: pixel_unshuffle(x, 2),
    "circular": lambda x: pad(x, (3, 3, 3, 3), mode="circular"),
    "steps": lambda x: x[:, :, ::2, 1::2],
}


class Network(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.conv, self.operation = nn.Conv2d(3, 3, 3, padding=1), operation

    def forward(self, x):
        return self.operation(self.conv(x))


def by_ncnn(image):
    net = ncnn.Net()
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    assert net.load_param("network.ncnn.param") == 0 and net.load_model("network.ncnn.bin") == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image))
    return np.array(extractor.extract("out0")[1])


seen = {}
for name, operation in OPERATIONS.items():
    torch.manual_seed(0)
    network, lq = Network(operation).eval(), torch.rand(1, 3, 16, 20)
    torch.jit.trace(network, lq).save("network.pt")
    shapes = ["inputshape=[1,3,16,20]", "inputshape2=[1,3,24,18]"]
    done = subprocess.run(["pnnx", "network.pt", *shapes, "fp16=0"], check=True, capture_output=True, text=True)
    said = (done.stdout + done.stderr).lower()
    assert not any(word in said for word in ("ignore", "circular", "not supported", "slice")), f"{name} is named now"
    image = lq[0].numpy()  # held, since ncnn.Mat reads it where it lies
    made, right = by_ncnn(image), network(lq)[0].detach().numpy()
    if made.shape != right.shape:
        seen[name] = (made.shape, right.shape)
        print(f"{name:11} {made.shape} where PyTorch has {right.shape}")
        continue
    difference = np.abs(made - right)
    seen[name] = (difference.max(), difference[:, 3:-3, 3:-3].max())
    within = f" in a rim, and by {seen[name][1]:.2g} within" if difference.max() > 1e-3 else ""
    print(f"{name:11} differs by {difference.max():.2g}{within}")
assert all(seen[name][0] < 1e-5 for name in ("reflect", "replicate", "unshuffle"))
assert seen["circular"][0] > 0.1 and seen["circular"][1] < 1e-5, "circular padding has changed"
assert seen["steps"] == ((3, 16, 20), (3, 8, 10)), "slices with steps have changed"
PY
PATH="$folder/venv/bin:$PATH" venv/bin/python -W ignore body.py
