"""What other sweeps and MLflow experiments have found."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import pytest
from driving import RANGES, drive, make_plan, told

from aln.errors import ConfigError
from aln.search.study import Study
from aln.search.warm_start import known_trials
from aln.tracking import Tracker

SWEEP = "trials: 4\nbaselines: [backprop]\nscheduler: none\nrun: {epochs: 2}\n"


def training(values, epoch, repetition):
    """One point of these diverges, one fails, one is better with its second seed."""
    alpha = values.get("rule.alpha", 0.0)
    if alpha == 0.1:
        return math.nan
    if alpha == 0.2:
        raise ValueError("a bug")
    return 100 * alpha + 2 * repetition


KNOWN = "enqueue: [{rule.alpha: 0.1}, {rule.alpha: 0.2}, {rule.alpha: 0.25}, {rule.alpha: 0.5}]\n"


@pytest.fixture
def tracker(workplace: Path):
    with closing(Tracker("fresh")) as made:
        yield made


def test_trials_of_a_sweep_that_completed_or_diverged(workplace: Path, tracker: Tracker) -> None:
    drive(Study(make_plan(workplace, SWEEP + "seeds: 2\n", RANGES + KNOWN, name="old")), training)
    plan = make_plan(workplace, SWEEP + "warm_start: [old]\n", name="new")
    found = known_trials(plan, tracker)
    assert [(trial.source, trial.values["rule.alpha"], trial.metrics.get("val_top1")) for trial in found] == [
        ("old", 0.1, None),
        ("old", 0.25, 26.0),  # the mean over two seeds
        ("old", 0.5, 51.0),
    ]
    study = Study(plan)
    assert study.learn(found) == {"old": 3}
    assert [trial.value for trial in told(plan)] == [None, 26.0, 51.0]
    drive(study, training)
    assert [point.label for point in study.points.values()] == ["backprop", "000", "001", "002", "003"]


def test_runs_of_an_experiment_that_completed_or_diverged(workplace: Path, tracker: Tracker) -> None:
    with closing(Tracker("elsewhere")) as other:
        parent = other.run("s", {"sweep": "s", "kind": "sweep"})
        for number, (status, kind) in enumerate(
            [
                ("completed", "searched"),
                ("stopped", "searched"),
                ("diverged", "searched"),
                ("completed", "baseline"),
                ("failed", "searched"),
                ("completed", "searched"),
            ]
        ):
            run = other.run(f"{number}", {"trial": f"{number}", "kind": kind}, parent)
            run.tag(point=f'{{"rule.alpha": 0.{number + 1}, "optimizer.lr": {0.01 if number < 5 else 7}}}')
            run.log({"val_top1": 10.0 * number}, 1)
            run.finish(status)
    plan = make_plan(workplace, SWEEP + "warm_start: [elsewhere]\n", name="new")
    found = known_trials(plan, tracker)
    assert [(trial.values["rule.alpha"], trial.metrics.get("val_top1")) for trial in found] == [
        (0.1, 0.0),
        (0.3, None),
        (0.6, 50.0),
    ]
    assert Study(plan).learn(found) == {"elsewhere": 2}  # one has a learning rate outside the space


def test_names_of_nothing_are_refused_all_at_once(workplace: Path, tracker: Tracker) -> None:
    plan = make_plan(workplace, SWEEP + "warm_start: [nowhere, fresh, neither]\n")
    with pytest.raises(ConfigError, match="'nowhere' is neither a sweep in") as caught:
        known_trials(plan, tracker)
    assert len(caught.value.problems) == 2
    assert "'neither' is neither" in str(caught.value.problems[1])
