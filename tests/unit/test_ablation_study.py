"""An ablation is checked as a whole before anything trains."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.training import Mix
from models.ablating.report import photographs
from models.ablating.study import Study, load_study
from models.training.preview import training_samples
from tests.run.tiny import option_tree, pictures, write_options
from utils.options.fields import OptionError


def tree_of(folder: Path, **own: Any) -> dict[str, Any]:  # noqa: ANN401
    """A tiny ablation of the degradation: images to train on, others to test on."""
    tree = option_tree(pictures(folder / "train"))
    held_out = pictures(folder / "held_out", count=2, height=40, width=44)
    tree["data"]["validation"] = {"held_out": {"type": "folder", "root": str(held_out)}}
    tree["degradation"] = {"type": "bsrgan"}
    del tree["stages"]["gan"]
    variants = {"full": {}, "no_jpeg": {"degradation.steps.jpeg": None}, "weak": {"degradation.shuffle": False}}
    return {**tree, "name": "tiny", "seeds": [0, 1], "variants": variants, **own}


def study_of(folder: Path, **own: Any) -> Study:  # noqa: ANN401
    return load_study(write_options(folder / "ablation.yml", tree_of(folder, **own)), runs=folder / "runs")


def refused(folder: Path, **own: Any) -> str:  # noqa: ANN401
    with pytest.raises(OptionError) as error:
        study_of(folder, **own)
    assert not (folder / "runs").exists()
    return str(error.value)


def test_runs_are_variants_by_seeds_and_judged_on_the_same_images(tmp_path: Path) -> None:
    study = study_of(tmp_path, budget={"iterations": 7})
    assert [run.name for run in study.runs()][:4] == ["full-s0", "no_jpeg-s0", "weak-s0", "full-s1"]
    assert all(run.iterations == {"psnr": 7} for run in study.runs())
    assert {str(run.tree["data"]["validation"]["held_out"]["degradation"]) for run in study.runs()} == {
        "{'type': 'bsrgan'}"
    }


def test_all_mistakes_of_all_variants_are_told_at_once(tmp_path: Path) -> None:
    variants = {
        "full": {},
        "a": {"degradation.shufle": False},
        "b": {"network_g.num_feat": -1},
        "c": {"degradation.steps.jpg": None},
        "d": {"data.validation.held_out.root": "elsewhere"},
        "e": "hello",
        "f": {"scale": 3},
    }
    text = refused(tmp_path, variants=variants, seeds=[0, 0], baseline="ful", judge_by="PSNR Z")
    assert "variants.a: degradation.shufle: unknown option; did you mean 'shuffle'?" in text
    assert "variants.b: network_g.num_feat" in text
    assert "variants.c: is equal to 'full'" in text
    assert "variants.d.data.validation.held_out.root: all variants are judged on the same images" in text
    assert "variants.e: found 'hello', expected overrides such as" in text
    assert "variants.f.scale: all variants are tested at one scale" in text
    assert "judge_by: no run will have 'PSNR Z'" in text
    assert "seeds: 0 is given twice" in text
    assert "baseline: no variant is called 'ful'; did you mean 'full'?" in text


def test_a_mistake_of_all_variants_is_told_once(tmp_path: Path) -> None:
    text = refused(tmp_path, network_g={"type": "srvg"})
    assert text.count("no network is called 'srvg'") == 1 and "variants." not in text


def test_defaults_written_out_are_no_variant(tmp_path: Path) -> None:
    assert "variants.same: is equal to 'full'" in refused(
        tmp_path, variants={"full": {}, "same": {"degradation.shuffle": True}}
    )


def test_a_grid_gives_every_combination_a_name(tmp_path: Path) -> None:
    study = study_of(tmp_path, grid={"degradation.steps.noise.level_range": [[2, 10], [2, 25]]})
    assert list(study.variants)[:3] == ["full-level_range_2_10", "full-level_range_2_25", "no_jpeg-level_range_2_10"]
    assert study.baseline == "full-level_range_2_10"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"variants": {"a": {}, "A": {"degradation.shuffle": False}}}, "choose another name"),
        ({"variants": {"a/b": {}}}, "becomes a folder"),
        ({"judge_by": "PSNR Z"}, "no run will have 'PSNR Z'; did you mean"),
        ({"test": ["held_ot"]}, "is neither a set of data.validation; did you mean 'held_out'?"),
        ({"metrics": {"x": {"type": "psn"}}}, "no metric is called 'psn'"),
        ({"variants": {"full": {}, "x": {"stages.psnr.iterations": 3}}, "budget": {"iterations": 5}}, "remove one"),
        ({"seeds": []}, "names no seed"),
        ({"smallest": 0}, "smallest"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, own: dict[str, Any], words: str) -> None:
    assert words in refused(tmp_path, **own)


def test_a_test_set_that_was_trained_on_is_refused(tmp_path: Path) -> None:
    tree = tree_of(tmp_path)
    tree["data"]["validation"]["held_out"]["root"] = str(tmp_path / "train")
    assert "images are also in data.train.pictures" in refused(tmp_path, data=tree["data"])


def test_a_stage_that_the_file_takes_back_is_no_stage(tmp_path: Path) -> None:
    tree = tree_of(tmp_path)
    runs = study_of(tmp_path, stages={**tree["stages"], "gan": None}).runs()
    assert list(runs[0].iterations) == ["psnr"]


def test_a_missing_folder_is_told_by_its_place_in_the_file(tmp_path: Path) -> None:
    data = tree_of(tmp_path)["data"]
    data["validation"]["held_out"]["root"] = data["train"]["pictures"]["root"] = "nowhere"
    text = refused(tmp_path, data=data)
    assert "\n  data.validation.held_out: root: nowhere: no such folder" in text
    assert "\n  data.train.pictures: root: nowhere: no such folder" in text


def test_repeats_and_equal_files_are_of_one_photograph(tmp_path: Path) -> None:
    data = tree_of(tmp_path)["data"]
    root = Path(data["validation"]["held_out"]["root"])
    shutil.copy(root / "0.png", root / "again.png")
    data["validation"]["held_out"]["repeats"] = 2
    (tested,) = study_of(tmp_path, data=data).tests["validation"].sets
    of = photographs(tested)
    assert len(of) == 6 and len(set(of.values())) == 2 and of["0"] == of["0_1"] == of["again"] != of["1"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    file = write_options(tmp_path / "ablation.yml", tree_of(tmp_path))
    with pytest.raises(OptionError, match="the runs cannot be written to"):
        load_study(file, runs=file)  # a file stands where the folder should be


def test_changed_options_of_runs_that_are_there_are_noticed(tmp_path: Path) -> None:
    run = study_of(tmp_path).runs()[0]
    write_options(run.folder / "options.yml", run.tree)
    study_of(tmp_path, variants={"full": {}, "new": {"degradation.shuffle": False}})  # one more is no change
    with pytest.raises(OptionError, match="full-s0: stages.psnr.iterations: was 6, is 9"):
        study_of(tmp_path, budget={"iterations": 9})


def test_the_same_seed_is_the_same_luck(tmp_path: Path) -> None:
    """Images, crops and what is drawn are equal wherever a variant does not say otherwise."""
    study = study_of(tmp_path)

    def samples(variant: str) -> list[Any]:
        experiment = study.experiments[variant]
        mix = Mix.build(
            experiment.data.train, experiment.degradation.component(scale=experiment.scale), experiment.scale
        )
        return list(training_samples(experiment, "psnr", range(12), mix))

    for one, other in zip(samples("full"), samples("no_jpeg"), strict=True):
        assert one.batch.paths == other.batch.paths
        assert np.array_equal(one.gt.numpy(), other.gt.numpy())  # the same crop, turned alike
        assert one.plan.crop == other.plan.crop
        assert [step for step in one.plan.steps if step[0] != "jpeg"] == list(other.plan.steps)
