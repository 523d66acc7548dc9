"""Estimation of the kernels by which images were downscaled: KernelGAN (Bell-Kligler, Shocher, Irani, NeurIPS 2019).

A deep linear generator downscales crops of an image; a discriminator of small patches cannot tell the result from the
image itself once the generator's kernel is the image's own. Every image has networks of its own. Here they are
trained together: parameters and crops stand in stacks (N, …) over the images, every operation is grouped by image, and
losses are summed over images, so that nothing passes between them.

The generator has no nonlinearity, so its layers are composed into their 13x13 kernel, and that is applied once: the
same function and gradients as layer by layer, at a fraction of the cost.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degradations.kernelgan.crops import centre_probabilities, corners
from degradations.kernelgan.losses import Spectra, bicubic_kernel, bicubic_loss, downscaled, kernel_losses
from degradations.kernelgan.settings import KernelGAN
from degradations.kernelgan.shape import moved_to_centre, twice_applied, zeroised
from utils.seeding import draw_seed, generator, torch_generator

SIZE_G, SIZE_D, SIZE_K = 64, 26, 13
"""Sides of the generator's crops, of its outputs and the discriminator's crops, and of the kernel, in pixels."""

SHAVED = 10
"""Pixels cut off each side of an image whose border was itself made by a blur (`real_image: false`)."""


@dataclass(frozen=True)
class Estimate:
    """The kernel of an image: `kernel` (k, k) float64, sum 1, aligned at the pixel centres of the scale; `raw` (13, 13)
    as the generator has it, for x2; `losses`: the generator's terms unweighted, and their weighted sum `total`, as
    means over its last 100 iterations."""

    kernel: np.ndarray
    raw: np.ndarray
    losses: dict[str, float]


# --- networks --------------------------------------------------------------------------------------------------------


class Generators(nn.Module):
    """N deep linear networks: convolutions of 7, 5, 3, 1, 1 and 1 pixels, 64 channels, no bias, the last of stride 2.

    `weights` are as published, with a leading axis over networks. Initialised as published, Xavier with gain 0.1.
    """

    SHAPES = ((64, 1, 7, 7), (64, 64, 5, 5), (64, 64, 3, 3), (64, 64, 1, 1), (64, 64, 1, 1), (1, 64, 1, 1))

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(_drawn(s, 0.1 * _xavier(s), generators) for s in self.SHAPES)

    def forward(self) -> Tensor:
        """Return the kernels (N, 13, 13), as they are correlated with images."""
        kernels, *inner = reversed(list(self.weights))
        for weight in inner:
            kernels = _composed(kernels, weight)
        return kernels[:, 0, 0]


def _drawn(shape: tuple[int, ...], std: float, generators: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([std * torch.randn(shape, generator=g) for g in generators])


def _xavier(shape: tuple[int, ...]) -> float:
    return (2 / ((shape[0] + shape[1]) * shape[2] * shape[3])) ** 0.5


def _composed(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the convolutions (N, 1, C, a + b - 1, …) that equal (N, C', C, b, b), and after it (N, 1, C', a, a)."""
    n, _, channels, a, _ = outer.shape
    b = inner.shape[-1]
    columns = inner.reshape(n, channels, -1).mT @ outer.reshape(n, channels, a * a)
    return F.fold(columns, a + b - 1, b)[:, None]


class Discriminators(nn.Module):
    """N networks that judge the patch of 7x7 pixels around each pixel of an image, all convolutions spectrally
    normalised: 7x7 to 64 channels, five times 1x1, batch normalisation, ReLU, and 1x1 to one.

    Names are as published; values have a leading axis over networks. Batches are always normalised by themselves.

    Quirk: the released initialisation writes into a tensor that spectral normalisation overwrites at once; so
    `released` weights keep the width of PyTorch's default instead of Xavier's.
    """

    DEPTH = 5

    def __init__(self, generators: Sequence[torch.Generator], released: bool = False) -> None:
        super().__init__()
        shapes = [(64, 3, 7, 7), *[(64, 64, 1, 1)] * self.DEPTH, (1, 64, 1, 1)]
        n = len(generators)
        self.weights = nn.ParameterList(
            _drawn(s, (3 * s[1] * s[2] * s[3]) ** -0.5 if released else _xavier(s), generators) for s in shapes
        )
        self.biases = nn.ParameterList(torch.zeros(n, s[0]) for s in shapes)
        self.scales = nn.ParameterList(
            torch.stack([1 + 0.02 * torch.randn(64, generator=g) for g in generators]) for _ in range(self.DEPTH)
        )
        self.shifts = nn.ParameterList(torch.zeros(n, 64) for _ in range(self.DEPTH))
        self.directions: list[Tensor] = [  # the left singular vectors that the normalisation follows
            F.normalize(torch.stack([torch.randn(s[0], generator=g) for g in generators]), dim=1) for s in shapes
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, h, w) to probabilities (N, h - 6, w - 6) of being of the real image. Moves the directions."""
        n, _, height, width = images.shape
        first, *middle, last = (self._normalised(i) for i in range(len(self.weights)))
        x = F.conv2d(images.reshape(1, -1, height, width), first.flatten(0, 1), self.biases[0].flatten(), groups=n)
        x = x.reshape(n, 64, -1)
        for i, weight in enumerate(middle):
            x = torch.baddbmm(self.biases[i + 1][..., None], weight.flatten(2), x)
            x = x.reshape(1, n * 64, -1)  # networks as channels: each has statistics of its own
            x = F.batch_norm(x, None, None, self.scales[i].flatten(), self.shifts[i].flatten(), training=True)
            x = F.relu(x).reshape(n, 64, -1)
        x = torch.baddbmm(self.biases[-1][..., None], last.flatten(2), x)
        return torch.sigmoid(x).reshape(n, height - 6, width - 6)

    def _normalised(self, i: int) -> Tensor:
        """Return weights divided by their largest singular value, after one step of the power iteration towards it."""
        weight = self.weights[i]
        matrix = weight.flatten(2)
        with torch.no_grad():
            v = F.normalize((matrix.mT @ self.directions[i][..., None])[..., 0], dim=1, eps=1e-12)
            u = F.normalize((matrix @ v[..., None])[..., 0], dim=1, eps=1e-12)
            self.directions[i] = u
        largest = torch.einsum("nij,ni,nj->n", matrix, u, v)
        return weight / largest[:, None, None, None, None]


# --- learning --------------------------------------------------------------------------------------------------------


class Pace:
    """Learning rates and weights of the losses: steady for half of the time, then the rates fall to 0."""

    WEIGHTS = {
        **{"gan": 1.0, "spectrum": 3.0, "sum": 0.5, "boundaries": 0.5},
        **{"central": 1.0, "sparse": 3.0, "smooth": 0.5, "negative": 1.0},
    }

    def __init__(self, count: int, iterations: int) -> None:
        self.iterations = iterations
        self.rate_g, self.rate_d = 4e-4, 2e-4
        self.weights = {name: np.full(count, weight) for name, weight in self.WEIGHTS.items()}

    def update(self, iteration: int, losses: dict[str, Tensor]) -> None:
        """Move on after an iteration, counted from 0, with its losses (N,)."""
        left = min(1.0, 2 * (1 - (iteration + 1) / self.iterations))
        self.rate_g, self.rate_d = 4e-4 * left, 2e-4 * left


class ReleasedPace(Pace):
    """By iteration, and by each image's bicubic loss.

    The rates fall to a tenth every 750 iterations. Once an image's bicubic loss was below 0.4 for three iterations on
    end, its weight falls to a hundredth every 200 iterations; when it first falls below 0.005, the kernel's centre
    and sparsity begin to count.
    """

    WEIGHTS = {"gan": 1.0, "bicubic": 5.0, "sum": 0.5, "boundaries": 0.5, "central": 0.0, "sparse": 0.0}

    def __init__(self, count: int) -> None:
        super().__init__(count, 3000)
        self.rate_g = self.rate_d = 2e-4
        self.streak = np.zeros(count, int)

    @property
    def similar(self) -> np.ndarray:
        """(N,) bool: whose kernels were near enough to bicubic to be let go."""
        return self.streak >= 3

    def update(self, iteration: int, losses: dict[str, Tensor]) -> None:
        """Move on as in `Pace`; needs the loss `bicubic`."""
        if iteration == 0:
            return
        if iteration % 750 == 0:
            self.rate_g = self.rate_d = self.rate_g / 10
        weights = self.weights
        if iteration % 200 == 0:
            falling = self.similar & (weights["bicubic"] > 5e-6)
            lower = np.maximum(weights["bicubic"] / 100, 5e-6)
            turning = falling & (lower < 5e-3)
            weights["bicubic"] = np.where(falling, lower, weights["bicubic"])
            weights["central"] = np.where(turning, 1.0, weights["central"])
            weights["sparse"] = np.where(turning, 5.0, weights["sparse"])
        low = losses["bicubic"].cpu().numpy() < 0.4
        self.streak = np.where(self.similar, self.streak, np.where(low, self.streak + 1, 0))


class Training:
    """The networks of N images, learning together. Crops and noise are handed in.

    Without `spectra` as released; with them by our losses, and from the bicubic kernel on.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        pace: Pace,
        spectra: Spectra | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.pace, self.spectra = pace, spectra
        self.network_g = Generators(generators).to(device)
        self.network_d = Discriminators(generators, released=spectra is None).to(device)
        self.network_d.directions = [u.to(device) for u in self.network_d.directions]
        if spectra is not None:
            start_at_bicubic(self.network_g)
        self.optim_g, self.optim_d = (_adam(network) for network in (self.network_g, self.network_d))

    def step(self, iteration: int, inputs: Tensor, real: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Update each network once, generators first; return the generators' losses (N,).

        `inputs` (N, 3, 64, 64), `real` (N, 3, 26, 26) in [-1, 1]; `noise` is added to what the discriminators see of
        the generators' outputs.
        """
        self.network_d.requires_grad_(False)
        kernels = self.network_g()
        outputs = downscaled(inputs, kernels)
        losses = {"gan": (1 - self.network_d(outputs)).abs().mean((1, 2)), **kernel_losses(kernels)}
        if self.spectra is None:
            losses["bicubic"] = bicubic_loss(outputs, inputs)
        else:
            losses["spectrum"] = self.spectra.loss(kernels)
        weights = {name: torch.as_tensor(weight).to(inputs) for name, weight in self.pace.weights.items()}
        total = torch.stack([weight * losses[name] for name, weight in weights.items()]).sum(0)
        _descend(self.optim_g, self.pace.rate_g, total)
        self.network_d.requires_grad_(True)
        with torch.no_grad():
            outputs = downscaled(inputs, self.network_g())  # by the new weights
        true, fake = self.network_d(real), self.network_d(outputs + noise)  # in this order: each moves the directions
        distances = 0.5 * ((1 - true).abs().mean((1, 2)) + fake.abs().mean((1, 2)))
        _descend(self.optim_d, self.pace.rate_d, distances)
        losses = {name: loss.detach() for name, loss in [*losses.items(), ("total", total)]}
        self.pace.update(iteration, losses)
        return losses


def start_at_bicubic(networks: Generators) -> None:
    """Give all networks the same weights, of the bicubic kernel to about 1e-3 in a value."""
    one = Generators([torch_generator(0)])
    optimizer, target = _adam(one), bicubic_kernel().float()
    for i in range(300):
        _descend(optimizer, 1e-3 * (1 - i / 300), ((one() - target) ** 2).sum((1, 2)))
    for weight, start in zip(networks.weights, one.weights, strict=True):
        weight.data.copy_(start.data.expand_as(weight))


def _adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), betas=(0.5, 0.999), fused=True)


def _descend(optimizer: torch.optim.Adam, rate: float, losses: Tensor) -> None:
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad()
    losses.sum().backward()
    optimizer.step()


class Crops:
    """The crops of one image: where detail is, in an order that the image's content and a seed fix."""

    def __init__(self, image: np.ndarray, settings: KernelGAN, where: str, device: torch.device | str = "cpu") -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{where}: found {image.dtype} of shape {image.shape}, expected 8-bit RGB (H, W, 3)")
        shave = 0 if settings.real_image else SHAVED
        height, width = ((side - 2 * shave) // 2 * 2 for side in image.shape[:2])
        if min(height, width) < SIZE_G:
            size, least = "x".join(map(str, image.shape[:2])), SIZE_G + 2 * shave
            raise ValueError(
                f"{where}: found {size} pixels, expected at least {least}x{least}, which the crops need; leave it out"
            )
        rng = generator(settings.seed, zlib.crc32(image.tobytes()))
        values = image[shave : shave + height, shave : shave + width] / 255
        for_g, for_d = (self._drawn(values, size, settings.steps, rng) for size in (SIZE_G, SIZE_D))
        self.corners = list(zip(for_g.tolist(), for_d.tolist(), strict=True))
        self.generator = torch_generator(draw_seed(rng))
        self.values = values
        self.image = torch.from_numpy(2 * values - 1).permute(2, 0, 1).float().to(device)
        self.settings = settings

    def _drawn(self, values: np.ndarray, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
        chances = centre_probabilities(values, size == SIZE_G, size)
        return corners(rng.choice(chances.size, count, p=chances.ravel()), chances.shape, size)

    def take(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        """Take the generator's input, the discriminator's real crop with noise, and noise for the fake one."""
        (top, left), (top_d, left_d) = self.corners[iteration]
        noise, noise_fake = (
            self.settings.noise_scale / 255 * torch.randn(2, 3, SIZE_D, SIZE_D, generator=self.generator).to(self.image)
        )
        inputs = self.image[:, top : top + SIZE_G, left : left + SIZE_G].clone()
        real = self.image[:, top_d : top_d + SIZE_D, left_d : left_d + SIZE_D]
        if self.settings.released:  # Quirk: the noise stays in the image
            return inputs, real.add_(2 * noise).clone(), noise_fake
        return inputs, real + 2 * noise, 2 * noise_fake


def estimate_kernels(
    images: Sequence[np.ndarray],
    settings: KernelGAN,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> list[Estimate]:
    """Estimate the kernel of each image, all in one batch, each as it would be alone.

    Args:
        images: uint8 RGB (H, W, 3) of any sizes, 64 pixels or more each side.
        settings: see KernelGAN.
        device: where to compute.
        progress: called after each iteration with the number done.

    Raises:
        ValueError: naming the image by its position, when it is too small or is none.
    """
    crops = [Crops(image, settings, f"image {i}", device) for i, image in enumerate(images)]
    if not crops:
        return []
    if settings.released:
        pace, spectra = ReleasedPace(len(crops)), None
    else:
        pace, spectra = Pace(len(crops), settings.steps), Spectra([c.values for c in crops], device)
        pace.weights["gan"] *= spectra.share  # discriminators see noise, and kernels that keep it are narrow
    training = Training([c.generator for c in crops], pace, spectra, device)
    with torch.no_grad():
        kernels = training.network_g()
    means: dict[str, Tensor] = {}
    last = min(100, settings.steps)
    for iteration in range(settings.steps):
        if settings.released:  # Quirk: the released result is the kernel before the last update
            with torch.no_grad():
                kernels = training.network_g()
        losses = training.step(
            iteration, *(torch.stack(parts) for parts in zip(*(c.take(iteration) for c in crops), strict=True))
        )
        if iteration >= settings.steps - last:
            means = {name: means.get(name, 0) + loss / last for name, loss in losses.items()}
        if progress:
            progress(iteration + 1)
    if not settings.released:
        with torch.no_grad():
            kernels = training.network_g()
    return [
        Estimate(finished(raw, settings), raw, {name: float(mean[i]) for name, mean in means.items()})
        for i, raw in enumerate(kernels.cpu().numpy())
    ]


def finished(raw: np.ndarray, settings: KernelGAN) -> np.ndarray:
    """Return the kernel (k, k) for the scale that a generator's kernel (13, 13) for x2 means; aligned, float64, sum 1.

    Of released kernels 40 values survive, of ours twice as many: 40 narrow even a true kernel, to 27 dB. Where nothing
    is left, or values are not finite, the result is flat, which `flaws` calls spread.
    """
    with np.errstate(all="ignore"):
        cleared = zeroised(raw.astype(np.float64), 40 if settings.released else 80)
    if not np.isfinite([raw, cleared]).all():  # clearing clips infinities
        cleared = np.full(raw.shape, 1 / raw.size)
    kernel = moved_to_centre(cleared, 2)
    if not settings.released:  # whose splines' negative lobes stay
        kernel = np.maximum(kernel, 0) / np.maximum(kernel, 0).sum()
    return twice_applied(kernel) if settings.scale == 4 else kernel
