"""`data.prepare match`: traces of what is known, attribution of folders to their makers, and ranges that are found."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from data.prepare.__main__ import main
from data.prepare.match import FITTED
from data.prepare.matching.distances import Traced, compare
from data.prepare.matching.fit import drawn_ranges
from data.prepare.matching.traces import TRACES, traces
from data.prepare.matching.windows import common_window, measure_degraded
from data.sources.photos import Photos
from degradations import check_degradation, load_degradation
from degradations.pipeline import Pipeline
from tests.benchmarks.attribution import PIPELINES, attributed, blurred, pipelines
from tests.helpers import SHARED
from utils.images.files import from_tensor, image_files, read_image, to_tensor, to_uint8, write_image
from utils.logging import Console
from utils.options import files
from utils.options.components import flat
from utils.seeding import generator

NAMES = list(TRACES)


def measured(image: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, traces(image.round().clip(0, 255).astype(np.uint8)), strict=True))


def scene(seed: int = 0, side: int = 128) -> np.ndarray:
    """Light shapes of soft edges on a ramp, gray, without noise."""
    rng = np.random.default_rng(seed)
    image = np.tile(np.linspace(60, 160, side), (side, 1))
    for _ in range(12):
        centre, radius = rng.integers(0, side, 2), rng.integers(5, side // 5)
        cv2.circle(image, [int(v) for v in centre], int(radius), float(rng.uniform(40, 200)), -1)
    return gaussian_filter(image, 1)[..., None].repeat(3, 2)


# --- traces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [2, 5, 12])
def test_the_level_of_noise_is_found_whatever_is_depicted(sigma: float) -> None:
    gray = sigma * np.random.default_rng(1).standard_normal((128, 128, 1)).repeat(3, 2)
    found = measured(scene() + gray)
    assert 2 ** found["noise"] == pytest.approx(sigma, rel=0.15)
    assert abs(found["noise correlation"]) < 0.15 and found["noise colour"] < -2
    colour = sigma * np.random.default_rng(1).standard_normal((128, 128, 3))
    assert measured(scene() + colour)["noise colour"] > -0.6


def test_noise_tells_what_it_depends_on_and_how_it_is_correlated() -> None:
    image, field = scene(), np.random.default_rng(2).standard_normal((128, 128, 1))
    photons = measured(image + field * np.sqrt(image / 8))
    dark = measured(image + field * np.sqrt((220 - image).clip(1) / 8))
    assert photons["noise in the light"] > 0.15 > -0.15 > dark["noise in the light"]
    smooth = gaussian_filter(field, (0.8, 0.8, 0))
    assert measured(image + 6 * smooth / smooth.std())["noise correlation"] > 0.4


def test_jpeg_is_seen_wherever_its_grid_begins() -> None:
    image = (scene() + np.random.default_rng(3).normal(0, 3, (128, 128, 3))).clip(0, 255).astype(np.uint8)
    grids, rounded = [], []
    for quality in (100, 85, 60, 30):
        _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
        whole, cut = measured(decoded), measured(decoded[3:, 5:])
        grids.append(whole["JPEG grid"])
        rounded.append(whole["JPEG rounding"])
        assert cut["JPEG rounding"] == pytest.approx(whole["JPEG rounding"], abs=0.35), quality
    assert grids == sorted(grids) and rounded == sorted(rounded) and rounded[2] > 1 > 0.2 > rounded[0]


@pytest.mark.parametrize("sigma", [0.8, 1.6, 3.0])
def test_edges_are_as_wide_as_they_were_made(sigma: float) -> None:
    step = np.where(np.add.outer(np.arange(128), 0.4 * np.arange(128)) % 96 < 48, 60.0, 180.0)
    found = measured(gaussian_filter(step, sigma)[..., None].repeat(3, 2))
    assert 2 ** found["edge width"] == pytest.approx(sigma, rel=0.15)


def test_the_spectrum_falls_as_that_of_the_scene() -> None:
    rng, slopes = np.random.default_rng(4), []
    radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    radius[0, 0] = np.inf
    for exponent in (1.0, 1.5):
        gray = np.fft.ifft2(np.fft.fft2(rng.standard_normal((128, 128))) / radius**exponent).real
        slopes.append(measured(128 + 35 * (gray / gray.std())[..., None].repeat(3, 2))["spectrum slope"])
    assert slopes == pytest.approx([-2, -3], abs=0.3)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_what_shows_nothing_is_no_error(level: int) -> None:
    assert np.isfinite(traces(np.full((64, 64, 3), level, np.uint8))).all()


# --- distances -------------------------------------------------------------------------------------------------------


def folder_of(seed: int, shift: float = 0, images: int = 40) -> Traced:
    values = np.random.default_rng(seed).standard_normal((images, len(NAMES)))
    values[:, 0] += shift
    return Traced(values, np.arange(images))


def test_the_nearest_comes_first_and_intervals_hold_what_is_true() -> None:
    found = compare(
        folder_of(0), {"far": folder_of(1, 2, 200), "same": folder_of(2, 0, 200), "near": folder_of(3, 0.6)}
    )
    assert list(found) == ["same", "near", "far"] and found["same"].nearest > 0.8
    assert found["same"].total.low < 0.02 and found["far"].total.low > found["same"].total.high
    assert found["far"].traces[0].value == pytest.approx(2, abs=0.6)  # of a spread of 1
    assert all(one.value < 0.6 for one in found["far"].traces[1:])


def test_windows_of_one_photograph_are_one_witness() -> None:
    alone, candidate = folder_of(0, images=20), folder_of(1, 0.5, 200)
    copies = Traced(alone.values.repeat(4, axis=0), alone.image.repeat(4))
    one, four = (compare(folder, {"a": candidate})["a"].total for folder in (alone, copies))
    assert four.value == pytest.approx(one.value, rel=0.02, abs=1e-3)
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.25)


def test_windows_are_as_large_as_nine_in_ten_images_allow(tmp_path: Path) -> None:
    def folder(name: str, *sides: tuple[int, int]) -> list[Path]:
        for number, side in enumerate(sides):
            write_image(tmp_path / name / f"{number}.png", np.zeros((*side, 3), np.uint8))
        return image_files(tmp_path / name)

    photos, good = folder("photos", *[(150, 130)] * 10, (40, 40)), folder("good", (700, 350), (340, 800))
    assert common_window(photos, good, 1) == 128, "the smallest of eleven does not count; a multiple of 8"
    assert common_window(photos, good, 3) == 112
    assert common_window(good, good, 1) == 192 and common_window(photos, good, 8) == 64


# --- attribution -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Crops of photographs for the folders, and of others for the candidates."""
    roots = tmp_path_factory.mktemp("test"), tmp_path_factory.mktemp("train")
    for split, root in zip(("validation", "train"), roots, strict=True):
        source = Photos(split)  # type: ignore[arg-type]
        for number in range(len(source)):
            image = source.read(number)
            if np.ptp(image, axis=2).max() == 0:
                continue  # gray: nobody's photographs
            for top in range(0, image.shape[0] - 131, 132):
                for left in range(0, image.shape[1] - 131, 132):
                    write_image(root / f"{number}_{top}_{left}.png", image[top : top + 132, left : left + 132])
    return roots


def test_folders_are_attributed_to_their_makers(crops: tuple[Path, Path]) -> None:
    some = ["bicubic", "wide blur", "blur, noise 15 to 30", "blur, gray noise", "blur, JPEG 30 to 60"]
    made, console = pipelines(some), Console(1)
    photos, gt = (image_files(root) for root in crops)
    folders = measure_degraded(made, photos, 64, len(photos), 1, console, seed=1)
    candidates = measure_degraded(made, gt, 64, 40, 1, console)
    taken = attributed(folders, candidates, count=1, images=15)
    assert {name: dict(found) for name, found in taken.items()} == {name: {name: 1} for name in some}


@pytest.mark.slow
def test_twenty_pipelines_are_told_apart() -> None:
    """A folder of 30 images of each: its maker is never ruled out, and nearly always the nearest.

    Four pipelines of Real-ESRGAN's kind differ so little that 30 images do not always tell which (SCIENCE.md).
    """
    roots = SHARED / "data" / "bsds" / "test", SHARED / "data" / "bsds" / "train"
    if not all(root.is_dir() for root in roots):
        pytest.skip("needs bsds/test and bsds/train of the shared data")
    photos, gt = (image_files(root) for root in roots)
    made, console = pipelines(), Console(1)
    assert len(PIPELINES) == 20
    folders = measure_degraded(made, photos[::3][:30], 96, 30, 2, console, seed=1)
    candidates = measure_degraded(made, gt, 96, 100, 2, console)
    found = {
        name: compare(one.traced, {other: candidate.traced for other, candidate in candidates.items()})
        for name, one in folders.items()
    }
    ruled_out = [name for name, ranking in found.items() if ranking[name].nearest < 0.025]
    assert not ruled_out
    assert sum(next(iter(ranking)) == name for name, ranking in found.items()) >= 16


def test_the_ranges_of_every_pipeline_have_a_place() -> None:
    found: dict[str, set[str]] = {}
    for name, options in PIPELINES.items():
        spec, _ = check_degradation(options, 2)
        pipeline = spec.build(scale=2)
        assert isinstance(pipeline, Pipeline)
        plans = [pipeline.sample(generator(3, number), (192, 192)) for number in range(30)]
        for where, drawn in drawn_ranges(spec, pipeline, plans).items():
            current = flat(spec.values)[where]
            low, high = (-np.inf, np.inf) if current is None else current.at(0)
            values = np.concatenate([*drawn.values()])
            assert (values >= low - 1e-9).all() and (values <= high + 1e-9).all(), (name, where)
            found.setdefault(name, set()).add(where)
    assert {"orders.first.noise.of.gaussian.level_range", "final.jpeg.quality_range"} <= found["realesrgan"]
    assert "orders.second.blur.sigma_range" in found["realesrgan"]
    assert {"steps.noise.log_peak_range", "steps.blur.sigma_range"} <= found["blur, Poisson"]
    assert {"steps.blur.variance_range", "steps.final_jpeg.quality_range"} <= found["bsrgan"]
    assert "steps.blur.of.gaussian.variance_range" in found["classical"], "left out in the file, it has a default"


# --- the command -----------------------------------------------------------------------------------------------------


def degrade(photos: Path, out: Path, options: dict[str, Any]) -> None:
    degradation = load_degradation(options, 2)
    for number, path in enumerate(image_files(photos)):
        rng, gt = generator(7, number), to_tensor(read_image(path))[None]
        plan = degradation.sample(rng, (gt.shape[-2], gt.shape[-1]))
        write_image(out / f"{path.stem}.png", to_uint8(from_tensor(degradation.apply(gt, [plan]).lq[0])))


@pytest.mark.slow
def test_the_command_ranks_draws_and_fits(
    crops: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = blurred(0.2, 0.8, noise={"level_range": [9, 12]})
    degrade(crops[0], tmp_path / "photos", truth)
    wide = {"scale": 2, "degradation": blurred(0.2, 3, noise={"level_range": [0, 30]})}
    (tmp_path / "wide.yml").write_text(files.dump(wide))
    arguments = ["match", str(tmp_path / "photos"), "--gt", str(crops[1]), "--workers", "1", "--window", "64"]
    arguments += ["--out", str(tmp_path / "page.png"), "--draws", "100", "--fit", str(tmp_path / "new" / "fit.yml")]
    assert main([*arguments, "--scale", "2", "--opt", str(tmp_path / "wide.yml"), "bicubic"]) == 0
    said = capsys.readouterr().out
    names = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("|")]
    assert names.index(FITTED) < names.index("wide") < names.index("bicubic")
    assert "nearer than what it was made of" in said
    assert read_image(tmp_path / "page.png").shape[1] > 800
    tree = files.load(tmp_path / "new" / "fit.yml")
    assert tree["scale"] == 2, "it inherits"
    noise_range = tree["degradation"]["steps"]["noise"]["level_range"]
    assert 4 < noise_range[0] < 10.5 < noise_range[1] < 18
    check_degradation(tmp_path / "new" / "fit.yml")[0].build(scale=2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--window": "32"}, "--window 32 is too small, expected 64 or more"),
        ({"--fit": "mine.txt"}, "--fit mine.txt is no name of an option file, expected NAME.yml"),
        ({"--fit": "options/quickstart.yml"}, "exists; choose another name"),
        ({"--window": "128"}, "smaller than the window of 128 pixels"),
        ({"--opt": "none"}, "its degradation makes nothing of good images"),
        ({"--opt": "bsrgann"}, "is no option file (.yml, .json), and no preset"),
        ({"--gt": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    crops: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    said: str,
) -> None:
    degrade(crops[0], tmp_path / "photos", {"type": "bicubic"})
    given = {"--opt": "bicubic", "--gt": str(crops[1]), "--window": "64", "--scale": "2", "--workers": "1"} | changed
    words = [word for pair in given.items() for word in pair]
    assert main(["match", str(tmp_path / "photos"), *words, "--out", str(tmp_path / "page.png")]) == 1
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
    assert not (tmp_path / "page.png").exists()
