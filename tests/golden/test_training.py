"""Whole training steps against logs and weights from running KAIR, Real-ESRGAN and Real-SR.

The stages run through `Trainer.train_step`, so the order of phases, rates, averages and gradients is the trainer's.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from degradations import Batch
from losses import LOSSES
from models.network import NETWORKS
from models.stages.gan import GanStage
from models.stages.psnr import PsnrStage
from models.stages.stage import Memo, Nets, StageSettings, Turn
from models.weights.key_styles import canonical_names
from tests.golden.test_losses import BASICSR, VGG_CHANNELS, _rule_filled
from tests.golden.training_inputs import fill, sharpened, synthetic_batch
from tests.stage_runs import batch_of, log_of, trainer_of
from train import Trainer
from utils.optim import Cosine, MultiStep, Optim, Schedule

FOLDER = Path(__file__).parent


def manifest(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name) as held:
        return {key: held[key] for key in held.files}


def near(loss: float) -> Any:  # noqa: ANN401
    return pytest.approx(loss, rel=1e-4, abs=1e-6)


def assert_near(found: Tensor, expected: np.ndarray, atol: float) -> None:
    torch.testing.assert_close(found.detach(), torch.from_numpy(expected).reshape(found.shape), atol=atol, rtol=0)


def assert_weights(found: Tensor, expected: np.ndarray) -> None:
    """Equal but for stray elements: Adam's first steps are of the rate's size (1e-4), so gradients near 0 can turn, in
    each of up to four steps, and do so on another processor."""
    error = (found.detach() - torch.from_numpy(expected)).abs()
    assert float(error.max()) < 8e-4
    assert float((error < 5e-6).float().mean()) > 0.8


def losses(entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: LOSSES.build(entry) for name, entry in entries.items()}


@pytest.fixture(scope="module")
def torchvision_vgg(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _rule_filled(tmp_path_factory, lambda index, part: f"features.{index}.{part}")


@pytest.fixture(scope="module")
def basicsr_vgg(tmp_path_factory: pytest.TempPathFactory) -> str:
    names = dict(zip(VGG_CHANNELS, [n[:-7] for n in BASICSR["vgg_keys"] if n.endswith(".weight")], strict=True))
    return _rule_filled(tmp_path_factory, lambda index, part: f"{names[index]}.{part}")


def train(trainer: Trainer, inputs: Sequence[Batch]) -> list[dict[str, float]]:
    """One iteration per micro-batch. Returns what was logged, with the rate."""
    logs = []
    for samples in inputs:
        values = log_of(trainer.train_step([samples]))
        logs.append({**values, "lr": trainer.stage.phases()[0].optimizer.param_groups[0]["lr"]})
    return logs


# --- KAIR -----------------------------------------------------------------------------------------------------------

KAIR, KAIR_ARRAYS = manifest("kair/trainstep.json"), arrays("kair/trainstep.npz")
SLOW_ADAM = Optim(lr=1e-4, betas=(0.9, 0.999))
KAIR_SETTINGS = StageSettings(
    iterations=4,
    # KAIR's scheduler steps before the optimizer, so its milestone 3 acts in step 3; ours acts in the step after.
    schedule=MultiStep(milestones=(KAIR["train"]["G_scheduler_milestones"][0] - 1,), gamma=0.5),
    ema_decay=KAIR["train"]["E_decay"],
)
KAIR_DISCRIMINATORS = {
    "gan_lsgan_unet": ({"type": "unet_sn", "num_feat": 8}, "lsgan", "Discriminator_UNet_full"),
    "gan_ragan_patch": (
        {"type": "patchgan", "num_feat": 8, "n_layers": 2, "norm": "spectral", "padding": 2, "bias": True},
        "ragan",
        "Discriminator_PatchGAN_full",
    ),
}


def esrgan_generator(grow: int) -> Any:  # noqa: ANN401
    """A small RRDBNet filled under ESRGAN's names, which KAIR and Real-SR keep."""
    network = NETWORKS.build(
        {"type": "rrdbnet", "scale": 4, "upsampling": "steps", "num_feat": 8, "num_block": 1, "num_grow_ch": grow}
    )
    fill(network, manifest("kair/rrdbnet.json")["rrdbnet_full_sf4"]["keys"])
    return network


def kair_inputs() -> list[Batch]:
    return [batch_of(torch.from_numpy(KAIR_ARRAYS["L"]), plain=torch.from_numpy(KAIR_ARRAYS["H"]))] * 4


def assert_kair_weights(trainer: Trainer, tag: str, which: str = "GED") -> None:
    """Compares the stored tensors of G, its average E, and D."""
    published_d = manifest("kair/discriminators.json")[KAIR_DISCRIMINATORS[tag][2]]["keys"] if "gan" in tag else []
    ours = canonical_names(manifest("kair/rrdbnet.json")["rrdbnet_full_sf4"]["keys"]), canonical_names(published_d)
    networks = {"G": trainer.stage.networks["network_g"], "E": trainer.ema.network}
    networks["D"] = trainer.stage.networks.get("network_d", networks["G"])
    stored = [key for key in KAIR_ARRAYS if key.startswith(f"{tag}/") and key.split("/")[1] in which]
    assert len(stored) >= 6
    for key in stored:
        _, letter, name = key.split("/")
        assert_weights(networks[letter].state_dict()[ours[letter == "D"][name]], KAIR_ARRAYS[key])


@pytest.mark.parametrize("loss", ["l1", "charbonnier"])
def test_psnr_stage_trains_as_kair(loss: str) -> None:
    stage = PsnrStage(esrgan_generator(4), losses({"pixel": {"type": loss}}), SLOW_ADAM)
    trainer = trainer_of(stage, KAIR_SETTINGS)
    for found, expected in zip(train(trainer, kair_inputs()), KAIR["log"][f"plain_{loss}"], strict=True):
        assert found["pixel"] == near(expected["G_loss"])
        assert found["lr"] == pytest.approx(expected["lr"])
    assert_kair_weights(trainer, f"plain_{loss}")


class ThreePasses(GanStage):
    """KAIR's relativistic discriminator step, which passes the fake images twice.

    The pass only for its mean is a second power iteration of the spectral norms. We pass each kind once.
    """

    def _loss_d(self, batch: Batch, memo: Memo, nets: Nets, step: int) -> dict[str, Tensor]:
        with torch.no_grad():
            sr = memo.get("sr", self.infer(nets["network_g"], batch))
        network = nets["network_d"]
        mean_fake = network(sr).mean(0, keepdim=True).detach()
        real, fake = network(batch.targets["plain"]), network(sr)
        halves = [(real - mean_fake, torch.ones), (fake - real.mean(0, keepdim=True).detach(), torch.zeros)]
        total = sum(F.binary_cross_entropy_with_logits(x, label(x.shape)) for x, label in halves)
        assert isinstance(total, Tensor)
        return {"d": total / 2, "_d_real": real.detach().mean(), "_d_fake": fake.detach().mean()}


def kair_gan_run(tag: str, stage_class: type[GanStage]) -> tuple[Trainer, list[dict[str, float]]]:
    options, kind, published = KAIR_DISCRIMINATORS[tag]
    extra = KAIR["gan_extra"]
    stage = stage_class(
        esrgan_generator(4),
        NETWORKS.check(options),
        losses({"pixel": {"type": "l1"}, "gan": {"type": "gan", "kind": kind, "weight": extra["D_lossfn_weight"]}}),
        SLOW_ADAM,
        SLOW_ADAM,
        turn_g=Turn(start=extra["D_init_iters"]),
    )
    fill(stage.networks["network_d"], manifest("kair/discriminators.json")[published]["keys"])
    trainer = trainer_of(stage, KAIR_SETTINGS)
    return trainer, train(trainer, kair_inputs())


@pytest.mark.parametrize(("tag", "stage_class"), [("gan_lsgan_unet", GanStage), ("gan_ragan_patch", ThreePasses)])
def test_gan_stage_trains_as_kair(tag: str, stage_class: type[GanStage]) -> None:
    trainer, logs = kair_gan_run(tag, stage_class)
    ours = {"G_loss": "pixel", "D_loss": "gan", "D_real": "_d_real", "D_fake": "_d_fake", "lr": "lr"}
    for found, expected in zip(logs, KAIR["log"][tag], strict=True):
        assert ("pixel" in found) == ("G_loss" in expected), "the generator's turn comes after D_init_iters"
        for name, value in expected.items():
            assert found[ours[name]] == near(value), name
    assert_kair_weights(trainer, tag)


def test_one_pass_less_than_kair_changes_little() -> None:
    """Our relativistic step with the published discriminator: only the spectral norms lag by a power iteration."""
    trainer, logs = kair_gan_run("gan_ragan_patch", GanStage)
    for found, expected in zip(logs[1:], KAIR["log"]["gan_ragan_patch"][1:], strict=True):
        assert found["pixel"] == near(expected["G_loss"])
        assert found["gan"] == pytest.approx(expected["D_loss"], rel=5e-3)
        assert found["_d_real"] == pytest.approx(expected["D_real"], rel=2e-2)
    assert_kair_weights(trainer, "gan_ragan_patch", "GE")


# --- Real-ESRGAN ----------------------------------------------------------------------------------------------------


def realesrgan_generator(entry: dict[str, Any]) -> Any:  # noqa: ANN401
    options = {key: value for key, value in entry["network_g"].items() if key != "type"}
    network = NETWORKS.build({"type": "rrdbnet", "scale": 4, **options})
    fill(network)
    return network


def realesrgan_inputs() -> list[Batch]:
    """Three iterations by the stored rule."""
    inputs = []
    for step in (1, 2, 3):
        lq = np.random.RandomState(500 + step).rand(2, 3, 16, 12).astype(np.float32)
        gt = synthetic_batch(2, 64, 48, step + 2)
        inputs.append(batch_of(torch.from_numpy(lq), plain=gt, usm=sharpened(gt)))
    return inputs


def optim_of(entry: dict[str, Any]) -> Optim:
    return Optim(lr=entry["lr"], betas=tuple(entry["betas"]))


def check_realesrgan(trainer: Trainer, entry: dict[str, Any], stored: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """Trains three iterations; compares the first gradients of G and D, then the weights of G and its average."""
    inputs = realesrgan_inputs()
    networks = trainer.stage.networks
    with torch.no_grad():
        samples = inputs[0]
        assert_near(networks["network_g"](samples.lq), stored["out1"], 1e-5)
    logs = train(trainer, inputs[:1])
    compared = 0
    for prefix, network in (("gradG_", "network_g"), ("gradD_", "network_d"), ("gradDnorm_", "network_d")):
        for key in (key for key in stored if key.startswith(prefix)):
            gradient = networks[network].get_parameter(key.removeprefix(prefix)).grad
            assert gradient is not None
            found = gradient.norm() if prefix == "gradDnorm_" else gradient
            assert_near(found, stored[key], 1e-4 * float(np.abs(stored[key]).max()))
            compared += 1
    assert compared >= len(entry["manifest"]["g"])
    logs += train(trainer, inputs[1:])
    for name in entry["manifest"]["g"]:
        assert_weights(networks["network_g"].state_dict()[name], stored[f"G3_{name}"])
        assert_weights(trainer.ema.network.state_dict()[name], stored[f"E3_{name}"])
    return logs


def test_psnr_stage_trains_as_realesrnet() -> None:
    entry, stored = manifest("realesrgan/train_net.json"), arrays("realesrgan/train_net.npz")
    terms = losses({"pixel": {"type": "l1", "target": "usm"}})
    stage = PsnrStage(realesrgan_generator(entry), terms, optim_of(entry["train"]["optim_g"]))
    trainer = trainer_of(stage, StageSettings(iterations=3, ema_decay=entry["train"]["ema_decay"]))
    for found, expected in zip(check_realesrgan(trainer, entry, stored), entry["logs"], strict=True):
        assert found["pixel"] == near(expected["l_pix"])


def test_gan_stage_trains_as_realesrgan(basicsr_vgg: str) -> None:
    entry, stored = manifest("realesrgan/train_gan.json"), arrays("realesrgan/train_gan.npz")
    options = entry["train"]
    stage = GanStage(
        realesrgan_generator(entry),
        NETWORKS.check({**entry["network_d"], "type": "unet_sn"}),
        losses(
            {
                "pixel": {"type": "l1", "target": "usm"},
                "perceptual": {"type": "perceptual", "target": "usm", "weights": basicsr_vgg},
                "gan": {"type": "gan", "kind": "vanilla", "weight": options["gan_opt"]["loss_weight"]},
            }
        ),
        optim_of(options["optim_g"]),
        optim_of(options["optim_d"]),
    )
    fill(stage.networks["network_d"])
    trainer = trainer_of(stage, StageSettings(iterations=3, ema_decay=options["ema_decay"]))
    ours = {"l_g_pix": "pixel", "l_g_percep": "perceptual", "l_g_gan": "gan"}
    ours |= {"out_d_real": "_d_real", "out_d_fake": "_d_fake"}
    for found, expected in zip(check_realesrgan(trainer, entry, stored), entry["logs"], strict=True):
        for theirs, name in ours.items():
            assert found[name] == near(expected[theirs]), theirs
        assert found["d"] == near(expected["l_d_real"] + expected["l_d_fake"])
    state = stage.networks["network_d"].state_dict()
    for name in entry["manifest"]["d"]:
        if f"D3norm_{name}" in stored:
            assert float(state[name].norm()) == pytest.approx(float(stored[f"D3norm_{name}"]), rel=1e-4)
        if name.endswith("weight_u"):
            assert_near(state[name], stored[f"D3_{name}"], 1e-4)


# --- Real-SR --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("perceptual", [False, True], ids=["fea0", "fea1"])
@pytest.mark.parametrize("kind", ["ragan", "gan"])
def test_gan_stage_trains_as_realsr(kind: str, perceptual: bool, torchvision_vgg: str) -> None:
    name = f"realsr/train_steps_{kind}_fea{int(perceptual)}"
    entry, stored = manifest(f"{name}.json"), arrays(f"{name}.npz")
    weights, logs = entry["weights"], entry["logs"]
    gan = {"kind": "ragan", "mean_over": "all", "detach_means": False} if kind == "ragan" else {"kind": "vanilla"}
    terms: dict[str, dict[str, Any]] = {
        "pixel": {"type": "l1", "weight": weights["pix"]},
        "gan": {"type": "gan", "weight": weights["gan"], **gan},
    }
    if perceptual:
        vgg = {"type": "perceptual", "layers": {"conv5_4": 1.0}, "weights": torchvision_vgg}
        terms["perceptual"] = {**vgg, "weight": weights["fea"]}
    discriminator = NETWORKS.check({"type": "patchgan", "num_feat": entry["D"]["ndf"]})
    stage = GanStage(esrgan_generator(entry["G"]["gc"]), discriminator, losses(terms), SLOW_ADAM, SLOW_ADAM)
    fill(stage.networks["network_d"])
    trainer = trainer_of(stage, StageSettings(iterations=3))
    samples = batch_of(torch.from_numpy(stored["lq"]), plain=torch.from_numpy(stored["gt"]))
    ours = {"l_g_pix": "pixel", "l_g_fea": "perceptual", "l_g_gan": "gan", "D_real": "_d_real", "D_fake": "_d_fake"}
    for found, expected in zip(train(trainer, [samples] * 3), logs, strict=True):
        for theirs in expected.keys() & ours.keys():
            # A relativistic loss does not feel the last bias: its gradient is rounding noise, which Adam turns into a
            # full step of ±1e-4, and both mean logits move with it.
            atol = 5e-4 if theirs.startswith("D_") and kind == "ragan" else 1e-5
            assert found[ours[theirs]] == pytest.approx(expected[theirs], rel=1e-3, abs=atol), theirs
        share = 0.5 if kind == "ragan" else 1.0  # Real-SR logs the relativistic halves before halving
        assert found["d"] == pytest.approx(share * (expected["l_d_real"] + expected["l_d_fake"]), rel=1e-4)
    g, d = (stage.networks[name].state_dict() for name in ("network_g", "network_d"))
    for state, key, name in [
        (g, "G_conv_first", "conv_first"),
        (g, "G_conv_last", "conv_last"),
        (d, "D_model0", "model.0"),
    ]:
        assert_weights(state[f"{name}.weight"], stored[key])
    for part, key in (("mean", "D_bn_rm"), ("var", "D_bn_rv")):
        # Real-SR's relativistic generator step passes fake before real images, ours and KAIR's real before fake. That
        # moves only the running statistics, which training never reads.
        atol = 0.05 * float(np.abs(stored[key]).max()) if kind == "ragan" else 1e-4
        assert_near(d[f"model.3.running_{part}"], stored[key], atol)


# --- learning rates -------------------------------------------------------------------------------------------------

RATES = manifest("realesrgan/lr_schedules.json")


def basicsr_rates(number: str) -> tuple[dict[str, Any], np.ndarray]:
    """The configuration, and the rate of step 1, 2, …"""
    config, rates = RATES[number]["config"], RATES[number]["lr"]
    return config, np.array([rates[str(step)] for step in range(1, config["total"] + 1)])


def our_rates(schedule: Schedule, base: float, total: int) -> np.ndarray:
    return np.array([base * schedule.factor(completed, total) for completed in range(total)])


def basicsr_cosine(config: dict[str, Any]) -> Cosine:
    options = config["sch"]
    floor, warmup = options["eta_min"] / config["lr"], max(0, config["warm"])
    return Cosine(tuple(options["periods"]), tuple(map(float, options["restart_weights"])), floor, warmup)


def test_milestones_are_those_of_basicsr() -> None:
    config, expected = basicsr_rates("0")
    schedule = MultiStep(tuple(config["sch"]["milestones"]), config["sch"]["gamma"])
    assert len(set(config["sch"]["milestones"])) < len(config["sch"]["milestones"]), "one counts twice"
    np.testing.assert_allclose(our_rates(schedule, config["lr"], config["total"]), expected, rtol=1e-9)


def test_restarts_are_those_of_basicsr() -> None:
    config, expected = basicsr_rates("1")
    options = {key: tuple(config["sch"][key]) for key in ("milestones", "restarts")}
    weights = tuple(map(float, config["sch"]["restart_weights"]))
    schedule = MultiStep(**options, gamma=config["sch"]["gamma"], restart_weights=weights)
    np.testing.assert_allclose(our_rates(schedule, config["lr"], config["total"]), expected, rtol=1e-9)


def test_milestones_of_realsr_and_kair_act_a_step_earlier() -> None:
    """Their schedulers step before the optimizer: what they call milestone m is m - 1 here."""
    stored = arrays("realsr/lr_schedule.npz")
    schedule = MultiStep(tuple(int(m) - 1 for m in stored["milestones"]), float(stored["gamma_f64"]))
    np.testing.assert_allclose(our_rates(schedule, 1e-4, 60), stored["multistep_f64"][1:], rtol=1e-9)


def test_warm_up_is_that_of_basicsr_without_its_fault() -> None:
    """BasicSR's rate stays at (w - 1) / w of what is asked for once the warm-up of w steps has ended. Ours does not."""
    config, expected = basicsr_rates("2")
    warmup = config["warm"]
    schedule = MultiStep(tuple(config["sch"]["milestones"]), config["sch"]["gamma"], warmup=warmup)
    found = our_rates(schedule, config["lr"], config["total"])
    np.testing.assert_allclose(found[: warmup - 1], expected[: warmup - 1], rtol=1e-9)
    np.testing.assert_allclose(found[warmup - 1 :] * (warmup - 1) / warmup, expected[warmup - 1 :], rtol=1e-9)


def test_cosine_restarts_are_those_of_basicsr_but_for_the_first_step_of_a_period() -> None:
    """BasicSR's restarted rate is never reached: the first step of a period still has the floor of the last one."""
    config, expected = basicsr_rates("3")
    found = our_rates(basicsr_cosine(config), config["lr"], config["total"])
    options = config["sch"]
    firsts = np.cumsum(options["periods"])[:-1]
    others = np.setdiff1d(np.arange(config["total"]), firsts)
    np.testing.assert_allclose(found[others], expected[others], rtol=1e-9)
    np.testing.assert_allclose(expected[firsts], options["eta_min"], rtol=1e-9)
    tops = [options["eta_min"] + w * (config["lr"] - options["eta_min"]) for w in options["restart_weights"][1:]]
    np.testing.assert_allclose(found[firsts], tops, rtol=1e-9)


def test_cosine_is_that_of_basicsr_after_a_warm_up() -> None:
    """BasicSR warms up to the base rate and then falls onto the cosine; ours warms up to the cosine, without a jump."""
    config, expected = basicsr_rates("4")
    warmup, schedule = config["warm"], basicsr_cosine(config)
    found = our_rates(schedule, config["lr"], config["total"])
    others = np.setdiff1d(np.arange(warmup - 1, config["total"]), np.cumsum(config["sch"]["periods"]))
    np.testing.assert_allclose(found[others], expected[others], rtol=1e-9)
    cosine = our_rates(replace(schedule, warmup=0), 1.0, config["total"])
    np.testing.assert_allclose(found[: warmup - 1], (expected * cosine)[: warmup - 1], rtol=1e-9)
    assert (np.diff(found[:warmup]) > 0).all()
