"""How trainings end and what Optuna hears of it: early stopping, divergence, seeds, objectives, budgets."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from driving import BARE, RANGES, alpha, drive, make_plan, searched, told
from optuna.trial import TrialState

from aln.records import KnownTrial, pareto_front
from aln.search.study import Study

# Early stopping


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_schedulers_stop_the_bad_and_spare_baselines_and_last_epochs(tmp_path: Path, scheduler: str) -> None:
    sweep = (
        f"trials: 27\nscheduler: {{name: {scheduler}, grace: 1, reduction: 3, startup: 3}}\nsampler: random\n"
        "run: {epochs: 9}\n"
    )
    study = Study(make_plan(tmp_path, sweep))
    drive(study, slots=3)
    points = [point for point in study.points.values() if not point.baseline]
    stopped = [point for point in points if point.status == "stopped"]
    completed = [point for point in points if point.status == "completed"]
    assert len(stopped) > 9
    assert completed
    assert len(stopped) + len(completed) == 27
    assert all(point.records[0].epoch < 9 for point in stopped)

    def mean(group):
        return sum(point.values["rule.alpha"] for point in group) / len(group)

    assert mean(stopped) < mean(completed)
    assert [point.status for point in study.points.values() if point.baseline] == ["completed", "completed"]
    states = [trial.state for trial in told(study._plan)]
    assert states.count(TrialState.PRUNED) == len(stopped)


def test_nothing_is_stopped_where_the_first_look_comes_after_the_last_epoch(tmp_path: Path) -> None:
    for scheduler in ("none", "{name: asha, grace: 3}", "{name: hyperband, grace: 5}", "{name: median, grace: 3}"):
        name = f"s{len(scheduler)}"
        study = Study(make_plan(tmp_path, f"trials: 9\nscheduler: {scheduler}\nrun: {{epochs: 3}}\n", name=name))
        drive(study)
        assert {point.status for point in study.points.values()} == {"completed"}


# Divergence and failure


def test_diverged_trials_are_never_among_the_good_ones(tmp_path: Path) -> None:
    """They shine until they diverge, late, while nearly all others are stopped at once."""

    def trap(values, epoch, repetition):
        if values["rule.alpha"] > 0.5:
            return math.nan if epoch == 3 else 90.0 + epoch
        return 10.0 - abs(values["rule.alpha"] - 0.1)

    sweep = (
        "trials: 50\nbaselines: []\nsampler: {name: tpe, startup: 12}\n"
        "scheduler: {name: asha, grace: 1, reduction: 4}\nrun: {epochs: 5}\n"
    )
    plan = make_plan(tmp_path, sweep)
    study = Study(plan)
    drive(study, trap)
    diverged = [
        trial for trial in told(plan) if trial.params["rule.alpha"] > 0.5 and len(trial.intermediate_values) > 2
    ]
    assert diverged
    assert {trial.state for trial in diverged} == {TrialState.PRUNED}
    assert {study.points[trial.user_attrs["label"]].status for trial in diverged} == {"diverged"}
    later = [point["rule.alpha"] for point in searched(study)[20:]]
    assert sum(value > 0.5 for value in later) < 8  # of 30; a coin would find 15


@pytest.mark.parametrize("sampler", ["cmaes", "gp"])
def test_samplers_learn_from_points_that_did_not_complete(tmp_path: Path, sampler: str) -> None:
    def cliff(values, epoch, repetition):
        return math.nan if values["rule.alpha"] > 0.6 else 50 * values["rule.alpha"] + epoch

    sweep = (
        f"trials: 30\nbaselines: []\nsampler: {{name: {sampler}, startup: 6}}\n"
        "scheduler: {name: asha, grace: 1, reduction: 3}\nrun: {epochs: 3}\n"
    )
    study = Study(make_plan(tmp_path, sweep))
    drive(study, cliff)
    points = list(study.points.values())
    assert {point.status for point in points} == {"completed", "stopped", "diverged"}
    later = [point.values["rule.alpha"] for point in points[15:]]
    assert sum(0.2 < value < 0.6 for value in later) >= 9  # of 15; at random it were 6


def test_a_point_that_failed_is_forgotten_by_the_sampler_and_told_as_failed(tmp_path: Path) -> None:
    def broken(values, epoch, repetition):
        raise ValueError("a bug")

    plan = make_plan(tmp_path, BARE)
    study = Study(plan)
    drive(study, broken)
    assert {trial.state for trial in told(plan)} == {TrialState.FAIL}
    assert {record.error for record in study.records.values()} == {"a bug"}
    assert repr(Study(plan).records) == repr(study.records)


# Several seeds


def test_points_are_repeated_and_their_mean_is_told(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, BARE.replace("trials: 6", "trials: 2\nseeds: 3"))
    study = Study(plan)
    assert drive(study, lambda values, epoch, repetition: 60.0 + 3 * repetition) == [
        f"{point}-s{seed}" for point in ("000", "001") for seed in range(3)
    ]
    point = study.points["000"]
    assert point.mean("val_top1") == 63
    assert [trial.value for trial in told(plan)] == [63, 63]
    assert [study._plan.content(point.values, r.repetition)["seed"] for r in point.records] == [0, 1, 2]


def test_a_point_whose_first_training_was_stopped_is_not_repeated(tmp_path: Path) -> None:
    sweep = (
        "trials: 6\nseeds: 2\nbaselines: [backprop]\nscheduler: {name: asha, grace: 1, reduction: 3}\n"
        "run: {epochs: 3}\n"
    )
    study = Study(make_plan(tmp_path, sweep))
    drive(study, slots=2)
    assert study.complete
    by_status = {
        status: [p for p in study.points.values() if p.status == status] for status in ("stopped", "completed")
    }
    assert len(by_status["stopped"]) + len(by_status["completed"]) == 7
    assert all(len(point.records) == 1 for point in by_status["stopped"])
    assert all(len(point.records) == 2 for point in by_status["completed"])
    assert len(study.records) == len(by_status["stopped"]) + 2 * len(by_status["completed"])


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_repetition_that_diverges_or_fails_ends_its_point(tmp_path: Path, slots: int) -> None:
    """What of the point runs beside it goes on to its end; what has not begun never does."""

    def training(values, epoch, repetition):
        if values["rule.alpha"] == 0.25 and repetition == 1:
            return math.nan
        if values["rule.alpha"] == 0.75 and repetition == 1:
            raise ValueError("a bug")
        return alpha(values, epoch, repetition)

    space = RANGES + "enqueue: [{rule.alpha: 0.25}, {rule.alpha: 0.75}]\n"
    plan = make_plan(tmp_path, BARE.replace("trials: 6", "trials: 3\nseeds: 4"), space)
    study = Study(plan)
    drive(study, training, slots)
    assert study.complete
    diverged, failed, sound = (study.points[label] for label in ("000", "001", "002"))
    assert diverged.status == "diverged"
    assert sum(record.status == "failed" for record in failed.records) == 1
    assert failed.mean("val_top1") == 50 * 0.75 + 3
    assert [record.status for record in sound.records] == ["completed"] * 4
    assert len(diverged.records) <= 1 + slots
    states = [trial.state for trial in told(plan)]
    assert states == [TrialState.PRUNED, TrialState.COMPLETE, TrialState.COMPLETE]
    assert repr(Study(plan).records) == repr(study.records)


# Several objectives


def test_several_objectives_are_told_and_have_a_front(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "trials: 8\nobjective: [val_top1, val_loss]\nsampler: {name: tpe, startup: 4}\n"
                     "baselines: []\nrun: {epochs: 2}\n")  # fmt: skip
    study = Study(plan)
    for _ in range(8):
        record = study.next()
        value = study.points[record.of].values["rule.alpha"]
        for epoch in (1, 2):
            top1, loss = 100 * value, abs(value - 0.2)
            record.update({"epoch": epoch, "val_top1": top1, "val_loss": loss, "epoch_seconds": 1.0})
            assert not study.report(record)
        study.end(record, "completed")
    assert [trial.values for trial in told(plan)] == [
        [100 * p["rule.alpha"], abs(p["rule.alpha"] - 0.2)] for p in searched(study)
    ]
    front = pareto_front(study.points.values(), plan.sweep.objectives)
    above = [point for point in study.points.values() if point.values["rule.alpha"] >= 0.2]
    assert {point.label for point in above} <= {point.label for point in front}


def test_what_diverges_under_several_objectives_fails(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "trials: 4\nobjective: [val_top1, val_loss]\nbaselines: []\nrun: {epochs: 2}\n")
    study = Study(plan)
    drive(study, lambda *_: math.nan)
    assert {trial.state for trial in told(plan)} == {TrialState.FAIL}
    assert {point.status for point in study.points.values()} == {"diverged"}
    assert study.complete


# Budgets


def test_hours_count_those_of_earlier_processes(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, f"{BARE}budget: {{hours: 2}}\n")
    study = Study(plan)
    drive(study, epochs=2)
    study.close()
    assert study.over() == ""
    study.note("spent", 7201.0)
    again = Study(plan)
    assert again.spent >= 7201
    assert again.over() == "the budget of 2 hours is spent"
    assert Study(make_plan(tmp_path, f"{BARE}budget: {{hours: 3}}\n")).over() == ""


def test_gpu_hours_are_those_of_trainings(tmp_path: Path) -> None:
    sweep = (
        BARE.replace("run: {epochs: 3}", "run: {epochs: 3, resources: {gpus: 0.5}}") + "budget: {gpu_hours: 0.004}\n"
    )
    plan = make_plan(tmp_path, sweep)
    study = Study(plan)
    drive(study)  # an epoch takes two seconds of half a GPU: 0.004 hours are 14.4 epochs
    assert study.over() == "the budget of 0.004 GPU-hours is spent"
    assert study.trained == 2 * 15
    assert Study(plan).over() == study.over()


@pytest.mark.parametrize(("objective", "target", "reached"), [("val_top1", 30, True), ("val_top1", 99, False)])
def test_a_target_ends_the_sweep(tmp_path: Path, objective: str, target: float, reached: bool) -> None:
    plan = make_plan(tmp_path, f"{BARE}objective: {objective}\nbudget: {{target: {target}}}\n")
    study = Study(plan)
    drive(study)
    if reached:
        last = list(study.points.values())[-1]
        assert study.over() == f"val_top1 30 is reached by trial {last.label}"
        assert last.mean("val_top1") >= 30
        assert all(point.mean("val_top1") < 30 for point in list(study.points.values())[:-1])
        assert Study(plan).over() == study.over()
    else:
        assert study.over() == ""
        assert len(study.points) == 6


def test_a_target_of_a_loss_is_reached_from_above(tmp_path: Path) -> None:
    study = Study(make_plan(tmp_path, f"{BARE}objective: val_loss\nbudget: {{target: 1.0}}\n"))
    drive(study)
    assert study.over() == "val_loss 1 is reached by trial 000"


def test_too_many_failures_end_the_sweep(tmp_path: Path) -> None:
    def broken(values, epoch, repetition):
        raise ValueError("a bug")

    plan = make_plan(tmp_path, f"{BARE}max_failures: 2\n")
    study = Study(plan)
    drive(study, broken)
    assert study.over() == "3 trials failed, more than max_failures = 2"
    assert len(study.points) == 3
    assert Study(plan).over() == study.over()
    assert not Study(make_plan(tmp_path, f"{BARE}max_failures: 3\n")).over()


# What other sweeps have found


def test_what_others_found_counts_nowhere_and_guides_the_sampler(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, f"{BARE}sampler: {{name: tpe, startup: 10}}\n")
    generator = random.Random(0)
    found = []
    for number in range(30):
        point = {"rule.alpha": generator.random(), "optimizer.lr": 10 ** generator.uniform(-4, -1)}
        metrics = {} if number % 10 == 9 else {"val_top1": 50 * point["rule.alpha"]}
        found.append(KnownTrial(source="before", values=point, metrics=metrics))
    found.append(KnownTrial(source="before", values={"rule.alpha": 0.5}, metrics={"val_top1": 1.0}))
    found.append(KnownTrial(source="before", values={**found[0].values, "rule.alpha": 7.0}, metrics={"val_top1": 1.0}))
    found.append(KnownTrial(source="before", values=found[0].values, metrics={"val_loss": 1.0}))
    found.append(KnownTrial(source="strange", values={"epochs": 3}, metrics={"val_top1": 1.0}))
    study = Study(plan)
    assert study.learn(found) == {"before": 30, "strange": 0}
    assert study.points == {}
    drive(study)
    assert len(searched(study)) == 6
    assert sum(point["rule.alpha"] for point in searched(study)) / 6 > 0.65  # at random it were 0.5
    assert len(told(plan)) == 36


def test_what_others_found_is_told_once_though_the_process_dies_while_telling(tmp_path: Path) -> None:
    points = [{"rule.alpha": i / 10, "optimizer.lr": 1e-3} for i in range(9)]
    found = [KnownTrial(source="before", values=point, metrics={"val_top1": 1.0}) for point in points]
    plan = make_plan(tmp_path, BARE)
    study = Study(plan)
    study.learn(found)
    path = plan.folder / "study.log"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]))
    again = Study(plan)
    assert "learned" not in again.notes()
    assert again.learn(found) == {"before": 9}
    assert [trial.params["rule.alpha"] for trial in told(plan)] == [point["rule.alpha"] for point in points]
    assert again.notes()["learned"] == {"before": 9}
