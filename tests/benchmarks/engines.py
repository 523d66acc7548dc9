"""Ways to compute x4plus on the CPU: processor time of a photograph, memory above the start, distance from PyTorch.

    python -m tests.benchmarks.engines [ROUTE ...] [--side 160] [--rounds 2]

Each route runs in a process of its own, by turns, with one thread; one that is not installed is left out.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from models.publishing.engines import on_engine
from models.publishing.onnx import traced_onnx
from models.restoring.generator import LoadedGenerator, load_generator
from models.weights.files import weight_files
from tests.helpers import ROOT
from utils.logging import Console, memory_mb, table
from utils.options.arguments import Arg, parse

Way = Callable[[LoadedGenerator], Callable[[Tensor], Tensor]]


def autocast(network: nn.Module, lq: Tensor) -> Tensor:
    """Compute in bf16."""
    with torch.autocast("cpu", torch.bfloat16):
        return network(lq)


def frozen(generator: LoadedGenerator) -> Callable[[Tensor], Tensor]:
    """Let TorchScript fold what it can."""
    return torch.jit.freeze(torch.jit.trace(last(generator), torch.rand(1, 3, 32, 32)))


def onnxruntime(generator: LoadedGenerator) -> Callable[[Tensor], Tensor]:
    """Compute by onnxruntime, without the pattern of allocations that it keeps of a size."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.enable_mem_pattern = 1, False
    session = runtime.InferenceSession(traced_onnx(generator.network, 3), options, providers=["CPUExecutionProvider"])
    return lambda lq: torch.from_numpy(session.run(["sr"], {"lq": lq.contiguous().numpy()})[0])


def last(generator: LoadedGenerator) -> nn.Module:
    """Lay convolutions out with the channels innermost."""
    return generator.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


ROUTES: dict[str, Way] = {
    "torch": last,
    "torch, channels first": lambda generator: generator.network,
    "torch, jit.freeze": frozen,
    "torch, bf16": lambda generator: lambda lq: autocast(last(generator), lq),
    "onnxruntime": onnxruntime,
    "openvino": lambda generator: on_engine(generator, "openvino").network,
    "openvino, bf16": lambda generator: on_engine(generator, "openvino", "bf16").network,
    "ncnn": lambda generator: on_engine(generator, "ncnn").network,
}


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    routes: Annotated[tuple[str, ...], Arg("ROUTE", positional=True)] = tuple(ROUTES)
    side: int = 160
    """Of the photograph."""
    rounds: int = 2
    """How often each route has its turn."""
    measure: bool = False
    """Measure the route here, for the one that asks; ends with a line of JSON and writes `route.npy`."""


def measured(route: str, side: int) -> tuple[dict[str, float], np.ndarray]:
    """Time a route, after a warm-up on a quarter of the image."""
    from skimage import data

    torch.set_num_threads(1)
    lq = torch.from_numpy(data.astronaut()[20 : 20 + side, 140 : 140 + side].copy()).permute(2, 0, 1)[None] / 255
    generator = load_generator(weight_files(Path("zoo:realesrgan-x4plus"), "ema")[0])
    before = memory_mb()["ram"]
    compute = ROUTES[route](replace(generator))
    with torch.inference_mode():
        compute(lq[..., : side // 2, : side // 2])
        start = time.process_time()
        sr = compute(lq if route == "torch, channels first" else lq.to(memory_format=torch.channels_last))
        seconds = time.process_time() - start
    return {"seconds": seconds, "memory": memory_mb()["ram_peak"] - before}, sr.float().numpy()


def main() -> None:
    """Measure the routes by turns and print a table."""
    args, console = parse(Arguments, prog="python -m tests.benchmarks.engines", description=__doc__), Console()
    if args.measure:
        found, sr = measured(args.routes[0], args.side)
        np.save("route.npy", sr)
        console.info(json.dumps(found))
        return
    import tempfile

    rounds: dict[str, list[dict[str, float]]] = {}
    results: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as place:
        for route in [r for _ in range(args.rounds) for r in args.routes if find_spec(r.split(",")[0]) is not None]:
            command = [sys.executable, "-m", "tests.benchmarks.engines", route, "--side", str(args.side), "--measure"]
            paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            run = subprocess.run(command, cwd=place, env=paths, capture_output=True, text=True, check=True)
            rounds.setdefault(route, []).append(json.loads(run.stdout.splitlines()[-1]))
            results[route] = np.load(Path(place) / "route.npy")
    rows, first = [], next(iter(rounds))
    for route, turns in rounds.items():
        seconds = [min(turn["seconds"] for turn in rounds[name]) for name in (route, first)]
        error = float(np.square(results[route] - results[first]).mean())
        decibels = "-" if route == first else f"{-10 * np.log10(error + 1e-20):.0f}"
        memory = f"{max(turn['memory'] for turn in turns):.0f}"
        rows.append([route, f"{seconds[0]:.2f}", f"{seconds[0] / seconds[1]:.2f}", memory, decibels])
    console.info(table(["route", "processor seconds", f"times {first}", "MiB above the start", "dB"], rows))


if __name__ == "__main__":
    main()
