"""Benchmarks checkpoints on data sets, or restores images.

    python test.py --opt options/quickstart.yml --weights runs/quickstart/checkpoints/gan_00000150
    python test.py --weights BSRGAN.pth old=other.pth bicubic --data Set5=path/HR,path/LR
    python test.py --weights runs/NAME --data Set5=path/HR --crop baby:200,120,64,64
    python test.py --weights BSRGAN.pth --real photos=path --metrics niqe:model=niqe.npz
    python test.py -i photos -o restored --weights RealESRGAN_x4plus.pth
    python test.py -i photos -o restored --weights usrnet.pth --scale 2 --kernel-width 0.7 --noise-level 2

The first three print a table and write it with the restored images; the others need nothing but a weight file. With
torchrun the images are shared out over the processes. Each kind of call makes a complete plan, which then is run.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from models.ablating.page import write_page
from models.ablating.report import report_of_results
from models.benchmarking.benchmark import (
    BICUBIC,
    BenchmarkOptions,
    BenchmarkSet,
    Contest,
    Measure,
    Outputs,
    benchmark_sets,
    check_benchmark,
    check_measurable,
    experiment_sets,
    metric_specs,
    run_set,
)
from models.benchmarking.figures import Crop
from models.benchmarking.grid import Build, Cells, baseline_restorers, grid_cells, run_grid, write_grid
from models.benchmarking.results import write_results
from models.restoring.back_projection import BackProjection
from models.restoring.files import restoration_targets, restore_files, unwritable
from models.restoring.generator import (
    LoadedGenerator,
    at_scale,
    bicubic_generator,
    checkpoint_names,
    interpolate,
    load_generator,
)
from models.restoring.nonblind import Assumption, NoiseLevel
from models.restoring.restorer import AUTO_TILE, WHOLE_PIXELS, Restorer
from models.training.experiment import check_experiment, network_options
from models.weights.files import weight_files
from utils.logging import Console
from utils.options import files as option_files
from utils.options.arguments import typed
from utils.options.fields import Count, OptionError, Positive, PositiveInt, Prob
from utils.processes import distributed
from utils.processes.distributed import Processes


def main() -> int:
    """Run the command line. Return the exit status: 0, 1 if anything could not be done, 2 for a wrong call."""
    args = arguments()
    console = Console()
    try:
        processes = distributed.start(args.device)
        console = Console(processes.rank)
        tree = option_files.load(args.opt, args.set) if args.opt is not None else None
        if args.input:
            return run_restoration(plan_restoration(args, tree, processes.device, console), processes, console)
        by_hand = bool(args.data or args.real)
        plan = (
            plan_by_hand(args, tree, processes.device)
            if by_hand
            else plan_by_option_file(args, tree or {}, processes.device)
        )
        return run_benchmark(plan, processes, console)
    except (OptionError, OSError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        more = "; with --skip-existing the same command goes on" if args.input else ""
        console.error(f"interrupted{more}" if stopped else str(error))
        return 130 if stopped else 1
    finally:
        distributed.stop()


def arguments() -> argparse.Namespace:
    """Parse the command line; end the program with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--weights",
        nargs="+",
        default=[],
        metavar="[NAME=]PATH",
        help="weight files, published or ours; runs (their newest checkpoint) or checkpoint folders of ours; `bicubic`",
    )
    add(
        "--weights-of",
        choices=("ema", "raw", "both"),
        default="ema",
        help="which weights to take where a checkpoint holds averaged and raw ones (default: ema)",
    )
    add("-o", "--out", type=Path, help="output folder, or file for a single input image (default: results/NAME)")
    add(
        "--opt",
        type=Path,
        metavar="FILE",
        help="option file of train.py (its validation sets are tested on), or of a benchmark (options/test)",
    )
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="override an option of --opt")

    _benchmark_arguments(parser.add_argument_group("benchmark").add_argument)
    _restoring_arguments(parser.add_argument_group("restoring images").add_argument)
    _nonblind_arguments(parser.add_argument_group("blur and noise that non-blind networks are told").add_argument)
    _computing_arguments(parser.add_argument_group("computing").add_argument)
    args = parser.parse_args()
    if args.input and (args.data or args.real):
        parser.error("-i restores images, --data and --real measure on sets of them: choose one")
    if not (args.input or args.data or args.real or args.opt):
        parser.error("nothing to do: give images (-i), data sets (--data, --real) or an option file (--opt)")
    if args.input and (len(args.weights) != 1 or args.out is None):
        parser.error("restoring images (-i) needs one weight file (--weights) and a place for the results (-o)")
    if args.tile and args.tile_mode == "blend" and args.overlap >= args.tile:
        parser.error(f"--overlap {args.overlap} does not fit --tile {args.tile}")
    if (args.dni or args.outscale) and not args.input:
        parser.error("--dni and --outscale go with images to restore (-i)")
    if (args.crop or args.page) and args.input:
        parser.error("--crop and --page go with --data, --real and --opt")
    return args


def _benchmark_arguments(add: Callable[..., object]) -> None:
    add(
        "--data",
        nargs="+",
        default=[],
        metavar="NAME=HR[,LR]",
        help="data sets: a folder of ground truths, and one of low-quality images of the same names",
    )
    add(
        "--real",
        nargs="+",
        default=[],
        metavar="NAME=LR",
        help="folders of low-quality images without ground truths, for metrics that need none",
    )
    add("--degradation", metavar="TYPE", help="makes the low-quality images of --data without LR (default: bicubic)")
    add("--seed", type=int, help="of that degradation (default: 0)")
    text = "of --data and --real, where no weights tell; of images (-i), where the network takes any"
    add("--scale", type=typed(PositiveInt), metavar="N", help=text)
    add("--protocol", help="how to measure: basicsr (default), kair, usrnet, dasr or cdsr")
    add(
        "--metrics",
        nargs="+",
        metavar="[NAME=]TYPE[:KEY=VALUE,...]",
        help="default: psnr ssim; others: niqe:model=FILE, lpips, musiq=pyiqa:name=musiq",
    )
    add("--no-images", action="store_true", help="write the tables only")
    text = "write page.html, too: a table that sorts, intervals, and images that zoom together"
    add("--page", action="store_true", help=text)
    text = "a figure for a paper, PDF and PNG: this part of an image, in pixels of the result, as each row made it"
    add("--crop", nargs="+", default=[], metavar="IMAGE:X,Y,W,H", help=text)


def _restoring_arguments(add: Callable[..., object]) -> None:
    add(
        "-i",
        "--input",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="images, or folders, whose structure is kept",
    )
    add("--suffix", default="", help="added to the names of the results, such as _x4")
    add(
        "--ext",
        default="png",
        choices=("png", "jpg", "webp", "tif", "bmp"),
        help="format of the results (default: png)",
    )
    add(
        "--alpha",
        choices=("resize", "network"),
        default="resize",
        help="how alpha is enlarged (default: resize, bicubic)",
    )
    text = "carry the colour profile of each image to its result (default: keep), or convert to sRGB"
    add("--colour", choices=("keep", "srgb"), default="keep", help=text)
    text = "enlarge by this factor instead of the network's: its results are resized"
    add("--outscale", type=typed(Positive), metavar="FACTOR", help=text)
    add("--dni", type=Path, metavar="PATH", help="weights of the same network to mix with --weights, such as denoising")
    text = "share of --weights in that mixture; 1: they alone (default: 0.5)"
    add("--dni-strength", type=typed(Prob), default=0.5, metavar="SHARE", help=text)
    add(
        "--skip-existing",
        action="store_true",
        help="go on with an interrupted folder: leave out results that are there",
    )


def _nonblind_arguments(add: Callable[..., object]) -> None:
    add("--kernel-width", type=typed(Positive), metavar="W", help="a Gaussian of this width, in pixels of the result")
    add("--kernel", metavar="FILE[:INDEX]", help="or a kernel of a file (.mat, .npy, .npz), made for the scale")
    text = "noise of this standard deviation, in 8-bit levels (default: 0)"
    add("--noise-level", type=typed(NoiseLevel), metavar="N", help=text)


def _computing_arguments(add: Callable[..., object]) -> None:
    count = typed(Count)
    add(
        "--tile",
        type=count,
        help="restore in tiles of this side; 0: never "
        f"(default: {AUTO_TILE} for inputs of more than {WHOLE_PIXELS:,} pixels, else none)",
    )
    add("--overlap", type=count, default=32, help="pixels that neighbouring tiles share (default: 32)")
    text = "blend tiles where they overlap (default), or paste them side by side, each seen with --overlap as context"
    add("--tile-mode", choices=("blend", "context"), default="blend", help=text)
    add("--pre-pad", type=count, default=0, metavar="N", help="mirror N pixels at the bottom and right (default: 0)")
    add("--self-ensemble", action="store_true", help="average over the 8 flips and turns of the input")
    text = "add this share of what the results, made small again, lack of the inputs, such as 0.2"
    add("--back-projection", type=typed(Positive), metavar="WEIGHT", help=text)
    text = "tiles in a call of the network (default: 1 on a CPU, as many as make up a whole image on a GPU)"
    add("--batch", type=typed(PositiveInt), metavar="N", help=text)
    add("--compile", action="store_true", help="torch.compile: pays where many tiles or images have one size")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    text = "of the network's layers (default: fp32); networks that are told blur and noise stay in fp32"
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help=text)


# --- weights ---------------------------------------------------------------------------------------------------------


def load_generators(
    args: argparse.Namespace, tree: dict[str, Any] | None, more: Mapping[str, str] | None = None
) -> dict[str, LoadedGenerator]:
    """Load --weights, and `more` weight files by name, by their names in tables."""
    files: list[tuple[str | None, Path]] = []
    for name, given in [*map(_split_name, args.weights), *(more or {}).items()]:
        if given == BICUBIC and not Path(given).exists():
            continue  # in every table anyway
        paths = weight_files(Path(given), args.weights_of)
        files += [(name if len(paths) == 1 else None, path) for path in paths]
    derived = checkpoint_names([path for _, path in files])
    names = [given or name for (given, _), name in zip(files, derived, strict=True)]
    for name in names:
        if names.count(name) > 1 or name in (BICUBIC, "strips") or name.startswith("/") or ".." in Path(name).parts:
            raise OptionError(f"--weights: {name!r} is taken or cannot be a folder; choose a name with NAME=PATH")
    prefer, otherwise = "raw" if args.weights_of == "raw" else "ema", _network_of(args, tree)
    return {name: load_generator(path, prefer, otherwise) for name, (_, path) in zip(names, files, strict=True)}


def _split_name(given: str) -> tuple[str | None, str]:
    name, equals, path = given.partition("=")
    return (name, path) if name and equals and not Path(given).exists() else (None, given)


def _network_of(args: argparse.Namespace, tree: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the network of a training option file, for weights that do not tell theirs."""
    if tree is None or "stages" not in tree:
        return None
    return network_options(check_experiment(tree, str(args.opt)), tree)


def builder(args: argparse.Namespace, device: torch.device, options: BenchmarkOptions | None = None) -> Build:
    """Return what makes a generator a restorer that computes as the command line says, with what a benchmark adds.

    What the command line says of blur and noise goes before what is assumed elsewhere.
    """
    assumed = Assumption.of_arguments(args.kernel_width, args.kernel, args.noise_level)
    projection = BackProjection(args.back_projection) if args.back_projection else None

    def build(generator: LoadedGenerator, assume: Assumption | None) -> Restorer:
        # A benchmark has blind networks beside others; who restores with one and tells it a blur is mistaken.
        blind = options is not None and not generator.network.conditions
        return Restorer(
            generator,
            device,
            precision=args.precision,
            tile=args.tile,
            overlap=args.overlap,
            tile_mode=args.tile_mode,
            pre_pad=args.pre_pad,
            batch=args.batch,
            compile=args.compile,
            self_ensemble=args.self_ensemble or (options is not None and options.self_ensemble),
            back_projection=projection or (options and options.back_projection),
            assume=None if blind else assumed or assume,
        )

    return build


# --- benchmark -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchmarkPlan:
    """What a benchmark is to do.

    Attributes:
        options: of the option file, or what the command line says in its place.
        cells: of the grid, where the options have one.
        outputs: what is written of images.
        page: whether a page to read in a browser is written.
    """

    options: BenchmarkOptions
    folder: Path
    sets: list[BenchmarkSet]
    generators: dict[str, LoadedGenerator]
    measure: Measure
    build: Build
    cells: Cells
    outputs: Outputs
    page: bool = False


def plan_by_hand(args: argparse.Namespace, tree: dict[str, Any] | None, device: torch.device) -> BenchmarkPlan:
    """Plan the benchmark of --data and --real; an option file only tells the network of weights that do not."""
    generators = load_generators(args, tree)
    options = check_benchmark(command_line_tree(args, generators), "the command line")
    return _planned(args, options, benchmark_sets(options), generators, device)


def plan_by_option_file(args: argparse.Namespace, tree: dict[str, Any], device: torch.device) -> BenchmarkPlan:
    """Plan the benchmark of an option file: on the validation sets of a training, or as a test file says."""
    if any(value is not None for value in (args.degradation, args.seed, args.scale)):
        raise OptionError(
            "--degradation, --seed and --scale go with --data and --real; change an option file with --set"
        )
    if "stages" in tree:
        experiment = check_experiment(tree, str(args.opt))
        options = BenchmarkOptions(experiment.name, experiment.scale)
        return _planned(args, options, experiment_sets(experiment), load_generators(args, tree), device)
    options = check_benchmark(tree, str(args.opt))
    generators = load_generators(args, None, options.weights)
    cells = {} if options.grid is None else grid_cells(tree, options.grid, str(args.opt))
    return _planned(args, options, benchmark_sets(options), generators, device, cells)


def _planned(
    args: argparse.Namespace,
    options: BenchmarkOptions,
    sets: list[BenchmarkSet],
    generators: dict[str, LoadedGenerator],
    device: torch.device,
    cells: Cells | None = None,
) -> BenchmarkPlan:
    """Build the metrics, and check that sets, generators and metrics go together."""
    scales = {n: g.network.scale for n, g in generators.items() if "scale" not in g.network.conditions}
    if not cells and (wrong := [f"{name} has x{scale}" for name, scale in scales.items() if scale != options.scale]):
        raise OptionError(f"the benchmark has scale {options.scale}, but {', '.join(wrong)}; test each scale by itself")
    metrics = metric_specs(metrics_tree(args.metrics)) if args.metrics else options.metrics
    measure = Measure.build(metrics, args.protocol or options.protocol, str(device))
    check_measurable(sets, measure)
    folder, build = args.out or Path("results") / options.name, builder(args, device, options)
    outputs = Outputs(folder, not args.no_images, [Crop.parse(given) for given in args.crop])
    names = [(tested.valid.name, image) for tested in sets for image in tested.images]
    for crop in outputs.crops:
        if cells:
            raise OptionError(f"--crop {crop}: a grid writes no images; test on the set by itself")
        if not any(crop.is_of(*name) for name in names):
            some = ", ".join("/".join(name) for name in names[:3])
            raise OptionError(f"--crop {crop}: no set has an image of this name; there are {some} ...")
    if args.page and options.grid is not None:
        raise OptionError("--page: a grid has one number for many images; test on the set by itself")
    return BenchmarkPlan(options, folder, sets, generators, measure, build, cells or {}, outputs, args.page)


def run_benchmark(plan: BenchmarkPlan, processes: Processes, console: Console) -> int:
    """Measure every checkpoint on every set, or on every cell of a grid, and write the results."""
    options, folder = plan.options, plan.folder
    if options.grid is not None:
        numbers = run_grid(plan.cells, options.grid, plan.generators, plan.build, plan.measure, processes, console)
        if processes.is_main:
            report = write_grid(folder, options.name, numbers, options.grid, plan.measure)
            console.info(f"\n{report}\nresults.md and results.json are in {folder}")
        return 0
    restorers = {name: plan.build(generator, options.assume) for name, generator in plan.generators.items()}
    contest, results = Contest(restorers, baseline_restorers(options, plan.build)), []
    for tested in plan.sets:
        console.info(f"{tested.valid.name}: {len(tested.valid)} images, low-quality images {tested.origin}")
        results.append(run_set(tested, contest, plan.measure, processes, console, plan.outputs))
    if processes.is_main:
        facts = {name: {"network": g.options, "file": g.path} for name, g in plan.generators.items()}
        report = write_results(folder, options.name, results, plan.measure, facts)
        images = " and the images" * plan.outputs.images + ", figures in figures/" * bool(plan.outputs.crops)
        if plan.page:
            write_page(report_of_results(options.name, plan.sets, results, plan.measure, folder), folder / "page.html")
            console.info(f"the page to read: {folder / 'page.html'}")
        console.info(f"\n{report}\nresults (.md, .tex, .csv, .json), summary.csv{images} are in {folder}")
    return 0


def metrics_tree(texts: Sequence[str]) -> dict[str, Any]:
    """Return what --metrics says, as the option tree `metrics`."""
    tree: dict[str, Any] = {}
    for text in texts:
        head, _, settings = text.partition(":")
        name, _, kind = head.rpartition("=")
        pairs = [pair.partition("=") for pair in settings.split(",")] if settings else []
        if not head or (name or kind) in tree or not all(key and equals for key, equals, _ in pairs):
            raise OptionError(f"--metrics {text}: expected [NAME=]TYPE[:KEY=VALUE,...], each name once")
        values = {key: option_files.parse(value, f"--metrics {text}") for key, _, value in pairs}
        tree[name or kind] = {"type": kind, **values}
    return tree


def command_line_tree(args: argparse.Namespace, generators: Mapping[str, LoadedGenerator]) -> dict[str, Any]:
    """Return what --data, --real and their companions say, as the option tree of a benchmark."""
    scales = {generator.network.scale for generator in generators.values()}
    scale = args.scale or (scales.pop() if len(scales) == 1 else None)
    if scale is None:
        raise OptionError("--scale N is needed: " + ("the weights have several" if scales else "no weights tell it"))
    data = {}
    for text in args.data:
        name, equals, paths = text.partition("=")
        if not equals or not name or name in data:
            raise OptionError(f"--data {text}: expected NAME=HR or NAME=HR,LR, each name once")
        gt, _, lq = (paths, "", "") if Path(paths).exists() else paths.partition(",")
        data[name] = {"type": "paired", "gt_root": gt, "lq_root": lq} if lq else {"type": "folder", "root": gt}
    real = {}
    for text in args.real:
        name, equals, root = text.partition("=")
        if not equals or not name or name in real:
            raise OptionError(f"--real {text}: expected NAME=LR, each name once")
        real[name] = root
    tree = {"name": "benchmark", "scale": scale, "data": data, "real": real, "degradation": args.degradation}
    return {**tree, "validation_seed": 0 if args.seed is None else args.seed}


# --- restoring images ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RestorationPlan:
    """Which images are to be restored, where their results go, and how."""

    restorer: Restorer
    targets: dict[Path, Path]
    out: Path
    alpha: Literal["resize", "network"]
    outscale: float | None
    colour: Literal["keep", "srgb"]
    skip_existing: bool


def plan_restoration(
    args: argparse.Namespace, tree: dict[str, Any] | None, device: torch.device, console: Console
) -> RestorationPlan:
    """Load the generator, mix it with --dni, and say what is missing before any image is read."""
    if args.weights == [BICUBIC] and args.scale is not None:
        generator = bicubic_generator(args.scale)
    else:
        generators = load_generators(args, tree)
        if len(generators) != 1:
            raise OptionError("-i takes one weight file: not `--weights-of both`, and `bicubic` only with --scale")
        generator = next(iter(generators.values()))
    if args.dni:
        prefer = "raw" if args.weights_of == "raw" else "ema"
        generator = interpolate(generator, weight_files(args.dni, prefer)[0], args.dni_strength, prefer, console.warn)
    generator = at_scale(generator, args.scale or generator.network.scale)
    restorer = builder(args, device)(generator, None)
    restorer.told({})
    targets = restoration_targets(args.input, args.out, args.suffix, args.ext, console)
    how = (args.alpha, args.outscale, args.colour, args.skip_existing)
    return RestorationPlan(restorer, targets, args.out, *how)


def run_restoration(plan: RestorationPlan, processes: Processes, console: Console) -> int:
    """Restore image files. What cannot be read or written is named, the others go on; then the status is 1."""
    mine = dict(list(plan.targets.items())[processes.rank :: processes.world_size])
    todo = {source: target for source, target in mine.items() if not (plan.skip_existing and target.exists())}
    factor, skipped = plan.outscale or plan.restorer.scale, len(mine) - len(todo)
    refused = unwritable(todo, factor)
    for problem in refused.values():  # said before hours of work
        console.error(problem)
    todo, failed = {s: t for s, t in todo.items() if s not in refused}, len(refused)
    with console.progress(len(todo), desc=f"restoring x{factor:g}") as progress:
        for done in restore_files(todo, plan.restorer, console, plan.alpha, plan.outscale, plan.colour):
            failed += not done
            progress.update()
    counts = distributed.gather_objects((len(mine), failed, skipped))
    total, failed, skipped = (sum(of_one) for of_one in zip(*counts, strict=True))
    notes = [f"{skipped} were there already"] * bool(skipped) + [f"{failed} failed, see above"] * bool(failed)
    console.info("; ".join([f"{total - failed - skipped} of {total} images restored, in {plan.out}", *notes]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
