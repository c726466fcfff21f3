"""Points and parameters of a space in Optuna's words, and back."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from aln.encoding import distribution, encoded, fitted, suggested
from aln.space import Choice, Parameter, Range, SearchSpace
from aln.space.constraints import parse_constraint

SPACE = SearchSpace(
    name="s",
    rule="mirror",
    parameters={
        "a": Range(min=0.0, max=1.0),
        "b": Choice(values=("x", (1, 2))),
        "c": Range(min=1, max=9, integer=True, when={"b": ("x",)}),
    },
    fixed={},
    constraints=(parse_constraint("a < 0.9"),),
)


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (Range(min=1e-4, max=1, log=True), FloatDistribution(1e-4, 1.0, log=True)),
        (Range(min=0, max=0.9, step=0.25), FloatDistribution(0.0, 0.75, step=0.25)),
        (Range(min=0.1, max=0.7, step=0.2), FloatDistribution(0.1, 0.7, step=0.2)),
        (Range(min=16, max=64, integer=True), IntDistribution(16, 64)),
        (Range(min=16, max=64, integer=True, log=True), IntDistribution(16, 64, log=True)),
        (Range(min=16, max=64, integer=True, step=20), IntDistribution(16, 56, step=20)),
        (Choice(values=("sgd", None, 1.5)), CategoricalDistribution(["sgd", None, 1.5])),
        (Choice(values=(True, False)), CategoricalDistribution([True, False])),
        (Choice(values=((1, 2), ())), CategoricalDistribution(["[1, 2]", "[]"])),
    ],
    ids=str,
)
def test_parameters_are_distributions(parameter: Parameter, expected: optuna.distributions.BaseDistribution) -> None:
    """Without a warning of Optuna's: each would be an error here."""
    assert distribution(parameter) == expected


@pytest.mark.parametrize("values", [(1, True, 0, False), ((1, 2), (1.5,), None, "a"), (False, 0.5)], ids=str)
def test_every_value_is_suggested_as_what_it_is(values: tuple) -> None:
    parameter = Choice(values=values)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for value in values:
        study.enqueue_trial(encoded({"k": parameter}, {"k": value}))
        found = suggested(study.ask(), "k", parameter)
        assert found == value
        assert type(found) is type(value)


def test_equal_numbers_are_one_value() -> None:
    assert encoded({"k": Choice(values=(0.5, 1.0))}, {"k": 1}) == {"k": 1.0}


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ({"a": 0.5, "b": "x", "c": 3}, True),
        ({"a": 0.5, "b": [1, 2]}, True),
        ({"a": 0, "b": [1, 2]}, True),
        ({"a": 0.5, "b": [1, 2], "c": 3}, False),  # `c` is there under `b=x` alone
        ({"a": 0.5, "b": "x"}, False),
        ({"a": 0.95, "b": [1, 2]}, False),  # breaks the constraint
        ({"a": 1.5, "b": [1, 2]}, False),
        ({"a": 0.5, "b": "y", "c": 3}, False),
        ({"a": 0.5, "b": "x", "c": 3.5}, False),
        ({"a": 0.5, "b": [1, 2], "d": 1}, False),
        ({}, False),
    ],
    ids=str,
)
def test_only_points_of_the_space_fit_it(values: dict, fits: bool) -> None:
    found = fitted(SPACE, values)
    assert (found is not None) is fits
    if fits and isinstance(values["b"], list):
        assert found == {"a": values["a"], "b": (1, 2)}
