"""Writes a generator for other programs, each file checked by its own runtime, with a model card.

python -m models.publishing runs/NAME --out published
python -m models.publishing runs/NAME/checkpoints/gan_00400000 --out published
python -m models.publishing RealESRGAN_x4plus.pth --out published --to onnx ncnn
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from data.sources.photos import Photos
from models.publishing.bundle import SIZES, publish
from models.publishing.card import write_card
from models.restoring.generator import load_generator
from models.restoring.restorer import unit_range
from models.weights.files import weight_files
from models.weights.zoo import LICENCE, entry_of
from utils.images.files import read_image
from utils.logging import Console
from utils.options.arguments import Arg, parse
from utils.options.fields import OptionError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The command line."""

    checkpoint: Annotated[Path, Arg("CHECKPOINT", positional=True)]
    """A run or a checkpoint folder of ours, a weight file of any layout, or zoo:NAME."""
    out: Annotated[Path, Arg("DIR")]
    """Folder for the files."""
    to: tuple[Literal["safetensors", "pth", "onnx", "ncnn"], ...] = ("safetensors", "pth", "onnx", "ncnn")
    """Forms."""
    photo: Path | None = None
    """A photograph, for the checks and the samples (default: one of scikit-image)."""
    name: str | None = None
    """Of the files; left out, that of the run or the checkpoint."""
    raw: bool = False
    """The raw weights instead of their average."""
    licence: str = ""
    """Of the weights, such as bsd-3-clause, for the card."""
    results: Annotated[Path | None, Arg("FILE")] = None
    """results.md of test.py, for the card."""
    half: bool | None = None
    """float16 in ONNX and ncnn; left out, in ncnn alone, as the released models."""
    full: bool = False
    """float32 everywhere."""

    def __post_init__(self) -> None:
        if self.half and self.full:
            raise ValueError("--half and --full exclude each other")


def main() -> int:
    """Run the command line. Return the exit status: 1 if anything could not be written."""
    args = parse(Arguments, prog="python -m models.publishing", description=__doc__)
    console, half = Console(), False if args.full else args.half
    try:
        path = weight_files(args.checkpoint, "raw" if args.raw else "ema")[0]
        generator = load_generator(path, "raw" if args.raw else "ema")
        name = args.name or (args.checkpoint.resolve().name if args.checkpoint.is_dir() else path.stem)
        photo = photograph(args.photo)
        results = args.results.read_text(encoding="utf-8") if args.results else ""
    except (OptionError, OSError) as error:
        console.error(str(error))
        return 1
    done, failed = [], 0
    for form in args.to:
        try:
            for one in publish(generator, name, args.out, [form], photo, half):
                files = ", ".join(file.name for file in one.files)
                console.info(f"{files}: {one.runtime} differs from PyTorch by {one.largest:.1e}")
                for note in one.notes:
                    console.info(f"  {note}")
                done.append(one)
        except OptionError as error:
            console.error(str(error))
            failed += 1
    if done:
        licence = args.licence or (LICENCE if entry_of(path) else "")
        write_card(args.out, name, generator, done, photo, licence, results)
        console.info(f"README.md and samples.png are in {args.out}")
        for flag, missing, how in (
            ("--licence", licence, "such as bsd-3-clause"),
            ("--results", results, "the results.md of test.py"),
        ):
            if not missing:
                console.info(f"  the card names none: {flag} ({how})")
    return 1 if failed else 0


def photograph(path: Path | None) -> Tensor:
    """Return a photograph (1, 3, h, w) in [0, 1]: of a file, or one that ships with scikit-image.

    Raises OptionError if there is none, or it is small.
    """
    try:
        path = path or Photos("validation").path(0)
    except OptionError as error:
        raise OptionError(f"--photo: give a photograph, for the checks and the samples; or: {error}") from error
    pixels = read_image(path)
    if min(pixels.shape[:2]) < 2 * max(map(max, SIZES)):
        raise OptionError(f"{path}: has {pixels.shape[:2]} pixels, expected sides of 128 or more")
    return unit_range(torch.from_numpy(pixels).permute(2, 0, 1)[None])


if __name__ == "__main__":
    sys.exit(main())
