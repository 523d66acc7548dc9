"""Writes a generator for other programs, each file checked by its own runtime, with a model card.

python -m models.publishing runs/NAME/checkpoints/gan_00400000 --out published
python -m models.publishing RealESRGAN_x4plus.pth --out published --to onnx ncnn
"""

import argparse
import sys
from pathlib import Path

import torch

from models.publishing.bundle import SIZES, publish
from models.publishing.card import write_card
from models.restoring.generator import load_generator
from models.weights.files import weight_files
from utils.images.files import read_image
from utils.logging import Console
from utils.options.fields import OptionError

FORMS = ("safetensors", "pth", "onnx", "ncnn")


def main() -> int:
    """Runs the command line. Returns the exit status: 1 if anything could not be written."""
    args, console = arguments(), Console()
    try:
        path = weight_files(args.checkpoint, "raw" if args.raw else "ema")[0]
        generator = load_generator(path, "raw" if args.raw else "ema")
        name = args.name or (path.stem if path.parent != args.checkpoint else args.checkpoint.name)
        photo = torch.from_numpy(read_image(args.photo)).permute(2, 0, 1)[None].float()
        photo = photo / (65535 if photo.max() > 255 else 255)
        if min(photo.shape[-2:]) < 2 * max(map(max, SIZES)):
            raise OptionError(f"{args.photo}: has {tuple(photo.shape[-2:])} pixels, expected sides of 128 or more")
    except (OptionError, OSError) as error:
        console.error(str(error))
        return 1
    done, failed = [], 0
    for form in args.to:
        try:
            for one in publish(generator, name, args.out, [form], photo, args.half):
                files = ", ".join(file.name for file in one.files)
                console.info(f"{files}: {one.runtime} differs from PyTorch by {one.largest:.1e}")
                for note in one.notes:
                    console.info(f"  {note}")
                done.append(one)
        except OptionError as error:
            console.error(str(error))
            failed += 1
    if done:
        write_card(args.out, name, generator, done, photo, args.licence)
        console.info(f"README.md and samples.png are in {args.out}; read them, and fill in what is left open")
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, help="a checkpoint folder of ours, a weight file of any layout, or zoo:NAME")
    add("--out", type=Path, required=True, help="folder for the files")
    add("--to", nargs="+", choices=FORMS, default=list(FORMS), help="forms (default: all)")
    add("--photo", type=Path, required=True, help="a photograph, for the checks and the samples")
    add("--name", help="of the files (default: that of the checkpoint)")
    add("--raw", action="store_true", help="the raw weights instead of their average")
    add("--licence", default="", help="of the weights, such as bsd-3-clause")
    precision = parser.add_mutually_exclusive_group()
    text = "float16 in ONNX and ncnn (default: in ncnn alone, as the released models)"
    precision.add_argument("--half", action="store_true", default=None, help=text)
    precision.add_argument("--full", dest="half", action="store_false", help="float32 everywhere")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
