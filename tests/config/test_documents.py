"""Reading YAML: numbers, duplicate keys, lines, and settings laid over a document."""

import math

import pytest

from aln.config import Document, dump, parse_document, parse_value, read_document, set_at, with_settings
from aln.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-5", 1e-5),
        ("-2E+3", -2000.0),
        ("1e3", 1000.0),
        ("+1e2", 100.0),
        ("1.5e2", 150.0),
        ("1.e2", 100.0),
        (".5e3", 500.0),
        ("1_0e2", 1000.0),
        ("-.5E-1", -0.05),
        ("0.25", 0.25),
        ("3", 3),
    ],
)
def test_numbers(text, number):
    value = parse_document(f"key: {text}").content["key"]
    assert value == parse_value(text) == number
    assert type(value) is type(number)


@pytest.mark.parametrize("text", ["1e5abc", "e5", "-e5", "1e", "1e+", ".e5", "1e5e5", "1 e5", "x1e5"])
def test_what_only_resembles_a_number_stays_a_string(text):
    assert parse_document(f"key: {text}").content["key"] == text


def test_a_quoted_number_stays_a_string():
    assert parse_document("key: '1e5'").content["key"] == "1e5"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("", None),
        ("true", True),
        ("[1, 2e0]", [1, 2.0]),
        ("{a: 1}", {"a": 1}),
        ("adam", "adam"),
        ("[1, 2", "[1, 2"),  # not YAML: taken as it is
    ],
)
def test_parse_value(text, value):
    assert parse_value(text) == value


def test_parse_value_knows_nan():
    assert math.isnan(parse_value(".nan"))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError, match=r"^f\.yaml") as caught:
        parse_document(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_duplicates_are_refused_all_at_once_with_both_lines():
    found = problems("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\na: 3\n")
    assert found == [
        "f.yaml:5: b.c: stands twice (first on line 3)",
        "f.yaml:6: a: stands twice (first on line 1)",
        "f.yaml:7: a: stands twice (first on line 1)",
    ]


def test_duplicates_inside_lists_are_found():
    assert problems("a:\n- {x: 1}\n- {x: 1, x: 2}\n") == ["f.yaml:3: a.1.x: stands twice (first on line 3)"]


def test_the_same_key_in_two_mappings_is_no_duplicate():
    assert parse_document("a: {x: 1}\nb: {x: 2}\nc: [{x: 1}, {x: 2}]").content["b"] == {"x": 2}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: [1, 2\nc: 3\n", 3), ("a: 1\n\tb: 2\n", 2), ("a: 1\nb: *nothing\n", 2), ("a: 1\n---\nb: 1\n", 2)],
)
def test_bad_yaml_names_its_line(text, line):
    (found,) = problems(text)
    assert found.startswith(f"f.yaml:{line}: not valid YAML: ")


def test_a_control_character_is_bad_yaml():
    (found,) = problems("a: \0\n")
    assert found.startswith("f.yaml: not valid YAML: ")


@pytest.mark.parametrize("text", ["a: 1\nb: 2020-13-45\n", "a: 1\nb: !!int abc\n", "a: !!float x\n"])
def test_a_value_that_its_type_cannot_hold_is_bad_yaml(text):
    assert len(problems(text)) == 1


def test_a_setting_that_only_resembles_a_date_stays_a_string():
    assert parse_value("2020-13-45") == "2020-13-45"


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a {b: *a}\n"])
def test_a_value_that_holds_itself_is_refused(text):
    assert len(problems(text)) == 1


@pytest.mark.parametrize(("text", "kind"), [("- 1\n", "list"), ("abc", "str"), ("3", "int"), ("[]", "list")])
def test_only_mappings_are_documents(text, kind):
    assert problems(text) == [f"f.yaml: expected a mapping of keys to values, found {kind}"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "null"])
def test_an_empty_document_is_an_empty_mapping(text):
    document = parse_document(text)
    assert document.content == {}
    assert document.line(["a"]) is None


def test_lines_are_those_of_the_deepest_known_part():
    document = parse_document("a:\n  b: 1\n  c:\n  - x\n  - d: 2\n")
    lines = {path: document.line(path) for path in [("a",), ("a", "b"), ("a", "b", "no"), ("a", "c", 1), ("no",), ()]}
    assert lines == {("a",): 1, ("a", "b"): 2, ("a", "b", "no"): 2, ("a", "c", 1): 5, ("no",): None, (): None}


def test_read_document(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: ä\nlr: 1e-2\n", encoding="utf-8")
    document = read_document(path)
    assert document.content == {"name": "ä", "lr": 0.01}
    assert document.source == str(path)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [("missing", "there is no such file"), ("binary", "cannot be read: "), ("folder", "cannot be read: ")],
)
def test_an_unreadable_file_is_named(tmp_path, kind, problem):
    path = tmp_path / "run.yaml"
    if kind == "binary":
        path.write_bytes(b"\xff\xfe\x00\x80\x81")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ConfigError, match=rf"run\.yaml: {problem}"):
        read_document(path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], {"model": {"name": "resnet8", "width": 8}, "epochs": 3}),
        (["epochs=1e1"], {"model": {"name": "resnet8", "width": 8}, "epochs": 10.0}),
        (["model.width=4"], {"model": {"name": "resnet8", "width": 4}, "epochs": 3}),
        (["model=mlp"], {"model": "mlp", "epochs": 3}),
        (["model=mlp", "model.depth=3"], {"model": {"name": "mlp", "depth": 3}, "epochs": 3}),
        (["model.name=mlp"], {"model": {"name": "mlp"}, "epochs": 3}),
        (["model.name=resnet8"], {"model": {"name": "resnet8", "width": 8}, "epochs": 3}),
        (["a.b.c=x=y"], {"model": {"name": "resnet8", "width": 8}, "epochs": 3, "a": {"b": {"c": "x=y"}}}),
        (["epochs="], {"model": {"name": "resnet8", "width": 8}, "epochs": None}),
        (["epochs=4", "epochs=5"], {"model": {"name": "resnet8", "width": 8}, "epochs": 5}),
    ],
)
def test_settings(settings, expected):
    document = parse_document("model: {name: resnet8, width: 8}\nepochs: 3\n", "f.yaml")
    changed = with_settings(document, settings)
    assert changed.content == expected
    assert (changed.source, changed.lines) == (document.source, document.lines)
    assert document.content == {"model": {"name": "resnet8", "width": 8}, "epochs": 3}


def test_a_section_that_settings_alone_made_stands_on_the_command_line():
    document = parse_document("model: {name: resnet8}\n", "f.yaml")
    changed = with_settings(document, ["clip.norm=1", "clip.value=1", "model.width=0"])
    assert changed.place("clip") == changed.place("clip.norm") == ("--set", None)
    assert changed.place("model") == ("f.yaml", 1)
    assert changed.place("noise") == ("f.yaml", None)


def test_every_malformed_setting_is_named():
    with pytest.raises(ConfigError, match="expected key=value") as caught:
        with_settings(Document({}), ["epochs", "=3", "a..b=3", ".a=1", "seed=1"])
    assert [str(problem) for problem in caught.value.problems] == [
        f"--set: {setting}: expected key=value" for setting in ("epochs", "=3", "a..b=3", ".a=1")
    ]


def test_set_at_turns_a_name_into_a_section():
    content = {"model": "mlp"}
    set_at(content, "model.width", 5)
    assert content == {"model": {"name": "mlp", "width": 5}}


def test_set_at_makes_missing_sections():
    content = {"rule": None}
    set_at(content, "rule.alpha", 0.1)
    set_at(content, "compute.device", "cpu")
    assert content == {"rule": {"alpha": 0.1}, "compute": {"device": "cpu"}}


def test_dump_is_read_back_as_it_was():
    content = {"z": 1e-5, "a": {"b": [1, 2.5, None, True], "d": "ä"}, "e": "null", "f": 1e20}
    text = dump(content)
    assert parse_document(text).content == content
    assert list(parse_document(text).content) == list(content)
    assert "ä" in text


@pytest.mark.parametrize("text", ["1e-5", "1e5", "1.5", "true", "null", "", "2020-01-01", "a: b"])
def test_dump_keeps_strings_that_resemble_something_else(text):
    assert parse_document(dump({"key": text})).content == {"key": text}
