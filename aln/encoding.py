"""Points and parameters of a search space in Optuna's words, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from aln.space import Parameter, Range, SearchSpace
from aln.space.parameters import frozen, listed


def suggested(trial: optuna.Trial, key: str, parameter: Parameter) -> Any:
    """The sampler's choice."""
    if isinstance(parameter, Range):
        wanted = _of_range(parameter)
        if isinstance(wanted, IntDistribution):
            return trial.suggest_int(key, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
        return trial.suggest_float(key, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    choices = _choices(parameter.values)
    return parameter.values[choices.index(trial.suggest_categorical(key, choices))]


def distribution(parameter: Parameter) -> BaseDistribution:
    """The parameter as Optuna has it."""
    return _of_range(parameter) if isinstance(parameter, Range) else CategoricalDistribution(_choices(parameter.values))


def _of_range(parameter: Range) -> IntDistribution | FloatDistribution:
    low, high, log, step = parameter.min, parameter.max, parameter.log, parameter.step
    if parameter.integer:
        steps = (high - low) // (step or 1) * (step or 1)
        return IntDistribution(int(low), int(low + steps), log=log, step=int(step or 1))
    # Optuna warns of an end that is no multiple of steps away.
    return FloatDistribution(float(low), float(high if step is None else parameter.last), log=log, step=step)


def fitted(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Values from elsewhere as a point of this space; None if they are none."""
    values = frozen(values)
    point = space.choose(lambda key, _: values.get(key))
    wrong = any(key not in values or space.parameters[key].expected(value) for key, value in point.items())
    return None if wrong or point.keys() != values.keys() or space.violated(point) else point


def encoded(parameters: Mapping[str, Parameter], point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as Optuna has it."""

    def value(key: str) -> Any:
        parameter = parameters[key]
        if isinstance(parameter, Range):
            return point[key]
        place = next(i for i, other in enumerate(parameter.values) if listed(point[key], (other,)))
        return _choices(parameter.values)[place]

    return {key: value(key) for key in point}


def _choices(values: tuple[Any, ...]) -> list[Any]:
    """Categories as Optuna can keep them and tell apart: what is neither a number nor a text as JSON.

    True and false too, if they stand beside numbers, which they would equal.
    """
    kinds = {type(value) for value in values}
    plain = (
        (str, int, float, type(None)) if bool in kinds and kinds & {int, float} else (str, int, float, bool, type(None))
    )
    return [value if type(value) in plain else json.dumps(value) for value in values]
