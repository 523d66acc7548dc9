"""What every network offers, and the registry of networks."""

from typing import ClassVar, Literal

from torch import nn

from utils.options.components import Registry


class Network(nn.Module):
    """Restore or judge images; the constructor's parameters are the network's options.

    A generator maps `lq` (B, C, h, w) in [0, 1] to `sr` (B, C, h·scale, w·scale), not clipped, and may take
    named `conditions` as further arguments. A discriminator maps an image to logits of any shape.

    Attributes:
        role: generator or discriminator.
        scale: the factor by which the output is larger than the input (1 for discriminators).
        begins: what its weights are when it is built, in words.
        size_multiple: both input sides must be multiples of this; who restores images pads to it.
        tile: side of the largest image that is to be restored in one piece, for its memory; 0: as large as any.
        conditions: names of further inputs, such as ("kernel", "sigma").
        finds_unused: whether some parameters get no gradient, which DDP must look for then.
        recomputable: names of the parts whose blocks `performance.recompute` computes twice to save memory.
    """

    role: ClassVar[Literal["generator", "discriminator"]] = "generator"
    conditions: ClassVar[tuple[str, ...]] = ()
    finds_unused: ClassVar[bool] = False
    recomputable: ClassVar[tuple[str, ...]] = ()
    scale: int = 1
    size_multiple: int = 1
    tile: int = 0
    begins: str = "fresh weights"


NETWORKS: Registry[Network] = Registry("network", "models.networks", protocol=Network, context=("scale",))
