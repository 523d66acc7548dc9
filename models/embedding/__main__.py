"""How well an encoder's embedding tells degradations apart, beside an untrained encoder and a power spectrum.

    python -m models.embedding --weights runs/dasr_x4_iso/checkpoints/joint_00485000 --data HELD_OUT --out DIR
    python -m models.embedding --weights DASR_x4.pt --data HELD_OUT --opt options/dasr/x4_aniso.yml --out DIR

Crops from the centres of images that training has not seen are each degraded in the same ways: by a grid of Gaussian
kernels and noise levels, or (`--opt`) as drawn from an option file. Written are embedding.png (every crop on the first
two principal components, coloured by what was done to it) and embedding.json (the table that is printed). In training,
`embedding` of a validation set gives the same at each validation.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from data.sources.folder import Folder
from degradations import DEGRADATIONS, Degradation, Plan
from models.embedding.report import (
    CROP,
    MAX_IMAGES,
    MIN_CROP,
    MIN_IMAGES,
    SPECTRUM,
    Samples,
    crops,
    drawn_plans,
    embeddings,
    spectra,
    write_report,
)
from models.network import NETWORKS
from models.networks.blocks import EncoderNetwork
from models.restoring.generator import LoadedGenerator, load_generator
from models.weights.files import weight_files
from utils.logging import Console
from utils.options import files as option_files
from utils.options.arguments import Arg, Overrides, parse
from utils.options.fields import Count, OptionError, TwoOrMore
from utils.seeding import generator as stream

# Of the grid: both widths in low-quality pixels with the angle in degrees, and noise levels of 8 bits.
KERNELS = (
    *((width, width, 0) for width in (0.25, 0.5, 0.75, 1.0)),
    *((1.0, 0.4, degrees) for degrees in (0, 45, 90, 135)),
)
LEVELS = (0, 5, 15)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The command line."""

    weights: Path
    """A weight file, or a checkpoint folder of ours."""
    data: Annotated[Path, Arg("FOLDER")]
    """Images that training has not seen."""
    out: Annotated[Path, Arg("DIR")]
    """Where embedding.png and embedding.json go."""
    option_file: Annotated[Path | None, Arg("FILE", flags=("--opt",))] = None
    """Draw from its degradation (default: a grid of `gaussian`)."""
    overrides: Overrides = ()
    """Override an option of --opt."""
    images: Annotated[int, Field(ge=MIN_IMAGES)] = MAX_IMAGES
    """The first N."""
    degradations: Annotated[TwoOrMore, Arg("K")] = 24
    """Drawn from --opt."""
    crop: Annotated[int, Field(ge=MIN_CROP), Arg("PX")] = CROP
    """Low-quality pixels."""
    seed: Count = 0
    """Of drawn degradations and fresh weights."""


def grid_plans(scale: int, side: int) -> tuple[Degradation, list[Plan]]:
    """Return the grid of `gaussian` degradations, for ground truths of `side` pixels."""
    plans = []
    for first, second, degrees in KERNELS:
        for level in LEVELS:
            steps = {
                "blur": {"fixed": [first * scale, second * scale, degrees]},
                "noise": {"level_range": [level, level]},
            }
            degradation = DEGRADATIONS.build({"type": "gaussian", "steps": steps}, scale=scale)
            plans.append(degradation.sample(stream(len(plans), "embedding"), (side, side)))
    return DEGRADATIONS.build("gaussian", scale=scale), plans


def untrained(trained: LoadedGenerator, lq: Sequence[Tensor], seed: int) -> nn.Module:
    """Return the same network's encoder with fresh weights, its batch norms with statistics of these samples: theirs
    would be those of no images, which makes a line that is easier to beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream(seed, "weights").integers(2**31)))
        network = NETWORKS.build(trained.options)
    assert isinstance(network, EncoderNetwork)
    for module in network.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for of_one in lq:
            network.encoder(of_one)
    return network.encoder.eval()


def report(args: Arguments, console: Console) -> None:
    """Make the samples, measure all features on them, print and write."""
    trained = load_generator(weight_files(args.weights, "ema")[0])
    network = trained.network
    if not isinstance(network, EncoderNetwork):
        raise OptionError(f"{args.weights}: {trained.options['type']} has no encoder; expected a network such as dasr")
    scale, side = network.scale, args.crop * network.scale
    if args.option_file is None:
        degradation, plans = grid_plans(scale, side)
    else:
        tree = option_files.load(args.option_file, args.overrides)
        if tree.get("scale") != scale:
            found = f"scale: found {tree.get('scale')}, but the network has scale {scale}"
            raise OptionError(f"{found}; use its option file")
        degradation = DEGRADATIONS.build(tree.get("degradation"), where="degradation", scale=scale)
        plans = drawn_plans(degradation, scale, side, args.degradations, args.seed)
    samples = Samples.make(crops(Folder(str(args.data)), args.images, side), degradation, plans)
    features = {
        "encoder": embeddings(network.encoder, samples.lq),
        "untrained encoder": embeddings(untrained(trained, samples.lq, args.seed), samples.lq),
        SPECTRUM: spectra(samples.lq),
    }
    about = f"{len(samples.lq)} images x {len(plans)} degradations, crops of {args.crop} px at x{scale}"
    facts = {"weights": str(args.weights), "network": trained.options, "about": about, "seed": args.seed}
    _, text = write_report(args.out, samples, features, **facts)
    console.info(f"{args.weights}: {about}\n\n{text}")
    console.info(f"wrote {args.out / 'embedding.png'} and {args.out / 'embedding.json'}")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse(Arguments, given, prog="python -m models.embedding", description=__doc__)
    console = Console()
    try:
        report(args, console)
        return 0
    except (OptionError, OSError) as error:
        console.error(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
