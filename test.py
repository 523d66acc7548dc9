"""Benchmarks checkpoints on data sets, or restores images.

    python test.py --opt options/quickstart.yml --weights runs/quickstart/checkpoints/gan_00000150
    python test.py --weights BSRGAN.pth old=other.pth bicubic --data Set5=path/HR,path/LR
    python test.py --weights runs/NAME --data Set5=path/HR --crop baby:200,120,64,64
    python test.py --weights BSRGAN.pth --real photos=path --metrics niqe:model=niqe.npz
    python test.py -i photos -o restored --weights RealESRGAN_x4plus.pth
    python test.py -i clip.mp4 -o large.mp4 --weights realesr-general-x4v3.pth
    python test.py -i photos -o restored --weights usrnet.pth --scale 2 --kernel-width 0.7 --noise-level 2

With --opt, --data or --real, tables are printed and written with the restored images; -i needs a weight file alone.
With torchrun the images are shared out over the processes. Each kind of call makes a complete plan, which is run.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

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
from models.networks.spandrel import SpandrelNetwork
from models.restoring.back_projection import BackProjection
from models.restoring.files import restoration_targets, restore_files, unwritable
from models.restoring.generator import (
    LoadedGenerator,
    at_scale,
    bicubic_generator,
    interpolate,
    load_generator,
)
from models.restoring.nonblind import Assumption, NoiseLevel
from models.restoring.restorer import DTYPES, Engine, Precision, Restorer
from models.restoring.tiling import TileMode
from models.restoring.video import is_video, restore_video, video_targets
from models.training.experiment import check_experiment, network_options
from models.weights.files import checkpoint_names, weight_files
from utils.logging import Console, Progress
from utils.machine import slow_half
from utils.options import files as option_files
from utils.options.arguments import Arg, Overrides, parse
from utils.options.fields import Count, OptionError, Positive, PositiveInt, Prob
from utils.processes import distributed
from utils.processes.distributed import Processes


def main() -> int:
    """Run the command line. Return the exit status: 0, 1 if anything could not be done, 2 for a wrong call."""
    args = parse(Arguments, description=__doc__)
    console = Console()
    try:
        processes = distributed.start(args.computing.device)
        console = Console(processes.rank)
        tree = option_files.load(args.option_file, args.overrides) if args.option_file is not None else None
        if args.computing.engine in (None, "torch") and (
            warning := slow_half(DTYPES[args.computing.precision], processes.device)
        ):
            console.warn(warning)
        if args.restoring.input:
            return run_restoration(plan_restoration(args, tree, processes.device, console), processes, console)
        by_hand = args.measuring.data or args.measuring.real
        plan = plan_by_hand if by_hand else plan_by_file
        return run_benchmark(plan(args, tree, processes.device, console), processes, console)
    except (OptionError, OSError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        more = "; with --skip-existing the same command goes on" if args.restoring.input else ""
        console.error(f"interrupted{more}" if stopped else str(error))
        return 130 if stopped else 1
    finally:
        distributed.stop()


# --- command line ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measuring:
    """Tables of numbers, and what they are measured on."""

    data: Annotated[tuple[str, ...], Arg("NAME=HR[,LR]")] = ()
    """Data sets: a folder of ground truths, and one of low-quality images of the same names."""
    real: Annotated[tuple[str, ...], Arg("NAME=LR")] = ()
    """Folders of low-quality images without ground truths, for metrics that need none."""
    degradation: Annotated[str | None, Arg("TYPE")] = None
    """Makes the low-quality images of --data without LR (default: bicubic)."""
    seed: int | None = None
    """Of that degradation (default: 0)."""
    scale: PositiveInt | None = None
    """Of --data and --real, where no weights tell; of images (-i), where the network takes any."""
    protocol: str | None = None
    """How to measure: basicsr (default), kair, usrnet, dasr, cdsr, or matlab, which takes gray files as they are."""
    metrics: Annotated[tuple[str, ...], Arg("[NAME=]TYPE[:KEY=VALUE,...]")] = ()
    """Default: psnr ssim; others: niqe:model=FILE, lpips, musiq=pyiqa:name=musiq."""
    images: bool = True
    """Write the restored images, not the tables only."""
    page: bool = False
    """Write page.html, too: a table that sorts, intervals, and images that zoom together."""
    crop: Annotated[tuple[str, ...], Arg("IMAGE:X,Y,W,H")] = ()
    """A figure for a paper, PDF and PNG: this part of an image, in pixels of the result, as each row made it."""


@dataclass(frozen=True)
class Restoring:
    """Images without ground truths, one by one."""

    input: Annotated[tuple[Path, ...], Arg("PATH", flags=("-i", "--input"))] = ()
    """Images, or folders, whose structure is kept; or videos (extra `video`), whose sound is kept."""
    suffix: str = ""
    """Added to the names of the results, such as _x4."""
    ext: Literal["png", "jpg", "webp", "tif", "bmp"] = "png"
    """Format of the results."""
    alpha: Literal["resize", "network"] = "resize"
    """How alpha is enlarged: resized by bicubic, or by the network."""
    colour: Literal["keep", "srgb"] = "keep"
    """Carry the colour profile of each image to its result, or convert to sRGB."""
    outscale: Annotated[Positive | None, Arg("FACTOR")] = None
    """Enlarge by this factor instead of the network's: its results are resized."""
    dni: Path | None = None
    """Weights of the same network to mix with --weights, such as denoising."""
    dni_strength: Annotated[Prob, Arg("SHARE")] = 0.5
    """Share of --weights in that mixture; 1: they alone."""
    skip_existing: bool = False
    """Go on with an interrupted folder: leave out results that are there."""


@dataclass(frozen=True)
class Told:
    """What to assume of images that do not tell how they were made."""

    kernel_width: Annotated[Positive | None, Arg("W")] = None
    """A Gaussian of this width, in pixels of the result."""
    kernel: Annotated[str | None, Arg("FILE[:INDEX]")] = None
    """Or a kernel of a file (.mat, .npy, .npz), made for the scale; of several, INDEX says which, counted from 0."""
    noise_level: Annotated[NoiseLevel | None, Arg("N")] = None
    """Noise of this standard deviation, in 8-bit levels (default: 0)."""


@dataclass(frozen=True)
class Computing:
    """How the network is applied."""

    tile: Count | None = None
    """Restore in tiles of this side; 0: never (default: inputs of more than 512x512 pixels, in tiles of 384)."""
    overlap: Count | None = None
    """Pixels that neighbouring tiles share (default: a quarter of the tile, up to 64; as context half of it)."""
    tile_mode: TileMode = "blend"
    """Blend tiles where they overlap, or paste them side by side, each seen with --overlap as context."""
    pre_pad: Count = 0
    """Mirror so many pixels at the bottom and right."""
    self_ensemble: bool = False
    """Average over the 8 flips and turns of the input."""
    back_projection: Annotated[Positive | None, Arg("WEIGHT")] = None
    """Add this share of what the results, made small again, lack of the inputs, such as 0.2."""
    batch: PositiveInt | None = None
    """Tiles in a call of the network (default: 1 on a CPU, as many as make up a whole image on a GPU)."""
    compile: bool = False
    """Use torch.compile, which pays where many tiles or images have one size."""
    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:N."""
    precision: Precision = "fp32"
    """Of the network's layers; networks that are told blur and noise stay in fp32."""
    engine: Engine | None = None
    """What computes networks on a CPU: torch (the default), openvino or ncnn, by the extra of that name."""


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    weights: Annotated[tuple[str, ...], Arg("[NAME=]PATH")] = ()
    """Weight files, published or ours; runs (their newest checkpoint) or checkpoint folders of ours; `bicubic`."""
    weights_of: Literal["ema", "raw", "both"] = "ema"
    """Which weights to take where a checkpoint holds averaged and raw ones."""
    out: Annotated[Path | None, Arg(flags=("-o", "--out"))] = None
    """Output folder, or file for a single input image (default: results/NAME)."""
    option_file: Annotated[Path | None, Arg("FILE", flags=("--opt",))] = None
    """Option file of train.py (its validation sets are tested on), or of a benchmark (options/test)."""
    overrides: Overrides = ()
    """Override an option of --opt."""
    measuring: Measuring = Measuring()
    """benchmark"""
    restoring: Restoring = Restoring()
    """restoring images"""
    told: Told = Told()
    """blur and noise that non-blind networks are told"""
    computing: Computing = Computing()
    """computing"""

    def __post_init__(self) -> None:
        by_hand, images, tiles = bool(self.measuring.data or self.measuring.real), self.restoring.input, self.computing
        if images and by_hand:
            raise ValueError("-i restores images, --data and --real measure on sets of them: choose one")
        if not (images or by_hand or self.option_file):
            raise ValueError("nothing to do: give images (-i), data sets (--data, --real) or an option file (--opt)")
        if images and (len(self.weights) != 1 or self.out is None):
            raise ValueError("restoring images (-i) needs one weight file (--weights) and a place for the results (-o)")
        if tiles.tile and tiles.tile_mode == "blend" and (tiles.overlap or 0) >= tiles.tile:
            raise ValueError(f"--overlap {tiles.overlap} does not fit --tile {tiles.tile}")
        if (self.restoring.dni or self.restoring.outscale) and not images:
            raise ValueError("--dni and --outscale go with images to restore (-i)")
        if tiles.engine not in (None, "torch") and tiles.compile:
            raise ValueError(f"--compile is PyTorch's, and --engine {tiles.engine} computes")
        if (self.measuring.crop or self.measuring.page) and images:
            raise ValueError("--crop and --page go with --data, --real and --opt")


# --- weights ---------------------------------------------------------------------------------------------------------


def load_generators(
    args: Arguments, tree: dict[str, Any] | None, console: Console, more: Mapping[str, str] | None = None
) -> dict[str, LoadedGenerator]:
    """Load --weights, and `more` weight files by name, by their names in tables. Say what spandrel had to read."""
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
    loaded = {name: load_generator(path, prefer, otherwise) for name, (_, path) in zip(names, files, strict=True)}
    for name, generator in loaded.items():
        if isinstance(network := generator.network, SpandrelNetwork):
            console.info(f"{name}: {network.architecture} x{network.scale}, as spandrel reads {generator.path}")
    return loaded


def _split_name(given: str) -> tuple[str | None, str]:
    name, equals, path = given.partition("=")
    return (name, path) if name and equals and not Path(given).exists() else (None, given)


def _network_of(args: Arguments, tree: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the network of a training option file, for weights that do not tell theirs."""
    if tree is None or "stages" not in tree:
        return None
    return network_options(check_experiment(tree, str(args.option_file)), tree)


def builder(args: Arguments, device: torch.device, options: BenchmarkOptions | None = None) -> Build:
    """Return what makes a generator a restorer that computes as the command line says, with what a benchmark adds.

    What the command line says of blur and noise goes before what is assumed elsewhere.
    """
    assumed = Assumption.of_arguments(args.told.kernel_width, args.told.kernel, args.told.noise_level)
    projection = BackProjection(args.computing.back_projection) if args.computing.back_projection else None

    def build(generator: LoadedGenerator, assume: Assumption | None) -> Restorer:
        # A benchmark has blind networks beside others; who restores with one and tells it a blur is mistaken.
        blind = options is not None and not generator.network.conditions
        return Restorer(
            generator,
            device,
            precision=args.computing.precision,
            tile=args.computing.tile,
            overlap=args.computing.overlap,
            tile_mode=args.computing.tile_mode,
            pre_pad=args.computing.pre_pad,
            batch=args.computing.batch,
            compile=args.computing.compile,
            self_ensemble=args.computing.self_ensemble or (options is not None and options.self_ensemble),
            back_projection=projection or (options and options.back_projection),
            assume=None if blind else assumed or assume,
        )

    return build


def computed_by(
    args: Arguments, generators: Mapping[str, LoadedGenerator], device: torch.device, engine: Engine = "torch"
) -> dict[str, LoadedGenerator]:
    """Return the generators as --engine computes them, or else `engine`."""
    engine = args.computing.engine or engine
    if engine == "torch":
        return dict(generators)
    from models.publishing.engines import on_engine  # which loads the exporters

    if device.type != "cpu":
        raise OptionError(f"--engine {engine}: computes on the CPU; add --device cpu")
    return {name: on_engine(generator, engine, args.computing.precision) for name, generator in generators.items()}


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


def plan_by_hand(args: Arguments, tree: dict[str, Any] | None, device: torch.device, console: Console) -> BenchmarkPlan:
    """Plan the benchmark of --data and --real; an option file only tells the network of weights that do not."""
    generators = load_generators(args, tree, console)
    options = check_benchmark(command_line_tree(args, generators), "the command line")
    return _planned(args, options, benchmark_sets(options), generators, device)


def plan_by_file(args: Arguments, tree: dict[str, Any] | None, device: torch.device, console: Console) -> BenchmarkPlan:
    """Plan the benchmark of an option file: on the validation sets of a training, or as a test file says."""
    if any(value is not None for value in (args.measuring.degradation, args.measuring.seed, args.measuring.scale)):
        raise OptionError(
            "--degradation, --seed and --scale go with --data and --real; change an option file with --set"
        )
    tree = tree or {}
    if "stages" in tree:
        experiment = check_experiment(tree, str(args.option_file))
        options = BenchmarkOptions(experiment.name, experiment.scale)
        return _planned(args, options, experiment_sets(experiment), load_generators(args, tree, console), device)
    options = check_benchmark(tree, str(args.option_file))
    generators = load_generators(args, None, console, options.weights)
    cells = {} if options.grid is None else grid_cells(tree, options.grid, str(args.option_file))
    return _planned(args, options, benchmark_sets(options), generators, device, cells)


def _planned(
    args: Arguments,
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
    metrics = metric_specs(metrics_tree(args.measuring.metrics)) if args.measuring.metrics else options.metrics
    measure = Measure.build(metrics, args.measuring.protocol or options.protocol, str(device))
    check_measurable(sets, measure)
    generators = computed_by(args, generators, device, options.engine)
    folder, build = args.out or Path("results") / options.name, builder(args, device, options)
    outputs = Outputs(folder, args.measuring.images, [Crop.parse(given) for given in args.measuring.crop])
    names = [(tested.valid.name, image) for tested in sets for image in tested.images]
    for crop in outputs.crops:
        if cells:
            raise OptionError(f"--crop {crop}: a grid writes no images; test on the set by itself")
        if not any(crop.is_of(*name) for name in names):
            some = ", ".join("/".join(name) for name in names[:3])
            raise OptionError(f"--crop {crop}: no set has an image of this name; there are {some} ...")
    if args.measuring.page and options.grid is not None:
        raise OptionError("--page: a grid has one number for many images; test on the set by itself")
    return BenchmarkPlan(options, folder, sets, generators, measure, build, cells or {}, outputs, args.measuring.page)


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
        for remark in tested.valid.remarks() if processes.is_main else ():
            console.info(f"{tested.valid.name}: {remark}")
        results.append(run_set(tested, contest, plan.measure, processes, console, plan.outputs, options.smoothing))
    if processes.is_main:
        facts = {name: {"network": g.options, "file": g.path} for name, g in plan.generators.items()}
        report = write_results(folder, options.name, results, plan.measure, facts)
        images = " and the images" if plan.outputs.images else ""
        images += ", figures in figures/" if plan.outputs.crops else ""
        if plan.page:
            from models.ablating.page import write_page  # these load SciPy's statistics
            from models.ablating.report import report_of_results

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


def command_line_tree(args: Arguments, generators: Mapping[str, LoadedGenerator]) -> dict[str, Any]:
    """Return what --data, --real and their companions say, as the option tree of a benchmark."""
    scales = {generator.network.scale for generator in generators.values()}
    scale = args.measuring.scale or (scales.pop() if len(scales) == 1 else None)
    if scale is None:
        raise OptionError("--scale N is needed: " + ("the weights have several" if scales else "no weights tell it"))
    data = {}
    for text in args.measuring.data:
        name, equals, paths = text.partition("=")
        if not equals or not name or name in data:
            raise OptionError(f"--data {text}: expected NAME=HR or NAME=HR,LR, each name once")
        gt, _, lq = (paths, "", "") if Path(paths).exists() else paths.partition(",")
        data[name] = {"type": "paired", "gt_root": gt, "lq_root": lq} if lq else {"type": "folder", "root": gt}
    real = {}
    for text in args.measuring.real:
        name, equals, root = text.partition("=")
        if not equals or not name or name in real:
            raise OptionError(f"--real {text}: expected NAME=LR, each name once")
        real[name] = root
    tree = {"name": "benchmark", "scale": scale, "data": data, "real": real, "degradation": args.measuring.degradation}
    return {**tree, "validation_seed": 0 if args.measuring.seed is None else args.measuring.seed}


# --- restoring images ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RestorationPlan:
    """Which images are to be restored, where their results go, and how."""

    restorer: Restorer
    targets: dict[Path, Path]
    out: Path
    how: Restoring


def plan_restoration(
    args: Arguments, tree: dict[str, Any] | None, device: torch.device, console: Console
) -> RestorationPlan:
    """Load the generator, mix it with --dni, and say what is missing before any image is read."""
    if args.weights == (BICUBIC,) and args.measuring.scale is not None:
        generator = bicubic_generator(args.measuring.scale)
    else:
        generators = load_generators(args, tree, console)
        if len(generators) != 1:
            raise OptionError("-i takes one weight file: not `--weights-of both`, and `bicubic` only with --scale")
        generator = next(iter(generators.values()))
    if args.restoring.dni:
        prefer = "raw" if args.weights_of == "raw" else "ema"
        generator = interpolate(
            generator, weight_files(args.restoring.dni, prefer)[0], args.restoring.dni_strength, prefer, console.warn
        )
    generator = at_scale(generator, args.measuring.scale or generator.network.scale)
    restorer = builder(args, device)(computed_by(args, {"": generator}, device)[""], None)
    restorer.told({})
    assert args.out is not None  # as the command line was checked
    how = args.restoring
    if any(map(is_video, how.input)):
        return RestorationPlan(restorer, video_targets(how.input, args.out, how.suffix), args.out, how)
    targets = restoration_targets(how.input, args.out, how.suffix, how.ext, console)
    return RestorationPlan(restorer, targets, args.out, args.restoring)


def run_restoration(plan: RestorationPlan, processes: Processes, console: Console) -> int:
    """Restore image files. What cannot be read or written is named, the others go on; then the status is 1."""
    if any(map(is_video, plan.targets)):
        return run_videos(plan, processes, console)
    mine = dict(list(plan.targets.items())[processes.rank :: processes.world_size])
    todo = {source: target for source, target in mine.items() if not (plan.how.skip_existing and target.exists())}
    factor, skipped = plan.how.outscale or plan.restorer.scale, len(mine) - len(todo)
    refused = unwritable(todo, factor)
    for problem in refused.values():  # said before hours of work
        console.error(problem)
    todo, failed = {s: t for s, t in todo.items() if s not in refused}, len(refused)
    with console.progress(len(todo), desc=f"restoring x{factor:g}") as progress:
        for done in restore_files(todo, plan.restorer, console, plan.how.alpha, plan.how.outscale, plan.how.colour):
            failed += not done
            progress.update()
    counts = distributed.gather_objects((len(mine), failed, skipped))
    total, failed, skipped = (sum(of_one) for of_one in zip(*counts, strict=True))
    notes = [f"{total - failed - skipped} of {total} images restored, in {plan.out}"]
    notes += [f"{skipped} were there already"] if skipped else []
    notes += [f"{failed} failed, see above"] if failed else []
    console.info("; ".join(notes))
    return 1 if failed else 0


def run_videos(plan: RestorationPlan, processes: Processes, console: Console) -> int:
    """Restore videos one after another."""
    if processes.world_size > 1:
        raise OptionError("-i: a video is restored by one process; leave torchrun out")
    for source, target in plan.targets.items():
        if not (plan.how.skip_existing and target.exists()):
            with console.progress(0, desc=source.name) as progress:

                def advance(total: int, progress: Progress = progress) -> None:
                    progress.total = total
                    progress.update()

                count = restore_video(source, target, plan.restorer, plan.how.outscale, advance)
            console.info(f"{target}: {count} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
