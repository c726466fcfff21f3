"""What a sweep's sampler cannot search is said before anything starts, and is what Optuna's sampler really does."""

from __future__ import annotations

import warnings

import optuna
import pytest
from reading import read

from aln.config import parse_document, parse_sweep
from aln.space import Choice, SearchSpace, sampler_problems

SPACES = {
    "ranges": "rule: mirror\nparameters:\n  rule.alpha: {min: 1e-4, max: 1}\n  epochs: {min: 2, max: 9}\n",
    "values": "rule: mirror\nparameters:\n  rule.alpha: {min: 1e-4, max: 1}\n  seed: {values: [0, 1, 2]}\n",
    "conditions": "rule: mirror\nparameters:\n  epochs: {min: 2, max: 9}\n"
    "  rule.alpha: {min: 1e-4, max: 1, when: {epochs: [2, 3, 4, 5]}}\n",
}
CANNOT = {("cmaes", "values"), ("cmaes", "conditions"), ("gp", "conditions"), ("qmc", "conditions")}


def found(sampler: str, space: SearchSpace, more: str = "") -> list[str]:
    return [str(p) for p in sampler_problems(parse_sweep(parse_document(f"sampler: {sampler}\n{more}"))[0], space)]


@pytest.mark.parametrize("space", sorted(SPACES))
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp", "qmc"])
def test_refuses_what_optuna_would_draw_at_random(sampler, space, caplog):
    parsed = read(SPACES[space])
    refused = found(sampler, parsed)
    assert bool(refused) is ((sampler, space) in CANNOT)
    assert all(line.startswith("space.yaml:4: ") for line in refused)
    complaints = optunas_complaints(sampler, parsed, caplog)
    assert bool(complaints) is bool(refused)


def optunas_complaints(name: str, space: SearchSpace, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What Optuna logs when its sampler goes over the space for a while and falls back to random values."""
    samplers = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=0, n_startup_trials=4, multivariate=True, group=True),
        "random": lambda: optuna.samplers.RandomSampler(seed=0),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=0, n_startup_trials=4),
        "gp": lambda: optuna.samplers.GPSampler(seed=0, n_startup_trials=4),
        "qmc": lambda: optuna.samplers.QMCSampler(seed=0, scramble=True),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=samplers[name]())
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    caplog.clear()
    for number in range(14):
        trial = study.ask()

        def suggest(key, parameter, trial=trial):
            if isinstance(parameter, Choice):
                return trial.suggest_categorical(key, parameter.values)
            if parameter.integer:
                return trial.suggest_int(key, parameter.min, parameter.max)
            return trial.suggest_float(key, parameter.min, parameter.max)

        space.choose(suggest)
        study.tell(trial, float(number))
    return [line for line in (record.message for record in caplog.records) if "independently" in line]


def test_a_grid_may_have_conditions_and_values_but_needs_steps():
    assert found("grid", read(SPACES["values"])) == [
        "space.yaml:3: rule.alpha: has no end of values, but a grid needs some: say `points: 5` (or `step`)"
    ]
    stepped = SPACES["conditions"].replace("max: 1,", "max: 1, points: 3,")
    assert found("grid", read(stepped)) == []
    assert len(read(stepped).grid()) == 4 * 3 + 4


def test_a_single_value_under_a_condition_is_no_list():
    text = SPACES["conditions"].replace("{min: 1e-4, max: 1, when", "{value: 0.1, when")
    assert found("tpe", read(text)) == []
    assert found("cmaes", read(text)) == [
        "space.yaml:4: rule.alpha: has a condition, but under cmaes every point has all parameters: "
        "use tpe, random or grid"
    ]


def test_a_searched_seed_does_not_go_with_repeated_seeds():
    assert found("tpe", read(SPACES["values"]), "seeds: 3") == [
        "space.yaml:4: seed: is searched, but `seeds: 3` trains each point with seeds of its own: say one of them"
    ]
    assert found("tpe", read(SPACES["ranges"]), "seeds: 3") == []
