"""Starting a stage from weight files: what fits is taken, what does not is named."""

from pathlib import Path

import pytest
import torch
from torch import nn

from losses import LOSSES, LossTerm
from models import NETWORKS
from models.stages.contrastive import ContrastiveStage
from models.stages.gan import GanStage
from models.stages.psnr import PsnrStage
from models.stages.stage import Handover
from models.training.building import hand_over, try_building
from models.training.experiment import check_experiment
from tests.run.tiny import option_tree, pictures
from utils.processes.distributed import AgreedError, Processes
from utils.storage.checkpoint import Checkpoints

CHECKPOINTS = Checkpoints(Path("nowhere"))
DASR = {"type": "dasr", "num_feat": 4, "num_group": 1, "num_block": 1, "encoder_feat": 4}


def generator(scale: int) -> nn.Module:
    return NETWORKS.build({"type": "rrdbnet", "num_feat": 8, "num_block": 1, "num_grow_ch": 4}, scale=scale)


def gan_stage(network: nn.Module) -> GanStage:
    losses = {name: LOSSES.check(name).component() for name in ("l1", "gan")}
    network_d = NETWORKS.check({"type": "unet_sn", "num_feat": 4})
    return GanStage(network, network_d, {name: LossTerm(loss) for name, loss in losses.items()})


def saved(network: nn.Module, path: Path, key: str) -> Path:
    torch.save({key: network.state_dict()}, path)
    return path


def test_an_x4_generator_into_x2_says_what_was_dropped(tmp_path: Path) -> None:
    """All but the first convolution fits, since x2 begins with a pixel-unshuffle (Real-ESRGAN's x2plus)."""
    source, stage = generator(4), PsnrStage(generator(2), {"l1": LossTerm(LOSSES.check("l1").component())})
    path = saved(source, tmp_path / "x4.pth", "params_ema")
    text = hand_over(stage, "psnr", Handover(checkpoint=str(path), partial=True), CHECKPOINTS)
    assert "of another shape, dropped (1)" in text and "conv_first.weight" in text
    found = stage.networks["network_g"].state_dict()
    for name, weight in source.state_dict().items():
        assert name == "conv_first.weight" or torch.equal(found[name], weight)


def test_generator_and_discriminator_from_files(tmp_path: Path) -> None:
    source = gan_stage(generator(2))
    paths = {
        "checkpoint": saved(source.networks["network_g"], tmp_path / "g.pth", "params_ema"),
        "network_d": saved(source.networks["network_d"], tmp_path / "d.pth", "params"),
    }
    stage = gan_stage(generator(2))
    start = Handover(checkpoint=str(paths["checkpoint"]), network_d=str(paths["network_d"]))
    text = hand_over(stage, "gan", start, CHECKPOINTS)
    assert text.count("every weight fits") == 2
    for name, network in source.networks.items():
        for key, weight in network.state_dict().items():
            assert torch.equal(stage.networks[name].state_dict()[key], weight)


def test_a_published_file_without_key_encoder_says_what_starts_anew(tmp_path: Path) -> None:
    """The key encoder then begins as a copy of the encoder that was read, and the queue with random directions."""
    source = NETWORKS.build(DASR, scale=2)
    torch.save(
        {k: v for k, v in source.state_dict().items() if k.startswith(("G.", "E.encoder_q."))}, tmp_path / "d.pt"
    )
    stage = ContrastiveStage(NETWORKS.build(DASR, scale=2), queue_size=8)
    queue = stage.keys.queue.clone()
    text = hand_over(stage, "joint", Handover(checkpoint=str(tmp_path / "d.pt")), CHECKPOINTS)
    assert text.endswith("every weight fits; anew start: contrastive, optimizer")
    assert torch.equal(stage.keys.queue, queue) and not stage.keys.loaded
    for key, weight in source.state_dict().items():
        assert torch.equal(stage.networks["network_g"].state_dict()[key], weight)


def test_refuses_a_file_of_which_nothing_fits(tmp_path: Path) -> None:
    path = saved(nn.Linear(2, 2), tmp_path / "other.pth", "params")
    with pytest.raises(AgreedError, match="nothing in .*other.pth fits"):
        hand_over(gan_stage(generator(2)), "gan", Handover(checkpoint=str(path)), CHECKPOINTS)
    with pytest.raises(ValueError, match="goes with `checkpoint`"):
        Handover(stage="psnr", network_d="d.pth")


def test_refuses_to_start_with_random_weights_unless_told(tmp_path: Path) -> None:
    """A file of fewer blocks leaves the others at random: a wrong start, however well the rest fits."""
    small = NETWORKS.build({"type": "rrdbnet", "num_feat": 8, "num_block": 1, "num_grow_ch": 4}, scale=4)
    large = NETWORKS.build({"type": "rrdbnet", "num_feat": 8, "num_block": 2, "num_grow_ch": 4}, scale=4)
    path, stage = saved(small, tmp_path / "small.pth", "params"), gan_stage(large)
    with pytest.raises(AgreedError, match=r"gan\.init_from\.checkpoint: .*small\.pth does not fill") as caught:
        hand_over(stage, "gan", Handover(checkpoint=str(path)), CHECKPOINTS)
    for part in ("30 weights would start from random", "body.1.rdb1.conv1.weight", "num_block: 1", "partial: true"):
        assert part in str(caught.value)
    text = hand_over(stage, "gan", Handover(checkpoint=str(path), partial=True), CHECKPOINTS)
    assert "missing in the file, left as it was (30)" in text
    other = saved(NETWORKS.build({"type": "unet_sn", "num_feat": 6}), tmp_path / "d.pth", "params")
    whole = saved(large, tmp_path / "large.pth", "params")
    with pytest.raises(AgreedError, match=r"init_from\.network_d: .*d\.pth does not fill"):
        hand_over(stage, "gan", Handover(checkpoint=str(whole), network_d=str(other)), CHECKPOINTS)
    with pytest.raises(AgreedError, match="a discriminator"):
        hand_over(stage, "gan", Handover(checkpoint=str(other)), CHECKPOINTS)
    with pytest.raises(ValueError, match="partial: true` goes with `checkpoint"):
        Handover(stage="psnr", partial=True)


def test_a_stage_with_another_discriminator_does_not_take_it_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    first, second = gan_stage(generator(2)), PsnrStage(nn.Conv2d(3, 3, 1), {})
    networks = {"network_g_ema": generator(2).state_dict(), "network_d": first.networks["network_d"].state_dict()}
    checkpoints.save("first", 1, networks, {"optimizers": {}}, final=True)
    second.networks["network_d"] = NETWORKS.build({"type": "patchgan", "num_feat": 4})
    start = Handover(stage="first", carry=("network_d",))
    with pytest.raises(
        AgreedError, match=r"stages\.gan\.init_from\.carry: network_d of stage first has the weights of"
    ):
        hand_over(second, "gan", start, checkpoints)


@pytest.mark.parametrize(("by", "refused"), [("first", "stage second has no network_d"), ("second", "stage first has")])
def test_to_carry_what_a_stage_lacks_is_refused_before_anything_runs(tmp_path: Path, by: str, refused: str) -> None:
    """Whether it is the stage that would take it over or the one before."""
    tree = option_tree(pictures(tmp_path / "images", 1))
    gan, psnr = tree["stages"]["gan"], tree["stages"]["psnr"]
    first, second = ({**gan, "init_from": None}, psnr) if by == "first" else (psnr, gan)
    carried = {"stage": "first", "carry": ["network_g", "network_d", "optimizer"]}
    experiment = check_experiment({**tree, "stages": {"first": first, "second": {**second, "init_from": carried}}})
    with pytest.raises(AgreedError, match=rf"stages\.second\.init_from\.carry: {refused}"):
        try_building(experiment, ["first", "second"], Processes(0, 1, 0, torch.device("cpu")))
