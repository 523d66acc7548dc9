"""A real run over a folder of bad and odd image files."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from degradations import Batch
from tests.run.tiny import option_tree, train, write_options
from tests.unit.test_image import bomb_png
from train import Trainer
from utils.storage.checkpoint import LoadedCheckpoint

Image = pytest.importorskip("PIL.Image")

DEEP = 51300
"""A 16-bit value that 8 bits do not hold."""


def flat(colour: tuple[int, int, int], height: int = 40, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def zoo(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Writes the files; each that can be used is of one colour, which is returned, in [0, 1]."""
    folder.mkdir()
    (folder / "folder.png").mkdir()
    colours = {
        "folder.png/inside.png": (10, 20, 30),
        "cmyk.jpg": (200, 60, 60),
        "palette.png": (40, 80, 160),
        "animated.png": (90, 10, 200),
        "one.png": (1, 2, 3),
        "wide.png": (7, 77, 177),
        "tall.png": (177, 77, 7),
    }
    image = {name: Image.fromarray(flat(colour)) for name, colour in colours.items()}
    image["folder.png/inside.png"].save(folder / "folder.png" / "inside.png")
    image["cmyk.jpg"].convert("CMYK").save(folder / "cmyk.jpg", quality=100)
    image["palette.png"].quantize(2).save(folder / "palette.png")
    other = Image.fromarray(flat((255, 255, 255)))
    image["animated.png"].save(folder / "animated.png", save_all=True, append_images=[other], duration=100)
    Image.fromarray(flat(colours["one.png"], 1, 1)).save(folder / "one.png")
    Image.fromarray(flat(colours["wide.png"], 10, 30000)).save(folder / "wide.png")
    Image.fromarray(flat(colours["tall.png"], 30000, 10)).save(folder / "tall.png")
    Image.fromarray(np.full((40, 40), DEEP, np.uint16)).save(folder / "deep.tif")
    for name in ("cut", "gone", "turned"):
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:2000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(bomb_png(60000))
    wanted = {Path(name).name: tuple(value / 255 for value in colour) for name, colour in colours.items()}
    return {**wanted, "deep.tif": (DEEP / 65535,) * 3}  # type: ignore[dict-item]


def spoil_and_note() -> None:
    """Files go and turn into folders after they were listed; what is trained on is written down."""
    enter, step = Trainer.enter, Trainer.train_step

    def spoil(self: Trainer, name: str, resume: LoadedCheckpoint | None) -> None:
        for path in map(Path, self.mix.entries[0].source._paths):  # type: ignore[attr-defined]
            if path.stem in ("gone", "turned"):
                path.unlink()
            if path.stem == "turned":
                path.mkdir()
        enter(self, name, resume)

    def note(self: Trainer, micros: Sequence[Batch]) -> dict[str, Tensor]:
        for samples in micros:
            for path, gt in zip(samples.paths, samples.targets["plain"], strict=True):
                line = [Path(path).name, [float(gt[c].min()) for c in range(3)], [float(gt[c].max()) for c in range(3)]]
                with (self.folder / "seen.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
        return step(self, micros)

    Trainer.enter, Trainer.train_step = spoil, note


def test_each_bad_file_is_named_once_and_none_is_silently_changed(tmp_path: Path) -> None:
    colours = zoo(tmp_path / "images")
    tree = option_tree(tmp_path / "images", psnr=40)
    tree["data"] |= {"batch_size": 4, "workers": 1, "validation": {}, "max_unreadable": 5}
    options = write_options(tmp_path / "tiny.yml", tree)
    run = train(options, tmp_path / "runs", "--stage", "psnr", before=spoil_and_note)
    assert run.code == 0 and run.status["state"] == "finished", run.err
    reasons = {
        "cut": "cut off",
        "empty": "the file is empty",
        "gone": "there is no such file",
        "turned": "this is a directory",
        "bomb": "60000x60000 is 3600 megapixels, above the limit",
    }
    told = [line for line in run.err.splitlines() if "left out" in line]
    for name, reason in reasons.items():
        assert [reason in line for line in told if f"{name}.png:" in line] == [True], run.err
    assert len(told) == len(reasons) and "Traceback" not in run.err

    seen = [json.loads(line) for line in (run.folder / "seen.jsonl").read_text().splitlines()]
    assert len(seen) == 160 and {name for name, _, _ in seen} == set(colours)
    for name, low, high in seen:
        tolerance = 0.02 if name == "cmyk.jpg" else 1e-6
        for value in (low, high):
            np.testing.assert_allclose(value, colours[name], atol=tolerance, err_msg=name)
