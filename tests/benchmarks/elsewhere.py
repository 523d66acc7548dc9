"""The degradations of another checkout, measured by turns with ours: what `--against DIR` runs.

The other checkout works in a process of its own, which this file is the program of: `python elsewhere.py DIR OPTIONS
SIDE KEPT` degrades the calls that a line names, and answers with the seconds that they took.
"""

import json
import subprocess
import sys
import time
from pathlib import Path


class Elsewhere:
    """A checkout that degrades photographs, one a call."""

    def __init__(self, checkout: Path, options: object, side: int, kept: int) -> None:
        command = [sys.executable, __file__, str(checkout), json.dumps(options), str(side), str(kept)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=checkout, stdin=pipe, stdout=pipe, text=True)

    def seconds(self, calls: range) -> tuple[float, float]:
        """Return the seconds of processor time and by the clock of one call. Raises RuntimeError if it has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{calls.start} {calls.stop}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if len(answer) != 2:
            raise RuntimeError("the other checkout has ended; what it said stands above")
        return float(answer[0]) / len(calls), float(answer[1]) / len(calls)


def serve(checkout: str, options: str, side: int, kept: int) -> None:
    """Degrade what standard input asks for."""
    sys.path[0] = checkout
    import cv2
    import numpy as np
    import torch

    from degradations import DEGRADATIONS, paired_crop
    from tests.golden.training_inputs import synthetic_batch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    stored = (synthetic_batch(8, side, side, 0) * 255).round().to(torch.uint8).contiguous()
    degradation = DEGRADATIONS.build(json.loads(options), scale=4)

    def work(i: int) -> object:
        rng = np.random.default_rng(i)
        plan = degradation.sample(rng, (side, side)).with_crop(rng, kept)
        gt = stored[i % 8 : i % 8 + 1].float() / 255
        return paired_crop(degradation.apply(gt, [plan]), [plan])

    for line in sys.stdin:
        start, stop = map(int, line.split())
        cpu, clock = time.process_time(), time.perf_counter()
        for i in range(start, stop):
            work(i)
        sys.stdout.write(f"{time.process_time() - cpu} {time.perf_counter() - clock}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
