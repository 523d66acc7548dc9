"""USRNet's eight data steps of 96 px HR patches, batch 16, kernels of 25 taps: with and without gradients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.usrnet import DataTerm, psf_on_canvas
from tests.benchmarks import plain
from tests.benchmarks.measuring import Row, against

BATCH, SIDE = 16, 96


def rows(calls: int, device: torch.device) -> list[Row]:
    """Every scale."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.rand(BATCH, 25, 25, generator=generator)
    kernel = (kernel / kernel.sum((1, 2), keepdim=True)).to(device)
    alphas = [torch.full((BATCH, 1, 1, 1), 0.5 / 2**i, device=device) for i in range(8)]

    def ours(lq: Tensor, scale: int) -> Tensor:
        term = DataTerm.of(lq, psf_on_canvas(kernel, (SIDE, SIDE)), scale)
        x = F.interpolate(lq, scale_factor=scale, mode="nearest")
        for alpha in alphas:
            x = term.step(x, alpha)
        return x

    found = []
    for scale in (1, 2, 3, 4):
        lq = torch.rand(BATCH, 3, SIDE // scale, SIDE // scale, generator=generator).to(device)
        solvers: tuple[Callable[[Tensor, int], Tensor], ...] = (
            lambda lq, scale: plain.usrnet_data_steps(lq, kernel, alphas, scale),
            ours,
        )
        forward = [(lambda _, s=s, lq=lq, scale=scale: s(lq, scale), BATCH) for s in solvers]
        what = f"usrnet 8 data steps x{scale}"
        found += against(what, "images", forward[0], {"ours": forward[1]}, calls, device)
        leaf = lq.clone().requires_grad_()
        both = [(lambda _, s=s, lq=leaf, scale=scale: s(lq, scale).sum().backward(), BATCH) for s in solvers]
        found += against(f"{what} + backward", "images", both[0], {"ours": both[1]}, calls, device)
    return found
