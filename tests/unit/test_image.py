"""A zoo of image files: every kind that a data set may hold, and every way in which one may be broken."""

import os
import pickle
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from utils.images.files import (
    ImageError,
    from_tensor,
    image_files,
    list_images,
    read_image,
    read_image_alpha,
    to_float,
    to_tensor,
    to_uint8,
    to_uint16,
    write_image,
)
from utils.images.header import parse_header

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")


def picture(height: int = 24, width: int = 40) -> np.ndarray:
    """RGB, smooth enough that JPEG keeps it, with no symmetry."""
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    """The bytes of an image written by Pillow, which shares no code with OpenCV. `mode` is Pillow's pixel format."""
    image, mode, buffer = Image.fromarray(array), options.pop("mode", None), BytesIO()
    (image if mode is None else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def saved(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# --- what can be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_formats_come_back_as_rgb(tmp_path: Path, kind: str) -> None:
    image = read_image(saved(tmp_path, "x.any", encoded(picture(), kind)))
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, picture())


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {})])
def test_lossy_formats_come_back_as_rgb(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    image = read_image(saved(tmp_path, "x", encoded(picture(), kind, quality=98, **options)))
    assert np.abs(image.astype(int) - picture()).mean() < 4


def test_one_pixel(tmp_path: Path) -> None:
    path = saved(tmp_path, "x.png", encoded(np.array([[[1, 2, 3]]], np.uint8), "PNG"))
    assert read_image(path).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_gray_becomes_three_equal_channels(tmp_path: Path, kind: str) -> None:
    gray = picture()[..., 0]
    image, alpha, was_gray = read_image_alpha(saved(tmp_path, "x", encoded(gray, kind)))
    assert was_gray or kind == "BMP"  # a gray BMP is a palette
    assert alpha is None
    np.testing.assert_array_equal(image, np.stack([gray] * 3, axis=2))


def test_gray_with_alpha(tmp_path: Path) -> None:
    image, alpha, was_gray = read_image_alpha(saved(tmp_path, "x", encoded(picture()[..., :2], "PNG")))
    assert was_gray and alpha is not None
    np.testing.assert_array_equal(alpha, picture()[..., 1])
    np.testing.assert_array_equal(image[..., 2], picture()[..., 0])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_stay(tmp_path: Path, kind: str) -> None:
    deep = picture()[..., 0].astype(np.uint16) * 257 - 1
    image = read_image(saved(tmp_path, "x", encoded(deep, kind)))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[..., 1], deep)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_dropped_or_given_apart(tmp_path: Path, kind: str) -> None:
    rgba = np.dstack([picture(), picture()[::-1, :, 0]])
    path = saved(tmp_path, "x", encoded(rgba, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    np.testing.assert_array_equal(read_image(path), picture())
    image, alpha, was_gray = read_image_alpha(path)
    assert alpha is not None and not was_gray
    np.testing.assert_array_equal(np.dstack([image, alpha]), rgba)


def test_alpha_of_a_tiff_does_not_darken_the_colours(tmp_path: Path) -> None:
    """OpenCV multiplies them by alpha; a set of TIFFs with soft edges would train on dark fringes."""
    alpha = np.full((24, 40), 255, np.uint8)
    alpha[:, :20], alpha[:4] = 128, 0
    path = saved(tmp_path, "x.tif", encoded(np.dstack([picture(), alpha]), "TIFF"))
    image, read_alpha, _ = read_image_alpha(path)
    np.testing.assert_array_equal(read_alpha, alpha)
    np.testing.assert_array_equal(image[alpha == 255], picture()[alpha == 255])
    assert np.abs(image[alpha == 128].astype(int) - picture()[alpha == 128]).max() <= 2


def test_palette_is_resolved(tmp_path: Path) -> None:
    data = encoded(picture(), "PNG", mode="P")
    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(read_image(saved(tmp_path, "x.png", data)), expected)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path, "x.jpg", encoded(picture(), "JPEG", mode="CMYK", quality=98)))
    assert image.shape == picture().shape
    assert np.abs(image.astype(int) - picture()).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(picture(), kind, exif=exif, **({} if kind == "TIFF" else {"quality": 98}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data)).convert("RGB")))
    # The EXIF of a TIFF is its own directory, which Pillow drops in convert.
    if kind == "TIFF":
        expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))
    image = read_image(saved(tmp_path, "x", data))
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 4
    if kind != "WEBP":
        # The head of a file tells its size too, which checks of whole data sets rely on.
        header = parse_header(data if kind == "TIFF" else data[:-20])
        assert header.size is not None
        assert (header.size if header.orientation < 5 else header.size[::-1]) == expected.shape[:2]


def test_jpeg_with_bytes_after_its_end(tmp_path: Path) -> None:
    """Phones append a video to a photo."""
    image = read_image(saved(tmp_path, "x.jpg", encoded(picture(), "JPEG") + b"\0\xff\xd8 moving " * 100))
    assert image.shape == picture().shape


def test_jpeg_with_restart_markers(tmp_path: Path) -> None:
    """0xFFD0 to 0xFFD7 stand inside the image data, and nothing follows them."""
    data = encoded(picture(96, 128), "JPEG", restart_marker_blocks=1)
    assert b"\xff\xd7" in data
    assert read_image(saved(tmp_path, "x.jpg", data)).shape == (96, 128, 3)


def test_jpeg_with_a_thumbnail_whose_end_is_not_the_end(tmp_path: Path) -> None:
    thumbnail = encoded(picture(8, 8), "JPEG")
    data = encoded(picture(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    whole = data[:2] + segment + data[2:]
    assert read_image(saved(tmp_path, "x.jpg", whole)).shape == picture().shape
    with pytest.raises(ImageError, match="cut off"):
        read_image(saved(tmp_path, "y.jpg", whole[:-200]))


# --- what cannot -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [3, 10, 20, 40, 0.3, 0.6, 0.9, 0.99, -1])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("TIFF", {}), ("BMP", {})],
)
def test_truncated_files_are_refused(tmp_path: Path, kind: str, options: dict[str, Any], cut: float) -> None:
    data = encoded(picture(96, 128), kind, **options)
    short = data[: int(cut * len(data)) if isinstance(cut, float) else cut]
    path = saved(tmp_path, "cut.img", short)
    found_by_us = kind in ("PNG", "JPEG", "WEBP") and len(short) >= 20
    with pytest.raises(ImageError, match=r"cut\.img: .*" + ("cut off" if found_by_us else "")):
        read_image(path)


def test_wrong_byte_in_a_png_is_refused(tmp_path: Path) -> None:
    data = bytearray(encoded(picture(), "PNG"))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(ImageError, match="checksum of a PNG chunk 'IDAT'"):
        read_image(saved(tmp_path, "x.png", bytes(data)))


def test_empty_missing_directory_and_text(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    saved(tmp_path, "empty.png", b"")
    saved(tmp_path, "page.jpg", b"<html>404</html>")
    for name, reason in [
        ("empty.png", "empty"),
        ("none.png", "no such file"),
        ("folder.png", "directory"),
        ("page.jpg", "not an image"),
    ]:
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        # Errors travel from loader workers to the main process.
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_float_tiff_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "x.tif", encoded(picture()[..., 0].astype(np.float32), "TIFF"))
    with pytest.raises(ImageError, match=r"x\.tif: holds float32 values"):
        read_image(path)


def bomb_png(side: int) -> bytes:
    """A few bytes that claim side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bomb_jpeg(side: int) -> bytes:
    data = bytearray(encoded(picture(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def bomb_tiff(side: int) -> bytes:
    entries = [(0x100, 4, 1, side), (0x101, 4, 1, side), (0x102, 3, 1, 8), (0x106, 3, 1, 1)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + b"\0" * 4


@pytest.mark.parametrize("data", [bomb_png(60000), bomb_jpeg(60000), bomb_tiff(60000)], ids=["png", "jpeg", "tiff"])
def test_bombs_are_refused_undecoded(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise AssertionError("the bomb was decoded")

    monkeypatch.setattr(cv2, "imdecode", explode)
    with pytest.raises(ImageError, match="60000x60000 is 3600 megapixels, above the limit of 400"):
        read_image(saved(tmp_path, "bomb", data))


def test_the_limit_is_a_parameter_and_holds_for_any_format(tmp_path: Path) -> None:
    path = saved(tmp_path, "x.bmp", encoded(picture(100, 100), "BMP"))
    with pytest.raises(ImageError, match="above the limit"):
        read_image(path, max_megapixels=0.0099)
    assert read_image(path, max_megapixels=0.01).shape == (100, 100, 3)


# --- listing ---------------------------------------------------------------------------------------------------


def test_image_files(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "dir.png").mkdir()
    kept = ["a.PNG", "b/deep/z.Jpeg", "b/x.tif", "c.webp"]
    for name in [*kept, "._a.png", ".hidden/x.png", "notes.txt", "png"]:
        (tmp_path / name).touch()
    os.symlink(tmp_path, tmp_path / "b" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "b" / "nowhere")
    assert [str(path.relative_to(tmp_path)) for path in image_files(tmp_path)] == kept


def test_image_files_follows_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").touch()
    (tmp_path / "set").mkdir()
    os.symlink(tmp_path / "store", tmp_path / "set" / "link")
    assert [path.name for path in image_files(tmp_path / "set")] == ["a.png"]


def test_image_files_of_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="no such folder"):
        image_files(tmp_path / "none")
    with pytest.raises(NotADirectoryError, match="a file"):
        image_files(tmp_path / "file")


def test_records_of_a_preparation_are_not_named_as_left_out(tmp_path: Path) -> None:
    for name in ("run.lock", ".prepared.jsonl"):
        (tmp_path / name).touch()
    assert list_images(tmp_path).remark == ""
    (tmp_path / ".other").touch()
    assert list_images(tmp_path).remark.endswith("1 file is left out, not images by their names: 1 hidden (.other)")


# --- writing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".bmp", ".webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [0, 3, 4])
def test_what_is_written_comes_back(tmp_path: Path, suffix: str, dtype: type, channels: int) -> None:
    full = np.dstack([picture(), picture()[::-1, :, 1]]).astype(dtype)
    array = full * 257 if dtype is np.uint16 else full
    array = array[..., 0] if channels == 0 else array[..., :channels]
    path = tmp_path / "new" / f"x{suffix}"
    if (dtype is np.uint16 and suffix in (".bmp", ".webp")) or (channels == 4 and suffix == ".bmp"):
        with pytest.raises(ValueError, match="8 bits|no alpha"):
            write_image(path, array)
        assert not path.exists()
        return
    write_image(path, array)
    image, alpha, _ = read_image_alpha(path)
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, np.dstack([array] * 3) if channels == 0 else array[..., :3])
    if channels == 4:
        np.testing.assert_array_equal(alpha, array[..., 3])
    assert os.listdir(path.parent) == [path.name]


def test_jpeg_quality(tmp_path: Path) -> None:
    write_image(tmp_path / "low.jpg", picture(), quality=20)
    write_image(tmp_path / "high.jpg", picture(), quality=98)
    errors = [np.abs(read_image(tmp_path / name).astype(int) - picture()).mean() for name in ("low.jpg", "high.jpg")]
    assert errors[1] < errors[0] / 2


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    write_image(path, picture())

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_image(path, 255 - picture())
    assert os.listdir(tmp_path) == ["x.png"]
    np.testing.assert_array_equal(read_image(path), picture())


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x.xyz", picture(), "format '.xyz'"),
        ("x", picture(), "format ''"),
        ("x.png", picture().astype(np.float32), "float32, expected uint8"),
        ("x.png", picture()[..., [0, 1, 2, 0, 1]], r"expected \(H, W\)"),
        ("x.png", picture()[:0], r"\(0, 40, 3\)"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_image(tmp_path / name, array)


# --- conversions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "back"), [(np.uint8, to_uint8), (np.uint16, to_uint16)])
def test_every_level_survives_the_round_trip(dtype: type, back: object) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    floats = to_float(levels)
    assert floats.dtype == np.float32 and floats.min() == 0 and floats.max() == 1
    np.testing.assert_array_equal(floats, (levels / np.iinfo(dtype).max).astype(np.float32))
    np.testing.assert_array_equal(back(floats), levels)  # type: ignore[operator]


def test_rounding_is_half_to_even_and_clips() -> None:
    assert to_uint8(np.array([0.5, 1.5, 2.5, 253.5]) / 255).tolist() == [0, 2, 2, 254]
    assert to_uint8(np.array([-1.0, 2.0])).tolist() == [0, 255]
    assert to_uint16(np.array([-1.0, 2.0])).tolist() == [0, 65535]


def test_tensors() -> None:
    tensor = to_tensor(picture())
    assert tensor.shape == (3, 24, 40) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert tensor[2, 5, 7] == np.float32(picture()[5, 7, 2]) / np.float32(255)
    np.testing.assert_array_equal(to_uint8(from_tensor(tensor)), picture())
    half = to_tensor(picture().astype(np.float64) / 255)
    torch.testing.assert_close(half, tensor)


def test_tensors_share_no_memory_with_what_they_came_from() -> None:
    array = np.zeros((2, 2, 3), np.float32)
    to_tensor(array).add_(1)
    assert array.max() == 0


def test_wrong_shapes_and_types() -> None:
    with pytest.raises(ValueError, match="expected \\(C, H, W\\)"):
        from_tensor(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="expected \\(H, W, C\\)"):
        to_tensor(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="int32"):
        to_float(np.zeros(3, np.int32))
