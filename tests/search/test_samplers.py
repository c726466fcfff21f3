"""Which of Optuna's samplers and pruners a sweep gets, and that two processes of one sweep do not repeat each other."""

from __future__ import annotations

import optuna
import pytest
from optuna import pruners, samplers

from aln.config import SweepConfig, parse_document, parse_sweep
from aln.search.samplers import make_pruner, make_sampler


def sweep(text: str) -> SweepConfig:
    return parse_sweep(parse_document(text))[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tpe", samplers.TPESampler),
        ("random", samplers.RandomSampler),
        ("grid", samplers.RandomSampler),
        ("cmaes", samplers.CmaEsSampler),
        ("gp", samplers.GPSampler),
        ("qmc", samplers.QMCSampler),
    ],
)
def test_each_name_is_a_sampler_of_optuna(name: str, kind: type) -> None:
    assert type(make_sampler(sweep(f"sampler: {name}"), 0)) is kind


def suggestions(name: str, begin: int, seed: int = 0) -> list[float]:
    made = make_sampler(sweep(f"sampler: {{name: {name}, seed: {seed}, startup: 9}}"), begin)
    study = optuna.create_study(sampler=made)
    found = []
    for _ in range(5):
        trial = study.ask()
        found.append(trial.suggest_float("x", 0, 1))
        study.tell(trial, found[-1])
    return found


@pytest.mark.parametrize("name", ["tpe", "random", "cmaes", "gp"])
def test_a_seed_decides_and_a_later_process_draws_other_numbers(name: str) -> None:
    first = suggestions(name, 0)
    assert suggestions(name, 0) == first
    assert not set(suggestions(name, 0, seed=1)) & set(first)
    assert suggestions(name, 5) == suggestions(name, 5)
    assert not set(suggestions(name, 5)) & set(first)


def test_each_scheduler_is_a_pruner_of_optuna() -> None:
    kinds = {
        "asha": pruners.SuccessiveHalvingPruner,
        "hyperband": pruners.HyperbandPruner,
        "median": pruners.MedianPruner,
    }
    for name, kind in kinds.items():
        made = make_pruner(sweep(f"scheduler: {{name: {name}, grace: 2, reduction: 2}}"), 8)
        assert type(made) is kind


@pytest.mark.parametrize(
    "text",
    [
        "scheduler: none",
        "scheduler: {name: asha, grace: 8}",
        "scheduler: {name: hyperband, grace: 9}",
        "objective: [val_top1, val_loss]",
    ],
)
def test_nothing_prunes_what_nothing_may_stop(text: str) -> None:
    assert make_pruner(sweep(text), 8) is None
