"""The generator that a weight file holds: found, built, filled, mixed with another, and named in tables."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.network import NETWORKS, Network
from models.networks.spandrel import SPANDREL
from models.weights.guess import UnknownNetwork, guess_network
from models.weights.layouts import Prefer
from models.weights.load import load_weights, read_weights, stated_network
from utils.options.fields import OptionError


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator with its weights, where they come from, and the options it was built with."""

    network: Network
    path: Path | None
    options: dict[str, Any]

    @property
    def channels(self) -> int:
        """Channels of its input: 1 or 3."""
        read_off = getattr(self.network, "channels", 3)  # of a file's network that spandrel builds
        return int(self.options.get("num_in_ch", self.options.get("out_nc", read_off)))


def load_generator(path: Path, prefer: Prefer = "ema", otherwise: Mapping[str, Any] | None = None) -> LoadedGenerator:
    """Build and fill the generator that a weight file belongs to.

    Args:
        path: a weight file of ours, which says what network it is, or a published one, whose keys and shapes tell, us
            or else spandrel.
        prefer: which weights to take from a published file that holds averaged and raw ones.
        otherwise: network options for a file that does not tell.

    Raises:
        OptionError: naming the file, if it cannot be read, does not tell its network, or holds no generator.
    """
    state, unknown = read_weights(path, prefer), ""
    options = stated_network(path)
    try:
        if options is None:
            try:
                options = guess_network(state)
            except UnknownNetwork as error:
                options, unknown = dict(otherwise or {"type": SPANDREL}), f"{error} (--opt FILE); "
        if options["type"] == SPANDREL:  # the file itself tells the structure, wherever the one lies that it came from
            options = {"type": SPANDREL, "file": str(path), "weights": prefer}
        network = NETWORKS.build(options)
    except OptionError as error:
        raise OptionError(f"{path}: {unknown}{str(error).removeprefix(f'{SPANDREL}: ')}") from error
    if network.role != "generator":
        raise OptionError(f"{path}: holds a discriminator ({options['type']}), expected a generator")
    if options["type"] != SPANDREL:  # which is filled
        load_weights(network, state)
    return LoadedGenerator(network.eval().requires_grad_(False), path, dict(options))


RELATED = 0.2
"""Weights of networks that were trained apart correlate less."""


def correlation(first: Network, second: Network) -> float:
    """Return how far two networks of one structure agree: the cosine between all weights of their convolutions.

    About 0 for networks that were trained apart, near 1 where one was fine-tuned from the other.
    """
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    weights = zip(*(pair for pair in pairs if pair[0].dim() > 1), strict=True)
    a, b = (torch.cat([weight.flatten() for weight in of_one]).double() for of_one in weights)
    return float(torch.cosine_similarity(a, b, dim=0))


def interpolate(
    generator: LoadedGenerator,
    path: Path,
    strength: float,
    prefer: Prefer = "ema",
    warn: Callable[[str], None] = lambda _: None,
) -> LoadedGenerator:
    """Mix the weights of two files of one network (deep network interpolation, Wang et al., CVPR 2019).

    Each weight is strength·(the generator's) + (1 - strength)·(the file's): 1 leaves the generator as it is.
    Networks that were trained apart are warned of.

    Raises:
        OptionError: if the file cannot be read, or its names or shapes are not those of the generator.
    """
    other = deepcopy(generator.network)
    load_weights(other, path, prefer=prefer)
    if (agreement := correlation(generator.network, other)) < RELATED:
        warn(
            f"{path}: its weights and those to mix with correlate by {agreement:.2f}, as of networks that were trained "
            "apart; mixtures look well only where one was fine-tuned from the other (Wang et al., CVPR 2019)"
        )
    pairs = zip(generator.network.state_dict().items(), other.state_dict().values(), strict=True)
    other.load_state_dict({k: a * strength + b * (1 - strength) if a.is_floating_point() else a for (k, a), b in pairs})
    return LoadedGenerator(other, generator.path, generator.options)


def bicubic_generator(scale: int) -> LoadedGenerator:
    """Return the baseline without weights."""
    options = {"type": "bicubic", "scale": scale}
    return LoadedGenerator(NETWORKS.build(options), None, options)


def at_scale(generator: LoadedGenerator, scale: int) -> LoadedGenerator:
    """Return the generator with this nominal scale. Raises OptionError if it has another one and takes no other."""
    if scale == generator.network.scale:
        return generator
    if "scale" not in generator.network.conditions:
        own = generator.network.scale
        raise OptionError(f"--scale {scale}: this network has scale {own} and no other; see --outscale")
    options = {**generator.options, "scale": scale}
    network = NETWORKS.build(options)
    network.load_state_dict(generator.network.state_dict())
    return LoadedGenerator(network.eval().requires_grad_(False), generator.path, options)
