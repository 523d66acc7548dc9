"""The JSON schemas of option files: as a validator reads them, and as editors do, by their language server.

The server runs where YAML_LANGUAGE_SERVER names it: `npm install yaml-language-server@2.0.0`, then
`node_modules/.bin/yaml-language-server`.
"""

import functools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from data.source import SourceEntry
from data.training import DataOptions
from degradations import DEGRADATIONS
from degradations.plan import DegradationSettings, StepEntry
from losses import LossTerm
from models.ablating.schemas import schemas
from models.ablating.study import AblationOptions
from models.benchmarking.benchmark import BenchmarkOptions
from models.stages.stage import StageSettings
from models.training.experiment import Experiment, Logger
from tests.helpers import ROOT
from utils.options.docstrings import describe_parameters
from utils.options.files import parse
from utils.options.schema import SCHEMA_FILE

OPTIONS = ROOT / "options"
HEAD = "# yaml-language-server: $schema="


@functools.cache
def written() -> dict[str, Any]:
    """The schemas as files hold them; making them takes seconds."""
    return json.loads(json.dumps(schemas()))


SHIPPED = sorted(OPTIONS.rglob("*.yml"))
RANGE = "degradation: {type: bsrgan, steps: {jpeg: {quality_range: %s}}}"
TEST = "name: a\nscale: 2\n"
MISTAKES = {  # by folder below `options`; files with a base and whole ones
    "a wrong type": ("bsrgan", "base: b.yml\nscale: two"),
    "a misspelt key": ("bsrgan", "base: b.yml\nnmae: a"),
    "a misspelt key of a network": ("bsrgan", "base: b.yml\nnetwork_g: {type: rrdbnet, num_blok: 3}"),
    "a misspelt key of a base's network": ("bsrgan", "base: b.yml\nnetwork_g: {num_blok: 3}"),
    "a misspelt key of a preset's step": (
        "bsrgan",
        "base: b.yml\ndegradation: {type: bsrgan, steps: {jpeg: {prb: 1}}}",
    ),
    "a misspelt key of a base's step": ("bsrgan", "base: b.yml\ndegradation: {steps: {jpeg: {prb: 1}}}"),
    "a misspelt wrapper key": ("bsrgan", "base: b.yml\nstages: {gan: {losses: {pixel: {weigth: 1}}}}"),
    "an unknown type": ("bsrgan", "base: b.yml\nnetwork_g: {type: rrdbnt}"),
    "a bad choice": ("bsrgan", "base: b.yml\nstages: {gan: {losses: {pixel: {target: sharp}}}}"),
    "a number too large": ("bsrgan", "base: b.yml\ndegradation: {steps: {jpeg: {prob: 2}}}"),
    "an end too large": ("bsrgan", f"base: b.yml\n{RANGE % '[30, 101]'}"),
    "a range of three": ("bsrgan", f"base: b.yml\n{RANGE % '[30, 60, 90]'}"),
    "a range of one": ("bsrgan", f"base: b.yml\n{RANGE % '[30]'}"),
    "a moving range of three": ("bsrgan", f"base: b.yml\n{RANGE % '[[0, [30, 60, 90]]]'}"),
    "one beta": ("bsrgan", "base: b.yml\nstages: {gan: {optim_g: {betas: [0.9]}}}"),
    "a whole file without scale": ("bsrgan", "name: a"),
    "a test of an unknown source": ("test", f"{TEST}data: {{a: {{type: foldr, root: r}}}}"),
    "a misspelt key of a test's source": ("test", f"{TEST}data: {{a: {{type: folder, root: r, multipel: 8}}}}"),
    "a misspelt key of a grid": ("test", f"{TEST}grid: {{rows: {{}}, colums: {{}}}}"),
    "a wrong seed": ("ablation", "base: b.yml\nvariants: {}\nseeds: [0.5]"),
    "a wrong option of all runs": ("ablation", "base: b.yml\nvariants: {}\nscale: two"),
}
RIGHT = {
    "what a base has is taken back": "base: b.yml\nstages: {gan: null}\ndata: {workers: null}",
    "a preset's step is taken out": "base: b.yml\ndegradation: {type: bsrgan, steps: {jpeg: null}}",
    "a preset's step is another": "base: b.yml\ndegradation: {type: bsrgan, steps: {jpeg: {type: sinc_blur}}}",
    "names stand for components": "base: b.yml\nnetwork_g: rrdbnet\ndegradation: none",
    "a range moves": f"base: b.yml\n{RANGE % '[[0, [30, 60]], [500, [30, 90]]]'}",
    "two bases": "base: [a.yml, b.yml]",
}
mistakes = pytest.mark.parametrize(("folder", "text"), MISTAKES.values(), ids=MISTAKES)
right = pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
shipped = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(OPTIONS)))


def schema_of(folder: Path) -> Path:
    return next(path for path in (folder / SCHEMA_FILE, folder.parent / SCHEMA_FILE) if path.is_file())


def marks(schema: Path, text: str) -> list[str]:
    """What a validator finds wrong."""
    shared = Registry().with_resource(f"../{SCHEMA_FILE}", Resource.from_contents(written()[SCHEMA_FILE]))
    validator = Draft202012Validator(written()[str(schema.relative_to(OPTIONS))], registry=shared)
    return [
        f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(parse(text, "text"))
    ]


def test_the_shipped_schemas_are_current() -> None:
    """Renew them with: python train.py --schema"""
    for name, schema in written().items():
        assert json.loads((OPTIONS / name).read_text(encoding="utf-8")) == schema, name


@shipped
def test_a_shipped_file_names_its_schema_and_has_no_marks(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert first.startswith(HEAD)
    schema = (path.parent / first.removeprefix(HEAD)).resolve()
    assert schema == schema_of(path.parent) and marks(schema, text) == []


@mistakes
def test_a_mistake_is_marked(folder: str, text: str) -> None:
    assert marks(schema_of(OPTIONS / folder), text)


@right
def test_what_the_check_accepts_has_no_marks(text: str) -> None:
    assert marks(OPTIONS / SCHEMA_FILE, text) == []


@pytest.mark.parametrize(
    "kind",
    [AblationOptions, BenchmarkOptions, DataOptions, DegradationSettings, Experiment, Logger, LossTerm, SourceEntry]
    + [StageSettings, StepEntry],
    ids=lambda kind: kind.__name__,
)
def test_every_key_is_described(kind: Any) -> None:  # noqa: ANN401
    told = {*describe_parameters(kind), "step", "loss", "source"}  # what an entry holds is no key
    assert {f.name for f in fields(kind)} <= told


# --- the language server of editors ----------------------------------------------------------------------------------


class LanguageServer:
    """yaml-language-server, spoken to over its standard input and output (the Language Server Protocol)."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen([program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.requests = 0
        self.request("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
        self.send({"method": "initialized", "params": {}})
        settings = {"yaml": {"validate": True, "completion": True, "schemaStore": {"enable": False}}}
        self.send({"method": "workspace/didChangeConfiguration", "params": {"settings": settings}})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def answer(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            headers = iter(self.process.stdout.readline, b"\r\n")
            length = next(int(line.split(b":")[1]) for line in list(headers) if line.startswith(b"Content-Length"))
            message = json.loads(self.process.stdout.read(length))
            if wanted(message):
                return message
            if "id" in message and "method" in message:
                self.send({"id": message["id"], "result": None})

    def request(self, method: str, params: dict[str, Any]) -> Any:  # noqa: ANN401
        self.requests += 1
        number = self.requests
        self.send({"id": number, "method": method, "params": params})
        return self.answer(lambda message: message.get("id") == number and "method" not in message)["result"]

    def open(self, path: Path, text: str) -> list[str]:
        """Open a text as a file that need not be there. Return what is marked."""
        about = {"uri": path.as_uri(), "languageId": "yaml", "version": 1, "text": text}
        self.send({"method": "textDocument/didOpen", "params": {"textDocument": about}})
        method = "textDocument/publishDiagnostics"
        told = self.answer(lambda m: m.get("method") == method and m["params"]["uri"] == path.as_uri())
        return [mark["message"] for mark in told["params"]["diagnostics"]]

    def complete(self, path: Path, text: str) -> dict[str, str]:
        """Open a text and complete it where it has a bar. Return the keys that are offered, and their descriptions."""
        line, start = next((n, line.index("|")) for n, line in enumerate(text.splitlines()) if "|" in line)
        self.open(path, text.replace("|", ""))
        place = {"textDocument": {"uri": path.as_uri()}, "position": {"line": line, "character": start}}
        found = self.request("textDocument/completion", place)["items"]
        return {item["label"]: item["documentation"] for item in found if isinstance(item["documentation"], str)}


@pytest.fixture(scope="module")
def server() -> Iterator[LanguageServer]:
    program = os.environ.get("YAML_LANGUAGE_SERVER")
    if program is None:
        pytest.skip("YAML_LANGUAGE_SERVER names no yaml-language-server (npm install yaml-language-server@2.0.0)")
    server = LanguageServer(program)
    yield server
    server.process.kill()


@shipped
def test_an_editor_marks_nothing_in_a_shipped_file(server: LanguageServer, path: Path) -> None:
    assert server.open(path, path.read_text(encoding="utf-8")) == []


def test_an_editor_marks_every_mistake_and_nothing_else(server: LanguageServer) -> None:
    for number, (folder, text) in enumerate(MISTAKES.values()):
        path = OPTIONS / folder / f"wrong_{number}.yml"
        assert server.open(path, f"{HEAD}{os.path.relpath(schema_of(path.parent), path.parent)}\n{text}\n"), text
    for number, text in enumerate(RIGHT.values()):
        assert server.open(OPTIONS / f"right_{number}.yml", f"{HEAD}{SCHEMA_FILE}\n{text}\n") == []


@pytest.mark.parametrize(
    "start",
    ["degradation:\n  type: bsrgan", "base: b.yml\ndegradation:\n  type: bsrgan", "base: b.yml\ndegradation:"],
    ids=["a whole file", "a file with a base", "a file whose base says the type"],
)
def test_an_editor_offers_the_keys_of_a_presets_step(server: LanguageServer, start: str) -> None:
    text = f"{HEAD}{SCHEMA_FILE}\n{start}\n  steps:\n    jpeg:\n      |\n"
    offered = server.complete(OPTIONS / f"completed_{len(start)}.yml", text)
    jpeg = DEGRADATIONS.build("bsrgan", scale=2).steps["jpeg"].step  # type: ignore[attr-defined]
    texts = {"type": "", **describe_parameters(type(jpeg)), **describe_parameters(StepEntry)}
    assert offered == texts and len(offered) == 4
