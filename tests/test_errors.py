"""Errors: their family, and the text of a problem."""

import pickle

import pytest

from aln import errors
from aln.errors import AlnError, ConfigError, Problem


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({}, "epochs: is 0"),
        ({"source": "run.yaml"}, "run.yaml: epochs: is 0"),
        ({"source": "run.yaml", "line": 3}, "run.yaml:3: epochs: is 0"),
    ],
)
def test_a_problem_says_where_it_stands(place, expected):
    assert str(Problem(key="epochs", message="is 0", **place)) == expected


@pytest.mark.parametrize(("source", "expected"), [("", "not valid"), ("run.yaml", "run.yaml: not valid")])
def test_a_problem_without_a_key(source, expected):
    assert str(Problem(key="", message="not valid", source=source)) == expected


def test_a_config_error_keeps_all_problems_one_a_line():
    problems = [Problem(key="a", message="is 1"), Problem(key="b", message="is 2", source="f", line=2)]
    error = ConfigError(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "a: is 1\nf:2: b: is 2"


def test_everything_is_an_aln_error():
    classes = [entry for entry in vars(errors).values() if isinstance(entry, type) and issubclass(entry, Exception)]
    assert len(classes) == 10
    assert all(issubclass(entry, AlnError) for entry in classes)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [(errors.RuleError, ValueError), (errors.ConfigError, ValueError), (errors.RegistryError, LookupError)],
)
def test_errors_that_are_builtin_ones_too(error, builtin):
    assert issubclass(error, builtin)


def test_a_config_error_travels_between_processes():
    error = ConfigError([Problem(key="a.b", message="is 3", source="run.yaml", line=2), Problem(key="c", message="no")])
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems
    assert str(again) == str(error) == "run.yaml:2: a.b: is 3\nc: no"
