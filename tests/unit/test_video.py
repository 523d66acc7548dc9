"""Videos restored frame by frame: times, rotation, colours and sound are kept, and a stopped one leaves nothing."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.restoring.generator import bicubic_generator
from models.restoring.restorer import Restorer
from models.restoring.video import restore_video, video_targets
from utils.options.fields import OptionError

HEIGHT, WIDTH, FRAMES = 48, 64, 12
TIMES = (0, 40, 80, 200, 240, 400, 420, 500, 600, 610, 700, 900)
"""Milliseconds of frames at no constant rate."""


def picture(number: int) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([(2 * x + 5 * number) % 256, 4 * y, np.full_like(x, 100)], -1).astype(np.uint8)


def clip(path: Path, rotation: int = 0, times: tuple[int, ...] = ()) -> Path:
    """A short clip with a tone of 440 Hz."""
    av = pytest.importorskip("av")
    rate = Fraction(30000, 1001)
    with av.open(str(path), "w") as file:
        pictures, sound = file.add_stream("libx264", rate=rate), file.add_stream("aac", rate=44100)
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if times:
            pictures.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            pictures.set_display_rotation(rotation)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            file.mux(pictures.encode(frame))
        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16 * 1024) / 44100).astype(np.float32)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
            frame.rate, frame.pts = 44100, start
            file.mux(sound.encode(frame))
        file.mux(pictures.encode(None))
        file.mux(sound.encode(None))
    return path


def frames(path: Path) -> list[Any]:
    import av

    with av.open(str(path)) as file:
        return list(file.decode(video=0))


def sound(path: Path) -> list[bytes]:
    import av

    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(file.streams.audio[0]) if packet.size]


def restorer() -> Restorer:
    return Restorer(bicubic_generator(2))


@pytest.mark.parametrize(("rotation", "times"), [(0, ()), (90, ()), (0, TIMES)])
def test_frames_times_rotation_and_sound_are_kept(rotation: int, times: tuple[int, ...], tmp_path: Path) -> None:
    given, result = clip(tmp_path / "clip.mp4", rotation, times), tmp_path / "made" / "clip.mp4"
    told: list[int] = []
    assert restore_video(given, result, restorer(), progress=told.append) == FRAMES
    before, after = frames(given), frames(result)
    assert told == [FRAMES] * FRAMES and len(after) == FRAMES
    assert [frame.time for frame in after] == pytest.approx([frame.time for frame in before], abs=1e-4)
    assert {frame.rotation for frame in after} == {rotation}
    assert sound(result) == sound(given) != []
    for one, other in zip(before, after, strict=True):
        large = other.to_ndarray(format="rgb24").astype(float)
        assert large.shape == (2 * HEIGHT, 2 * WIDTH, 3)
        small = large.reshape(HEIGHT, 2, WIDTH, 2, 3).mean((1, 3))
        assert np.abs(small - one.to_ndarray(format="rgb24")).mean() < 3  # two lossy encoders apart
    assert [path.name for path in result.parent.iterdir()] == ["clip.mp4"]


def test_odd_sides_are_written_too(tmp_path: Path) -> None:
    given = clip(tmp_path / "clip.mp4")
    restore_video(given, tmp_path / "odd.mkv", restorer(), outscale=1.3)
    assert (frames(tmp_path / "odd.mkv")[0].height, frames(tmp_path / "odd.mkv")[0].width) == (62, 83)


def test_one_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    given, seen = clip(tmp_path / "clip.mp4"), []

    def stop(total: int) -> None:
        seen.append(sorted(path.name for path in (tmp_path / "out").iterdir()))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_video(given, tmp_path / "out" / "clip.mp4", restorer(), progress=stop)
    assert all("clip.mp4" not in names for names in seen) and not list((tmp_path / "out").iterdir())


def test_what_cannot_be_done_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = clip(tmp_path / "clip.mp4")
    with pytest.raises(OptionError, match="clip.mp4: .*'webm' format does not support 'aac'"):
        restore_video(given, tmp_path / "clip.webm", restorer())
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(OptionError, match="broken.mp4: .*Invalid data"):
        restore_video(tmp_path / "broken.mp4", tmp_path / "x.mp4", restorer())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OptionError, match=r"clip.mp4: videos are read by PyAV; pip install -e '.\[video\]'"):
        restore_video(given, tmp_path / "x.mp4", restorer())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "clip.mp4"]


def test_places_of_results(tmp_path: Path) -> None:
    one, two = tmp_path / "a.mp4", tmp_path / "b.mkv"
    assert video_targets([one], tmp_path / "x.mp4") == {one: tmp_path / "x.mp4"}
    places = video_targets([one, two], tmp_path / "out", "_x2")
    assert list(places.values()) == [tmp_path / "out" / "a_x2.mp4", tmp_path / "out" / "b_x2.mkv"]
    one.touch()
    for inputs, out, match in (
        ([one, tmp_path / "p.png"], "out", "p.png: is no video"),
        ([one, two], "x.mp4", "give a folder"),
        ([one], "x.png", "give a folder"),
        ([one], "a.mp4", "would replace its input"),
    ):
        with pytest.raises(OptionError, match=match):
            video_targets(inputs, tmp_path / out)
