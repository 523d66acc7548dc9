"""Option files: what is read, what is refused and how it is said, inheritance, overrides."""

import os
from pathlib import Path
from typing import Any

import pytest

from utils.options.fields import OptionError
from utils.options.files import differences, dump, load, merge, parse


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1e5", 1e5),
        ("+1.5e3", 1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("12", 12),
        ("true", True),
        ("null", None),
        ("2020-01-01", "2020-01-01"),
        ("'2e-4'", "2e-4"),
        ("e5", "e5"),
        ("[1, 2.5]", [1, 2.5]),
    ],
)
def test_yaml_values(text: str, value: object) -> None:
    found = parse(f"a: {text}", "f.yml")["a"]
    assert found == value and type(found) is type(value)


def test_json_comments_spare_strings() -> None:
    text = '// head\n{"root": "/data//x", "url": "http://a" /* "no" */}'
    with pytest.raises(OptionError, match=r"f\.json: cannot be parsed: .*line 2"):
        parse(text, "f.json", json_syntax=True)
    text = '// head\n{"root": "/data//x", // tail "quoted"\n "quote": "a\\"//b"}'
    assert parse(text, "f.json", json_syntax=True) == {"root": "/data//x", "quote": 'a"//b'}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['touch evil']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: &x [1]\nb: *x", r"aliases \(\*name\) are not read; use `base:`"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice"),
        ("a: {b: 1, b: 2}", "line 1: 'b' is given twice"),
        ("a: [1", "cannot be parsed"),
        ("a: !!int x", "cannot be parsed"),
        ("a: !!bool x", "cannot be parsed"),
        ("a: !!timestamp x", "cannot be parsed"),
        ("a: " + "9" * 5000, "cannot be parsed"),
        ("- " * 60 + "1", "nested deeper than 40"),
        ("[" * 1000, "nested deeper than 40"),
        ("a:\n  " + "{a: " * 45 + "1" + "}" * 45, "nested deeper than 40"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=rf"^f\.yml: .*{message}"):
        parse(text, "f.yml")
    assert not (tmp_path / "evil").exists()


def test_aliases_cannot_unfold() -> None:
    bomb = "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    with pytest.raises(OptionError, match="aliases"):
        parse(bomb, "f.yml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
        ('{"a": 1,}', "cannot be parsed"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be parsed"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested deeper than 40"),
        ("[" * 100000, "nested deeper than 40"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=rf"^f\.json: .*{message}"):
        parse(text, "f.json", json_syntax=True)


def test_mappings_merge_over_base_and_lists_replace(tmp_path: Path) -> None:
    write(tmp_path, "base/a.yml", "steps: {blur: {prob: 1, size: 21}, jpeg: {prob: 0.5}}\nlist: [1, 2]\nseed: 1\n")
    child = write(
        tmp_path,
        "child.yml",
        "base: base/a.yml\nsteps: {blur: {prob: 0.2}, noise: {prob: 1}, jpeg: null}\nlist: [3]\n",
    )
    assert load(child) == {
        "steps": {"blur": {"prob": 0.2, "size": 21}, "jpeg": None, "noise": {"prob": 1}},
        "list": [3],
        "seed": 1,
    }
    assert list(load(child)["steps"]) == ["blur", "jpeg", "noise"]  # order is that of the base, new ones at the end


def test_several_bases_and_json_below_yaml(tmp_path: Path) -> None:
    write(tmp_path, "a.yml", "x: 1\ny: 1\nz: 1\n")
    write(tmp_path, "b.json", '{"base": "c.yml", "y": 2, "z": 2 // two\n}')
    write(tmp_path, "c.yml", "w: 0\ny: 0\n")
    assert load(write(tmp_path, "top.yml", "base: [a.yml, b.json]\nz: 3\n")) == {"x": 1, "w": 0, "y": 2, "z": 3}
    assert load(write(tmp_path, "none.yml", "base: null\nz: 3\n")) == {"z": 3}


def test_another_type_replaces_the_whole_mapping() -> None:
    base = {"network_g": {"type": "rrdbnet", "num_block": 23}}
    assert merge(base, {"network_g": {"type": "srvgg", "num_conv": 32}}) == {
        "network_g": {"type": "srvgg", "num_conv": 32}
    }
    assert merge(base, {"network_g": {"type": "rrdbnet", "num_feat": 32}}) == {
        "network_g": {"type": "rrdbnet", "num_block": 23, "num_feat": 32}
    }
    assert merge(base, {"network_g": {"num_block": 6}})["network_g"] == {"type": "rrdbnet", "num_block": 6}
    assert base == {"network_g": {"type": "rrdbnet", "num_block": 23}}  # nothing is written into


def test_set_overrides_above_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yml", "degradation: {steps: {jpeg: {prob: 1, quality: [30, 95]}}}\nname: a\n")
    found = load(path, ["degradation.steps.jpeg.prob=0", "degradation.steps.blur=null", " new . x = 2e-4", "name=b=c"])
    assert found["degradation"]["steps"] == {"jpeg": {"prob": 0, "quality": [30, 95]}, "blur": None}
    assert found["new"] == {"x": 2e-4} and found["name"] == "b=c"
    assert load(path, ["degradation.steps.jpeg.quality=[50, 60]"])["degradation"]["steps"]["jpeg"]["quality"] == [
        50,
        60,
    ]


@pytest.mark.parametrize("text", ["no_equals", "=1", "a..b=1", ".a=1", "a.=1", " =1", "a=[1", "a=!!python/name:os.x"])
def test_set_that_is_refused_repeats_what_was_typed(tmp_path: Path, text: str) -> None:
    with pytest.raises(OptionError) as refused:
        load(write(tmp_path, "a.yml", "x: 1\n"), [text])
    assert str(refused.value).startswith(f"--set {text}: ")


def test_a_circle_of_bases_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yml", "base: b.yml\n")
    write(tmp_path, "b.yml", "base: [c.yml]\n")
    write(tmp_path, "c.yml", "base: a.yml\n")
    with pytest.raises(OptionError, match=r"circle: a\.yml -> b\.yml -> c\.yml -> a\.yml"):
        load(path)


def test_a_base_used_twice_is_no_circle(tmp_path: Path) -> None:
    for name in ("b", "c"):
        write(tmp_path, f"{name}.yml", f"base: d.yml\n{name}: 1\n")
    write(tmp_path, "d.yml", "d: 1\n")
    assert load(write(tmp_path, "a.yml", "base: [b.yml, c.yml]\n")) == {"d": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: gone.yml\n", r"gone\.yml: no such option file \(named by `base:` in .*a\.yml\)"),
        ("base: 5\n", r"a\.yml: base: found \[5\], expected a file name"),
        ("base: [1]\n", r"a\.yml: base: found \[1\], expected a file name"),
        ("base: {x: 1}\n", r"a\.yml: base: found .*expected a file name"),
        ("", r"a\.yml: found NoneType at the top level, expected a mapping"),
        ("[1]", r"a\.yml: found list at the top level"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load(write(tmp_path, "a.yml", text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yml").write_bytes(b"a: \xff\n")
    with pytest.raises(OptionError, match=r"latin\.yml: cannot be read as text; save it as UTF-8"):
        load(tmp_path / "latin.yml")
    with pytest.raises(OptionError, match=r"gone\.yml: no such option file$"):
        load(tmp_path / "gone.yml")
    with pytest.raises(OptionError, match="is a folder, expected an option file"):
        load(os.fspath(tmp_path))


@pytest.mark.parametrize(
    "value",
    ["2e-4", "1e5", ".5e3", "-.5", "no", "1.5", "0x1", "1:30", "2020-01-01", "a: b #c", "é×", "x y " * 100, "", "null"],
)
def test_dump_is_read_back_as_the_same_text(value: str) -> None:
    assert parse(dump({"a": [value]}), "f.yml") == {"a": [value]}


@pytest.mark.parametrize("value", [1e-5, 2e-4, 1e22, 5e-324, 0.1, -3, 10**18, True, None, [], {}, {"b": [{"c": 1}]}])
def test_dump_is_read_back_as_the_same_value(value: Any) -> None:  # noqa: ANN401
    found = parse(dump({"z": value, "a": value}), "f.yml")
    assert list(found) == ["z", "a"]
    assert found["z"] == value and type(found["z"]) is type(value)


def test_differences_name_both_values() -> None:
    old = {"data": {"crop_size": 320, "same": 1}, "gone": 1}
    new = {"data": {"crop_size": 400, "same": 1}, "new": 2}
    assert differences(old, new) == [
        "data.crop_size: was 320, is 400",
        "gone: was 1, is None",
        "new: was None, is 2",
    ]
    assert differences(old, dict(old)) == []
    assert differences(old, new, apart_from=["data.crop_size", "new"]) == ["gone: was 1, is None"]
    # A path stands for all below it, not for whatever begins alike.
    assert differences(old, new, apart_from=["data", "go", "n"]) == ["gone: was 1, is None", "new: was None, is 2"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_files_from_windows(tmp_path: Path, encoding: str) -> None:
    """Marked and in UTF-16 (PowerShell), with backslashes in `base:`."""
    marked = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    write(tmp_path, "sub/base.yml", "a: 1\n")
    (tmp_path / "x.yml").write_bytes(marked + "base: sub\\base.yml\r\nb: é\r\n".encode(encoding))
    (tmp_path / "x.json").write_bytes(
        marked + '{\r\n "base": "sub\\\\base.yml", // note\r\n "b": "é"}'.encode(encoding)
    )
    assert load(tmp_path / "x.yml") == load(tmp_path / "x.json") == {"a": 1, "b": "é"}
