"""The contrastive stage: its queue, key encoder, freeze and hand-over, what it refuses, and two ranks against one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degradations import Batch
from models.network import NETWORKS
from models.stages.contrastive import ContrastiveStage, KeyEncoder
from models.stages.stage import STAGES, Handover, StageSettings
from models.training.building import distribute, hand_over
from tests.contract.test_stages import CASES, SCALE, build, halves, samples
from tests.run.lives import apart, live
from tests.stage_runs import batch_of, log_of, trainer_of
from train import Trainer
from utils.options.components import OptionsError
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import AgreedError, Processes
from utils.seeding import torch_generator
from utils.storage.checkpoint import Checkpoints


def contrastive(seed: int = 0, **options: Any) -> Any:  # noqa: ANN401 - its key encoder is one of a queue alone
    stage = build("contrastive", seed, **options)
    assert isinstance(stage, ContrastiveStage)
    return stage


BATCH = {"negatives": "batch", "queue_size": None, "momentum": None, "key_statistics": None}
"""Options for negatives of the batch, which take those of a queue back."""


def steps(trainer: Trainer, count: int) -> list[dict[str, float]]:
    return [log_of(trainer.train_step([samples(trainer.stage)])) for _ in range(count)]


def copied(tree: Any) -> Any:  # noqa: ANN401
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    return tree.detach().clone() if isinstance(tree, Tensor) else tree


def changed(module: nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


# --- queue and key encoder -----------------------------------------------------------------------------------------


def test_the_queue_holds_the_newest_keys_whatever_the_batches() -> None:
    """Batches that neither divide its size nor stay the same, up to its whole size."""
    keys, given = KeyEncoder(nn.Identity(), 3, 7), torch.arange(0.0)
    for count in (3, 3, 2, 7, 1, 5):
        new = len(given) + torch.arange(float(count))
        keys.enqueue(new[:, None].expand(-1, 3))
        given = torch.cat([given, new])
        held = keys.queue.roll(-int(keys.queue_ptr), 1)  # from the oldest to the newest
        kept = given[-7:]
        assert torch.equal(held[:, 7 - len(kept) :], kept.expand(3, -1))


def test_a_batch_that_the_queue_cannot_hold_is_refused() -> None:
    with pytest.raises(AgreedError, match="queue_size: found 1, expected at least 2"):
        steps(trainer_of(contrastive(queue_size=1)), 1)


def test_the_queue_starts_with_unit_vectors_and_takes_unit_keys() -> None:
    stage = contrastive(queue_size=5)
    trainer = trainer_of(stage)
    for pointer in (2, 4, 1):
        steps(trainer, 1)
        assert stage.keys.queue_ptr.tolist() == [pointer]
        torch.testing.assert_close(stage.keys.queue.norm(dim=0), torch.ones(5))


def test_weights_loaded_later_are_those_that_the_key_encoder_starts_with() -> None:
    stage = contrastive()
    stage.networks["network_g"].load_state_dict(contrastive(seed=1).networks["network_g"].state_dict())
    expected = [p.clone() for p in stage.encoder.parameters()]
    steps(trainer_of(stage), 1)
    assert all(torch.equal(a, b) for a, b in zip(stage.keys.encoder.parameters(), expected, strict=True))


def test_the_key_encoder_moves_once_an_iteration_and_before_the_encoder() -> None:
    stage = contrastive(momentum=0.75, key_statistics="momentum")
    stage.keys.load_state_dict(contrastive(seed=1).keys.state_dict())
    query, key = (copied(dict(encoder.named_parameters())) for encoder in (stage.encoder, stage.keys.encoder))
    trainer_of(stage).train_step(halves(samples(stage)))
    for name, parameter in stage.keys.encoder.named_parameters():
        torch.testing.assert_close(parameter, 0.75 * key[name] + 0.25 * query[name])


@pytest.mark.parametrize("statistics", ["own", "momentum"])
def test_key_statistics(statistics: str) -> None:
    """`own` ones see the keys' batches at the layer's pace; others follow the encoder's."""
    stage = contrastive(key_statistics=statistics, momentum=0.5)
    stage.keys.load_state_dict(stage.keys.state_dict())  # or it would start as a copy
    query, key = (encoder.get_buffer("E.1.running_mean") for encoder in (stage.encoder, stage.keys.encoder))
    lq = samples(stage)
    steps(trainer_of(stage), 1)
    first = stage.keys.encoder.get_submodule("E.0")
    own = 0.1 * first(255 * lq.lq[1::2]).mean((0, 2, 3))
    assert stage.keys.encoder.training == (statistics == "own")
    torch.testing.assert_close(key, own if statistics == "own" else 0.5 * query)


def test_a_batch_with_nan_does_not_stay_in_the_queue() -> None:
    """Its step is skipped; the next ones go on."""
    stage = contrastive()
    trainer = trainer_of(stage)
    steps(trainer, 1)
    before = copied(stage.encoder.E[0].state_dict())  # type: ignore[index]
    bad = samples(stage)
    bad.lq[1] = torch.nan
    trainer.watcher.nonfinite = lambda *_, **__: False  # type: ignore[method-assign]
    trainer.train_step([bad])
    assert not changed(stage.encoder.E[0], before)  # type: ignore[index]
    [log] = steps(trainer, 1)
    assert torch.isfinite(torch.tensor(list(log.values()))).all() and stage.keys.queue.isfinite().all()
    assert changed(stage.encoder.E[0], before)  # type: ignore[index]


# --- negatives of the batch ------------------------------------------------------------------------------------------


def test_negatives_of_the_batch_are_its_other_keys_from_which_the_encoder_learns() -> None:
    """Both views go through the encoder as one batch; there is no other encoder, and nothing is kept."""
    stage = contrastive(losses={}, **BATCH, temperature=0.2, weight=2.0)
    batch = samples(stage)
    views = torch.cat((batch.view(0).lq, batch.view(1).lq))
    projections = F.normalize(stage.encoder(views)[1], dim=1)
    expected = F.cross_entropy(projections[:2] @ projections[2:].T / 0.2, torch.arange(2))
    assert list(stage.networks) == ["network_g"]
    gradients = torch.autograd.grad(expected, list(stage.encoder.parameters()))
    fresh = contrastive(losses={}, **BATCH, temperature=0.2, weight=2.0)
    [log] = steps(trainer_of(fresh), 1)
    assert log["contrastive"] == pytest.approx(2 * float(expected.detach()), rel=1e-5)
    for found, wanted in zip(fresh.encoder.parameters(), gradients, strict=True):
        torch.testing.assert_close(found.grad, 2 * wanted, rtol=1e-4, atol=1e-6)


def test_jointly_with_negatives_of_the_batch_only_queries_are_restored() -> None:
    stage = contrastive(**BATCH, freeze_encoder_at=2)
    network: Any = stage.networks["network_g"]
    restored: list[int] = []
    network.G.register_forward_hook(lambda module, given, _: restored.append(len(given[0])))
    logs = steps(trainer_of(stage), 3)
    assert restored == [2, 2, 2] and "contrastive" in logs[1] and "_contrastive" in logs[2]


def test_one_sample_has_no_negatives() -> None:
    stage = contrastive(**BATCH)
    with pytest.raises(AgreedError, match="negatives: found one sample in a micro-batch, expected two or more"):
        trainer_of(stage, StageSettings(iterations=9, accumulate=2)).train_step(halves(samples(stage)))


def test_options_of_a_queue_are_refused_where_there_is_none() -> None:
    tree = {"type": "contrastive", "iterations": 1, "negatives": "batch", "momentum": 0.9, "queue_size": 8}
    values = STAGES.check(tree, scale=SCALE).values
    assert [option for option, _ in ContrastiveStage.problems(values)] == ["momentum", "queue_size"]


# --- what learns when ----------------------------------------------------------------------------------------------


def test_without_losses_only_the_encoder_learns() -> None:
    stage = contrastive(losses={})
    network: Any = stage.networks["network_g"]
    before, encoder = copied(network.G.state_dict()), copied(stage.encoder.state_dict())
    [*_, log] = steps(trainer_of(stage), 2)
    assert not changed(network.G, before) and "E.0.weight" in changed(stage.encoder, encoder)
    assert {name for name in log if not name.startswith("_")} == {"contrastive"}


def test_a_frozen_encoder_stays_bit_for_bit_while_the_rest_goes_on() -> None:
    """Adam's moments and weight decay move it no more; statistics and queue go on, as released."""
    stage = contrastive(freeze_encoder_at=2, optim_g={"lr": 5e-3, "weight_decay": 0.1})
    trainer, network = trainer_of(stage), stage.networks["network_g"]
    assert all("contrastive" in log for log in steps(trainer, 2))
    before, pointer = copied(network.state_dict()), int(stage.keys.queue_ptr)
    logs = steps(trainer, 3)
    assert all({name for name in log if not name.startswith("_")} == {"pixel"} for log in logs)
    assert all(log["_contrastive"] > 0 for log in logs) and logs[-1]["pixel"] < logs[0]["pixel"]
    assert int(stage.keys.queue_ptr) == pointer + 6
    moved = changed(network, before)
    assert {name for name, _ in network.named_parameters() if name.startswith("G.")} <= moved
    in_encoder = {name for name in moved if name.startswith("E.")}
    assert in_encoder and not in_encoder & {name for name, _ in network.named_parameters()}


def test_the_generator_runs_in_the_turns_of_its_losses() -> None:
    stage = contrastive(losses={"pixel": {"type": "l1", "every": 2}})
    network: Any = stage.networks["network_g"]
    passes: list[nn.Module] = []
    network.G.register_forward_hook(lambda module, *_: passes.append(module))
    assert ["pixel" in log for log in steps(trainer_of(stage), 4)] == [False, True, False, True]
    assert len(passes) == 2


# --- hand-over -----------------------------------------------------------------------------------------------------


def test_a_stage_that_is_handed_everything_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Weights, queue, pointer, key encoder and Adam's moments; without `contrastive` the key encoder starts anew."""
    warm = trainer_of(contrastive(losses={}))
    steps(warm, 3)
    networks = {name: copied(network.state_dict()) for name, network in warm.stage.networks.items()}
    checkpoints = Checkpoints(tmp_path)
    state = {"network_g_ema": warm.ema.network.state_dict(), **networks}
    checkpoints.save("warm", 3, state, warm.state_dict(), describe={}, metrics={}, meta={}, final=True)

    joint = contrastive(seed=1)
    carry = ("network_g", "contrastive", "optimizer")
    hand_over(joint, "joint", Handover(stage="warm", weights="raw", carry=carry), checkpoints)
    assert not any(changed(network, networks[name]) for name, network in joint.networks.items())
    moments = [phase.optimizer.state_dict()["state"] for stage in (joint, warm.stage) for phase in stage.phases()]
    assert moments[0].keys() == moments[1].keys() and len(moments[0]) == len(list(joint.encoder.parameters()))

    again = contrastive(seed=1, losses={})
    hand_over(again, "again", Handover(stage="warm", weights="raw", carry=carry), checkpoints)
    logs = [steps(trainer, 3) for trainer in (trainer_of(again), warm)]
    assert logs[0] == logs[1]
    for name, network in again.networks.items():
        assert not changed(network, warm.stage.networks[name].state_dict())

    alone = contrastive(seed=1)
    hand_over(alone, "alone", Handover(stage="warm", weights="raw"), checkpoints)
    steps(trainer_of(alone), 1)
    for name, parameter in alone.keys.encoder.named_parameters():
        assert torch.equal(parameter, networks["network_g"][f"E.encoder_q.{name}"])


# --- refusals ------------------------------------------------------------------------------------------------------


def test_refuses_what_it_cannot_train() -> None:
    plain = NETWORKS.build({"type": "srvgg", "num_feat": 4, "num_conv": 1}, scale=SCALE)
    with pytest.raises(OptionError, match="SRVGGNetCompact has no encoder to train; choose network_g dasr or cdsr"):
        ContrastiveStage(plain)
    stage = contrastive()
    processes = Processes(0, 1, 0, torch.device("cpu"), gpus=(0, 1))
    with pytest.raises(
        OptionError, match="ContrastiveStage keeps state in its forward pass, which DataParallel over 2"
    ):
        distribute(stage.networks["network_g"], processes, stage)
    assert distribute(stage.keys, processes, stage) is stage.keys


def test_keys_of_all_micro_batches_are_queued_where_nothing_is_learned() -> None:
    """A frozen encoder and no loss that is due: there is no gradient, but the queue goes on."""
    stage = contrastive(losses={"pixel": {"type": "l1", "every": 7}}, freeze_encoder_at=1)
    trainer = trainer_of(stage, StageSettings(iterations=9, accumulate=2))
    for _ in range(2):
        before = int(stage.keys.queue_ptr)
        trainer.train_step(halves(samples(stage)))
        assert int(stage.keys.queue_ptr) == before + 2


def test_a_freeze_without_losses_would_end_all_learning() -> None:
    tree = {"type": "contrastive", "iterations": 1, "freeze_encoder_at": 1}
    values = STAGES.check(tree, scale=SCALE).values
    assert [option for option, _ in ContrastiveStage.problems(values)] == ["freeze_encoder_at"]
    assert not ContrastiveStage.problems({**values, "freeze_encoder_at": None})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0}, "temperature"), ({"queue_size": 0}, "queue_size"), ({"positive": "same"}, "positive")],
)
def test_refuses_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        contrastive(**options)


# --- ranks ---------------------------------------------------------------------------------------------------------


JOINT = {"losses": {"pixel": {"type": "l1", "every": 2}}, "freeze_encoder_at": 4, "key_statistics": "momentum"}
RUNS: dict[str, dict[str, Any]] = {
    "global": {},
    "global, joint": JOINT,
    "local": {},
    "local, joint": {**JOINT, "freeze_encoder_at": None},
    "global, batch": BATCH,
    "global, joint, batch": JOINT | BATCH,
}


def share(rank: int, ranks: int) -> Batch:
    """One rank's of four samples whose second half is brighter, so that statistics differ between ranks."""
    lq = torch.rand(8, 3, 16, 16, generator=torch_generator(1), dtype=torch.float64)
    lq *= torch.linspace(0.3, 1, 8)[:, None, None, None]
    return batch_of(lq.chunk(ranks)[rank], 2, plain=F.interpolate(lq, scale_factor=SCALE).chunk(ranks)[rank])


def observed(run: str, processes: Processes) -> dict[str, Tensor]:
    """What six iterations in float64 give: loss, gradients, queue, key encoder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {**CASES["contrastive"].network_g, "batch_norm": run.split(",")[0]}
        network = NETWORKS.build(options, scale=SCALE).double()
    tree = {"type": "contrastive", "iterations": 9, "queue_size": 6, "momentum": 0.9, "optim_g": {"lr": 1e-3}}
    chosen = {key: value for key, value in {**tree, **RUNS[run]}.items() if value is not None}
    stage: Any = STAGES.check(chosen, scale=SCALE).component(network_g=network, scale=SCALE)
    queued = stage.keys is not None
    if queued:
        stage.keys.double()
    trainer = trainer_of(stage)
    trainer.ddp = {n: distribute(net, processes, stage) for n, net in stage.networks.items()}
    found: dict[str, Tensor] = {}
    for step in range(6):
        log = trainer.train_step([share(processes.rank, processes.world_size)])
        found |= {f"{step} {name}": distributed.all_mean(log[name]) for name in log if name.endswith("contrastive")}
        gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        found |= {f"{step} gradient of {n}": g.clone() for n, g in gradients.items()}
        if not queued:
            continue
        found[f"{step} queue"] = stage.keys.queue.clone()
        found |= {f"{step} key {n}": v.clone() for n, v in stage.keys.encoder.named_parameters()}
        if stage.key_statistics == "momentum":
            found |= {f"{step} key {n}": v.clone() for n, v in stage.keys.encoder.named_buffers()}
    return found


def two_ranks(folder: str) -> None:
    def work() -> int:
        processes = distributed.start("cpu")
        torch.save({run: observed(run, processes) for run in RUNS}, Path(folder) / f"{processes.rank}.pt")
        distributed.stop()
        return 0

    assert live(work, Path(folder) / "log", 2) == [0, 0], (Path(folder) / "log").read_text()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    apart(two_ranks, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_are_one_with_global_statistics(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    """Loss, gradients, queue and key encoder, in float64; image losses are float32, hence the coarser bound."""
    alone = Processes(0, 1, 0, torch.device("cpu"))
    runs = {run: 1e-5 if "joint" in run else 1e-9 for run in RUNS if run.startswith("global")}
    for run, bound in runs.items():
        expected = observed(run, alone)
        for found in ranks:
            assert found[run].keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[run][name], value, rtol=bound, atol=bound, msg=f"{run}: {name}")
    joint = [name for name in expected if "gradient of G." in name]
    assert {name[0] for name in joint} == {"1", "3", "5"}, "the generator learns in the turns of its loss"
    assert {name[0] for name in expected if "gradient of E." in name} == set("0123")


def test_two_ranks_with_local_statistics_stay_together(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    """Queue, key encoder and gradients are the same on both, though their batches are not normalised alike."""
    for run in ("local", "local, joint"):
        one, other = (found[run] for found in ranks)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (ranks[0]["local"]["0 queue"] - ranks[0]["global"]["0 queue"]).abs().max() > 1e-3
