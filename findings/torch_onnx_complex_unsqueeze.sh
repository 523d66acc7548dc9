#!/usr/bin/env bash
# torch 2.14.1, torch.onnx.export with onnxscript 0.7.2: a network that goes to the Fourier domain and back is exported and right,
# but one whose complex spectrum is unsqueezed between is refused, so networks that solve in the Fourier domain for
# several images at once (a kernel's spectrum against channels) are not exported as they are usually written. The same
# dimension added to the real image before the transform is exported.
#
# Guessed: whoever converts FFTs of complex numbers converts a change of their shape.
# Seen:
#     ifft2(fft2(x)): exported, differs by 1.2e-07
#     ifft2(fft2(x).unsqueeze(1)): refused: No decompositions registered for the complex-valued input
#     ifft2(fft2(x.unsqueeze(1))): exported, differs by 1.2e-07
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet torch==2.14.1 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cat > body.py <<'PY'
import numpy as np
import onnxruntime
import torch
from torch import nn


class Transform(nn.Module):
    def __init__(self, there, back=lambda y: y):
        super().__init__()
        self.there, self.back = there, back

    def forward(self, x):
        return torch.fft.ifft2(self.back(torch.fft.fft2(self.there(x)))).real


def told(network):
    torch.manual_seed(0)
    x = torch.rand(1, 3, 8, 8)
    try:
        torch.onnx.export(network, (x,), dynamo=True, verbose=False).save("network.onnx")
    except torch.onnx.OnnxExporterError as error:
        cause = str(error)
        start = cause.index("No decompositions registered")
        return "refused: " + cause[start : cause.index("\n", start)]
    session = onnxruntime.InferenceSession("network.onnx")
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    difference = np.abs(result - network(x).numpy()).max()
    assert difference < 1e-5
    return f"exported, differs by {difference:.1e}"


plain = told(Transform(lambda x: x))
after = told(Transform(lambda x: x, lambda y: y.unsqueeze(1)))
before = told(Transform(lambda x: x.unsqueeze(1)))
print("ifft2(fft2(x)):", plain)
print("ifft2(fft2(x).unsqueeze(1)):", after)
print("ifft2(fft2(x.unsqueeze(1))):", before)
assert plain.startswith("exported") and before.startswith("exported") and after.startswith("refused")
PY
venv/bin/python -W ignore body.py 2>&1 | grep -v '^\[torch.onnx\]'
