"""The contrastive stage against values from running DASR and CDSR: MoCo over two iterations, a joint training step."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import LOSSES, LossTerm
from losses.contrastive import contrastive_logits, contrastive_loss
from models.network import NETWORKS
from models.networks.blocks import EncoderNetwork
from models.stages import contrastive
from models.stages.contrastive import ContrastiveStage
from models.weights.load import load_weights
from tests.golden.test_networks import arrays, assert_close, manifest, published_state
from tests.stage_runs import batch_of, log_of, trainer_of
from utils.optim import Optim

STANDSTILL = Optim(lr=1e-30)
"""A rate that moves no weight: the golden made its second iteration with the weights of the first."""

NORMS = 5e-4
"""The golden's gradients are float32: ours in float64 are up to 1.5e-4 from them, and float32 with another number of
threads or another processor moves by as much."""


class ToyEncoder(nn.Module):
    """The golden's: vectors are their own embedding, and a matrix gives their projection."""

    dimension = 12

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(self.dimension, self.dimension, bias=False)

    def forward(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        return lq.flatten(1), self.w(lq.flatten(1))


def views(queries: Tensor, keys: Tensor) -> Tensor:
    """Both views of each sample, one after the other."""
    return torch.stack([queries, keys], 1).flatten(0, 1)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Filled with the logits of every iteration."""
    logits: list[Tensor] = []

    def recorded(*arguments: Any) -> Tensor:  # noqa: ANN401
        logits.append(contrastive_logits(*arguments))
        return logits[-1]

    monkeypatch.setattr(contrastive, "contrastive_logits", recorded)
    return logits


def test_two_iterations_of_moco(seen: list[Tensor]) -> None:
    """Logits, loss, gradient, key weights and queue. Its pointer stands a batch before the end, and so wraps."""
    values = {name: torch.from_numpy(array) for name, array in arrays("cdsr/moco.npz").items()}
    network = EncoderNetwork(1, ToyEncoder(), nn.Identity())
    stage = ContrastiveStage(
        network, optim_g=STANDSTILL, queue_size=64, temperature=float(values["T"]), momentum=float(values["m"])
    )
    network.encoder.load_state_dict({"w.weight": values["wq"]})
    stage.keys.load_state_dict(
        {"encoder.w.weight": values["wk"], "queue": values["queue0"], "queue_ptr": values["ptr0"][None]}
    )
    trainer = trainer_of(stage)
    for i in range(2):
        lq = views(values[f"xq{i}"], values[f"xk{i}"])[:, :, None, None]
        log = log_of(trainer.train_step([batch_of(lq, 2)]))
        assert_close(seen[i], values[f"logits{i}"].numpy())
        assert log["contrastive"] == pytest.approx(float(values[f"loss{i}"]), rel=1e-5)
        [gradient] = [p.grad for p in network.encoder.parameters()]
        torch.testing.assert_close(gradient, values[f"grad_wq{i}"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stage.keys.queue, values[f"queue_after{i}"], rtol=0, atol=1e-6)
        assert stage.keys.queue_ptr.tolist() == [int(values[f"ptr_after{i}"])]
        [weight] = stage.keys.encoder.parameters()
        torch.testing.assert_close(weight, values[f"wk_after{i}"], rtol=1e-6, atol=1e-7)
        assert not values[f"labels{i}"].any() and float(contrastive_loss(seen[i].detach())) == log["contrastive"]


def joint_stage(name: str) -> ContrastiveStage:
    """Released defaults, filled by the frozen rule. Released losses are on 0…255."""
    network = NETWORKS.build({"type": name, "scale": 2})
    state = published_state(manifest(f"cdsr/{name}_full_x2.json")["keys"])
    state |= {key: value for key, value in network.state_dict().items() if "_mean." in key}  # as constructed
    assert load_weights(network, state).complete
    stage = ContrastiveStage(network, {"l1": LossTerm(LOSSES.check("l1").component(), weight=255)}, Optim(lr=1e-4))
    keys = {name.removeprefix("E.encoder_k."): v for name, v in state.items() if name.startswith("E.encoder_k.")}
    queue = {"queue": F.normalize(state["E.queue"], dim=0), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    stage.keys.load_state_dict({f"encoder.{name}": value for name, value in keys.items()} | queue)
    return stage


def without_effect(network: nn.Module) -> set[str]:
    """Parameters whose gradient is rounding: biases of convolutions right before a batch normalisation, which takes
    them away, and of CDSR's codebook keys, which adds the same to everything that softmax compares."""
    layers = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    pairs = zip(layers, layers[1:], strict=False)
    normalised = {f"{name}.bias" for (name, _), (_, after) in pairs if isinstance(after, nn.BatchNorm2d)}
    return normalised | {"E.encoder_q.fc_k.bias"}


@pytest.mark.parametrize(("name", "first"), [("dasr", "E.0"), ("cdsr", "conv1.conv1")])
def test_a_joint_step(name: str, first: str, seen: list[Tensor]) -> None:
    values, norms = arrays(f"cdsr/{name}_trainstep_x2.npz"), manifest(f"cdsr/{name}_trainstep_x2_gradnorms.json")
    stage = joint_stage(name)
    network = stage.networks["network_g"]
    images: list[Tensor] = []
    network.register_forward_hook(lambda _, __, output: images.append(output[0].detach()))
    lq, gt = torch.from_numpy(values["lr_in"]).flatten(0, 1) / 255, torch.from_numpy(values["hr"]) / 255
    log = log_of(trainer_of(stage).train_step([batch_of(lq, 2, plain=views(gt, gt))]))

    [sr] = images
    assert_close(255 * sr, values["sr"])
    assert_close(seen[0][:, :65], values["logits"])
    assert log["l1"] == pytest.approx(float(values["f64_l1"]), rel=1e-5)
    assert log["contrastive"] == pytest.approx(float(values["f64_contrast"]), rel=1e-5)

    parameters, rounding = dict(network.named_parameters()), without_effect(network)
    assert len(rounding) == (7 if name == "dasr" else 11) and parameters.keys() == norms.keys()
    for key, parameter in parameters.items():
        assert parameter.grad is not None
        # A gamma's gradient is one sum, in which much cancels.
        rel = 4 * NORMS if key.endswith(".gamma") else NORMS
        assert key in rounding or float(parameter.grad.norm()) == pytest.approx(norms[key], rel=rel), key
    stored = [key.removeprefix("grad:") for key in values if key.startswith("grad:")]
    for key in stored:
        assert_close(parameters[key].grad, values[f"grad:{key}"])  # type: ignore[arg-type]
        # Adam's first step is of the rate's size whatever the gradient's, so rounding of tiny ones shows.
        error = (parameters[key] - torch.from_numpy(values[f"after:{key}"])).abs()
        assert error.max() < 2e-4 and (error < 1e-6).float().mean() > 0.99, key
    assert len(stored) == 5

    assert stage.keys.queue_ptr.tolist() == [int(values["ptr"])] == [2]
    assert_close(stage.keys.queue[:, :4], values["queue_first_cols"])
    norm = {"dasr": "E.1", "cdsr": "conv1.bn1"}[name]
    for side, encoder in (("q", stage.encoder), ("k", stage.keys.encoder)):
        key = f"E.encoder_{side}.{norm}.running_mean"
        assert_close(encoder.get_buffer(f"{norm}.running_mean"), values[f"encoder_{side}_running_mean:{key}"])
    weight = values[f"encoder_k_weight:E.encoder_k.{first}.weight"]
    assert_close(stage.keys.encoder.get_parameter(f"{first}.weight"), weight)
