"""The typed constructor is the option schema: what it accepts, and how it says no."""

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from typing import Any, Literal

import pytest

from utils.options.components import OptionsError, Registry, Spec, check_tree
from utils.options.fields import (
    IntRange,
    NonNegativeRange,
    Odd,
    OptionError,
    Pair,
    Positive,
    PositiveInt,
    Prob,
    QualityRange,
    Range,
    RangeSchedule,
    Weights,
)
from utils.options.files import merge
from utils.options.schema import tree_schema


class Shape:
    """What the toy registry makes."""


@dataclass(frozen=True)
class Entry:
    """Wrapper keys around a shape."""

    shape: Shape
    weight: Positive
    every: PositiveInt = 1


class Part:
    """What the second toy registry makes: bare components, checked by building them."""


SHAPES: Registry[Entry] = Registry("shape", "tests.unit.no_such", protocol=Shape, entry=Entry, context=("scale",))
PARTS: Registry[Part] = Registry("part", "tests.unit.no_such", protocol=Part, probe=True)
for _registry in (SHAPES, PARTS):
    _registry._filled = True  # they live in this file; there is no package to import


@PARTS.register("bolt")
class Bolt(Part):
    def __init__(self, size: int = 3, limit: int = 9) -> None:
        if size > limit:
            raise ValueError(f"size {size} is above limit {limit}")
        self.size = size


@dataclass(frozen=True)
class Paint:
    colour: Literal["red", "blue"] = "red"
    layers: PositiveInt = 1

    def __post_init__(self) -> None:
        if self.colour == "blue" and self.layers > 2:
            raise ValueError("blue takes two layers at most")


@SHAPES.register("square")
class Square(Shape):
    """A square. It has equal sides."""

    def __init__(
        self,
        scale: int,
        side: Odd = 3,
        prob: Prob = 0.5,
        paint: Paint = Paint(),
        part: Part | None = None,
        parts: Mapping[str, Part] | None = None,
    ) -> None:
        self.scale, self.side, self.prob, self.paint, self.part, self.parts = scale, side, prob, paint, part, parts


@SHAPES.register("ball", presets={"radius": 2.0, "parts": {"a": {"type": "bolt"}, "b": {"type": "bolt", "size": 5}}})
class Ball(Shape):
    def __init__(self, radius: Positive, parts: Mapping[str, Part]) -> None:
        self.radius, self.parts = radius, parts


@dataclass(frozen=True)
class Tree:
    name: str
    shapes: Mapping[str, Shape]
    later: Spec[Shape] | None = None
    paint: Paint = Paint()


def problems(annotation: Any, value: Any) -> list[str]:  # noqa: ANN401
    try:
        accepted(annotation, value)
    except OptionsError as error:
        return [str(problem) for problem in error.problems]
    return []


def accepted(annotation: Any, value: Any) -> Any:  # noqa: ANN401
    tree: Any = check_tree(make_dataclass("Tree", [("x", annotation)]), {"x": value})
    return tree.x


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "3"),
        (int, 3.0),
        (int, True),
        (float, "2"),
        (float, False),
        (bool, 1),
        (bool, "yes"),
        (str, 3),
        (str, None),
        (float, float("nan")),
        (float, float("inf")),
        (str, b"bytes"),
        (str, {1, 2}),
        (PositiveInt | None, 0),
        (Prob, 1.01),
        (Prob, -0.01),
        (Positive, 0),
        (Odd, 4),
        (Odd, -1),
        (Pair, [2, 1]),
        (Pair, [1]),
        (Pair, [1, 2, 3]),
        (IntRange, [1.5, 2]),
        (IntRange, [3, 2]),
        (Weights, {"a": 0.5, "b": 0.4}),
        (Weights, {"a": 1.0, "b": -0.5}),
        (Weights, {}),
        (Literal["adam", "adamw"], "sgd"),
        (Range, [2, 1]),
        (Range, []),
        (Range, 5),
        (Range, None),
        (Range, "ab"),
        (Range, [True, 2]),
        (Range, [[0, [1, 2]], [0, [1, 2]]]),
        (Range, [[10, [1, 2]], [0, [1, 2]]]),
        (Range, [[0, [1, 2]], [10, None]]),
        (QualityRange, [0, 95]),
        (QualityRange, [[0, [30, 95]], [100, [30, 101]]]),
        (NonNegativeRange, [-1, 1]),
    ],
)
def test_values_that_are_refused(annotation: Any, value: Any) -> None:  # noqa: ANN401
    (problem,) = problems(annotation, value)
    assert problem.startswith("x") and ": " in problem


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (float, 3, 3.0),
        (PositiveInt | None, None, None),
        (Prob, 1, 1.0),
        (Odd, 21, 21),
        (Pair, [1, 1], (1.0, 1.0)),
        (IntRange, [2, 5], (2, 5)),
        (Weights, {"a": 0.1, "b": 0.2, "c": 0.7}, {"a": 0.1, "b": 0.2, "c": 0.7}),
        (tuple[Prob, Prob], [0.9, 0.99], (0.9, 0.99)),
        (Range, [2, 25], RangeSchedule([(0, (2, 25))])),
    ],
)
def test_values_that_are_accepted(annotation: Any, value: Any, expected: Any) -> None:  # noqa: ANN401
    found = accepted(annotation, value)
    assert found == expected and type(found) is type(expected)


def test_a_range_moves_between_its_points() -> None:
    moving = accepted(Range, [[100, [2, 10]], [200, [4, 20]]])
    assert moving.at(0) == moving.at(100) == (2, 10)
    assert moving.at(150) == (3, 15)
    assert moving.at(200) == moving.at(10**6) == (4, 20)


def test_every_problem_is_reported_at_once_with_path_and_nearest_name() -> None:
    options = {
        "nmae": "x",
        "shapes": {
            "one": {"type": "sqare"},
            "two": {"type": "square", "wieght": 1, "side": "3", "prob": 2, "paint": {"colour": "green", "layrs": 1}},
            "three": {"weight": 1},
            "four": 4,
            "five": {"type": "square", "weight": 0, "part": {"type": "bolt", "size": 10}},
        },
        "paint": {"colour": "blue", "layers": 3},
    }
    with pytest.raises(OptionsError) as refused:
        check_tree(Tree, options, "file.yml", scale=4)
    text = str(refused.value)
    assert text.startswith("14 problems in file.yml:\n")
    for expected in [
        "nmae: unknown option; did you mean 'name'?",
        "name: is missing and has no default",
        "shapes.one.type: no shape is called 'sqare'; did you mean 'square'?",
        "shapes.two.wieght: unknown option; did you mean 'weight'?",
        "shapes.two.weight: is missing and has no default",
        "shapes.two.side: found '3': Input should be a valid integer",
        "shapes.two.prob: found 2: Input should be less than or equal to 1",
        "shapes.two.paint.colour: found 'green': Input should be 'red' or 'blue'",
        "shapes.two.paint.layrs: unknown option; did you mean 'layers'?",
        "shapes.three.type: no `type:` is given; known: ball, square",
        "shapes.four: found 4, expected a mapping with `type:` (shape)",
        "shapes.five.weight: found 0: Input should be greater than 0",
        "shapes.five.part: size 10 is above limit 9",
        "paint: blue takes two layers at most",
    ]:
        assert f"\n  {expected}" in text


def test_a_probed_component_reports_what_its_constructor_sees() -> None:
    with pytest.raises(OptionsError, match=r"^1 problem:\n  part: size 10 is above limit 9$"):
        SHAPES.check({"type": "square", "weight": 1, "part": {"type": "bolt", "size": 10}})


def test_a_component_is_built_inside_its_entry() -> None:
    options = {
        "type": "square",
        "weight": 2,
        "side": 5,
        "parts": {"a": "bolt", "b": None, "c": {"type": "bolt", "size": 1}},
    }
    entry: Any = SHAPES.build(options, scale=4)
    assert type(entry) is Entry and (entry.weight, entry.every) == (2.0, 1)
    shape: Any = entry.shape
    assert type(shape) is Square and (shape.scale, shape.side, shape.prob, shape.paint) == (4, 5, 0.5, Paint())
    assert shape.parts is not None
    assert {name: part.size for name, part in shape.parts.items() if isinstance(part, Bolt)} == {"a": 3, "c": 1}
    assert options["parts"]["b"] is None  # nothing is written into options


def test_a_bare_name_stands_for_a_component_without_options() -> None:
    assert isinstance(PARTS.build("bolt"), Bolt)
    with pytest.raises(OptionError, match=r"no part is called 'blot'; did you mean 'bolt'\?"):
        PARTS.build("blot")


def test_what_the_builder_supplies_may_be_repeated_but_not_contradicted() -> None:
    said_equal: Any = SHAPES.build({"type": "square", "weight": 1, "scale": 4}, scale=4)
    assert said_equal.shape.scale == 4
    alone: Any = SHAPES.build({"type": "square", "weight": 1, "scale": 2})
    assert alone.shape.scale == 2
    with pytest.raises(OptionsError, match="where.scale: found 2, but scale is 4 elsewhere; say it once"):
        SHAPES.build({"type": "square", "weight": 1, "scale": 2}, where="where", scale=4)
    with pytest.raises(OptionsError, match="scale: found '4'"):
        SHAPES.build({"type": "square", "weight": 1, "scale": "4"})
    with pytest.raises(OptionError, match="where: scale is missing"):
        SHAPES.build({"type": "square", "weight": 1}, where="where")


def test_presets_merge_below_the_options() -> None:
    plain: Any = SHAPES.build({"type": "ball", "weight": 1})
    assert plain.shape.radius == 2.0 and list(plain.shape.parts) == ["a", "b"]
    options = {"type": "ball", "weight": 1, "radius": 3, "parts": {"a": None, "b": {"limit": 6}, "c": {"type": "bolt"}}}
    changed: Any = SHAPES.build(options)
    assert changed.shape.radius == 3.0 and list(changed.shape.parts) == ["b", "c"]
    assert changed.shape.parts["b"].size == 5


def test_the_component_field_is_no_option() -> None:
    with pytest.raises(OptionsError, match=r"shape: unknown option; known: side"):
        SHAPES.check({"type": "square", "weight": 1, "shape": 3})
    with pytest.raises(OptionsError, match=r"typ: unknown option; did you mean 'type'\?"):
        SHAPES.check({"type": "square", "weight": 1, "typ": "ball"})


def test_a_spec_is_checked_now_and_built_later() -> None:
    tree = check_tree(Tree, {"name": "n", "shapes": {}, "later": {"type": "square", "weight": 3}})
    assert tree.later is not None
    built: Any = tree.later.build(scale=3)
    assert built.shape.scale == 3 and built.weight == 3.0
    assert isinstance(tree.later.component(scale=3), Square)
    with pytest.raises(OptionsError, match=r"later\.side"):
        check_tree(Tree, {"name": "n", "shapes": {}, "later": {"type": "square", "weight": 3, "side": 2}})


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="shape 'square' is registered twice"):
        SHAPES.register("square")(Square)
    assert SHAPES.names() == ["ball", "square"]
    assert SHAPES.get("ball") is Ball
    with pytest.raises(OptionError, match="did you mean 'ball'"):
        SHAPES.get("bal")


def test_null_removes_an_entry_that_a_base_has() -> None:
    base = {"name": "n", "shapes": {"a": {"type": "ball", "weight": 1}, "b": {"type": "ball", "weight": 2}}}
    tree = check_tree(Tree, merge(base, {"shapes": {"a": None}}))
    assert list(tree.shapes) == ["b"]


def test_null_removes_a_value_from_a_mapping_of_values() -> None:
    @dataclass(frozen=True)
    class Files:
        weights: dict[str, str]

    base = {"weights": {"a": "a.pth", "b": "b.pth"}}
    assert check_tree(Files, merge(base, {"weights": {"a": None}})).weights == {"b": "b.pth"}
    entry = tree_schema("files", Files)["properties"]["weights"]["additionalProperties"]
    assert entry == {"anyOf": [{"type": "string"}, {"type": "null"}]}


def test_null_takes_back_a_value_that_a_base_has() -> None:
    base = {"type": "square", "weight": 2, "every": 5, "side": 7, "part": "bolt"}
    entry: Any = SHAPES.build(merge(base, {"every": None, "side": None, "part": None}), scale=4)
    assert (entry.every, entry.shape.side, entry.shape.part) == (1, 3, None)
    with pytest.raises(OptionsError, match="weight: found None"):
        SHAPES.build(merge(base, {"weight": None}), scale=4)


def test_the_schema_says_what_the_check_accepts() -> None:
    schema = tree_schema("toy", Tree)
    assert schema["required"] == ["name", "shapes"] and schema["additionalProperties"] is False
    variants = {v["properties"]["type"]["const"]: v for v in schema["$defs"]["shape"]["anyOf"] if "properties" in v}
    square = variants["square"]
    assert square["required"] == ["type", "weight"]  # scale is supplied
    assert square["description"] == "A square. It has equal sides."
    assert square["properties"]["prob"]["maximum"] == 1 and square["properties"]["prob"]["default"] == 0.5
    assert variants["ball"]["required"] == ["type", "weight"]  # the presets have the rest
    assert schema["$defs"]["Paint"]["properties"]["colour"]["enum"] == ["red", "blue"]
