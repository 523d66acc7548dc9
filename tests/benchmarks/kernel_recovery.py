"""How well known kernels are found again: KernelGAN as released and as it is here, beside Gaussians without direction.

    python -m tests.benchmarks.kernel_recovery PHOTOS [--noise 5] [--released 3000] [--iterations 600] [--out FILE]
    python -m tests.benchmarks.kernel_recovery --speed [--images 16]

Six photos of the folder, of at least 320x480 pixels and spread over its names, are blurred by two kernels and halved.
Figures compare an estimate for x2 with the truth in a common frame, both with their centres of mass at one place: PSNR
by the largest value of the truth, and Pearson correlation. Nothing of the truth goes into `isotropic`: of Gaussians
without direction it is the one of the lowest loss by what the default asks of kernels (all but the discriminator), and
`isotropic, spectrum` the one that fits the power spectra best.

Speed is CPU time per iteration and image of a plain version, layer by layer and image by image, over ours.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate
from torch import Tensor, nn

from degradations.kernelgan.estimate import Estimate, KernelGAN, Pace, estimate_kernels
from degradations.kernelgan.losses import Spectra, bicubic_loss, kernel_losses
from degradations.kernelgan.shape import moved_to_centre
from degradations.kernels.families import elliptic
from utils.images.files import image_files, read_image
from utils.logging import Console, table

TRUE_KERNELS = ((2.2, 1.0, 0.6), (2.8, 1.2, 2.2))
"""Sigma along and across, and angle."""


def true_kernel(along: float, across: float, theta: float) -> np.ndarray:
    """(13, 13), half a pixel to the lower right of the middle pixel, where halving by it leaves an image centred."""
    return elliptic(13, theta, along**2, across**2, shift=-0.5)


def photos_of(folder: Path, count: int) -> list[np.ndarray]:
    """The 320x480 or 480x320 upper left pixels of photos spread evenly over the names of a folder, uint8 RGB."""
    images = [read_image(path) for path in image_files(folder)]
    large = [image for image in images if min(image.shape[:2]) >= 320 and max(image.shape[:2]) >= 480]
    wide = [image.shape[1] >= image.shape[0] for image in large]
    cropped = [im[:320, :480] if is_wide else im[:480, :320] for im, is_wide in zip(large, wide, strict=True)]
    return cropped[:: len(cropped) // count][:count]


def halved(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A photo (H, W, 3) uint8 blurred by a kernel, mirrored at its border, every second pixel kept, rounded."""
    blurred = np.stack([correlate(channel.astype(float), kernel)[::2, ::2] for channel in np.moveaxis(image, 2, 0)], 2)
    return blurred.round().clip(0, 255).astype(np.uint8)


def agreement(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """(PSNR in dB, Pearson correlation) of kernels that are both centred for x2, each in an odd frame of its own."""
    size = max(len(found), len(true))
    a, b = (np.pad(kernel, (size - len(kernel)) // 2) for kernel in (found, true))
    psnr = 10 * np.log10(b.max() ** 2 / ((a - b) ** 2).mean())
    return float(psnr), float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def isotropic(image: np.ndarray, weights: dict[str, float]) -> np.ndarray:
    """The isotropic Gaussian (13, 13) of the lowest weighted loss for an image."""
    sigmas = np.arange(0.5, 3.5, 0.05)
    kernels = torch.from_numpy(np.stack([true_kernel(sigma, sigma, 0) for sigma in sigmas])).float()
    spectra = Spectra([image / 255])
    losses = {**kernel_losses(kernels), "spectrum": spectra.loss(kernels)}
    total = sum((weight * losses[name] for name, weight in weights.items()), torch.zeros(len(sigmas)))
    return kernels[total.argmin()].double().numpy()


def recovery(photos: Path, iterations: int, released: int, noise: float = 0) -> dict[str, list[tuple[float, float]]]:
    """Method -> (PSNR, correlation) of every case; photo by photo, kernel by kernel."""
    truths = [true_kernel(*parameters) for parameters in TRUE_KERNELS]
    rng = np.random.default_rng(0)
    clean = [halved(photo, kernel) for photo in photos_of(photos, 6) for kernel in truths]
    noisy = (image + noise * rng.standard_normal(image.shape) for image in clean)
    images = [image.round().clip(0, 255).astype(np.uint8) for image in noisy]
    asked = {name: weight for name, weight in Pace.WEIGHTS.items() if name != "gan"}
    found = {
        "isotropic": [moved_to_centre(isotropic(image, asked), 2) for image in images],
        "isotropic, spectrum": [moved_to_centre(isotropic(image, {"spectrum": 1.0}), 2) for image in images],
        "sigma 1.5": [moved_to_centre(true_kernel(1.5, 1.5, 0), 2)] * len(images),
    }
    for name, count in (("default", iterations), ("released", released)):
        if count:
            settings = KernelGAN(scale=2, iterations=count, released=name == "released")
            found[name] = [estimate.kernel for estimate in estimate_kernels(images, settings)]
    centred = [moved_to_centre(kernel, 2) for kernel in truths]
    return {
        name: [agreement(kernel, centred[i % 2]) for i, kernel in enumerate(kernels)] for name, kernels in found.items()
    }


# --- the plain version -----------------------------------------------------------------------------------------------


class PlainGenerator(nn.Module):
    """One image's generator, layer by layer, on three channels as a batch."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(1, 64, 7), (64, 64, 5), (64, 64, 3), (64, 64, 1), (64, 64, 1)]
        layers = [nn.Conv2d(inner, outer, size, bias=False) for inner, outer, size in sizes]
        self.layers = nn.Sequential(*layers, nn.Conv2d(64, 1, 1, stride=2, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.transpose(0, 1)).transpose(0, 1)

    def kernel(self) -> Tensor:
        """(13, 13): the answer to an impulse."""
        x = torch.ones(1, 1, 1, 1)
        for i, layer in enumerate(self.layers):
            x = F.conv2d(x, layer.get_parameter("weight"), padding=12 if i == 0 else 0)
        return x[0, 0].flip(0, 1)


def plain_discriminator() -> nn.Module:
    norm = nn.utils.spectral_norm
    layers: list[nn.Module] = [norm(nn.Conv2d(3, 64, 7))]
    for _ in range(5):
        layers += [norm(nn.Conv2d(64, 64, 1)), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, norm(nn.Conv2d(64, 1, 1)), nn.Sigmoid())


def plain_run(image: np.ndarray, iterations: int) -> None:
    """KernelGAN of one image in the manner of the released code; crops at random."""
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(image / 127.5 - 1).float().permute(2, 0, 1)[None]
    network_g, network_d = PlainGenerator(), plain_discriminator()
    optim_g, optim_d = (torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999)) for n in (network_g, network_d))
    for _ in range(iterations):
        (top, left), (top_d, left_d) = (rng.integers(0, np.array(image.shape[:2]) - size) for size in (64, 26))
        inputs = pixels[..., top : top + 64, left : left + 64]
        real = pixels[..., top_d : top_d + 26, left_d : left_d + 26]
        optim_g.zero_grad()
        outputs = network_g(inputs)
        terms = kernel_losses(network_g.kernel()[None])
        wanted = sum((terms[name].sum() for name in ("sum", "boundaries", "central", "sparse")), torch.zeros(()))
        (1 - network_d(outputs)).abs().mean().add(wanted + bicubic_loss(outputs, inputs).sum()).backward()
        optim_g.step()
        optim_d.zero_grad()
        true, fake = network_d(real), network_d(network_g(inputs).detach() + torch.randn(1, 3, 26, 26) / 255)
        (0.5 * ((1 - true).abs().mean() + fake.abs().mean())).backward()
        optim_d.step()


def speed(images: int) -> dict[str, float]:
    """CPU seconds per iteration and image: of the plain version, ours as released, and ours; start-up left out."""
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (160, 240, 3), np.uint8) for _ in range(images)]

    def ours(released: bool, count: int) -> list[Estimate]:
        return estimate_kernels(photos, KernelGAN(scale=2, iterations=count, released=released))

    def seconds(run: Callable[[int], object], share: int) -> float:
        run(2)
        times = []
        for count in (3, 23):
            start = time.process_time()
            run(count)
            times.append(time.process_time() - start)
        return (times[1] - times[0]) / (20 * share)

    return {
        "plain": seconds(lambda count: plain_run(photos[0], count), 1),
        "ours, released": seconds(lambda count: ours(True, count), images),
        "ours": seconds(lambda count: ours(False, count), images),
    }


def main() -> None:
    """Prints the table that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="folder of photos, for recovery")
    parser.add_argument("--iterations", type=int, default=600, help="of the default; 0 leaves it out")
    parser.add_argument("--released", type=int, default=3000, help="iterations of the released code; 0 leaves it out")
    parser.add_argument("--noise", type=float, default=0, help="sigma of white noise on the halved photos, in levels")
    parser.add_argument("--out", type=Path, help="JSON of every case")
    parser.add_argument("--speed", action="store_true", help="measure speed instead")
    parser.add_argument("--images", type=int, default=16, help="trained together for --speed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.speed:
        cost = speed(options.images)
        rows = [[name, f"{1e3 * s:.2f}", f"{cost['plain'] / s:.1f}"] for name, s in cost.items()]
        Console().info(table(["version", "ms CPU / iteration / image", "ratio"], rows))
        return
    if options.photos is None:
        parser.error("found no folder of photos, expected one, or --speed")
    results = recovery(options.photos, options.iterations, options.released, options.noise)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))
    mean = {name: np.mean(cases, axis=0) for name, cases in results.items()}
    rows = [[name, f"{psnr:.2f}", f"{pearson:.4f}"] for name, (psnr, pearson) in mean.items()]
    Console().info(table(["kernel", "PSNR", "correlation"], rows))


if __name__ == "__main__":
    main()
