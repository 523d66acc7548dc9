"""Run folders in object storage: what is sent, what is brought back, and what a kill in between leaves."""

from pathlib import Path

import pytest
import torch

from utils.storage.checkpoint import Checkpoints
from utils.storage.mirror import Mirror
from utils.storage.places import Place, PlaceError


def save(run: Path, iteration: int, keep: int = 2) -> None:
    Checkpoints(run / "checkpoints", keep_last=keep).save("psnr", iteration, {"network_g": {"w": torch.ones(3)}}, {})
    (run / "metrics.jsonl").write_text(f"up to {iteration}\n")


def mirror(run: Path, place: Path) -> tuple[Mirror, list[str]]:
    said: list[str] = []
    run.mkdir(exist_ok=True)
    return Mirror(run, Place(str(place)), said.append), said


def files(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if name != "run.lock"}


def test_another_machine_goes_on_from_the_newest(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    sent, said = mirror(here, there)
    (here / "run.lock").touch()
    for iteration in (1, 2, 3):
        save(here, iteration)
        sent.push()
    assert files(there) == files(here) and "checkpoints/psnr_00000001/meta.json" not in files(there)

    other = tmp_path / "other"
    brought, _ = mirror(other, there)
    (other / "metrics.jsonl").write_text("older\n")
    assert brought.fetch() == ["psnr_00000002", "psnr_00000003"]
    assert files(other) == files(there)
    newest = Checkpoints(other / "checkpoints").newest()
    assert newest is not None and newest.name == "psnr_00000003"
    save(other, 4)
    brought.push()
    assert files(there) == files(other)

    assert sent.fetch() == ["psnr_00000004"] and (here / "metrics.jsonl").read_text() == "up to 4\n"
    assert said == []


def test_a_run_that_goes_on_here_sends_only_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of a week are not sent again because a machine was started anew."""
    here, there = tmp_path / "here", tmp_path / "there"
    sent, _ = mirror(here, there)
    for iteration in (1, 2, 3):
        save(here, iteration, keep=3)
    sent.push()
    (there / "checkpoints/psnr_00000001/network_g.safetensors").write_bytes(b"cut off")
    (there / "checkpoints/psnr_00000003/manifest.json").write_bytes(b"of another save")
    upload, names = Place.upload, list[str]()
    monkeypatch.setattr(Place, "upload", lambda self, file, name: (names.append(name), upload(self, file, name)))
    again, said = mirror(here, there)
    assert again.fetch() == [] and said == []
    again.push()
    whole = {name for name in names if name.startswith("checkpoints/psnr")}
    assert "checkpoints/psnr_00000001/network_g.safetensors" in whole
    assert {name.split("/")[1] for name in whole - {"checkpoints/psnr_00000001/network_g.safetensors"}} == {
        "psnr_00000003"
    }
    assert files(there) == files(here)


def test_what_is_not_whole_is_passed_over(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    sent, _ = mirror(here, there)
    for iteration in (1, 2, 3):
        save(here, iteration, keep=3)
    sent.push()
    (there / "checkpoints/psnr_00000003/manifest.json").unlink()  # killed while it was sent
    (there / "checkpoints/psnr_00000002/network_g.safetensors").write_bytes(b"x")
    other, said = mirror(tmp_path / "other", there)
    assert other.fetch() == ["psnr_00000001"]
    assert len(said) == 1 and "psnr_00000002 is passed over: network_g.safetensors has 1 bytes" in said[0]
    assert {p.name for p in (tmp_path / "other" / "checkpoints").iterdir()} == {"psnr_00000001", "latest"}


def test_the_manifest_is_sent_last_and_a_refusal_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    sent, said = mirror(here, there)
    save(here, 1)
    upload, names = Place.upload, list[str]()

    def refusing(self: Place, file: Path, name: str) -> None:
        if name.endswith("manifest.json") and not names:
            names.append(name)
            raise PlaceError("no")
        upload(self, file, name)

    monkeypatch.setattr(Place, "upload", refusing)
    sent.push()
    assert len(said) == 1 and "the next save tries again" in said[0]
    assert not (there / "checkpoints/psnr_00000001/manifest.json").exists()
    assert (there / "checkpoints/psnr_00000001/state.pt").exists()
    sent.push()
    assert files(there) == files(here)
