"""Checkpoints survive kills, cut files and full disks, and refuse what they must."""

import hashlib
import json
import os
import pickle
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from utils.options.fields import OptionError
from utils.storage import checkpoint
from utils.storage.checkpoint import (
    CheckpointError,
    Checkpoints,
    SaveFailed,
    SaveRefused,
    all_finite,
    find_damage,
    load,
    read_weights,
)

METRIC = "set5/psnr"


def weights(value: float = 1.0) -> dict[str, Tensor]:
    return {"w": torch.full((2, 3), value), "steps": torch.tensor(7)}


def save(checkpoints: Checkpoints, iteration: int, stage: str = "psnr", **more: Any) -> Path:
    return checkpoints.save(stage, iteration, {"network_g": weights(iteration)}, {"iteration": iteration}, **more)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(p.name for p in checkpoints.folder.iterdir() if p.is_dir())


def test_round_trip(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network(torch.rand(1, 3, 8, 8)).mean().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "pair": (1, "a", None), "queue": b"x"}
    saved = {"network_g": network.state_dict(), "network_g_ema": network.state_dict()}
    folder = Checkpoints(tmp_path).save("gan", 12, saved, state, metrics={METRIC: 30.5}, meta={"options": {"scale": 4}})
    assert folder.name == "gan_00000012"
    assert (tmp_path / "latest").read_text() == "gan_00000012\n"
    loaded = load(folder)
    assert set(loaded.networks) == {"network_g", "network_g_ema"}
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.networks["network_g"][key], value)
        assert loaded.networks["network_g"][key].dtype == value.dtype
    again = torch.optim.Adam(network.parameters())
    again.load_state_dict(loaded.state["optimizer"])
    assert again.param_groups[0]["lr"] == 1e-3
    assert torch.equal(loaded.state["rng"], torch.get_rng_state())
    assert loaded.state["pair"] == (1, "a", None)
    assert loaded.meta["metrics"] == {METRIC: 30.5}
    assert loaded.meta["options"] == {"scale": 4}
    assert loaded.meta["versions"]["torch"] == torch.__version__


def test_a_weight_file_stands_alone(tmp_path: Path) -> None:
    about = {"network_g": {"network": {"type": "rrdbnet", "num_block": 6}, "scale": 4}}
    networks = {"network_g": weights(), "network_g_ema": weights(2), "network_d": weights()}
    folder = Checkpoints(tmp_path).save("gan", 1, networks, {}, describe=about)
    for name in ("network_g", "network_g_ema"):
        said = read_weights(folder / f"{name}.safetensors")[1]
        assert said == {**about["network_g"], "stage": "gan", "iteration": 1}
    assert "network" not in read_weights(folder / "network_d.safetensors")[1]
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors"):
        read_weights(tmp_path / "nothing.safetensors")


def test_a_strangers_weight_file_can_only_be_refused(tmp_path: Path) -> None:
    """What a file says of itself is JSON, which Python reads with a limited depth."""
    safetensors.torch.save_file(weights(), tmp_path / "deep.safetensors", metadata={"network": "[" * 100000})
    with pytest.raises(CheckpointError, match=r"deep\.safetensors: cannot be read"):
        read_weights(tmp_path / "deep.safetensors")


def test_views_and_shared_storage_are_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tied = {"a": base, "b": base, "row": base[1], "turned": base.t(), "wide": torch.ones(1).expand(5)}
    folder = Checkpoints(tmp_path).save("psnr", 1, {"network_g": tied}, {})
    for key, value in load(folder).networks["network_g"].items():
        assert torch.equal(value, tied[key])


def test_what_a_killed_save_leaves_is_ignored_and_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = save(checkpoints, 1)
    half = tmp_path / ".tmp-psnr_00000002"
    half.mkdir()
    (half / "network_g.safetensors").write_bytes(b"half")
    (tmp_path / ".tmp-latest").write_text("half")
    assert checkpoints.newest() == good
    checkpoints.clean()
    assert not list(tmp_path.glob(".tmp-*"))
    assert checkpoints.newest() == good


def test_a_kill_between_the_renames_of_a_repeated_save_loses_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = save(checkpoints, 1)
    good.rename(tmp_path / f".tmp-old-{good.name}")
    checkpoints.clean()
    assert checkpoints.newest() == good


def test_saving_an_iteration_again_replaces_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    again = checkpoints.save("psnr", 1, {"network_g": weights(9)}, {})
    assert load(again).networks["network_g"]["w"][0, 0] == 9
    assert names(checkpoints) == ["psnr_00000001"]


def _cut(folder: Path) -> None:
    os.truncate(folder / "state.pt", 100)


def _flip(folder: Path) -> None:
    content = bytearray((folder / "network_g.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "network_g.safetensors").write_bytes(content)


def _drop_file(folder: Path) -> None:
    (folder / "network_g.safetensors").unlink()


def _drop_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1, 2")


def _empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": {}}')


def _nest_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100000)


def _break_meta(folder: Path) -> None:
    (folder / "meta.json").write_text("")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "state.pt has 100 bytes"),
        (_flip, "network_g.safetensors was altered"),
        (_drop_file, "network_g.safetensors is missing"),
        (_drop_manifest, "manifest.json"),
        (_break_manifest, "manifest.json is not JSON"),
        (_nest_manifest, "manifest.json is not JSON"),
        (_empty_manifest, "does not list meta.json, state.pt"),
        (_break_meta, "meta.json is not JSON"),
    ],
)
def test_damage_is_named_and_the_one_before_is_taken(tmp_path: Path, damage: Any, said: str) -> None:  # noqa: ANN401
    told: list[str] = []
    checkpoints = Checkpoints(tmp_path, warn=told.append)
    before, after = save(checkpoints, 1), save(checkpoints, 2)
    assert checkpoints.newest() == after and not told
    damage(after)
    assert checkpoints.newest() == before
    assert len(told) == 1 and str(after) in told[0] and said in told[0]
    with pytest.raises(CheckpointError, match="psnr_00000002"):
        load(after)
    damage(before)
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        checkpoints.newest()


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nowhere").newest() is None
    with pytest.raises(CheckpointError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="has no manifest.json; expected a checkpoint, such as runs/NAME/"):
        load(tmp_path)


def test_newest_is_the_last_saved_not_the_greatest_iteration(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=5)
    save(checkpoints, 100, "psnr")
    later_stage = save(checkpoints, 5, "gan")
    assert checkpoints.newest() == later_stage
    went_back = save(checkpoints, 50, "psnr")
    assert checkpoints.newest() == went_back


def test_pruning_keeps_last_best_and_finished_stages(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best=1, metric=METRIC)
    for iteration, psnr in [(1, 20.0), (2, 25.0), (3, float("nan")), (4, 21.0), (5, 22.0)]:
        save(checkpoints, iteration, metrics={METRIC: psnr}, final=iteration == 5)
    assert names(checkpoints) == ["psnr_00000002", "psnr_00000004", "psnr_00000005"]
    for iteration, psnr in [(1, 19.0), (2, 18.0), (3, 18.5), (4, 18.1)]:
        save(checkpoints, iteration, "gan", metrics={METRIC: psnr})
    # psnr: best and finished; gan: best and the last two.
    assert names(checkpoints) == [
        *("gan_00000001", "gan_00000003", "gan_00000004"),
        *("psnr_00000002", "psnr_00000005"),
    ]


def test_a_metric_that_is_not_finite_is_never_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=1, metric=METRIC)
    folder = save(checkpoints, 1, metrics={METRIC: float("inf")})
    assert load(folder).meta["metrics"] == {METRIC: None}
    save(checkpoints, 2, metrics={METRIC: 1.0})
    save(checkpoints, 3)
    assert names(checkpoints) == ["psnr_00000002", "psnr_00000003"]


def test_best_can_be_the_lowest_and_is_optional(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=1, metric="lpips", lower_is_better=True)
    for iteration, lpips in [(1, 0.5), (2, 0.1), (3, 0.3)]:
        save(checkpoints, iteration, metrics={"lpips": lpips})
    save(checkpoints, 4)
    assert names(checkpoints) == ["psnr_00000002", "psnr_00000004"]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(Checkpoints(tmp_path / "checkpoints"), 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    torch.save({"x": _Evil()}, folder / "state.pt", pickle_module=pickle)
    content = (folder / "state.pt").read_bytes()
    manifest["files"]["state.pt"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert find_damage(folder) is None
    with pytest.raises(CheckpointError, match=r"state\.pt: refused"):
        load(folder)
    assert not (tmp_path / "evil").exists()


@contextmanager
def _disk_that_takes(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes of a file fail as on a full disk (Python ignores the signal)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [50, 1000])  # in the weights, in the state
def test_a_disk_that_refuses_leaves_the_old_one(tmp_path: Path, size: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = save(checkpoints, 1)
    with _disk_that_takes(size), pytest.raises(SaveFailed, match="psnr_00000002 could not be saved"):
        save(checkpoints, 2)
    assert names(checkpoints) == [good.name]
    assert (tmp_path / "latest").read_text().strip() == good.name
    assert checkpoints.newest() == good
    assert save(checkpoints, 2).is_dir()


def test_a_failing_fsync_counts_as_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = save(checkpoints, 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("utils.storage.files.os.fsync", full)
        with pytest.raises(SaveFailed, match="No space left"):
            save(checkpoints, 2)
    assert checkpoints.newest() == good and names(checkpoints) == [good.name]


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    assert all_finite(weights()) and all_finite({})
    assert not all_finite({"fine": torch.ones(1), "w": torch.tensor([1.0, float("inf")])})
    with pytest.raises(SaveRefused, match="network_g of psnr at iteration 3"):
        Checkpoints(tmp_path).save("psnr", 3, {"network_g": weights(float("nan"))}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(2), Path("x"), [{"a": object()}]])
def test_a_state_that_could_not_be_loaded_is_refused_at_the_save(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"state\['x'\]"):
        Checkpoints(tmp_path).save("psnr", 1, {"network_g": weights()}, {"x": value})


def test_stage_names_stay_inside_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="stage name"):
        save(Checkpoints(tmp_path / "inner"), 1, "../outside")


def test_an_installed_copy_does_not_take_the_commit_of_the_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an environment inside of somebody's project."""
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a", "--allow-empty"],
    ):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    copy = tmp_path / "site-packages" / "checkpoint.py"
    copy.parent.mkdir()
    copy.touch()
    monkeypatch.setattr(checkpoint, "__file__", str(copy))
    assert checkpoint.versions.__wrapped__()["code"] == "unknown"
