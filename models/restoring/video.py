"""Restore a video frame by frame: `test.py -i clip.mp4 -o out.mp4` (extra `video`). Sound is copied as it is."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.restoring.files import restore_array
from models.restoring.restorer import Restorer
from utils.options.fields import OptionError

if TYPE_CHECKING:
    import av  # pyright: ignore[reportMissingImports]
    from av.container import InputContainer, OutputContainer  # pyright: ignore[reportMissingImports]

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_ENCODERS = {".webm": ("libvpx-vp9", {"crf": "20", "b": "0"})}
_H264 = ("libx264", {"crf": "16", "preset": "medium"})  # hardly seen losses; re-encode for less


def is_video(path: Path) -> bool:
    """Tell whether a path has the ending of a video."""
    return path.suffix.lower() in SUFFIXES


def video_targets(inputs: Sequence[Path], out: Path, suffix: str = "") -> dict[Path, Path]:
    """Return where the result of each video goes: `out` alone for a single one if it has such an ending, else below it.

    Raises OptionError for other files among them, and for a result that would replace an input.
    """
    if others := [str(path) for path in inputs if not is_video(path)]:
        raise OptionError(f"-i {others[0]}: is no video and others are; restore them apart")
    if is_video(out) and len(inputs) == 1 and not out.is_dir():
        targets = {inputs[0]: out}
    elif out.suffix and not out.is_dir():
        raise OptionError(f"-o {out}: give a folder, or for one video a name ending in {' '.join(SUFFIXES)}")
    else:
        targets = {path: out / f"{path.stem}{suffix}{path.suffix}" for path in inputs}
    for source, target in targets.items():
        if target.exists() and source.exists() and target.samefile(source):
            raise OptionError(f"{target}: the result would replace its input; choose another -o or a --suffix")
    if len(set(targets.values())) < len(targets):
        raise OptionError("-i: two videos have one name, and so would their results; restore them apart")
    return targets


def restore_video(
    source: Path,
    target: Path,
    restorer: Restorer,
    outscale: float | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> int:
    """Restore every frame (8 bits) and write them with their times, rotation and colour tags, and all sound tracks.

    A frame at a time is in memory. The result appears when it is whole; what is left of a stopped one is removed.

    Args:
        progress: called after each frame with how many frames the file says it has, 0 if it does not.

    Returns:
        The number of frames.

    Raises:
        OptionError: PyAV is missing, the file is no video, or the container of the result cannot hold its sound.
    """
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OptionError(f"{source}: videos are read by PyAV; pip install -e '.[video]'") from error
    aside = target.with_name(f".{target.stem}.{uuid.uuid4().hex}{target.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(source)) as given:
            if not given.streams.video:
                raise OptionError(f"{source}: has no pictures, only sound")
            with av.open(str(aside), "w") as written:
                count = _convert(given, written, target.suffix.lower(), restorer, outscale, progress)
        if not count:
            raise OptionError(f"{source}: holds no frames")
        aside.replace(target)
    except (av.FFmpegError, ValueError) as error:
        raise OptionError(f"{source}: {error}; the result would have been {target}") from error
    finally:
        aside.unlink(missing_ok=True)
    return count


def _convert(
    given: InputContainer,
    written: OutputContainer,
    suffix: str,
    restorer: Restorer,
    outscale: float | None,
    progress: Callable[[int], object],
) -> int:
    pictures, sounds = given.streams.video[0], given.streams.audio
    codec, options = _ENCODERS.get(suffix, _H264)
    stream: Any = written.add_stream(codec, rate=pictures.average_rate or 25, options=options)
    copies = {sound.index: written.add_stream_from_template(sound) for sound in sounds}
    count, waiting = 0, []  # sound that comes before the first frame, by whose size the header is written
    for packet in given.demux(pictures, *sounds):
        if packet.stream.index in copies:
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                waiting.append(packet)
        else:
            for frame in pictures.decode(packet):
                restored = _restored(frame, restorer, outscale)
                if not count:
                    _begin(stream, pictures, frame, restored)
                count += 1
                written.mux(stream.encode(restored))
                progress(pictures.frames)
        if count:
            written.mux(waiting)
            waiting.clear()
    written.mux(stream.encode(None))
    return count


def _begin(stream: Any, pictures: av.VideoStream, frame: av.VideoFrame, restored: av.VideoFrame) -> None:  # noqa: ANN401
    """Tell the encoder what it cannot know: sizes, times and colours. Rotation is that of the frames as stored."""
    stream.width, stream.height, stream.pix_fmt = restored.width, restored.height, restored.format.name
    if pictures.time_base is not None:
        stream.time_base = stream.codec_context.time_base = pictures.time_base
    for tag in ("sample_aspect_ratio", "color_primaries", "color_trc", "colorspace", "color_range"):
        if (value := getattr(pictures.codec_context, tag)) is not None:
            setattr(stream.codec_context, tag, value)
    if frame.rotation:
        stream.set_display_rotation(frame.rotation)


def _restored(frame: av.VideoFrame, restorer: Restorer, outscale: float | None) -> av.VideoFrame:
    rgb = frame.to_ndarray(format="rgb24")
    large = restore_array(restorer, rgb, outscale=outscale)
    even = large.shape[0] % 2 == large.shape[1] % 2 == 0  # which colours of half the size ask for
    made = type(frame).from_ndarray(np.ascontiguousarray(large), format="rgb24")
    made = made.reformat(
        format="yuv420p" if even else "yuv444p", dst_colorspace=frame.colorspace, dst_color_range=frame.color_range
    )
    made.pts, made.time_base = frame.pts, frame.time_base
    return made
