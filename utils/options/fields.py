"""Types of option values. Each alias carries its allowed range, so a constructor's signature is its option schema."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core.core_schema import CoreSchema, no_info_plain_validator_function


class OptionError(ValueError):
    """An option file (or a file it names) is wrong. The message says where, what was found and what was expected."""


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the low end {pair[0]} is above the high end {pair[1]}")
    return pair


def _sums_to_one(weights: dict[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"the probabilities sum to {total:g}, expected 1")
    return weights


_BYTES = r"^(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B$"


def _bytes(value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, str):
        return value
    if (match := re.match(_BYTES, value)) is None:
        raise ValueError(f"found {value!r}, expected a number of bytes, such as 256MB, 1.5GiB or 2TB")
    return round(float(match[1]) * (1024 if match[3] else 1000) ** " kMGT".index(match[2] or " "))


def _is_odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"{value} is even, expected an odd number")
    return value


Prob = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
TwoOrMore = Annotated[int, Field(ge=2)]
Count = Annotated[int, Field(ge=0)]
Odd = Annotated[int, Field(ge=1), AfterValidator(_is_odd)]
Pair = Annotated[tuple[float, float], AfterValidator(_ordered)]
IntRange = Annotated[tuple[int, int], AfterValidator(_ordered)]
Bytes = Annotated[
    int, BeforeValidator(_bytes), Field(ge=1), WithJsonSchema({"type": ["integer", "string"], "pattern": _BYTES})
]
"""A number of bytes, also written 256MB, 1.5GiB, 2TB."""
Weights = Annotated[dict[str, Prob], AfterValidator(_sums_to_one)]


_RANGE_HINT = "expected [low, high], or points by iteration [[0, [low, high]], [10000, [low, high]]]"


def _is_pair(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) in (int, float) for v in value)


class RangeSchedule:
    """A range [low, high] that may move with the iteration: piecewise linear between given points.

    Written `[2, 25]`, or as points by iteration `[[0, [2, 10]], [100000, [2, 25]]]`.
    """

    def __init__(self, points: Sequence[tuple[int, tuple[float, float]]]) -> None:
        self.points = [(int(step), _ordered((float(low), float(high)))) for step, (low, high) in points]
        steps = [step for step, _ in self.points]
        if steps != sorted(set(steps)) or not steps:
            raise ValueError(f"the iterations of a scheduled range must increase, found {steps}")

    @classmethod
    def fixed(cls, low: float, high: float) -> RangeSchedule:
        """Return the same range at every iteration."""
        return cls([(0, (low, high))])

    @classmethod
    def parse(cls, value: Any) -> RangeSchedule:  # noqa: ANN401
        if isinstance(value, RangeSchedule):
            return value
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{_RANGE_HINT}, found {value!r}")
        if _is_pair(value):
            return cls([(0, (value[0], value[1]))])
        for point in value:
            whole = isinstance(point, (list, tuple)) and len(point) == 2
            if not (whole and type(point[0]) is int and point[0] >= 0 and _is_pair(point[1])):
                raise ValueError(f"{_RANGE_HINT}, found {point!r}")
        return cls([(step, (pair[0], pair[1])) for step, pair in value])

    def at(self, iteration: int) -> tuple[float, float]:
        """Return the range in force at an iteration."""
        steps = [step for step, _ in self.points]
        right = bisect_right(steps, iteration)
        if right == 0:
            return self.points[0][1]
        if right == len(steps):
            return self.points[-1][1]
        (s0, a), (s1, b) = self.points[right - 1], self.points[right]
        t = (iteration - s0) / (s1 - s0)
        return a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])

    def within(self, low: float, high: float) -> RangeSchedule:
        """Raise ValueError unless every point lies in [low, high]."""
        for _, (a, b) in self.points:
            if a < low or b > high:
                raise ValueError(f"[{a:g}, {b:g}] leaves the allowed [{low:g}, {high:g}]")
        return self

    def __repr__(self) -> str:
        return str(list(self.points[0][1]) if len(self.points) == 1 else [[s, list(r)] for s, r in self.points])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSchedule) and self.points == other.points


@dataclass(frozen=True)
class Within:
    """Annotates a range: how pydantic reads it, and what its JSON schema is."""

    low: float = float("-inf")
    high: float = float("inf")

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        return no_info_plain_validator_function(lambda value: RangeSchedule.parse(value).within(self.low, self.high))

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        bounds = {"minimum": self.low, "maximum": self.high}
        number = {"type": "number", **{key: bound for key, bound in bounds.items() if isfinite(bound)}}
        ends = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
        point = {"type": "array", "prefixItems": [{"type": "integer", "minimum": 0}, ends]}
        points = {"type": "array", "items": {**point, "minItems": 2, "maxItems": 2}, "minItems": 1}
        about = "[low, high] inclusive, or points by iteration: [[0, [low, high]], [10000, [low, high]]]"
        return {"description": about, "anyOf": [ends, points]}


Range = Annotated[RangeSchedule, Within()]
PositiveRange = Annotated[RangeSchedule, Within(1e-12)]
NonNegativeRange = Annotated[RangeSchedule, Within(0)]
LevelRange = Annotated[RangeSchedule, Within(0, 255)]
QualityRange = Annotated[RangeSchedule, Within(1, 100)]
