"""Turn option files of other frameworks into ours: `python -m models.importing FILE -o mine.yml`.

Every key of the file stands in a table at the end of the result: taken over, equal to our default, derived, or not
carried and why. Two files make the two stages of one run. DASR and CDSR have no option files but command lines:

    python -m models.importing --as dasr -o mine.yml -- --scale 2 --blur_type iso_gaussian --sig_max 2.0
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from models.importing import basicsr, dasr_cdsr, kair, realsr, text, trainner
from models.importing.conversion import ANY_POOL, Conversion, ForeignFileError, Told, at, joined
from models.training.experiment import check_experiment
from utils.logging import Console
from utils.options import files
from utils.options.arguments import Arg, parse
from utils.options.components import OptionsError, flat
from utils.options.fields import OptionError, PositiveInt
from utils.storage.files import replace_text

Kind = Literal["basicsr", "kair", "trainner", "neosr", "realsr", "dasr", "cdsr"]
CONVERTERS: dict[Kind, Callable[[Conversion], None]] = {
    "basicsr": basicsr.convert,
    "kair": kair.convert,
    "trainner": trainner.convert,
    "neosr": trainner.convert,
    "realsr": realsr.convert,
    "dasr": lambda c: dasr_cdsr.convert(c, "dasr"),
    "cdsr": lambda c: dasr_cdsr.convert(c, "cdsr"),
}


def kind_of(tree: Mapping[str, Any], source: str) -> Kind:
    """Tell the framework whose option file this is by its keys. Raises OptionError where they tell of none."""
    train = at(tree, "datasets.train") or {}
    if {"network_g", "stages"} <= set(tree):
        raise OptionError(f"{source}: is an option file of this project already")
    if "netG" in tree and "dataset_type" in train:
        return "kair"
    if "network_G" in tree and at(tree, "network_G.which_model_G"):
        return "realsr"
    if "network_g" in tree and isinstance(train, Mapping):
        ours = str(at(tree, "model_type")).endswith("Model") and not isinstance(at(tree, "train.losses"), list)
        return "basicsr" if ours else "trainner"
    expected = "netG (KAIR), network_G (RealSR) or network_g (BasicSR, traiNNer, neosr), and datasets.train"
    raise OptionError(
        f"{source}: is no option file of a training known here: its keys are {', '.join(list(tree)[:8])}; expected "
        f"{expected}. A whole file is needed; --as says what it is for"
    )


def convert(
    sources: Sequence[tuple[str, Mapping[str, Any]]],
    kind: Kind | None = None,
    told: Told = Told(),  # noqa: B008 - frozen
    iterations: Sequence[int] = (),
) -> tuple[dict[str, Any], list[Conversion]]:
    """Return our option tree of foreign ones, and the conversions with what became of each key.

    Args:
        sources: (name, tree) of each file, one a stage, in the order of training.
        kind: a key of CONVERTERS; left out, each file's keys tell.
        told: what the files leave open; `iterations` of each stage that a file does not end.

    Raises:
        OptionError: nothing could be made of a file; with all reasons.
    """
    parts: list[Conversion] = []
    for number, (source, tree) in enumerate(sources):
        before = sum(at(part.tree, f"stages.{part.stage}.iterations") or 0 for part in parts)
        length = iterations[number] if number < len(iterations) else None
        part = Conversion(source, tree, replace(told, iterations=length), before)
        CONVERTERS[kind or kind_of(tree, source)](part)
        part.leave_out_defaults()
        part.check()
        _hand_over(parts, part)
        parts.append(part)
    tree = joined(parts)
    check_experiment({**tree, "prepare": ANY_POOL}, parts[-1].source)
    return tree, parts


def _hand_over(before: Sequence[Conversion], part: Conversion) -> None:
    """Let a stage start from the one before it, whatever file its own option file names."""
    if not before:
        return
    if part.stage in (earlier.stage for earlier in before):
        raise ForeignFileError(part.source, [f"is a stage `{part.stage}`, as the file before it; expected one of each"])
    path, keys = f"stages.{part.stage}.init_from", ("path.pretrain_network_g", "path.pretrain_model_G")
    weights = at(part.tree, f"{path}.weights") or ("raw" if part.foreign.get("netG") else "ema")
    key = next((key for key in keys if part.get(key) is not None), "path.pretrained_netG")
    discriminator = at(part.tree, f"{path}.network_d")
    if discriminator is not None:
        part.problems.append("path.pretrain_network_d: is not loaded beside a stage; convert this file alone")
    part.tree = {**part.tree, "stages": {part.stage: {**part.tree["stages"][part.stage], "init_from": None}}}
    if part.get(key) is not None:
        part.fates.pop(key, None)
    part.put(path, {"stage": before[-1].stage, "weights": weights}, key, why="the stage before it stands in this file")


def differences(tree: Mapping[str, Any], recipe: Path) -> list[str]:
    """Return what stands otherwise in one of our recipes, defaults told out, a line an option."""
    ours, theirs = (flat(check_experiment({**t, "prepare": ANY_POOL})) for t in (tree, files.load(recipe)))
    return [
        f"{path}: {ours.get(path, 'nothing')} here, {theirs.get(path, 'nothing')} in {recipe.name}"
        for path in [*ours, *(p for p in theirs if p not in ours)]
        if ours.get(path) != theirs.get(path)
    ]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The command line."""

    sources: Annotated[tuple[Path, ...], Arg("FILE", positional=True)] = ()
    """Option files, one a stage, in the order of training."""
    out: Annotated[Path, Arg("FILE", flags=("-o", "--out"))]
    """Our option file, which must not exist yet."""
    kind: Annotated[Kind | None, Arg(flags=("--as",))] = None
    """What the files are for, if their keys do not tell."""
    gpus: PositiveInt = 1
    """How many processes a batch per GPU is for, where the file says `auto`."""
    iterations: tuple[PositiveInt, ...] = ()
    """Length of each stage that its file does not end; left out, its last milestone."""
    images: PositiveInt | None = None
    """Size of the training set, which makes epochs of DASR and CDSR iterations."""
    exact: bool = False
    """Draw and code JPEG as Real-ESRGAN's released code does."""
    beside: Annotated[Path | None, Arg("RECIPE")] = None
    """Print what stands otherwise in an option file of ours."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert, and print what to heed and what to run next. Return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    console = Console()
    args = parse(Arguments, given[:cut], prog="python -m models.importing", description=__doc__)
    told = Told(args.gpus, images=args.images, exact=args.exact)
    try:
        if args.out.exists():
            raise OptionError(f"{args.out}: is there already; remove it, or name another with -o")
        if args.kind in ("dasr", "cdsr"):
            tree = dasr_cdsr.read(given[cut + 1 :], args.kind)
            sources, comments = [(f"the command line of {args.kind}", tree)], [{}]
        elif args.sources:
            read = [text.read(path) for path in args.sources]
            sources = [(str(path), found) for path, (found, _) in zip(args.sources, read, strict=True)]
            comments = [said for _, said in read]
        else:
            raise OptionError("names no option file; DASR and CDSR: --as dasr -o mine.yml -- --scale 2 …")
        tree, parts = convert(sources, args.kind, told, args.iterations)
        result = text.write(tree, parts, comments)
    except (ForeignFileError, OptionsError, OptionError) as error:
        console.warn(str(error))
        return 1
    replace_text(args.out, result)
    for part in parts:
        for key in part.unknown:
            console.warn(f"{part.source}: {key} is not known to this converter and not carried")
    for line in differences(tree, args.beside) if args.beside else ():
        console.info(line)
    console.info(
        f"{args.out} is written; its end says what became of each key. Next: python train.py --opt {args.out} --dry-run"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
