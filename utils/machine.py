"""What this machine cannot do, or does slowly: said before anything runs."""

import os
import shutil
import sys
import time

import torch
import torch.nn.functional as F

from utils.options.fields import OptionError

SLOW = 1.5
"""From this many times float32's time on, half precision is warned of."""


def need_compiler(device: torch.device, where: str) -> None:
    """Raise OptionError, naming the option `where`, if torch.compile would not find the compiler that it calls: that of
    C++ on a CPU, on a GPU Triton's of C."""
    if device.type == "cpu":
        variable, names = "CXX", ["clang++" if sys.platform == "darwin" else "cl" if os.name == "nt" else "g++"]
    else:
        variable, names = "CC", ["gcc", "clang", "cc"]
    names = [os.environ[variable]] if os.environ.get(variable) else names
    if not any(map(shutil.which, names)):
        raise OptionError(
            f"{where}: torch.compile needs a compiler, and {' or '.join(names)} is not found; install it (Debian: apt "
            f"install g++; conda: conda install -c conda-forge gxx), name yours in {variable}, or do not compile"
        )


def slow_half(dtype: torch.dtype, device: torch.device) -> str | None:
    """Return a warning where a CPU takes longer for half precision than for float32, as those without such arithmetic
    do, else None. Measures a small convolution, for some hundredths of a second."""
    if device.type != "cpu" or dtype is torch.float32 or (ratio := half_ratio(dtype)) < SLOW:
        return None
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return (
        f"precision {name}: a small convolution takes {ratio:.1f} times as long as in fp32 on this CPU, measured just "
        "now; fp32 is faster here"
    )


def half_ratio(dtype: torch.dtype) -> float:
    """Return the processor time of a convolution of 32 channels on the CPU over that in float32, best of five each."""
    best = []
    for kind in (dtype, torch.float32):
        image = torch.ones(1, 32, 64, 64, dtype=kind).to(memory_format=torch.channels_last)
        weight = torch.ones(32, 32, 3, 3, dtype=kind).to(memory_format=torch.channels_last)
        times = []
        with torch.inference_mode():
            for _ in range(6):  # the first prepares kernels
                start = time.process_time()
                F.conv2d(image, weight, padding=1)
                times.append(time.process_time() - start)
        best.append(min(times[1:]))
    return best[0] / max(best[1], 1e-9)
