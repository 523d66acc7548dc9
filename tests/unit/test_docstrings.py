"""The examples in docstrings of what a user imports."""

import doctest
import importlib
from collections.abc import Iterator

import pytest

from tests.helpers import ROOT

PACKAGES = ("degradations", "losses", "models/networks", "utils/metrics")


def modules_with_examples() -> Iterator[str]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if ">>> " in file.read_text(encoding="utf-8"):
                yield ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_examples_run_as_written(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0 and done.failed == 0, "the differences stand above"


def test_every_package_has_examples() -> None:
    assert {name.split(".")[0] for name in modules_with_examples()} >= {package.split("/")[0] for package in PACKAGES}
