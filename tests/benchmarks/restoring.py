"""Restoring image files: megapixels of input per second, reading and writing included."""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from models.network import NETWORKS
from models.restoring.files import restore_files
from models.restoring.generator import LoadedGenerator
from models.restoring.restorer import Restorer
from tests.benchmarks.measuring import Row, against
from tests.golden.training_inputs import synthetic_batch
from utils.images.files import write_image
from utils.logging import Console

SMALL = ({"type": "srvgg", "scale": 2, "num_feat": 32, "num_conv": 8}, (384, 512), 128)
FULL = ({"type": "rrdbnet", "scale": 4, "num_feat": 64, "num_block": 23, "num_grow_ch": 32}, (1536, 2048), 384)
"""For a CPU and for a GPU: network, size of the images, side of the tiles."""
COUNT, CONTEXT = 3, 10
"""Images in a call, and what a tile sees around it."""


TINY = ({"type": "srvgg", "scale": 2, "num_feat": 8, "num_conv": 1}, (48, 64), 32)
"""To try the script itself."""


def rows(calls: int, device: torch.device, tiny: bool = False) -> list[Row]:
    """Three images in tiles, in every precision; also compiled on a GPU."""
    options, (height, width), tile = TINY if tiny else SMALL if device.type == "cpu" else FULL
    image = (synthetic_batch(1, height, width, 0)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    megapixels = COUNT * height * width / 1e6

    def generator() -> LoadedGenerator:
        torch.manual_seed(0)
        return LoadedGenerator(NETWORKS.build(options).eval().requires_grad_(False), None, options)

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        files = {folder / f"{i}.png": folder / "out" / f"{i}.png" for i in range(COUNT)}
        for source in files:
            write_image(source, image)
        ways = {precision: {"precision": precision} for precision in ("fp32", "bf16")}
        if device.type == "cuda":
            ways |= {"bf16, batches of small tiles": {"precision": "bf16", "tile": tile // 3}}
            ways |= {"bf16, compiled": {"precision": "bf16", "compile": True}}
        same = {"tile": tile, "overlap": CONTEXT, "tile_mode": "context"}  # as much for the network to do as plainly
        restorers = {name: Restorer(generator(), device, **{**same, **way}) for name, way in ways.items()}
        ours = {
            name: (lambda _, restorer=restorer: list(restore_files(files, restorer, Console(rank=1))), megapixels)
            for name, restorer in restorers.items()
        }
        bare = generator().network.to(device)

        def plain(_: int) -> None:
            for source, target in files.items():
                plain_restore(bare, source, target, tile, device)

        what = f"{options['type']} x{options['scale']}, {COUNT} images {height}x{width}, tiles {tile}"
        return against(what, "megapixels", (plain, megapixels), ours, calls, device)


@torch.no_grad()
def plain_restore(network: torch.nn.Module, source: Path, target: Path, tile: int, device: torch.device) -> None:
    """In the manner of the released tools: whole images in float32 on the device, one tile after the other."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    image = cv2.cvtColor(cv2.imread(str(source)), cv2.COLOR_BGR2RGB).astype(np.float32) / 255
    lq = torch.from_numpy(np.transpose(image, (2, 0, 1)))[None].to(device)
    scale, (height, width) = int(network.scale), lq.shape[-2:]  # type: ignore[arg-type]
    sr = lq.new_zeros(1, 3, height * scale, width * scale)
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            top, left = max(0, y - CONTEXT), max(0, x - CONTEXT)
            part = network(lq[..., top : y + tile + CONTEXT, left : x + tile + CONTEXT])
            inner = part[..., (y - top) * scale :, (x - left) * scale :][..., : tile * scale, : tile * scale]
            sr[..., y * scale :, x * scale :][..., : inner.shape[-2], : inner.shape[-1]] = inner
    result = sr[0].float().cpu().clamp(0, 1).numpy().transpose(1, 2, 0)
    target.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(target), cv2.cvtColor((result * 255).round().astype(np.uint8), cv2.COLOR_RGB2BGR))
