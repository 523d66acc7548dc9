"""What an option file is checked for as a whole, and that the shipped ones pass."""

import json
from pathlib import Path
from typing import Any

import pytest

from degradations.kernels.files import usrnet_kernels
from models.training.experiment import build_generator, check_experiment, load_experiment, schema
from tests.helpers import ROOT, write_kernel_pool, write_noise_pool
from tests.run.tiny import option_tree, pictures, write_options
from utils.options.components import OptionsError
from utils.options.fields import OptionError
from utils.options.files import merge
from utils.options.schema import SCHEMA_FILE

OPTIONS = ROOT / "options"
SHIPPED = sorted(
    path
    for pattern in ("*.yml", "*.yaml", "*.json")
    for path in OPTIONS.rglob(pattern)
    if path.name != SCHEMA_FILE and path.relative_to(OPTIONS).parts[0] not in ("test", "ablation")
)


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    return option_tree(pictures(tmp_path / "images", 1))


def problems(tree: dict[str, Any], change: dict[str, Any]) -> dict[str, str]:
    """The sentences by dotted path that a changed tree gives."""
    with pytest.raises(OptionsError) as caught:
        check_experiment(merge(tree, change), "tiny.yml")
    return {problem.where: problem.message for problem in caught.value.problems}


def test_the_small_tree_is_sound(tree: dict[str, Any]) -> None:
    experiment = check_experiment(tree)
    assert list(experiment.stages) == ["psnr", "gan"]
    assert build_generator(experiment).scale == 2


SINGLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "crop no multiple of the scale": (
        {"data": {"crop_size": 33}},
        "data.crop_size",
        "no multiple of the scale 2; 32 is",
    ),
    "gt no multiple of the scale": ({"data": {"gt_size": 23}}, "data.gt_size", "no multiple of the scale 2"),
    "crop below the reflected border": (
        {"degradation": {"type": "realesrgan"}},
        "data.crop_size",
        "32 does not do for `degradation`: a blur with kernels up to 21x21",
    ),
    "network that is told more than the degradation tells": (
        {"network_g": {"type": "usrnet", "nc": [8, 8, 8, 8]}},
        "degradation",
        "`usrnet` is given kernel and sigma with each image, but `bsrgan` tells less",
    ),
    "several scales for a network of one": (
        {"degradation": {"type": "classical", "scales": [1, 2]}, "data": {"crop_size": 48}},
        "degradation.scales",
        "`srvgg` has one scale",
    ),
    "a pool that no batch divides": (
        {"data": {"pair_pool": 4}, "stages": {"gan": {"batch_size": 3}}},
        "data.pair_pool",
        "4 is no multiple of the batch of 3 of stage gan",
    ),
    "a pool of pairs of several scales": (
        {
            "network_g": {"type": "usrnet", "nc": [8, 8, 8, 8]},
            "degradation": {"type": "classical", "scales": [1, 2]},
            "data": {"crop_size": 48, "pair_pool": 4},
        },
        "data.pair_pool",
        "degradation.scales gives each step a scale of its own",
    ),
    "gt above crop": ({"data": {"gt_size": 40}}, "data.gt_size", "larger than crop_size 32"),
    "hand-over from nowhere": (
        {"stages": {"gan": {"init_from": {"stage": "pnsr"}}}},
        "stages.gan.init_from.stage",
        "no earlier stage is called 'pnsr'; there are: psnr",
    ),
    "hand-over from itself": (
        {"stages": {"psnr": {"init_from": {"stage": "psnr"}}}},
        "stages.psnr.init_from.stage",
        "there are: none",
    ),
    "hand-over from two": (
        {"stages": {"gan": {"init_from": {"checkpoint": "x.pth"}}}},
        "stages.gan.init_from",
        "either `stage: NAME` or `checkpoint: PATH`",
    ),
    "a discriminator as generator": ({"network_g": {"type": "unet_sn"}}, "network_g", "`unet_sn` is a discriminator"),
    "a generator as discriminator": (
        {"stages": {"gan": {"network_d": {"type": "srvgg"}}}},
        "stages.gan.network_d",
        "`srvgg` is a generator, expected a discriminator",
    ),
    "a GAN without adversarial loss": (
        {"stages": {"gan": {"losses": {"gan": None}}}},
        "stages.gan.losses",
        "found 0 of type `gan`, expected one",
    ),
    "a GAN with two": (
        {"stages": {"gan": {"losses": {"more": {"type": "gan"}}}}},
        "stages.gan.losses",
        "found 2 of type `gan`, expected one",
    ),
    "an adversarial loss without GAN": (
        {"stages": {"psnr": {"losses": {"gan": {"type": "gan"}}}}},
        "stages.psnr.losses.gan",
        "`gan` needs fake_logits, real_logits, which this stage does not have",
    ),
    "a target that the degradation does not give": (
        {"stages": {"psnr": {"losses": {"l1": {"target": "usm"}}}}},
        "stages.psnr.losses.l1.target",
        "'usm', but `bsrgan` gives only: plain",
    ),
    "a target that nobody knows": (
        {"stages": {"psnr": {"losses": {"l1": {"target": "sharp"}}}}},
        "stages.psnr.losses.l1.target",
        "'plain' or 'usm'",
    ),
    "a batch that does not divide": (
        {"stages": {"psnr": {"accumulate": 3}}},
        "stages.psnr.accumulate",
        "3 does not divide the batch of 2",
    ),
    "a stage's own batch that does not divide": (
        {"stages": {"gan": {"accumulate": 2, "batch_size": 5}}},
        "stages.gan.accumulate",
        "2 does not divide the batch of 5",
    ),
    "an embedding of a network that has none": (
        {"data": {"validation": {"pictures": {"embedding": 8}}}},
        "data.validation.pictures.embedding",
        "`srvgg` has no encoder; choose network_g dasr or cdsr",
    ),
    "an embedding of crops too small for a spectrum": (
        {
            "network_g": {"type": "dasr", "num_feat": 8, "num_group": 1, "num_block": 1},
            "data": {"validation": {"pictures": {"embedding": 8, "crop": 48}}},
        },
        "data.validation.pictures.crop",
        "found 48, expected 64 or more",
    ),
    "scale said twice": ({"network_g": {"scale": 4}}, "network_g.scale", "found 4, but scale is 2 elsewhere"),
    "scale said twice in the degradation": ({"degradation": {"scale": 3}}, "degradation.scale", "scale is 2 elsewhere"),
    "no scale": ({"scale": None}, "scale", "is missing"),
    "no images": ({"data": {"train": {"pictures": None}}}, "data.train", "names no source"),
    "no stages": ({"stages": {"psnr": None, "gan": None}}, "stages", "names no stage"),
    "a stage's name that is no folder": (
        {"stages": {"a/b": {"type": "psnr", "iterations": 1, "losses": {"l1": {"type": "l1"}}}}},
        "stages.a/b",
        "becomes a folder",
    ),
}


@pytest.mark.parametrize("what", SINGLE)
def test_each_is_found_with_its_path_and_nothing_else(tree: dict[str, Any], what: str) -> None:
    change, path, sentence = SINGLE[what]
    found = problems(tree, change)
    assert list(found) == [path]
    assert sentence in found[path]


def test_a_generator_without_weights(tree: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="`bicubic` has no weights"):
        build_generator(check_experiment(merge(tree, {"network_g": {"type": "bicubic"}})))


def test_null_takes_an_option_back(tree: dict[str, Any]) -> None:
    """As a file does that inherits, unless null means something itself."""
    experiment = check_experiment(
        merge(tree, {"data": {"validation": None}, "seed": None, "logger": {"health": {"d_accuracy": None}}})
    )
    assert experiment.data.validation == {} and experiment.seed == 0
    assert experiment.logger.health.d_accuracy is None


def test_a_gan_without_discriminator(tree: dict[str, Any]) -> None:
    del tree["stages"]["gan"]["network_d"]
    assert problems(tree, {}) == {"stages.gan.network_d": "is missing and has no default"}


def test_scale_may_be_repeated(tree: dict[str, Any]) -> None:
    experiment = check_experiment(merge(tree, {"network_g": {"scale": 2}, "degradation": {"scale": 2}}))
    assert build_generator(experiment).scale == 2


def test_all_are_reported_at_once(tree: dict[str, Any], tmp_path: Path) -> None:
    """From a file and `--set`, in one message that names the file and every path."""
    names = [
        "crop no multiple of the scale",
        "gt above crop",
        "hand-over from nowhere",
        "a discriminator as generator",
        "a generator as discriminator",
        "an adversarial loss without GAN",
        "a batch that does not divide",
        "a target that the degradation does not give",
    ]
    for name in names:
        tree = merge(tree, SINGLE[name][0])
    file = write_options(tmp_path / "tiny.yml", tree)
    with pytest.raises(OptionsError) as caught:
        load_experiment(file, ["stages.gan.accumulate=4"])
    found = [problem.where for problem in caught.value.problems]
    assert sorted(found) == sorted([*(SINGLE[name][1] for name in names), "stages.gan.accumulate"])
    assert str(caught.value).startswith(f"9 problems in {file}:\n")


def test_a_network_of_another_scale_is_refused(tree: dict[str, Any]) -> None:
    """A network that does not take the scale as an option says its own."""
    experiment = check_experiment(tree)
    network = build_generator(experiment)
    spec = type(experiment.network_g)(lambda: network, "fixed", {}, "network_g")
    network.scale = 3
    object.__setattr__(experiment, "network_g", spec)
    with pytest.raises(OptionError, match="network_g: `fixed` has scale 3, not 2"):
        build_generator(experiment)


# --- what is shipped -------------------------------------------------------------------------------------------


@pytest.fixture
def realsr_pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the files of `options/realsr` have prepared before, where they look for it."""
    for name in ("df2k", "dped"):
        write_noise_pool(tmp_path / "datasets" / f"realsr_{name}" / "noise")
    write_kernel_pool(tmp_path / "datasets" / "realsr_dped" / "kernels", usrnet_kernels(), 4)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("realsr_pools")
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(OPTIONS)))
def test_a_shipped_file_loads_and_names_the_schema(path: Path) -> None:
    """The first line makes editors complete and check; the path in it leads to the schema from where the file is."""
    experiment, resolved = load_experiment(path)
    assert experiment.stages and resolved["name"] == experiment.name
    first = path.read_text(encoding="utf-8").splitlines()[0]
    if path.suffix == ".json":
        return  # JSON has no place for it
    head = "# yaml-language-server: $schema="
    assert first.startswith(head)
    assert (path.parent / first.removeprefix(head).strip()).resolve() == OPTIONS / SCHEMA_FILE


def test_there_are_shipped_files() -> None:
    assert OPTIONS / "quickstart.yml" in SHIPPED


@pytest.mark.usefixtures("realsr_pools")
def test_names_are_unique() -> None:
    """Two files with one name would share a run folder."""
    names = [load_experiment(path)[0].name for path in SHIPPED]
    assert sorted(set(names)) == sorted(names)


def test_the_shipped_schema_is_current() -> None:
    """Renew it with: python train.py --schema"""
    stored = json.loads((OPTIONS / SCHEMA_FILE).read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(schema())), (
        "options/schema.json is out of date; run: python train.py --schema"
    )


def test_the_schema_knows_every_part_and_refuses_unknown_keys() -> None:
    whole = schema()
    assert set(whole["properties"]) >= {"base", "name", "scale", "network_g", "degradation", "data", "stages", "logger"}
    assert whole["additionalProperties"] is False
    text = json.dumps(whole)
    for word in ("bsrgan", "srvgg", "crop_size", "keep_last", "turn_d", "iterations"):
        assert f'"{word}"' in text


def test_a_slip_in_the_name_of_a_step_is_recognised(tmp_path: Path) -> None:
    """And problems of single fields do not hide those of sizes."""
    changes = ["degradation.steps.nosie.prob=0", "data.crop_size=97"]
    with pytest.raises(OptionsError) as error:
        load_experiment(ROOT / "options" / "quickstart.yml", changes)
    text = str(error.value)
    assert "degradation.steps.nosie: is a new entry, so it needs a `type:`; did you mean 'noise'?" in text
    assert "data.crop_size: 97 is no multiple of the scale 2; 96 is" in text
