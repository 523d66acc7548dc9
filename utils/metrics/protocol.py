"""On which pixels a metric is measured. Numbers under different protocols cannot be compared, so it is named."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from utils.images.colour import rgb2y

FULL_RANGE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Protocol:
    """A way of measuring, as one code base does it. Images are rounded to 8 bit first in all of them.

    Attributes:
        name: what is printed beside a number.
        border: pixels cut off on every side; None means as many as the scale, or the scale to the `power`.
        channels: all of RGB at once, or studio luma (BT.601) alone.
        y: luma rounded to 8 bit again, or kept as it is.
        gray: what luma is of an image whose file is gray: as of any other, from 16 to 235 (`studio`), or the file's
            levels, from 0 to 255 (`file`): its PSNR is then 1.32 dB lower.
    """

    name: str
    border: int | None = None
    channels: Literal["rgb", "y"] = "rgb"
    y: Literal["rounded", "float"] = "float"
    power: int = 1
    gray: Literal["studio", "file"] = "studio"

    def __str__(self) -> str:
        channels = "RGB" if self.channels == "rgb" else "Y, rounded" if self.y == "rounded" else "Y"
        channels += ", gray files as they are" if self.gray == "file" else ""
        scale = "= scale" if self.power == 1 else f"= scale^{self.power}"
        return f"protocol {self.name} ({channels}, border {scale if self.border is None else self.border})"


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("kair"),
        Protocol("kair_y", channels="y", y="rounded"),
        Protocol("usrnet", power=2),
        Protocol("basicsr"),
        Protocol("basicsr_y", channels="y"),
        # DASR's PSNR writes the weights of luma another way, less than 1e-5 dB off; its SSIM is `ssim: {luma: dasr}`.
        Protocol("dasr_y", channels="y"),
        Protocol("cdsr_y", channels="y"),
        # rgb2ycbcr of what has three channels, as the MATLAB code of SRCNN and VDSR that many tables go back to.
        Protocol("matlab_y", channels="y", gray="file"),
    )
}


def prepare(image: np.ndarray, protocol: Protocol, scale: int, gray: bool = False) -> np.ndarray:
    """Return what a metric sees of an image.

    Args:
        image: (H, W, 3) RGB, uint8 or floating point in [0, 1] (clipped and rounded to 8 bit, halves to even).
        protocol: how to measure.
        scale: the scale of super-resolution.
        gray: whether the ground truth's file is gray.

    Returns:
        float64 (h, w, 3), or (h, w, 1) of luma, on the 0…255 scale, contiguous.

    Raises:
        ValueError: for another shape or dtype, or an image that the border eats up.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"found an image of shape {image.shape}, expected (H, W, 3)")
    border = scale**protocol.power if protocol.border is None else protocol.border
    if min(image.shape[:2]) <= 2 * border:
        raise ValueError(f"nothing is left of {image.shape[0]}x{image.shape[1]} pixels without a border of {border}")
    inner = image[border : image.shape[0] - border, border : image.shape[1] - border]
    if np.issubdtype(inner.dtype, np.floating):
        inner = (inner.clip(0, 1) * 255).round().astype(np.uint8)
    elif inner.dtype != np.uint8:
        raise ValueError(f"found {inner.dtype} pixels, expected uint8 or floating point in [0, 1]")
    if protocol.channels == "y":
        if gray and protocol.gray == "file":
            return np.ascontiguousarray(inner @ FULL_RANGE, dtype=np.float64)[..., None]
        luma = rgb2y(inner) if protocol.y == "rounded" else rgb2y(inner / 255) * 255
        inner = luma[..., None]
    return np.ascontiguousarray(inner, dtype=np.float64)
