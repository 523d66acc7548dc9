"""Command lines from dataclasses: what they read, what they refuse and how, and what `--help` says."""

import doctest
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from utils.options import arguments
from utils.options.arguments import Arg, OptionFile, Overrides, parse, parse_command
from utils.options.docstrings import describe, describe_parameters
from utils.options.fields import Count, PositiveInt, PositiveRange, Prob, RangeSchedule


@dataclass(frozen=True)
class Computing:
    """What is for speed.

    Nothing here changes results.

    Args:
        batch: Images at
            once, 100% sure.
    """

    batch: PositiveInt = 1
    compile: bool = False
    pin: bool = True

    def __post_init__(self) -> None:
        if self.compile and self.batch == 1:
            raise ValueError("--compile pays with a --batch only")


@dataclass(frozen=True, kw_only=True)
class Work:
    """Does things."""

    images: Annotated[tuple[Path, ...], Arg("IMAGE", positional=True)] = ()
    """Files."""
    out: Annotated[Path, Arg("DIR", flags=("-o", "--out"))]
    """Where to."""
    option_file: OptionFile
    overrides: Overrides = ()
    mode: Literal["resize", "network"] = "resize"
    """How."""
    scale: Literal[2, 4] | None = None
    numbers: tuple[Count, ...] = ()
    pair: tuple[float, float] = (0.5, 1 / 3)
    gain_range: PositiveRange = field(default_factory=lambda: RangeSchedule.fixed(1, 2))
    share: Prob | None = None
    name: str = ""
    computing: Computing = Computing()
    """computing fast"""

    def __post_init__(self) -> None:
        if self.name and len(self.images) > 1:
            raise ValueError(f"--name is for one image, found {len(self.images)}")


NEEDED = ["-o", "x", "--opt", "f.yml"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(Work, [*words, *NEEDED], prog="work")
    assert ended.value.code == 2
    usage, _, text = capsys.readouterr().err.partition("work: error: ")
    assert usage.startswith("usage: work ")
    return text.rstrip("\n")


def test_the_example_runs() -> None:
    found = doctest.testmod(arguments)
    assert found.attempted > 5 and found.failed == 0


def test_defaults_are_the_dataclasss() -> None:
    assert parse(Work, NEEDED) == Work(out=Path("x"), option_file=Path("f.yml"))


def test_every_kind_of_field_is_read() -> None:
    words = ["a.png", *NEEDED, "--set", "a.b=1", "--mode", "network", "--numbers", "0", "3", "--pair", "-1", "2e-1"]
    words += ["--gain-range", ".5", "3", "--share", "1", "--scale", "4", "--batch", "2", "--compile", "--no-pin"]
    assert parse(Work, [*words, "--set", "c=d", "--name", "7", "-o", "y"]) == Work(
        images=(Path("a.png"),),
        out=Path("y"),
        option_file=Path("f.yml"),
        overrides=("a.b=1", "c=d"),
        mode="network",
        scale=4,
        numbers=(0, 3),
        pair=(-1.0, 0.2),
        gain_range=RangeSchedule.fixed(0.5, 3),
        share=1.0,
        name="7",
        computing=Computing(batch=2, compile=True, pin=False),
    )


def test_positional_values_may_stand_before_between_and_after_flags() -> None:
    for words in (["a", "b", *NEEDED], [*NEEDED, "a", "b"], ["a", *NEEDED, "--no-compile", "b"]):
        assert parse(Work, words).images == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "--batch: found 0: Input should be greater than or equal to 1"),
        (["--batch", "two"], "--batch: found 'two': Input should be a valid integer"),
        (["--batch", "1.5"], "--batch: found 1.5: Input should be a valid integer"),
        (["--share", "inf"], "--share: found inf, expected a plain, finite value"),
        (["--mode", "both"], "--mode: found 'both': Input should be 'resize' or 'network'"),
        (["--scale", "3"], "--scale: found 3: Input should be 2 or 4"),
        (["--numbers", "1", "-1"], "--numbers: found -1: Input should be greater than or equal to 0"),
        (["--gain-range", "3", "2"], "--gain-range: found [3, 2]: the low end 3.0 is above the high end 2.0"),
        (["--pair", "3"], "argument --pair: expected 2 arguments"),
        (["--bach", "3"], "unrecognized arguments: --bach; did you mean --batch?"),
        (["--compile"], "--compile pays with a --batch only"),
        (["a", "b", "--name", "c"], "--name is for one image, found 2"),
    ],
)
def test_what_is_wrong_names_its_flag(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, *words).startswith(message)


def test_all_problems_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "--batch", "0", "--share", "2", "--mode", "x").splitlines() == [
        "3 problems:",
        "  --batch: found 0: Input should be greater than or equal to 1",
        "  --share: found 2: Input should be less than or equal to 1",
        "  --mode: found 'x': Input should be 'resize' or 'network'",
    ]


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(Work, [])
    assert "the following arguments are required: -o/--out, --opt" in capsys.readouterr().err


def test_help_says_what_the_dataclass_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit, match="0"):
        parse(Work, ["--help"], prog="work", epilog="The end.")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in [
        "Does things.",
        "IMAGE Files",
        "-o DIR, --out DIR Where to",
        "--opt FILE",
        "--set PATH=VALUE",
        "--mode {resize,network}",
        "How (default: resize)",
        "--scale {2,4}",
        "--numbers N [N ...]",
        "--pair X X (default: 0.5 0.333333)",
        "--gain-range X X (default: [1.0, 2.0])",
        "--name NAME",
        "computing fast:",
        "What is for speed.",
        "Nothing here changes results.",
        "--batch N Images at once, 100% sure (default: 1)",
        "--compile, --no-compile",
        "--pin, --no-pin (default: True)",
        "The end.",
    ]:
        assert expected in lines


@dataclass(frozen=True)
class First:
    """Cuts.

    At length.
    """

    source: Annotated[Path, Arg("SRC", positional=True)]
    size: Annotated[int, Field(ge=3)] = 3


@dataclass(frozen=True)
class Second:
    """Counts."""

    sources: Annotated[tuple[Path, ...], Arg("SRC", positional=True)]
    factors: Annotated[tuple[float, ...], Arg("S", nargs="*")] = (1.0,)


def test_subcommands_have_a_dataclass_each(capsys: pytest.CaptureFixture[str]) -> None:
    kinds: dict[str, type[First | Second]] = {"cut": First, "count": Second}
    assert parse_command(kinds, ["cut", "a", "--size", "5"]) == First(Path("a"), 5)
    assert parse_command(kinds, ["count", "a", "b", "--factors"]) == Second((Path("a"), Path("b")), ())
    for words, message in [
        (["cut", "a", "--size", "2"], "tool cut: error: --size: found 2: Input should be greater than or equal to 3"),
        (["cut", "a", "--sizes", "2"], "tool cut: error: unrecognized arguments: --sizes 2; did you mean --size?"),
        (["count"], "tool count: error: the following arguments are required: SRC"),
        (["cup"], "invalid choice: 'cup' (choose from "),
        ([], "required: COMMAND"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            parse_command(kinds, words, prog="tool")
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        parse_command(kinds, ["--help"])
    out = capsys.readouterr().out
    assert "Cuts." in out and "Counts." in out and "At length." not in out


def test_docstrings_tell_of_parameters() -> None:
    def function(first: int, second: int = 0) -> None:
        """Does something.

        Args:
            first: in pixels,
                always.
            second (int): optional: 0 for none.

        Returns:
            nothing: at all.
        """

    class Made:
        """Is made.

        Attributes:
            size: of it.
        """

        def __init__(self, size: int, colour: str) -> None:
            """Makes it.

            Args:
                colour: red.
            """

    assert describe(function) == "Does something."
    assert describe_parameters(function) == {"first": "in pixels, always.", "second": "optional: 0 for none."}
    assert describe(Made) == "Is made." and describe_parameters(Made) == {"size": "of it.", "colour": "red."}
    assert describe_parameters(Computing) == {"batch": "Images at once, 100% sure."}
    assert describe(Computing) == "What is for speed.\n\nNothing here changes results."
    assert describe(RangeSchedule) and not describe(dataclass(type("Bare", (), {})))
