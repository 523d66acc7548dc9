#!/usr/bin/env bash
# ncnn 1.0.20261020, Python: ncnn.Mat(array) and, through it, Extractor.input take the shape of a float32 array and ignore its
# strides: what lies in memory is read in a row. So an image (height, width, 3) that is handed over as
# image.transpose(2, 0, 1), mirrored or cut out, which NumPy does without copying, is restored as another picture, without
# a word; np.ascontiguousarray before it is needed. np.array(mat), the way back, minds strides (of padded channels) well.
#
# Guessed: the buffer protocol's strides are honoured, as by torch.from_numpy, or what is not contiguous is refused.
# Seen (what ncnn.Mat holds of the array):
#     as it lies  equal
#     transposed  other values
#     mirrored    other values
#     cut out     other values
#     transposed, ascontiguousarray: equal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet ncnn==1.0.20261020 numpy==2.4.6
cat > body.py <<'PY'
import ncnn
import numpy as np

memory = np.arange(2 * 6 * 8 * 3, dtype=np.float32)  # twice as much as is used, so that nothing is read past its end
image = memory[: 6 * 8 * 3].reshape(6, 8, 3)
arrays = {
    "as it lies": image,
    "transposed": image.transpose(2, 0, 1),
    "mirrored": image[:, ::-1],
    "cut out": image[:4, :4],
    "transposed, ascontiguousarray:": np.ascontiguousarray(image.transpose(2, 0, 1)),
}
equal = {}
for name, array in arrays.items():
    mat = ncnn.Mat(array)
    made = np.array(mat)
    assert made.shape == array.shape
    equal[name] = np.array_equal(made, array)
    print(f"{name:11} {'equal' if equal[name] else 'other values'}")
assert list(equal.values()) == [True, False, False, False, True], "strides are treated in another way now"
PY
venv/bin/python body.py
