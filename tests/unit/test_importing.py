"""Option files of other frameworks become ours; tests/foreign holds their keys and values."""

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from degradations import DEGRADATIONS
from models.importing import dasr_cdsr, text
from models.importing.__main__ import convert, differences, main
from models.importing.conversion import Conversion, ForeignFileError, Told, at, leaves
from models.training.experiment import check_experiment
from tests.helpers import ROOT
from utils.options import files
from utils.options.fields import OptionError

FOREIGN = ROOT / "tests" / "foreign"
RECIPES = ROOT / "options"
Converted = tuple[dict[str, Any], list[Conversion]]

# What stands otherwise than in our recipe, and may: where data and weights lie, how the run is called, whole validation
# images, and what the recipes themselves state in a comment.
PLACES = ("name", "data.train.hr.root", "data.train.hr.names", "data.validation.hr.", "stages.psnr.init_from.")
MILESTONES = (".schedule.milestones",)  # m - 1 of KAIR's m


@cache
def read(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    return text.read(FOREIGN / name)


def converted(*names: str, iterations: tuple[int, ...] = (), **told: Any) -> Converted:  # noqa: ANN401
    return convert([(name, deepcopy(read(name)[0])) for name in names], None, Told(**told), iterations)


def from_line(which: str, line: str) -> Converted:
    return convert([(which, dasr_cdsr.read(line.split(), which))], which)


def changed(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A foreign tree with values at dotted keys changed; ... removes one."""
    tree = deepcopy(read(name)[0])
    for key, value in changes.items():
        *above, last = key.split(".")
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        if value is ...:
            inner.pop(last)
        else:
            inner[last] = value
    return tree


@cache
def x4plus() -> Converted:
    return converted("realesrnet_x4plus.yml", "realesrgan_x4plus.yml", gpus=4)


CDSR = (
    "--scale 2 --blur_type aniso_gaussian --noise 0.0 --sig_min 0.35 --sig_max 5 --batch_size 32 --epochs_encoder -1 "
    "--freeze_epoch 600 --sv_mode 0 --n_GPUs 1"
)
DASR = "--scale 4 --blur_type iso_gaussian --noise 0.0 --sig_min 0.2 --sig_max 4.0"
BESIDE = {
    "x4plus": (x4plus, "realesrgan/x4plus.yml", PLACES),
    "bsrgan": (
        lambda: converted("bsrgan_x4_psnr.json", "bsrgan_x4_gan.json", iterations=(400000, 1000000)),
        "bsrgan/x4.yml",
        PLACES + MILESTONES,
    ),
    "usrnet": (lambda: converted("usrnet.json", iterations=(500000,)), "usrnet/usrnet_tiny.yml", PLACES + MILESTONES),
    "df2k": (
        lambda: converted("realsr_df2k.yml"),
        "realsr/df2k.yml",
        # Pairs made beforehand, whose noise is not turned; 60,001 iterations.
        (*PLACES, *MILESTONES, "degradation.start", "steps.noise.", "data.train.hr.", "checkpoint", "gan.iterations"),
    ),
    "dasr": (lambda: from_line("dasr", DASR), "dasr/x4_iso.yml", (*PLACES, "data.workers")),
    "cdsr": (lambda: from_line("cdsr", CDSR), "cdsr/x2_aniso.yml", (*PLACES, "data.workers")),
}


@pytest.mark.parametrize("name", list(BESIDE))
def test_a_released_file_becomes_our_recipe_but_for_what_is_stated(name: str) -> None:
    convert_it, recipe, stated = BESIDE[name]
    tree, parts = convert_it()
    assert [part.unknown for part in parts] == [[]] * len(parts)
    other = [line for line in differences(tree, RECIPES / recipe) if not any(s in line.split(":")[0] for s in stated)]
    assert other == []


def test_a_converted_x4plus_draws_the_plans_of_our_recipe() -> None:
    trees = (x4plus()[0], files.load(RECIPES / "realesrgan/x4plus.yml"))
    ours, theirs = (DEGRADATIONS.build(tree["degradation"], scale=4) for tree in trees)
    for seed in range(40):
        plans = [d.sample(np.random.default_rng(seed), (400, 400)) for d in (ours, theirs)]
        assert plans[0] == plans[1]


NET, GAN, PSNR, BSRGAN = "realesrnet_x4plus.yml", "realesrgan_x4plus.yml", "bsrgan_x4_psnr.json", "bsrgan_x4_gan.json"
PAIRS = {
    "datasets.train.type": "RealESRGANPairedDataset",
    "datasets.train.dataroot_lq": "datasets/DF2K",
    "high_order_degradation": False,
}
GIVEN = {
    "datasets.train.type": "PairedImageDataset",
    "datasets.train.dataroot_lq": "datasets/DF2K_lq",
    "datasets.train.gt_size": 128,
    "gt_size": ...,
    "train.scheduler.milestones": [50000, 100000, 200000, 300000],
}
SRRESNET = {**GIVEN, "model_type": "SRModel", "network_g": {"type": "MSRResNet", "upscale": 4}}
ESRGAN = {
    **GIVEN,
    "model_type": "ESRGANModel",
    "network_d": {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 64},
    "train.perceptual_opt.layer_weights": {"conv5_4": 1},
    "train.gan_opt.loss_weight": 5e-3,
}
COSINE = {"type": "CosineAnnealingRestartLR", "periods": [250, 250], "restart_weights": [1, 0.5], "eta_min": 1e-7}
AGAIN = {"restarts": [0, 60], "restart_weights": [1, 0.5]}
RESTARTS = {"type": "MultiStepRestartLR", "milestones": [20], "gamma": 0.1, **AGAIN}
LABELS = {"train.gan_opt.real_label_val": 0.9, "train.gan_opt.fake_label_val": 0.1, "train.net_d_iters": 2}
SR = {
    "datasets.train": {
        **{"name": "train_dataset", "dataset_type": "sr", "dataroot_H": "trainsets/trainH", "H_size": 96},
        **{"dataloader_shuffle": True, "dataloader_num_workers": 8, "dataloader_batch_size": 32},
    },
    "netG": {"net_type": "msrresnet0", "in_nc": 3, "out_nc": 3, "nc": 64, "nb": 16},
}
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "x2plus": (GAN, {"scale": 2, "network_g.scale": 2}, {"scale": 2}),
    "realesrnet_x2plus": (NET, {"scale": 2, "network_g.scale": 2}, {"stages.psnr.losses.l1.target": "usm"}),
    "plain_start": (NET, {"gt_usm": False}, {"degradation.start": "plain", "stages.psnr.losses.l1.target": "plain"}),
    "finetune": (GAN, {"path.pretrain_network_d": "d.pth"}, {"stages.gan.init_from.network_d": "d.pth"}),
    "finetune_pairs": (GAN, PAIRS, {"degradation": {"type": "none", "usm": True}, "data.train.hr.type": "paired"}),
    "general_x4v3": (
        GAN,
        {"network_g": {"type": "SRVGGNetCompact", "num_conv": 32, "upscale": 4, "act_type": "prelu"}},
        {"network_g": {"type": "srvgg", "num_conv": 32}},
    ),
    "esrgan": (GAN, ESRGAN, {"stages.gan.losses.gan.kind": "ragan", "stages.gan.network_d.type": "vgg_disc"}),
    "srresnet": (NET, SRRESNET, {"network_g": {"type": "msrresnet"}, "stages.psnr.losses.l1.target": "plain"}),
    "cosine": (NET, {"train.scheduler": COSINE}, {"stages.psnr.schedule.periods": [250, 250]}),
    "restarts": (NET, {"train.scheduler": RESTARTS}, {"stages.psnr.schedule.restarts": [0, 60]}),
    "warm": (NET, {"train.warmup_iter": 10}, {"stages.psnr.schedule.warmup": 10}),
    "labels": (GAN, LABELS, {"stages.gan.losses.gan.real_label": 0.9, "stages.gan.turn_g.every": 2}),
    "vgg16": (GAN, {"train.perceptual_opt.vgg_type": "vgg16"}, {"stages.gan.losses.perceptual.network": "vgg16"}),
    "turns": (NET, {"datasets.train.use_hflip": False, "datasets.train.use_rot": True}, {"data.augment": "turns"}),
    "lmdb": (
        NET,
        {"datasets.train.io_backend.type": "lmdb", "datasets.train.dataroot_gt": "a.lmdb"},
        {"data.train.hr": {"type": "lmdb", "root": "a.lmdb"}},
    ),
    "sgd": (NET, {"train.optim_g": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}, {"stages.psnr.optim_g.type": "sgd"}),
    "adamax": (NET, {"train.optim_g.type": "Adamax"}, {"stages.psnr.optim_g.lr": 2e-4}),
    "bsrgan_x2": (
        PSNR,
        {"scale": 2, "datasets.train.H_size": 160},
        {"network_g.upsampling": "steps"},
    ),
    "bsrgan_plus": (
        PSNR,
        {"datasets.train.degradation_type": "bsrgan_plus", "datasets.train.shuffle_prob": 0.3},
        {"degradation.shuffle_prob": 0.3},
    ),
    "patchgan": (
        BSRGAN,
        {"netD.net_type": "discriminator_patchgan", "train.D_update_ratio": 3},
        {"stages.gan.network_d.padding": 2, "stages.gan.turn_g.every": 3},
    ),
    "msrresnet": (
        PSNR,
        {**SR, "datasets.train.dataroot_L": None, "datasets.test.dataroot_L": None, "sigma": 0, "sigma_test": 0},
        {"degradation": {"type": "bicubic"}, "data.validation.hr.degradation": "bicubic", "data.crop_size": 96},
    ),
    "kair_pairs": (
        PSNR,
        {**SR, "datasets.train.dataroot_L": "trainL", "datasets.test.dataroot_L": "testL"},
        {
            "degradation": {"type": "none"},
            "data.train.hr": {"type": "paired", "gt_root": "trainsets/trainH", "lq_root": "trainL"},
            "data.validation.hr.degradation": "none",
        },
    ),
    "l2sum": (PSNR, {"train.G_lossfn_type": "l2sum"}, {"stages.psnr.losses.l2.reduction": "sum"}),
    "own_rate_of_d": (BSRGAN, {"train.D_scheduler_milestones": [9]}, {"stages.gan.schedule_d.milestones": [8]}),
    "dped": (
        "realsr_df2k.yml",
        {"network_D": {"which_model_D": "NLayerDiscriminator", "in_nc": 3, "nf": 64, "nlayer": 3}},
        {"stages.gan.network_d": {"type": "patchgan"}},
    ),
    "redux": (
        "redux_otf.yml",
        {
            "train.optim_g.type": "AdamW_SF",
            "train.losses": [
                {"type": "lpipsloss", "loss_weight": 0.5},
                {"type": "ganloss", "loss_weight": 0.1, "gan_type": "vanilla"},
            ],
        },
        {
            "stages.gan.clip_grad_norm": 1.0,
            "degradation.final.jpeg.prob": 0.9,
            "stages.gan.ema_power": 0.75,
            "stages.gan.optim_g.type": "adamw_schedulefree",
            "stages.gan.losses.lpips": {"type": "lpips", "weight": 0.5},
        },
    ),
    "neosr": ("neosr_paired.toml", {}, {"stages.psnr.accumulate": 2, "data.batch_size": 8, "data.crop_size": 128}),
}


QUICK = ("redux", "finetune_pairs", "patchgan")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS])
def test_variants_of_released_files(name: str) -> None:
    file, changes, expected = VARIANTS[name]
    tree, (part,) = convert([(file, changed(file, changes))])
    for path, value in expected.items():
        assert at(tree, path) == value, path
    assert part.unknown == []
    assert all(fate for _, _, fate in part.rows())
    check_experiment({**tree, "prepare": {"source": ".", "out": "."}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "line", "expected"),
    [
        ("dasr", "--scale 2 --sig_max 2.0", {"data.crop_size": 96, "stages.encoder.iterations": 97000}),
        ("dasr", "--scale 3 --sig_max=3.0", {"scale": 3, "stages.encoder.schedule.milestones": [57230]}),
        (
            "dasr",
            "--scale 4 --blur_type aniso_gaussian --noise 25.0 --lambda_min 0.2 --lambda_max 4.0",
            {"degradation.steps.noise.level_range": [0, 25.0], "degradation.steps.blur.isotropic_prob": 0},
        ),
        ("cdsr", CDSR.replace("--noise 0.0", "--noise 15"), {"degradation.steps.noise.clean_prob": 0.2}),
    ],
)
def test_command_lines(which: str, line: str, expected: dict[str, Any]) -> None:
    tree, (part,) = from_line(which, line)
    assert {path: at(tree, path) for path in expected} == expected
    assert part.unknown == []


def test_everything_drawn_as_released_on_demand() -> None:
    tree = converted(NET, gpus=4, exact=True)[0]
    assert at(tree, "degradation.draws") == "batch" and at(tree, "data.pair_pool") == 720
    assert at(tree, "degradation.final.jpeg.table") == "released"


# --- the file that is written ---------------------------------------------------------------------------------------


def test_the_file_reads_back_keeps_comments_and_accounts_for_every_key(tmp_path: Path) -> None:
    out = tmp_path / "mine.yml"
    assert main([str(FOREIGN / NET), str(FOREIGN / GAN), "--gpus", "4", "-o", str(out)]) == 0
    assert files.load(out) == x4plus()[0]
    written = out.read_text(encoding="utf-8")
    assert "target: plain # photographs as they are" in written.replace("  #", " #")
    table = written[written.index("# realesrgan_x4plus.yml: key") :]
    for key in ("gan_gt_usm", "train.net_d_iters", "dist_params.port", "datasets.train.kernel_prob2"):
        assert f"# {key} " in table
    assert "resize_prob" in table and "equal to our default, degradation.orders.first.resize.kinds" in table
    assert "derived: data.batch_size, 12 on each of 4" in table


def test_an_unknown_key_is_named_and_stands_in_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "new.json"
    source.write_text((FOREIGN / PSNR).read_text().replace('"task"', '"novelty": 3,\n  "task"'))
    assert main([str(source), "-o", str(tmp_path / "mine.yml")]) == 0
    assert "novelty is not known to this converter" in "".join(capfd.readouterr())
    assert "not carried, because this converter does not know the key" in (tmp_path / "mine.yml").read_text()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            NET,
            {"datasets.train.blur_sigma": ..., "train.total_iter": ...},
            r"(?s)blur_sigma: is .*total_iter: is missing",
        ),
        (NET, {"name": "x4_CHANGE_ME"}, "name: found 'x4_CHANGE_ME'; this is a template"),
        (NET, {"datasets.train.kernel_prob": [1]}, "kernel_list names 6 kinds, but .*kernel_prob has 1"),
        (NET, {"gt_size": 128}, r"gt_size is 128, but datasets.train.gt_size is 256; make the file say one thing"),
        (NET, {"scale": 2}, r"network_g.scale: is 4 \(its default is 4\), but scale is 2"),
        (NET, {"gaussian_noise_prob": 1.5}, r"gaussian.prob.*\(from gaussian_noise_prob\)"),
        (NET, {"network_g.type": "HAT"}, "network_g.type: found HAT, which is not among the networks here: RRDBNet"),
        (NET, {"model_type": "VideoRecurrentModel"}, "model_type: found VideoRecurrentModel"),
        (NET, {"datasets.train.gt_size": "256"}, "gt_size: found '256', expected a whole number"),
        (GAN, {"train.gan_opt.gan_type": "wgan"}, "gan_type: found wgan, expected one of vanilla"),
        (BSRGAN, {"train.F_weights": [1.0]}, "F_feature_layer names 5 layers, train.F_weights has 1"),
        (PSNR, {"netG.net_type": "swinir"}, "netG.net_type: found swinir"),
        ("realsr_df2k.yml", {"train.niter": ...}, "train.niter: is missing"),
    ],
)
def test_what_is_wrong_is_said(file: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        convert([(file, changed(file, changes))])


def test_nothing_is_written_of_files_of_another_kind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yml"
    sources = {
        "ours.yml": ((RECIPES / "bsrgan/x4.yml").read_text(), "is an option file of this project already"),
        "other.yml": (
            "services: {web: {image: nginx}}",
            "is no option file of a training known here: its keys are s",
        ),
        "half.json": ((FOREIGN / PSNR).read_text()[:900], "cannot be parsed"),
        "half.yml": ("\n".join((FOREIGN / NET).read_text().splitlines()[:30]), "is no option file of a training known"),
        "code.yml": ("name: !!python/object/apply:os.system [true]", "cannot be parsed"),
        "empty.yml": ("", "holds no options"),
    }
    for name, (content, message) in sources.items():
        (tmp_path / name).write_text(content)
        assert main([str(tmp_path / name), "-o", str(out)]) == 1
        assert message in "".join(capfd.readouterr()), name
        assert not out.exists()


def test_stages_must_share_what_a_file_of_ours_shares() -> None:
    trees = [("net.yml", changed(NET, {"jpeg_range": [10, 95]})), ("gan.yml", deepcopy(read(GAN)[0]))]
    with pytest.raises(OptionError, match=r"jpeg.quality_range: \[10, 95\] in net.yml, 'our default' in gan.yml"):
        convert(trees)
    with pytest.raises(OptionError, match="is a stage `psnr`, as the file before it"):
        convert([("a.yml", deepcopy(read(NET)[0]))] * 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--scale two", "--scale: found 'two', expected a number"),
        ("--scale 2 --scale 3", "--scale is given twice"),
        ("scale 2", "found 'scale', expected --option value"),
        ("--scale 2 --blur_type motion", "blur_type: found 'motion'"),
        ("--scale 2 --data_range 1-10/801-810", "an epoch of 10 images in batches of 32 is empty"),
    ],
)
def test_command_lines_that_say_nothing_sensible(line: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        from_line("dasr", line)


def test_networks_agree_on_their_channels() -> None:
    """In G and in D: every check once passed, and training ended in a traceback of torch."""
    gray = {"network_g.num_in_ch": 1, "network_g.num_out_ch": 1, "network_d.num_in_ch": 1}
    assert check_experiment(convert([(GAN, changed(GAN, gray))])[0]).gray
    for key, message in (
        ("network_g.num_in_ch", "found 1 channels in and 3 out"),
        ("network_d.num_in_ch", "network_d.num_in_ch: found 1, but network_g makes images of 3"),
    ):
        with pytest.raises(OptionError, match=message):
            convert([(GAN, changed(GAN, {key: 1}))])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in FOREIGN.iterdir()))
def test_a_value_of_another_kind_is_converted_or_refused_in_words(name: str) -> None:
    """Whichever key has it."""
    wrong = cycle(("word", ["a", "b", "c"], {"x": 1}, -3))
    for key, _ in leaves(read(name)[0]):
        if any(part.isdigit() for part in key.split(".")):
            continue  # inside lists
        with suppress(OptionError):
            convert([(name, changed(name, {key: next(wrong)}))], None, Told(iterations=10, images=100), ())


def test_numbers_that_are_none_are_named_together() -> None:
    changes = {"train.warmup_iter": "none", "resize_prob": [0.2, "b", 0.1], "logger.save_checkpoint_freq": "often"}
    with pytest.raises(ForeignFileError) as caught:
        convert([("f.yml", changed("realesrgan_x4plus.yml", changes))], None, Told(), ())
    assert str(caught.value).splitlines()[1:] == [
        "  resize_prob: found [0.2, 'b', 0.1], expected a list of numbers",
        "  train.warmup_iter: found 'none', expected a number",
        "  logger.save_checkpoint_freq: found 'often', expected a whole number or a number",
    ]
