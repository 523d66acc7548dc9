"""What a file is by its first bytes, whatever its name says."""

import struct
import zipfile
from pathlib import Path

NCNN_MAGIC = b"7767517"
_SAFETENSORS_HEADER = slice(8, 10)

_STARTS: tuple[tuple[bytes, str], ...] = (
    (NCNN_MAGIC, "ncnn graph"),
    (b"\xdd\x85\x76\x00", "a binary ncnn graph (.param.bin); give the text form, MODEL.param"),
    (b"version https://git-lfs", "a pointer of Git LFS instead of the file itself; fetch it with `git lfs pull`"),
    (b"<", "a web page or XML (of a damaged download?)"),
    (b"GGUF", "a GGUF file of a language model"),
    (b"\x89HDF", "an HDF5 file (Keras, MATLAB)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)


def file_kind(path: Path) -> str:
    """Return the kind of a file: `pickle`, `safetensors` and `ncnn graph` can be read, any other text says what it is.

    Raises OSError if it cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    for magic, kind in _STARTS:
        if start.startswith(magic):
            return kind
    if path.suffix == ".safetensors" or start[_SAFETENSORS_HEADER] == b'{"':
        return "safetensors"
    if path.suffix == ".param":
        return "ncnn graph"
    if path.suffix == ".onnx" or _is_onnx(start):
        return "an ONNX model, whose weights have lost their names; give the .pth or .safetensors that it was made from"
    if (kind := _archive_kind(path)) is not None:
        return kind
    if path.suffix == ".bin" and not start.startswith(b"\x80"):
        if path.with_suffix(".param").is_file():
            return "ncnn graph"
        return f"the weights of an ncnn model without {path.with_suffix('.param').name}, which belongs beside it"
    return "pickle"


def _is_onnx(start: bytes) -> bool:
    """Tell whether a protobuf begins with ONNX's version (field 1, a number) and producer (field 2, text)."""
    return len(start) > 8 and start[0] == 0x08 and start[2] == 0x12 and start[4 : 4 + min(start[3], 8)].isascii()


def _archive_kind(path: Path) -> str | None:
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, LookupError, struct.error):
        return "pickle"  # which says then that it is damaged
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside:
        return "a TorchScript model (a program); save the state_dict of the network it was made from"
    if "archive_format" in inside or any(name.endswith("exported_program.json") for name in inside):
        return "a torch.export program; save the state_dict of the network it was made from"
    if "data.pkl" in inside:
        return "pickle"
    return f"a zip archive ({', '.join(names[:3])}, …); unpack it first"
