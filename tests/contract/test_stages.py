"""Every registered stage against the `Stage` protocol, run by the trainer's own iteration; then what GANs need.

A new stage needs one line in CASES: a small generator, and options that make the stage small.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from degradations import Batch
from losses import Loss
from models.network import NETWORKS
from models.stages.gan import GanStage
from models.stages.stage import STAGES, Handover, Memo, Phase, Stage, StageSettings, Turn
from tests.stage_runs import batch_of, log_of, trainer_of
from train import Trainer
from utils.optim import MultiStep
from utils.options.components import OptionsError, Spec
from utils.options.fields import OptionError
from utils.seeding import torch_generator

SCALE = 2
GENERATOR = {"type": "rrdbnet", "num_feat": 4, "num_block": 1, "num_grow_ch": 2}
# Without normalisation, whose state would tell two micro-batches from one batch.
DISCRIMINATOR = {"type": "patchgan", "num_feat": 4, "n_layers": 1, "norm": "none", "bias": True}
FAST = {"lr": 5e-3}


@dataclass(frozen=True)
class Case:
    """A small stage."""

    options: dict[str, Any] = field(default_factory=dict)
    network_g: dict[str, Any] = field(default_factory=lambda: GENERATOR)


GAN = {
    "network_d": DISCRIMINATOR,
    "losses": {"pixel": {"type": "l1"}, "gan": {"type": "gan", "weight": 0.1}},
    "optim_g": FAST,
    "optim_d": FAST,
}
DASR = {"type": "dasr", "num_feat": 8, "num_group": 1, "num_block": 1, "encoder_feat": 4}
CASES: dict[str, Case] = {
    "contrastive": Case({"losses": {"pixel": {"type": "l1"}}, "optim_g": FAST, "queue_size": 16}, DASR),
    "gan": Case(GAN),
    "psnr": Case({"losses": {"pixel": {"type": "l1"}, "ssim": {"type": "ssim", "weight": 0.1}}, "optim_g": FAST}),
}
NAMES = STAGES.names()


def case_of(name: str) -> Case:
    return CASES.get(name, CASES["psnr"])  # a new stage is tried with a generator and losses of pixels


def check(name: str, **options: Any) -> Spec[Stage]:  # noqa: ANN401
    chosen = case_of(name).options | options  # None takes one back
    return STAGES.check(
        {"type": name, "iterations": 100, **{k: v for k, v in chosen.items() if v is not None}}, scale=SCALE
    )


def build(name: str, seed: int = 0, **options: Any) -> Stage:  # noqa: ANN401
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network_g = NETWORKS.build(case_of(name).network_g, scale=SCALE)
        return check(name, **options).build(network_g=network_g, scale=SCALE)


def gan(seed: int = 0, **options: Any) -> GanStage:  # noqa: ANN401
    stage = build("gan", seed, **options)
    assert isinstance(stage, GanStage)
    return stage


def samples(stage: Stage | None = None) -> Any:  # noqa: ANN401
    """Two samples, with as many views as the stage wants."""
    random, views = torch_generator(3), 1 if stage is None else stage.views
    lq = torch.rand(2 * views, 3, 16, 16, generator=random)
    return batch_of(lq, views, plain=torch.rand(2 * views, 3, 16 * SCALE, 16 * SCALE, generator=random))


def halves(whole: Any) -> list[Any]:  # noqa: ANN401
    batch = whole
    parts = zip(batch.lq.chunk(2), batch.targets["plain"].chunk(2), strict=True)
    return [batch_of(lq, batch.views, plain=plain) for lq, plain in parts]


def weights(stage: Stage) -> dict[str, list[Tensor]]:
    return {name: [p.detach().clone() for p in network.parameters()] for name, network in stage.networks.items()}


def gradients(network: nn.Module) -> list[Tensor]:
    found = [p.grad for p in network.parameters()]
    assert all(g is not None for g in found)
    return [g.clone() for g in found if g is not None]


def has_no_gradient(network: nn.Module) -> bool:
    return all(p.grad is None for p in network.parameters())


def run_phase(trainer: Trainer, phase: Phase, memo: Memo | None = None) -> dict[str, float]:
    batch = samples(trainer.stage)
    return log_of(trainer.run_phase(phase, [batch], [{} if memo is None else memo]))


def total(log: dict[str, float]) -> float:
    return sum(value for name, value in log.items() if not name.startswith("_"))


def phase_of(stage: Stage, name: str) -> Phase:
    return next(phase for phase in stage.phases() if phase.name == name)


def counted(network: nn.Module) -> Callable[[], int]:
    """Counts a network's passes from now on."""
    passes: list[nn.Module] = []
    network.register_forward_hook(lambda module, *_: passes.append(module))
    return lambda: len(passes)


# --- every stage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_phase_changes_exactly_the_networks_it_names(name: str) -> None:
    stage = build(name)
    trainer = trainer_of(stage)
    learning = [n for n, network in stage.networks.items() if any(p.requires_grad for p in network.parameters())]
    for phase in stage.phases():
        assert phase.networks and set(phase.networks) <= set(stage.networks)
        before = weights(stage)
        run_phase(trainer, phase)
        for network, after in weights(stage).items():
            pairs = list(zip(before[network], after, strict=True))
            assert any(not torch.equal(a, b) for a, b in pairs) == (network in phase.networks)
    updated = [network for phase in stage.phases() for network in phase.networks]
    assert sorted(updated) == sorted(learning), "each network that learns belongs to one phase"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter_and_no_other_network(name: str) -> None:
    for i in range(len(build(name).phases())):
        stage = build(name)
        phase = stage.phases()[i]
        run_phase(trainer_of(stage), phase)
        for network_name, network in stage.networks.items():
            if network_name in phase.networks:
                assert all(g.abs().sum() > 0 for g in gradients(network))
            else:
                assert has_no_gradient(network)
        held = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for n in phase.networks for p in stage.networks[n].parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_each_phase_lowers_its_losses(name: str) -> None:
    stage = build(name)
    trainer = trainer_of(stage)
    for phase in stage.phases():
        values = [total(run_phase(trainer, phase)) for _ in range(12)]
        assert values[-1] < values[4] < values[0]


@pytest.mark.parametrize("name", NAMES)
def test_logged_names_are_option_names_and_do_not_clash(name: str) -> None:
    stage = build(name)
    memo: Memo = {}
    shown: list[str] = []
    for phase in stage.phases():
        shown += [key for key in run_phase(trainer_of(stage), phase, memo) if not key.startswith("_")]
    assert len(shown) == len(set(shown)) and set(stage.losses) <= set(shown)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_runs_once_for_all_phases(name: str) -> None:
    stage = build(name)
    passes = counted(stage.networks["network_g"])
    trainer_of(stage).train_step(halves(samples(stage)))
    assert passes() == 2, "once for each micro-batch"


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_stage_goes_on_as_the_saved_one(name: str) -> None:
    settings = StageSettings(iterations=10, schedule=MultiStep((2,)))
    saved, fresh = trainer_of(build(name), settings), trainer_of(build(name, seed=1), settings)
    given = [samples(saved.stage)]
    for _ in range(2):
        saved.train_step(given)
    networks = {**saved.stage.networks, "network_g_ema": saved.ema.network}
    state = {n: {k: v.clone() for k, v in network.state_dict().items()} for n, network in networks.items()}
    meta = {"iteration": saved.iteration}
    fresh.restore(SimpleNamespace(networks=state, state=deepcopy(saved.state_dict()), meta=meta))  # type: ignore[arg-type]
    logs = [log_of(trainer.train_step(given)) for trainer in (saved, fresh)]
    assert logs[0] == logs[1]
    for network, expected in networks.items():
        found = {**fresh.stage.networks, "network_g_ema": fresh.ema.network}[network]
        for a, b in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_under_autocast(name: str) -> None:
    stage = build(name)
    memo: Memo = {}
    given: list[Tensor] = []
    features: list[Tensor] = []
    for term in stage.losses.values():
        term.loss.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
    for network in stage.networks.values():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda *call: features.append(call[2]))
    for phase in stage.phases():
        with torch.autocast("cpu", torch.bfloat16):
            values = phase.loss(samples(stage), memo, stage.networks, 1)
        assert {value.dtype for value in values.values()} == {torch.float32}
        assert all(value.shape == () and value.isfinite() for value in values.values())
    assert {output.dtype for output in features} == {torch.bfloat16}, "the networks themselves ran in half precision"
    assert given and {image.dtype for image in given} == {torch.float32}


@pytest.mark.parametrize("name", NAMES)
def test_training_in_bf16_stays_near_training_in_float32(name: str) -> None:
    logs = []
    for precision in ("fp32", "bf16"):
        trainer = trainer_of(build(name), StageSettings(iterations=10, precision=precision))
        logs.append([log_of(trainer.train_step([samples(trainer.stage)])) for _ in range(3)][-1])
        assert all(p.dtype == torch.float32 for n in trainer.stage.networks.values() for p in n.parameters())
    assert total(logs[0]) != total(logs[1]) == pytest.approx(total(logs[0]), rel=2e-2)


@pytest.mark.parametrize("name", NAMES)
def test_two_micro_batches_equal_one_batch(name: str) -> None:
    """Layers that normalise by batches keep their running statistics here: by them any two batches can be told."""
    whole, parts = trainer_of(build(name)), trainer_of(build(name))
    for trainer in (whole, parts):
        for module in (m for network in trainer.stage.networks.values() for m in network.modules()):
            module.train(not isinstance(module, nn.BatchNorm2d))
    given = samples(whole.stage)
    logs = [log_of(whole.train_step([given])), log_of(parts.train_step(halves(given)))]
    assert logs[1] == pytest.approx(logs[0], rel=1e-4, abs=1e-6)
    for one, two in zip(whole.stage.networks.values(), parts.stage.networks.values(), strict=True):
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
        for a, b in zip(one.buffers(), two.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_clipped_where_the_settings_say_so(name: str) -> None:
    stage = build(name)
    trainer = trainer_of(stage, StageSettings(iterations=10, clip_grad_norm=1e-3))
    log = log_of(trainer.train_step([samples(stage)]))
    for phase in stage.phases():
        norms = [torch.cat([g.flatten() for g in gradients(stage.networks[n])]).norm() for n in phase.networks]
        assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-2)
        assert log[f"_grad_norm_{phase.name}"] > 2e-3, "the log has the norm before clipping"


class Hungry(Loss):
    """A loss that wants what no stage has."""

    needs: ClassVar[tuple[str, ...]] = ("a_map",)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_whose_needs_are_not_met_is_refused(name: str) -> None:
    stage = check(name)
    stage.values["losses"]["hungry"] = Spec(Hungry, "hungry", {})
    with pytest.raises(ValueError, match=r"losses\.hungry: `hungry` needs a_map"):
        stage.build(network_g=NETWORKS.build(GENERATOR, scale=SCALE))


@pytest.mark.parametrize("name", [name for name in NAMES if "fake_logits" not in STAGES.get(name).supplies])  # type: ignore[attr-defined]
def test_an_adversarial_loss_without_a_discriminator_is_refused(name: str) -> None:
    losses = {**CASES[name].options["losses"], "gan": {"type": "gan"}}
    with pytest.raises(OptionError, match=r"losses\.gan: `gan` needs fake_logits, real_logits"):
        build(name, losses=losses)


# --- the moving average's output -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if "sr_ema" in STAGES.get(name).supplies])  # type: ignore[attr-defined]
def test_the_moving_average_runs_where_a_due_loss_looks_at_it_and_nowhere_else(name: str) -> None:
    losses = {**CASES[name].options["losses"], "ldl": {"type": "ldl", "every": 2}}
    for given, expected in ((losses, [0, 1, 1, 2]), (CASES[name].options["losses"], [0, 0, 0, 0])):
        stage = build(name, losses=given)
        trainer = trainer_of(stage)
        passes, counts = counted(trainer.ema.network), []
        for _ in range(4):
            assert ("ldl" in trainer.train_step([samples(stage)])) == ("ldl" in given and trainer.iteration % 2 == 0)
            counts.append(passes())
        assert counts == expected


@pytest.mark.parametrize("name", [name for name in NAMES if "sr_ema" in STAGES.get(name).supplies])  # type: ignore[attr-defined]
def test_losses_see_the_output_of_the_moving_average_as_a_constant(name: str) -> None:
    stage = build(name, losses={**CASES[name].options["losses"], "ldl": {"type": "ldl"}})
    ema = stage.ema_network = build(name, seed=1).networks["network_g"].requires_grad_(True)
    seen: list[Tensor] = []
    stage.losses["ldl"].loss.register_forward_pre_hook(
        lambda _, __, extras: seen.append(extras["sr_ema"]), with_kwargs=True
    )
    run_phase(trainer_of(build(name)), phase_of(stage, "g"))
    [sr_ema] = seen
    assert torch.equal(sr_ema, stage.infer(ema, samples(stage).view(0))) and not sr_ema.requires_grad
    assert has_no_gradient(ema)


# --- adversarial ----------------------------------------------------------------------------------------------------


def loss_gradients(stage: Stage, phase: str, memo: Memo | None = None) -> None:
    """Backward through a phase with nothing frozen: what is left out then is left out by the stage itself."""
    for network in stage.networks.values():
        network.requires_grad_(True).zero_grad()
    values = phase_of(stage, phase).loss(samples(), {} if memo is None else memo, stage.networks, 1)
    torch.stack([value for name, value in values.items() if not name.startswith("_")]).sum().backward()


@pytest.mark.parametrize("kind", ["vanilla", "ragan", "lsgan", "hinge"])
def test_the_generator_learns_from_the_discriminator(kind: str) -> None:
    """One well-known framework lost this gradient: its generators learned from the other losses alone."""
    found = []
    for weight in (0.0, 0.1):
        stage = gan(losses={"pixel": {"type": "l1"}, "gan": {"type": "gan", "kind": kind, "weight": weight}})
        run_phase(trainer_of(stage), phase_of(stage, "g"))
        found.append(gradients(stage.networks["network_g"]))
    relative = [(a - b).norm() / a.norm() for a, b in zip(*found, strict=True)]
    assert all(r > 1e-4 for r in relative), "every parameter feels it"
    stage = gan(losses={"gan": {"type": "gan", "kind": kind}})
    run_phase(trainer_of(stage), phase_of(stage, "g"))
    assert all(g.abs().sum() > 0 for g in gradients(stage.networks["network_g"]))


@pytest.mark.parametrize("after_g", [True, False])
@pytest.mark.parametrize("kind", ["vanilla", "ragan", "wgan"])
def test_the_discriminators_loss_has_no_gradient_into_the_generator(kind: str, after_g: bool) -> None:
    options = {"gradient_penalty": 10.0} if kind == "wgan" else {}
    stage = gan(losses={"pixel": {"type": "l1"}, "gan": {"type": "gan", "kind": kind, **options}})
    memo: Memo = {}
    if after_g:
        loss_gradients(stage, "g", memo)
        assert not memo["sr"].requires_grad
    loss_gradients(stage, "d", memo)
    assert has_no_gradient(stage.networks["network_g"])
    assert all(g.isfinite().all() for g in gradients(stage.networks["network_d"]))


@pytest.mark.parametrize("kind", ["vanilla", "ragan", "lsgan", "hinge", "softplus", "wgan"])
def test_adversarial_losses_are_float32_under_autocast(kind: str) -> None:
    options = {"gradient_penalty": 10.0} if kind == "wgan" else {}
    stage = gan(losses={"gan": {"type": "gan", "kind": kind, **options}})
    with torch.autocast("cpu", torch.bfloat16):
        for phase in stage.phases():
            values = phase.loss(samples(), {}, stage.networks, 1)
            assert {value.dtype for value in values.values()} == {torch.float32}


def test_the_discriminator_sees_the_target_that_the_gan_loss_names() -> None:
    losses = {"pixel": {"type": "l1"}, "gan": {"type": "gan", "target": "usm"}}
    stage = gan(losses=losses)
    plain = samples()
    batch = Batch(plain.lq, {**plain.targets, "usm": torch.zeros_like(plain.targets["plain"])})
    seen: list[Tensor] = []
    stage.networks["network_d"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    memo: Memo = {}
    phase_of(stage, "g").loss(batch, memo, stage.networks, 1)
    phase_of(stage, "d").loss(batch, memo, stage.networks, 1)
    generated, both = seen  # real and fake in one pass, since this discriminator keeps no statistics
    real, fake = both.chunk(2)
    assert not real.any() and torch.equal(fake, memo["sr"]) and torch.equal(generated, fake)


@pytest.mark.parametrize(
    ("turn_g", "turn_d", "steps_g", "steps_d"),
    [
        (Turn(), Turn(), [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        (Turn(start=2), Turn(), [3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        (Turn(every=2), Turn(every=3), [2, 4, 6], [3, 6]),
        (Turn(every=2, start=2), Turn(start=5), [4, 6], [6]),
    ],
)
def test_turns_are_kept(turn_g: Turn, turn_d: Turn, steps_g: list[int], steps_d: list[int]) -> None:
    stage = gan(turn_g=asdict(turn_g), turn_d=asdict(turn_d))
    trainer = trainer_of(stage)
    passes = counted(stage.networks["network_g"])
    changed: dict[str, list[int]] = {"network_g": [], "network_d": []}
    for step in range(1, 7):
        before, passes_before = weights(stage), passes()
        trainer.train_step([samples()])
        for name, after in weights(stage).items():
            if not all(torch.equal(a, b) for a, b in zip(before[name], after, strict=True)):
                changed[name].append(step)
        assert passes() - passes_before == int(step in {*steps_g, *steps_d}), "the discriminator makes its own images"
    assert changed == {"network_g": steps_g, "network_d": steps_d}


def test_losses_have_their_own_turns() -> None:
    losses = {"pixel": {"type": "l1"}, "gan": {"type": "gan", "every": 2}, "ssim": {"type": "ssim", "every": 3}}
    stage = gan(losses=losses)
    trainer, shown = trainer_of(stage), []
    for _ in range(6):
        shown.append({name for name in trainer.train_step([samples()]) if name in losses})
    expected = [{n for n, entry in losses.items() if step % int(entry.get("every", 1)) == 0} for step in range(1, 7)]
    assert shown == expected


def test_the_weight_of_the_gan_loss_is_the_generators_alone() -> None:
    logs = []
    for weight in (1.0, 0.25):
        stage = gan(losses={"pixel": {"type": "l1", "weight": weight}, "gan": {"type": "gan", "weight": weight}})
        logs.append(log_of(trainer_of(stage, StageSettings(iterations=1)).train_step([samples()])))
    for name in ("pixel", "gan"):
        assert logs[1][name] == pytest.approx(0.25 * logs[0][name])
    assert logs[1]["d"] == pytest.approx(logs[0]["d"], rel=1e-3)


def test_the_penalty_is_logged_apart_and_drawn_from_the_step() -> None:
    losses = {"pixel": {"type": "l1"}, "gan": {"type": "gan", "kind": "wgan", "gradient_penalty": 10.0}}
    found = []
    for step in (1, 1, 2):
        stage = gan(losses=losses)
        found.append(float(phase_of(stage, "d").loss(samples(), {}, stage.networks, step)["d_penalty"].detach()))
    assert found[0] == found[1] != found[2]


def test_what_does_not_fit_is_said_before_anything_is_built() -> None:
    tree = {**GAN, "type": "gan", "iterations": 1, "network_d": GENERATOR, "losses": {"pixel": {"type": "l1"}}}
    spec = STAGES.check(tree, scale=SCALE)
    assert [option for option, _ in GanStage.problems(spec.values)] == ["network_d", "losses"]
    assert GanStage.problems(STAGES.check({**GAN, "type": "gan", "iterations": 1}, scale=SCALE).values) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network_d": GENERATOR}, "`rrdbnet` is a generator, expected a discriminator"),
        ({"losses": {"pixel": {"type": "l1"}}}, "found 0 of type `gan`, expected one"),
        ({"losses": {"a": {"type": "gan"}, "b": {"type": "gan"}}}, "found 2 of type `gan`, expected one"),
        ({"turn_g": {"every": 0}}, r"turn_g\.every"),
        ({"optim_d": {"lr": 0.0}}, r"optim_d\.lr"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionError, OptionsError), match=message):
        gan(**options)


def test_the_discriminator_is_initialised_as_asked() -> None:
    stage = gan(init_d={"type": "orthogonal", "gain": 0.2})
    first = stage.networks["network_d"].get_parameter("model.0.weight").detach().flatten(1)
    torch.testing.assert_close(first @ first.T, 0.04 * torch.eye(len(first)), atol=1e-5, rtol=0)


# --- what stages share ----------------------------------------------------------------------------------------------


def test_a_handover_names_one_source() -> None:
    assert Handover(stage="psnr").weights == "ema"
    wrong: tuple[dict[str, Any], ...] = ({}, {"stage": "a", "checkpoint": "b"})
    for given in wrong:
        with pytest.raises(ValueError, match="either `stage: NAME` or `checkpoint: PATH`"):
            Handover(**given)


def test_the_rate_follows_the_schedule_and_is_constant_without_one() -> None:
    settings = StageSettings(iterations=4, schedule=MultiStep((2,), gamma=0.1))
    assert [settings.rate_factor(n) for n in range(4)] == pytest.approx([1, 1, 0.1, 0.1])
    assert [StageSettings(iterations=4).rate_factor(n) for n in range(4)] == [1] * 4


def test_a_discriminator_may_have_a_schedule_of_its_own() -> None:
    stage = gan(schedule_d={"type": "multistep", "milestones": [2], "gamma": 0.1})
    settings = StageSettings(iterations=4)
    rates = {p.name: [settings.rate_factor(n, p.schedule) for n in range(4)] for p in stage.phases()}
    assert rates["g"] == [1] * 4
    assert rates["d"] == pytest.approx([1, 1, 0.1, 0.1])
