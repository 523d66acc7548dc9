"""What several networks share."""

from typing import Literal

import torch
from torch import Tensor, nn

from models.network import Network


def require_multiple(image: Tensor, multiple: int, network: str) -> None:
    """Raise ValueError unless both sides of `image` (B, C, H, W) are multiples of `multiple`."""
    height, width = image.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"{network}: found an image of {height}x{width} (height x width), expected both sides to be multiples of "
            f"{multiple}; pad it or choose another crop size"
        )


def mirrored(image: Tensor, bottom: int, right: int) -> Tensor:
    """Pad (B, C, h, w) with its mirror image, the edge not repeated; what is too small is mirrored to and fro."""
    return mirrored_part(image, 0, 0, image.shape[-2] + bottom, image.shape[-1] + right)


def mirrored_part(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Cut out of the image, which is `mirrored` where it ends."""
    for axis, start, count in ((-1, left, width), (-2, top, height)):
        length = image.shape[axis]
        if start + count <= length:
            image = image.narrow(axis, start, count)
        else:
            there = torch.arange(start, start + count, device=image.device) % max(1, 2 * length - 2)
            image = image.index_select(axis, torch.minimum(there, 2 * length - 2 - there))
    return image


@torch.no_grad()
def damp_convolutions(module: nn.Module, factor: float) -> None:
    """Fill every convolution with `factor` times Kaiming normal (fan-in, ReLU gain), and its bias with 0.

    ESRGAN (Wang et al. 2018, section 3.1) starts residual branches small, so that deep networks without
    normalisation begin near the identity.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight).mul_(factor)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class EncoderNetwork(Network):
    """Restore `lq` by an embedding of how it is degraded, which an encoder takes from `lq` itself.

    Keys are those of DASR and CDSR: `E.encoder_q.*` and `G.*`. What contrastive learning needs besides (key encoder,
    queue) is no part of the network.

    Args:
        scale: of super-resolution.
        encoder: `lq` (B, 3, h, w) to (embedding (B, d), projection (B, d)). The embedding steers the generator, the
            projection is for a contrastive loss alone.
        generator: `lq` and embedding to `sr` (B, 3, h·scale, w·scale).
        fixed_embedding: a number that stands in for all of the embedding's, whatever the encoder says: the ablation.
    """

    def __init__(
        self, scale: int, encoder: nn.Module, generator: nn.Module, fixed_embedding: float | None = None
    ) -> None:
        super().__init__()
        self.scale, self.fixed_embedding = scale, fixed_embedding
        self.G = generator
        self.E = nn.ModuleDict({"encoder_q": encoder})

    @property
    def encoder(self) -> nn.Module:
        """The encoder, by itself."""
        return self.E["encoder_q"]

    def forward(
        self,
        lq: Tensor,
        embedding: Tensor | None = None,
        task: Literal["restore", "encode", "both"] = "restore",
        others: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Restore `lq`, or do what a contrastive loss needs within one pass, as DistributedDataParallel wants it.

        Args:
            lq: (B, 3, h, w) RGB in [0, 1].
            embedding: (B, d), in place of the encoder's, with `restore`.
            task: what is returned: `sr` (restore), the projection (encode), or `sr` and projection (both).
            others: (B', 3, h, w), encoded in one batch with `lq` and not restored; their projections follow.
        """
        if embedding is not None:
            return self._restored(lq, embedding)
        own, projection = self.encoder(lq if others is None else torch.cat((lq, others)))
        if task == "encode":
            return projection
        # Cut where it must be alone: exporters take a length for a constant.
        sr = self._restored(lq, own if others is None else own[: len(lq)])
        return sr if task == "restore" else (sr, projection)

    def _restored(self, lq: Tensor, embedding: Tensor) -> Tensor:
        value = self.fixed_embedding
        return self.G(lq, embedding if value is None else torch.full_like(embedding, value))
