"""Numbers on command lines, for the `type` of argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError


def whole(low: int) -> Callable[[str], int]:
    """A whole number of `low` or more."""

    def number(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"found {text}, expected {low} or more")
        return value

    return number


def typed(alias: Any) -> Callable[[str], float]:  # noqa: ANN401
    """A number as utils/fields knows it."""

    def parse(text: str) -> float:
        try:
            return TypeAdapter(alias, config=ConfigDict(allow_inf_nan=False)).validate_strings(text)
        except ValidationError as error:
            raise argparse.ArgumentTypeError(f"found {text}; {error.errors()[0]['msg']}") from error

    return parse
