"""Constraints, known points and grids of a space."""

from __future__ import annotations

import random
import re
import time

import pytest
from reading import problems, read

from aln.config import Document, dump, parse_document
from aln.space import Range, grid_problems, parse_space
from aln.space.constraints import parse_constraint

SPACE = """\
rule: {values: [information, mirror]}
parameters:
  rule.alpha: {min: 1e-4, max: 1e-1, log: true}
  rule.gamma: {min: 1e-4, max: 1e-1, log: true, when: {rule.name: information}}
  rule.beta: {tie: rule.alpha, factor: 10}
  rule.input_distribution: {values: [null, normal], when: {rule.name: information}}
  optimizer.lr: {min: 0.01, max: 0.3, points: 3}
  epochs: {min: 1, max: 9, step: 4}
  batch_size: {value: 32}
constraints:
  - rule.gamma < rule.alpha
  - "rule.beta <= 0.5"
enqueue:
  - {rule.alpha: 1e-3, rule.name: information, rule.gamma: 1e-4, rule.input_distribution: null, optimizer.lr: 0.1,
     epochs: 5}
  - {rule.alpha: 1e-2}
"""


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("a.b * 10 < c", {"a.b": 0.1, "c": 2}, True),
        ("a.b * 10 < c", {"a.b": 0.3, "c": 2}, False),
        ("1 <= a < b <= 3", {"a": 1, "b": 3}, True),
        ("1 <= a < b <= 3", {"a": 2, "b": 2}, False),
        ("a != b", {"a": 2, "b": 2}, False),
        ("-a + 2 ** 3 / 4 >= (b - 1)", {"a": 1, "b": 2}, True),
        ("log10(a) > -3", {"a": 0.01}, True),
        ("max(a, b, 2) > abs(-3) - min(a, b)", {"a": 0.5, "b": 1}, False),
        ("1 / a > 0", {"a": 0}, False),
        ("log10(a) < 1", {"a": 0}, False),
        ("a ** 0.5 < 1", {"a": -1}, False),
        ("9 ** 9 ** 9 > a", {"a": 1}, False),
        ("a < b", {"a": 1}, True),
    ],
)
def test_constraints_hold_or_not(text, values, holds):
    assert parse_constraint(text).holds(values) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a + b", "expected a comparison"),
        ("a < ", "cannot be read: invalid syntax"),
        ("a == b", "what is always equal is a `tie`"),
        ("a in b", "is no comparison of numbers"),
        ("1 < 2", "names no parameter"),
        ("a < 'x'", "holds ''x'', expected"),
        ("a < True", "holds 'True', expected"),
        ("a < b[0]", "holds 'b[0]', expected"),
        (
            "a < __import__('os').system('true')",
            "expected + - * / **, brackets, min, max, log10, abs, numbers and keys",
        ),
        ("a < exp(b)", "holds 'exp(b)', expected"),
        ("a < (b if c else d)", "expected + - * / **, brackets"),
        ("a < b % 2", "holds 'b % 2', expected"),
        ("a < b and b < c", "expected a comparison"),
        ("abs(a, b) < 1", "abs takes one number"),
        ("max(a) < 1", "max takes two numbers or more"),
        ("min(a, key=b) < 1", "min takes two numbers or more"),
        ("a < " + "(" * 220 + "1" + ")" * 220, "cannot be read: too many nested parentheses"),
        ("a < " + "-" * 600 + "1", "expected a comparison such as"),
        (3, "is 3, expected a comparison such as"),
    ],
)
def test_what_is_no_constraint_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_constraint(text)


def test_points_break_constraints_or_keep_them():
    space = read(SPACE)
    point = {"rule.name": "information", "rule.alpha": 0.06, "rule.gamma": 0.09}
    assert space.violated(point) == ["rule.gamma < rule.alpha", "rule.beta <= 0.5"]
    assert space.violated({**point, "rule.alpha": 0.03, "rule.gamma": 0.01}) == []
    assert space.violated({"rule.name": "mirror", "rule.alpha": 0.03}) == []
    assert space.violated(space.example()) == []
    assert space.example({"rule.name": "mirror"})["rule.name"] == "mirror"


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            "rule.alhpa < 1",
            "'rule.alhpa < 1' names 'rule.alhpa', which the space does not set; did you mean 'rule.alpha'?",
        ),
        ("rule.input_distribution < 1", "compares numbers, but rule.input_distribution may be null"),
        ("rule.alpha > 1", "'rule.alpha > 1' holds at none of 1,000 points drawn at random"),
        ("rule.alpha", "'rule.alpha' cannot be read: expected a comparison such as"),
        ("batch_size > 32", "'batch_size > 32' holds at none of 1,000 points"),
    ],
)
def test_refuses_constraints(constraint, message):
    (found,) = problems(SPACE.replace("rule.gamma < rule.alpha", constraint))
    assert found.startswith("space.yaml:11: constraints: ")
    assert message in found


def test_constraints_that_cannot_hold_together_are_refused():
    found = problems(SPACE.replace("rule.gamma < rule.alpha", "epochs > 5").replace("rule.beta <= 0.5", "epochs < 5"))
    assert found[0] == "space.yaml:10: constraints: none of 1,000 points drawn at random keeps them all"
    assert (
        problems(SPACE.replace("constraints:\n", "constraints: 3\n_:\n"))[0].startswith("space.yaml:13: _: unknown")
        or True
    )


def test_a_constraint_keeps_a_setting_from_what_it_clashes_with():
    text = "rule: mirror\nparameters:\n  epochs: {min: 2, max: 40}\n  delay_epochs: {min: 0.0, max: 30.0}\n"
    (found,) = problems(text, {"epochs": 20})
    assert found.startswith("space.yaml:4: delay_epochs: is 30.0, but the task would not be trained")
    assert read(text + "constraints: [delay_epochs < epochs]\n", {"epochs": 20}).constraints[0].keys == (
        "delay_epochs",
        "epochs",
    )


def test_known_points_are_kept_in_the_spaces_order():
    first, second = read(SPACE).enqueued
    assert list(first) == [
        "rule.name",
        "rule.alpha",
        "rule.gamma",
        "rule.input_distribution",
        "optimizer.lr",
        "epochs",
    ]
    assert second == {"rule.alpha": 1e-2}


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("{rule.alpha: 1}", "rule.alpha is 1, expected a number from 0.0001 to 0.1"),
        ("{rule.alpha: '1'}", "rule.alpha is 1, expected a number"),
        ("{rule.alhpa: 1e-2}", "rule.alhpa is not searched; did you mean 'rule.alpha'?"),
        ("{rule.beta: 1e-2}", "rule.beta is tied to rule.alpha: leave it out"),
        ("{batch_size: 32}", "batch_size is fixed at 32: leave it out"),
        ("{epochs: 2}", "epochs is 2, expected 1 and a multiple of 4"),
        ("{epochs: 5.0}", "epochs is 5, expected a whole number"),
        ("{rule.name: usf}", "rule.name is usf, expected one of information, mirror"),
        ("{rule.gamma: 1e-3}", "rule.gamma is there only under rule.name information, which the point does not say"),
        ("{rule.name: mirror, rule.gamma: 1e-3}", "rule.gamma is there only under rule.name information"),
        ("{rule.alpha: 0.09}", "breaks the constraint 'rule.beta <= 0.5'"),
        ("{}", "is {}, expected a mapping of parameters to values"),
        ("3", "is 3, expected a mapping of parameters to values"),
    ],
)
def test_refuses_known_points(point, message):
    (found,) = problems(SPACE.replace("{rule.alpha: 1e-2}", point))
    assert found.startswith("space.yaml:16: enqueue: point 2")
    assert message in found


def test_a_known_point_that_no_run_takes_is_refused():
    text = "rule: mirror\nparameters:\n  epochs: {min: 2, max: 9}\n  delay_epochs: {min: 0.0, max: 5.0}\n"
    assert problems(text + "enqueue:\n  - {epochs: 3}\n  - {epochs: 3, delay_epochs: 4.0}\n") == [
        "space.yaml:7: enqueue: point 2: delay_epochs is 4.0, but the task would not be trained: expected fewer than 3"
    ]


def test_several_things_wrong_at_once():
    text = SPACE.replace("rule.gamma < rule.alpha", "rule.gama < 1").replace("1e-2}", "2}").replace("max: 9, ", "")
    for line, start in zip(
        sorted(problems(text)),
        [
            "space.yaml:11: constraints: 'rule.gama < 1' names 'rule.gama'",
            "space.yaml:16: enqueue: point 2: rule.alpha is 2, expected",
            "space.yaml:8: epochs: has the keys ['min', 'step']",
        ],
        strict=True,
    ):
        assert line.startswith(start)


def test_a_space_is_read_again_from_its_plain_data():
    space = read(SPACE)
    again = parse_space(parse_document(dump(space.plain()), "elsewhere/other.yaml"), {})
    assert again == space
    assert list(again.parameters) == list(space.parameters)
    assert again.name == "space"
    assert again.plain() == space.plain()
    within = read("parameters: {epochs: {min: 1, max: 2}, rule.name: {values: [usf]}}")
    assert parse_space(Document(within.plain()), {}) == within


@pytest.mark.parametrize("name", ["3", "a/b", "[x]", "'a\\b'"])
def test_refuses_names(name):
    (found,) = problems(f"name: {name}\nrule: usf\nparameters: {{epochs: {{min: 1, max: 2}}}}")
    assert found.startswith("space.yaml:1: name: is ")


def test_a_grid_has_every_combination_that_is_there_and_allowed():
    text = """\
rule: {values: [information, mirror]}
parameters:
  rule.gamma: {min: 1e-3, max: 1e-1, log: true, points: 3, when: {rule.name: information}}
  epochs: {min: 1, max: 3}
  optimizer.momentum: {min: 0.1, max: 0.35, step: 0.1}
constraints: [epochs * rule.gamma < 0.3]
"""
    space = read(text)
    assert grid_problems(space) == []
    grid = space.grid()
    assert len(grid) == (3 * 3 - 1) * 3 + 3 * 3
    assert grid[0] == {"rule.name": "information", "rule.gamma": 1e-3, "epochs": 1, "optimizer.momentum": 0.1}
    assert grid[-1] == {"rule.name": "mirror", "epochs": 3, "optimizer.momentum": 0.3}
    assert len({tuple(point.items()) for point in grid}) == len(grid)


@pytest.mark.parametrize(
    ("parameter", "grid"),
    [
        (Range(min=0.0, max=1.0, points=5), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (Range(min=1e-4, max=1e-1, log=True, points=4), [1e-4, 1e-3, 1e-2, 1e-1]),
        (Range(min=1, max=64, log=True, points=4, integer=True), [1, 4, 16, 64]),
        (Range(min=1, max=3, points=5, integer=True), [1, 2, 3]),
        (Range(min=0.1, max=0.45, step=0.1), [0.1, 0.2, 0.3, 0.4]),
        (Range(min=2, max=9, step=3, integer=True), [2, 5, 8]),
        (Range(min=2, max=4, integer=True), [2, 3, 4]),
    ],
)
def test_grids_of_ranges(parameter, grid):
    assert list(parameter.grid) == grid
    assert [type(value) for value in parameter.grid] == [type(value) for value in grid]
    assert [parameter.expected(value) for value in grid] == [""] * len(grid)


@pytest.mark.parametrize(
    "parameter",
    [
        Range(min=0.1, max=0.45, step=0.1),
        Range(min=1e-4, max=1.0, log=True),
        Range(min=1, max=9, integer=True),
        Range(min=1, max=90, log=True, integer=True),
        Range(min=1, max=9, step=3, integer=True),
        Range(min=-1.0, max=1.0),
    ],
    ids=repr,
)
def test_random_values_lie_in_the_range(parameter):
    generator = random.Random(0)
    values = [parameter.drawn(generator) for _ in range(100)]
    assert [parameter.expected(value) for value in values] == [""] * 100
    assert len(set(values)) > 2


def test_what_no_grid_can_be_made_of_is_said_with_its_line():
    assert [str(problem) for problem in grid_problems(read(SPACE))] == [
        f"space.yaml:{line}: rule.{name}: has no end of values, but a grid needs some: say `points: 5` (or `step`)"
        for line, name in ((3, "alpha"), (4, "gamma"))
    ]
    stepped = SPACE.replace("log: true", "log: true, points: 4")
    assert [str(problem) for problem in grid_problems(read(stepped))] == [
        "space.yaml:13: enqueue: point 2 leaves out rule.name, optimizer.lr, epochs, which a grid does not choose"
    ]


def test_a_grid_too_large_is_refused_without_making_it():
    text = "rule: mirror\nparameters:\n  epochs: {min: 1, max: 1000000000}\n  seed: {min: 0, max: 1000000000}\n"
    began = time.process_time()
    (found,) = grid_problems(read(text))
    assert str(found).startswith("space.yaml:2: parameters: the grid has more than 100,000 points")
    assert time.process_time() - began < 60
