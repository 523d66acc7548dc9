"""The build backend: setuptools', with everything of this repository under the one name `blind_sr` in wheels.

The repository is run in place, and `pip install -e` installs dependencies only. A wheel is for people whose own
project has a `utils`, `data` or `models`: it holds `blind_sr.degradations`, `blind_sr.models` and so on, with imports
rewritten.
"""

import ast
import base64
import hashlib
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

NAME = "blind_sr"
PACKAGES = ("data", "degradations", "losses", "models", "utils")
ROOT_FILES = ("train.py", "test.py")
SCRIPTS = "[console_scripts]\nblind-sr-train = blind_sr.train:main\nblind-sr-test = blind_sr.test:main\n"
_COMMAND = re.compile(rf"(python3? -m )({'|'.join(PACKAGES)})\b")

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
]


def rewritten(source: str, path: str = "") -> str:
    """Turn imports of our packages in Python code into imports from `blind_sr`, and commands in its texts too.

    Raises ValueError for `import models.x`, which would bind another name.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in PACKAGES:
                    raise ValueError(f"{path}:{node.lineno}: import {alias.name}; use from … import …")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] in PACKAGES:
            line, column = lines[node.lineno - 1], node.col_offset
            lines[node.lineno - 1] = line[:column] + line[column:].replace("from ", f"from {NAME}.", 1)
    return _COMMAND.sub(rf"\g<1>{NAME}.\g<2>", "".join(lines))


def sources(root: Path) -> Iterator[Path]:
    """Return every file of the repository that a wheel holds."""
    yield from (root / name for name in ROOT_FILES)
    for folder in (*PACKAGES, "options"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield path


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:  # noqa: ANN401
    """Build the wheel: the metadata of setuptools', and our files under one name."""
    with tempfile.TemporaryDirectory() as aside:
        name = build_meta.build_wheel(aside, config_settings, metadata_directory)
        with zipfile.ZipFile(Path(aside) / name) as bare:
            content = {item: bare.read(item) for item in bare.namelist() if not item.endswith("/")}
    record = next(item for item in content if item.endswith(".dist-info/RECORD"))
    info = record.removesuffix("RECORD")
    content |= {f"{info}top_level.txt": f"{NAME}\n".encode(), f"{info}entry_points.txt": SCRIPTS.encode()}
    content[f"{NAME}/__init__.py"] = b'"""Blind image super-resolution, all under one name."""\n'
    root = Path.cwd()
    for path in sources(root):
        data = path.read_bytes()
        if path.suffix == ".py":
            data = rewritten(data.decode("utf-8"), str(path)).encode("utf-8")
        content[f"{NAME}/{path.relative_to(root).as_posix()}"] = data
    del content[record]
    lines = [f"{item},sha256={_digest(data)},{len(data)}" for item, data in content.items()]
    with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for item, data in {**content, record: "\n".join([*lines, f"{record},,", ""]).encode()}.items():
            wheel.writestr(item, data)
    return name


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:  # noqa: ANN401
    """Build the source archive: setuptools', with all that a wheel is made of."""
    name = build_meta.build_sdist(sdist_directory, config_settings)
    archive, root = Path(sdist_directory) / name, Path.cwd()
    with tempfile.TemporaryDirectory() as aside:
        with tarfile.open(archive) as bare:
            bare.extractall(aside, filter="data")
        (top,) = Path(aside).iterdir()
        for path in sources(root):
            target = top / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        with tarfile.open(archive, "w:gz") as full:
            full.add(top, top.name)
    return name
