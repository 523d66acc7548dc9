"""The shape of the code, kept by walking it: who may import whom, what is forbidden, how long things are."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGES = ("data", "degradations", "losses", "models", "utils")
ENTRY_POINTS = ("train", "test", "degradations.preview")  # besides every `__main__`
LONGEST_FUNCTION = 70

# Folder → folders it may import besides itself and those below them. A file goes with the longest name that fits it;
# `models` is the package's own names. Models build on networks, then come stages, then what uses both.
NETWORKS = {"utils", "models.network", "models.networks"}
DEGRADING = {"utils", "degradations", "data"}
MAY_IMPORT: dict[str, set[str]] = {
    "utils": set(),
    "degradations": {"utils"},
    "data": {"utils", "degradations"},
    "data.prepare": DEGRADING,
    "losses": {"utils"},
    "models.network": {"utils"},
    "models.networks": {"utils", "models.network", "models.weights"},  # of weights what other libraries' networks read
    "models.weights": {"utils"},
    "models.embedding": NETWORKS | DEGRADING,
    "models.stages": NETWORKS | {"losses", "degradations"},  # of degradations the Batch
    "models": {"models.network", "models.stages"},
    "models.training": NETWORKS
    | DEGRADING
    | {"data.prepare", "losses", "models.stages", "models.weights", "models.embedding"},
    "models.restoring": NETWORKS | DEGRADING | {"models.weights"},
    "models.publishing": NETWORKS | DEGRADING | {"models.weights", "models.restoring"},
    "models.benchmarking": NETWORKS | DEGRADING | {"models.weights", "models.restoring", "models.training"},
    "models.importing": {"utils", "degradations", "losses", "models.network", "models.training"},
    "models.ablating": DEGRADING | {"models.training", "models.benchmarking"},
}
FORK = "torch.random.fork_rng"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, tuple[Path, ast.Module]]:
    """Module name → (file, tree) of everything but the tests."""
    files = [ROOT / "train.py", ROOT / "test.py"]
    files += [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {module_of(file): (file, ast.parse(file.read_text(encoding="utf-8"))) for file in files}


def layer_of(module: str) -> str:
    """The folder of a module, as the keys of MAY_IMPORT; entry points are layers of their own."""
    if is_entry_point(module):
        return module
    fitting = [layer for layer in MAY_IMPORT if module == layer or module.startswith(f"{layer}.")]
    return max(fitting, key=len)


def is_entry_point(module: str) -> bool:
    return module in ENTRY_POINTS or module.endswith(".__main__")


def imports_of(module: str) -> Iterator[tuple[int, str]]:
    """(line, module of this repository) of every import, wherever it stands."""
    file, tree = sources()[module]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if is_ours(base):
                    yield node.lineno, full if full in sources() else base


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in (*PACKAGES, "train", "test", "tests")


def place(module: str, line: int) -> str:
    return f"{sources()[module][0].relative_to(ROOT)}:{line}"


def found_by(check: Callable[[str, ast.Module], Iterator[str]]) -> list[str]:
    return [f"{offence}" for module, (_, tree) in sources().items() for offence in check(module, tree)]


def report(offences: list[str]) -> None:
    assert not offences, "\n" + "\n".join(offences)


# --- who imports whom -----------------------------------------------------------------------------------------------


def test_dependencies_go_one_way() -> None:
    offences = []
    for module in sources():
        layer = layer_of(module)
        if is_entry_point(module):
            continue
        for line, target in imports_of(module):
            other = layer_of(target)
            if other != layer and other not in MAY_IMPORT[layer] and not is_entry_point(other):
                allowed = ", ".join(sorted({layer, *MAY_IMPORT[layer]}))
                offences.append(f"{place(module, line)}: {layer} imports {target}; it may import: {allowed}")
    report(offences)


def test_no_module_imports_itself_in_a_circle() -> None:
    """Not even two files: whoever reads one of them would have to know the other first."""
    graph = {module: {target for _, target in imports_of(module) if target in sources()} for module in sources()}
    done: set[str] = set()

    def walk(module: str, below: tuple[str, ...]) -> Iterator[str]:
        if module in below:
            yield " -> ".join([*below[below.index(module) :], module])
        elif module not in done:
            for target in sorted(graph[module]):
                yield from walk(target, (*below, module))
            done.add(module)

    report([circle for module in graph for circle in walk(module, ())])


def test_nobody_imports_entry_points_or_tests() -> None:
    offences = []
    for module in sources():
        for line, target in imports_of(module):
            if (is_entry_point(target) and target != module) or target.startswith("tests"):
                offences.append(f"{place(module, line)}: imports {target}, which is run, not imported")
    report(offences)


def test_the_walk_sees_all_kinds_of_imports() -> None:
    """Without this a fault of the walker would make the tests above pass."""
    seen = {(module, target) for module in sources() for _, target in imports_of(module)}
    assert ("train", "models.stages.stage") in seen, "from package.module import name"
    assert ("train", "utils.processes.distributed") in seen, "from package import module"
    assert ("models.embedding.report", "data.validation") in seen, "several names of a module"
    assert {"train", "test", "degradations.preview"} <= set(sources())
    assert layer_of("models") == "models" and layer_of("models.networks.blocks") == "models.networks"
    assert {layer_of(module) for module in sources()} >= set(MAY_IMPORT)


PROBE = """
import argparse, sys
import torch

def refuse(what):
    def called(*args, **kwargs):
        raise AssertionError(what)
    return called

argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_known_args = refuse("arguments are parsed")
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "set_device"):
    setattr(torch.cuda, name, refuse(f"torch.cuda.{name} is called"))
before = torch.random.get_rng_state()
import models
assert "torchvision" not in sys.modules, "models imports torchvision"
models.NETWORKS.names(), models.STAGES.names()
loaded = {name.partition(".")[0] for name in sys.modules}
print(*sorted(loaded & {"torchvision", "data", "train", "tensorboard", "matplotlib", "skimage", "lmdb"}))
assert torch.equal(before, torch.random.get_rng_state()), "models draws random numbers"
"""


def test_importing_models_is_light() -> None:
    """It loads no torchvision, touches no device, parses no arguments, draws nothing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROBE, "--no-such-option"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], "models loads more than it needs"


NOT_FOR_ALL = (
    *("data.prepare", "degradations.kernelgan", "models.embedding", "models.publishing", "models.ablating"),
    *("matplotlib", "scipy", "torchvision", "triton", "tensorboard", "fsspec"),
)


@pytest.mark.parametrize(("program", "besides"), [("train", ("models.restoring",)), ("test", ())])
def test_programs_load_only_what_they_need(program: str, besides: tuple[str, ...]) -> None:
    """Of preparation and kernel estimation nothing but the settings that an option file may have."""
    code = f"import sys, {program}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    settings = {"data.prepare", "data.prepare.section", "degradations.kernelgan", "degradations.kernelgan.settings"}
    loaded = set(done.stdout.split()) - settings
    assert not [name for name in loaded if name.startswith((*NOT_FOR_ALL, *besides))]


# --- what is forbidden ----------------------------------------------------------------------------------------------


def named(node: ast.AST) -> str:
    """The dotted name of an expression, such as `np.random.seed`; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := named(node.value)):
        return f"{base}.{node.attr}"
    return ""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, named(node.func)


def prints(module: str, tree: ast.Module) -> Iterator[str]:
    if module != "utils.logging":
        for node, name in calls(tree):
            if name in ("print", "sys.stdout.write", "sys.stderr.write"):
                yield f"{place(module, node.lineno)}: {name}(…); only utils/logging.py writes to the console"


def globals_and_bare_excepts(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"{place(module, node.lineno)}: global {', '.join(node.names)}"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{place(module, node.lineno)}: bare except"


# Making generators is fine; everything else in these modules uses one that all code shares.
OWN_GENERATORS = ("Generator", "SeedSequence", "PCG64", "SFC64", "BitGenerator", "default_rng")
DRAWING = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "poisson", "multinomial"}
REDRAWING = {"uniform_", "normal_", "random_", "bernoulli_", "exponential_", "cauchy_", "log_normal_", "geometric_"}


def shared_randomness(module: str, tree: ast.Module) -> Iterator[str]:
    """Draws from, or seeds of, generators that a module or the process shares."""
    forked = {id(inner) for outer in ast.walk(tree) if forks(outer) for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            yield f"{place(module, node.lineno)}: import random"
        if isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random"):
            yield f"{place(module, node.lineno)}: from {node.module} import …"
    for node, name in calls(tree):
        base, _, function = name.rpartition(".")
        own = any(keyword.arg == "generator" for keyword in node.keywords)
        shared = (
            (base in ("np.random", "numpy.random") and (function not in OWN_GENERATORS or not (node.args or own)))
            or (function in ("manual_seed", "seed", "manual_seed_all") and base.startswith("torch"))
            or (base == "torch" and function in DRAWING and not own)
            or (function in REDRAWING and base != "nn.init" and base != "torch.nn.init" and not own)
        )
        if shared and id(node) not in forked:
            yield f"{place(module, node.lineno)}: {name}(…) uses a random state that other code shares"


def forks(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and any(
        isinstance(item.context_expr, ast.Call) and named(item.context_expr.func) == FORK for item in node.items
    )


def module_level_generators(module: str, tree: ast.Module) -> Iterator[str]:
    """Generators made while a module is imported, which all its users would share."""
    for statement in tree.body:
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for node, name in calls(statement):
                if name.rpartition(".")[2] in ("default_rng", "Generator", "RandomState", "torch_generator"):
                    yield f"{place(module, node.lineno)}: {name}(…) at module level"


@pytest.mark.parametrize("check", [prints, globals_and_bare_excepts, shared_randomness, module_level_generators])
def test_nothing_forbidden_is_used(check: Callable[[str, ast.Module], Iterator[str]]) -> None:
    report(found_by(check))


def test_the_trainer_seeds_initial_weights_inside_a_fork() -> None:
    _, tree = sources()["models.training.building"]
    seeds = [node for outer in ast.walk(tree) if forks(outer) for node, name in calls(outer) if "manual_seed" in name]
    assert len(seeds) == 1


FORBIDDEN = """
import random
from numpy.random import rand

STATE = np.random.default_rng(0)

def f(x):
    global STATE
    print(x)
    np.random.seed(0)
    np.random.default_rng()
    torch.manual_seed(0)
    torch.rand(3)
    x.normal_()
    try:
        torch.rand(3, generator=STATE), np.random.default_rng(1), nn.init.normal_(x), x.normal_(generator=STATE)
        with torch.random.fork_rng():
            torch.manual_seed(0)
    except:
        pass
"""


def test_the_checks_see_what_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this a fault of the checks would make them pass."""
    monkeypatch.setattr(sys.modules[__name__], "place", lambda module, line: line)
    tree = ast.parse(FORBIDDEN)
    checks = (prints, globals_and_bare_excepts, shared_randomness, module_level_generators)
    lines = [sorted(int(offence.partition(":")[0]) for offence in check("x", tree)) for check in checks]
    assert lines == [[9], [8, 19], [2, 3, 10, 11, 12, 13, 14], [5]]


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_functions_are_short() -> None:
    def long(module: str, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    yield f"{place(module, node.lineno)}: {node.name} has {length} lines, {LONGEST_FUNCTION} allowed"

    report(found_by(long))
