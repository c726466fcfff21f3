"""The truth of a sweep, driven with made-up numbers: what is suggested, and what a journal still knows."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from driving import BARE, RANGES, alpha, drive, epoch_of, make_plan, searched, told
from optuna.trial import TrialState

from aln.errors import SweepError
from aln.search.plan import SweepPlan
from aln.search.study import Study

CONDITIONS = """
rule: {values: [information, mirror]}
parameters:
  rule.alpha: {min: 1e-4, max: 1e-1, log: true}
  rule.gamma: {min: 1e-4, max: 1e-1, log: true, when: {rule.name: information}}
  rule.beta: {tie: rule.alpha, factor: 0.1, when: {rule.name: information}}
  optimizer.momentum: {min: 0.0, max: 0.9, step: 0.25}
  batch_size: {min: 16, max: 64}
constraints: [rule.alpha < rule.gamma, batch_size > 20]
"""
CONSTRAINED = """
rule: mirror
parameters:
  rule.alpha: {min: 1e-4, max: 1e-1, log: true}
  optimizer.lr: {min: 1e-4, max: 1e-1, log: true}
  batch_size: {min: 16, max: 64}
constraints: [rule.alpha < optimizer.lr]
"""
LISTS = """
rule: mirror
parameters:
  rule.alpha: {values: [0.5, 1.0]}
  rates.drops: {values: [[1, 2.5], [3], []]}
"""
GRID = """
rule: mirror
parameters:
  rule.alpha: {min: 0.1, max: 0.9, points: 3}
  optimizer.name: {values: [sgd, adam]}
  optimizer.momentum: {values: [0.0, 0.9], when: {optimizer.name: sgd}}
enqueue: [{rule.alpha: 0.5, optimizer.name: adam}]
"""


# What is suggested


def test_baselines_come_first_and_points_are_numbered(tmp_path: Path) -> None:
    study = Study(make_plan(tmp_path, "trials: 3\nrun: {epochs: 2}\n"))
    assert drive(study) == ["backprop", "feedback", "000", "001", "002"]
    assert study.complete
    assert [point.label for point in study.points.values() if point.baseline] == ["backprop", "feedback"]
    assert all(record.status == "completed" and record.epoch == 2 for record in study.records.values())


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_points_keep_conditions_ties_and_constraints_of_several_rules(tmp_path: Path, sampler: str) -> None:
    sampling = f"trials: 30\nbaselines: []\nsampler: {{name: {sampler}, startup: 5}}\nrun: {{epochs: 1}}\n"
    plan = make_plan(tmp_path, sampling, CONDITIONS)
    study = Study(plan)
    drive(study, lambda values, *_: 100 * values["rule.alpha"], slots=2)
    points = searched(study)
    assert len(points) == 30
    assert {point["rule.name"] for point in points} == {"information", "mirror"}
    for point in points:
        assert ("rule.gamma" in point) == (point["rule.name"] == "information")
        assert not any(plan.space.parameters[key].expected(value) for key, value in point.items())
        assert not plan.space.violated(point)
        run = plan.config(point)
        assert run.rule.name == point["rule.name"]
        if point["rule.name"] == "information":
            assert run.flat()["rule.beta"] == pytest.approx(0.1 * point["rule.alpha"])
    assert len({json.dumps(point) for point in points}) == 30


@pytest.mark.parametrize("sampler", ["cmaes", "gp", "qmc"])
def test_points_of_samplers_of_ranges_keep_constraints(tmp_path: Path, sampler: str) -> None:
    sampling = f"trials: 10\nbaselines: []\nsampler: {{name: {sampler}, startup: 4}}\nrun: {{epochs: 1}}\n"
    plan = make_plan(tmp_path, sampling, CONSTRAINED)
    study = Study(plan)
    drive(study, lambda values, *_: -math.log(values["optimizer.lr"]))  # best where the constraint forbids most
    points = searched(study)
    assert len(points) == 10
    for point in points:
        assert not any(plan.space.parameters[key].expected(value) for key, value in point.items())
        assert not plan.space.violated(point)
    assert len({json.dumps(point) for point in points}) == 10


def test_the_model_of_tpe_is_used(tmp_path: Path) -> None:
    sampling = "trials: 40\nbaselines: []\nscheduler: none\nsampler: {name: tpe, startup: 10}\nrun: {epochs: 1}\n"
    study = Study(make_plan(tmp_path, sampling))
    drive(study)
    found = [point["rule.alpha"] for point in searched(study)]
    assert sum(found[20:]) / 20 > sum(found[:10]) / 10 + 0.15


@pytest.mark.parametrize("cut", range(0, 9, 2))
def test_a_grid_visits_each_point_once(tmp_path: Path, cut: int) -> None:
    """Also when the sweep is ended and opened again in the midst, and a known point of it comes first."""
    plan = make_plan(tmp_path, f"{BARE}sampler: grid\n".replace("trials: 6", "trials: 100"), GRID)
    drive(Study(plan), epochs=3 * cut)
    study = Study(plan)
    drive(study)
    points = searched(study)
    expected = list(itertools.product([0.1, 0.5, 0.9], [("sgd", 0.0), ("sgd", 0.9), ("adam", None)]))
    visited = [(p["rule.alpha"], (p["optimizer.name"], p.get("optimizer.momentum"))) for p in points]
    assert sorted(visited, key=str) == sorted(expected, key=str)
    assert points[0] == {"rule.alpha": 0.5, "optimizer.name": "adam"}
    assert study.complete


def test_fewer_trials_than_a_grid_has_points(tmp_path: Path) -> None:
    study = Study(make_plan(tmp_path, f"{BARE}sampler: grid\n", GRID))
    drive(study)
    assert len(searched(study)) == 6


def test_known_points_come_first_and_the_sampler_fills_them_up(tmp_path: Path) -> None:
    known = "enqueue: [{rule.alpha: 0.25}, {rule.alpha: 1, optimizer.lr: 1e-3}]\n"
    study = Study(make_plan(tmp_path, BARE, RANGES + known))
    drive(study)
    first, second, *others = searched(study)
    assert first["rule.alpha"] == 0.25
    assert 1e-4 <= first["optimizer.lr"] <= 1e-1
    assert second == {"rule.alpha": 1, "optimizer.lr": 1e-3}
    assert len(others) == 4
    assert len({point["rule.alpha"] for point in searched(study)}) == 6


def test_part_of_a_known_point_that_breaks_a_constraint_is_filled_up_otherwise(tmp_path: Path) -> None:
    space = CONSTRAINED + "enqueue: [{rule.alpha: 9.9e-2}]\n"
    study = Study(make_plan(tmp_path, BARE, space))
    drive(study)
    first, *_ = searched(study)
    assert first["rule.alpha"] == 9.9e-2 < first["optimizer.lr"]
    assert len(searched(study)) == 6


def test_a_part_of_the_space_that_hardly_any_point_hits_is_found_or_refused(tmp_path: Path) -> None:
    space = RANGES + "constraints: [rule.alpha > 0.999]\n"
    study = Study(make_plan(tmp_path, BARE, space))
    drive(study)
    assert all(point["rule.alpha"] > 0.999 for point in searched(study))
    never = make_plan(tmp_path, BARE, RANGES.replace("max: 1.0", "max: 2.0") + "constraints: [rule.alpha > 0.9]\n", "n")
    point = {"rule.alpha": 0.5}  # no longer allowed, as if the file had been written by hand
    changed = replace(never, space=replace(never.space, enqueued=(point,)))
    with pytest.raises(SweepError, match=r"10,000 points in a row broke a constraint of the space: rule\.alpha > 0\.9"):
        drive(Study(changed))


# What is known again


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_study_that_is_opened_again_goes_on(tmp_path: Path, sampler: str) -> None:
    sampling = f"{BARE}sampler: {{name: {sampler}, startup: 2}}\n".replace("trials: 6", "trials: 12")
    plan = make_plan(tmp_path, sampling)
    cuts = [1, 5, 4, 10, 7]
    for cut in cuts:
        before = Study(plan)
        drive(before, epochs=cut, slots=2)
        known, unfinished = searched(before), [r.label for r in before.records.values() if r.status == "running"]
        again = Study(plan)
        assert searched(again) == known
        assert {k: r.metrics for k, r in again.records.items()} == {k: r.metrics for k, r in before.records.items()}
        assert [again.next().label for _ in unfinished] == unfinished
    study = Study(plan)
    drive(study)
    assert len({json.dumps(point) for point in searched(study)}) == 12
    assert study.complete
    assert study.identity == Study(plan).identity


def test_more_trials_can_be_added_to_a_finished_sweep(tmp_path: Path) -> None:
    study = Study(make_plan(tmp_path, BARE))
    drive(study)
    assert study.complete
    assert Study(make_plan(tmp_path, BARE)).complete
    more = Study(make_plan(tmp_path, BARE.replace("trials: 6", "trials: 8")))
    assert not more.complete
    assert drive(more) == ["006", "007"]


def eventful(values, epoch, repetition):
    """A training like `alpha` that now and then diverges, or fails, or does so with its second seed."""
    mood = values.get("optimizer.momentum")
    if mood == 0.25 and epoch == 2:
        return math.nan
    if mood == 0.5 and repetition == 1:
        raise ValueError("a bug")
    if mood == 0.75 and repetition == 1:
        return math.nan
    return alpha(values, epoch, repetition)


def test_every_beginning_of_a_journal_can_be_resumed(tmp_path: Path) -> None:
    """A process may die between any two writes, or in the midst of one."""
    sweep = (
        "trials: 5\nseeds: 2\nbaselines: [backprop]\nscheduler: {name: asha, grace: 1, reduction: 2}\n"
        "run: {epochs: 3}\n"
    )
    moods = ", ".join(f"{{optimizer.momentum: {mood}, rule.alpha: {0.2 + mood}}}" for mood in (0, 0.25, 0.5, 0.75))
    space = (
        "rule: mirror\nparameters:\n  rule.alpha: {min: 0.0, max: 1.0}\n"
        "  optimizer.momentum: {min: 0, max: 0.75, step: 0.25}\n"
        f"constraints: [rule.alpha < 0.97]\nenqueue: [{moods}]\n"
    )
    whole = make_plan(tmp_path, sweep, space, "whole")
    drive(Study(whole), eventful, slots=2)
    lines = (whole.folder / "study.log").read_bytes().splitlines(keepends=True)
    assert len(lines) > 80
    for length in range(len(lines)):
        plan = make_plan(tmp_path, sweep, space, f"cut{length}")
        torn = lines[length][: len(lines[length]) // 2]
        (plan.folder / "study.log").write_bytes(b"".join(lines[:length]) + torn)
        before = Study(plan)
        kept = {label: dict(point.values) for label, point in before.points.items()}
        epochs = {label: record.epoch for label, record in before.records.items()}
        study = Study(plan)
        drive(study, eventful, slots=2)
        assert study.complete, length
        assert sorted(study.points) == ["000", "001", "002", "003", "004", "backprop"], length
        assert {label: dict(study.points[label].values) for label in kept} == kept, length
        assert [p["optimizer.momentum"] for p in searched(study)][:4] == [0, 0.25, 0.5, 0.75], length
        assert all(study.records[label].epoch >= epoch for label, epoch in epochs.items() if label in study.records)
        check_told(plan, study)
        again = Study(plan)
        assert again.complete, length
        assert again.next() is None, length
        assert repr(again.records) == repr(study.records), length  # NaN is not NaN
        assert again.trained == pytest.approx(study.trained), length


def check_told(plan: SweepPlan, study: Study) -> None:
    """Optuna has heard of every point once, and rightly."""
    for name in ("baselines", "searched"):
        trials = told(plan, name)
        assert all(trial.state.is_finished() for trial in trials)
        labels = [trial.user_attrs["label"] for trial in trials if "label" in trial.user_attrs]
        assert labels == [p.label for p in study.points.values() if p.baseline == (name == "baselines")]
        for trial in trials:
            if "label" not in trial.user_attrs:
                assert trial.state == TrialState.FAIL
                continue
            point = study.points[trial.user_attrs["label"]]
            states = {"completed": TrialState.COMPLETE, "failed": TrialState.FAIL}
            assert trial.state == states.get(point.status, TrialState.PRUNED)
            if trial.state == TrialState.COMPLETE:
                assert trial.value == point.mean("val_top1")
            for record in point.records:
                assert record.begun
                assert record.status != "running"
                assert record.status != "completed" or record.epoch == record.epochs


# Values of all kinds


def test_lists_among_values_survive_the_journal(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, BARE, LISTS + "enqueue: [{rule.alpha: 1, rates.drops: [1, 2.5]}]\n")
    study = Study(plan)
    drive(study, epochs=10)
    again = Study(plan)
    assert searched(again) == searched(study)
    assert searched(again)[0] == {"rule.alpha": 1.0, "rates.drops": (1, 2.5)}
    drive(again)
    assert len({point["rates.drops"] for point in searched(again)}) > 1
    assert plan.config(searched(again)[0]).flat()["rates.drops"] == [1, 2.5]


def test_a_training_that_ended_is_not_told_of_again(tmp_path: Path) -> None:
    study = Study(make_plan(tmp_path, BARE))
    record = study.next()
    while epoch_of(study, record, alpha):
        pass
    assert record.status == "completed"
    assert study.points["000"].status == "completed"
