"""What ends a sweep before its last trial, from the study alone: hours and GPU-hours over all its processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aln.config import parse_document, parse_sweep
from aln.records import Status
from aln.search.plan import SweepPlan
from aln.search.study import Study
from aln.space import parse_space

SPACE = "rule: information\nparameters:\n  rule.alpha: {min: 1e-4, max: 1e-2, log: true}\n"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[str], Study]:
    """Opens the study of a sweep with such settings, as each of its processes does."""

    def study(settings: str) -> Study:
        sweep, base = parse_sweep(parse_document(f"trials: 9\nbaselines: []\n{settings}"))
        space = parse_space(parse_document(SPACE), sweep.run)
        return Study(SweepPlan(name="p", space=space, sweep=sweep, base=base, folder=tmp_path))

    return study


def train(study: Study, epochs: int, seconds: float, top1: float = 50.0, status: Status | None = "completed") -> None:
    """Reports a training of the study's next point, and ends it unless it goes on."""
    record = study.next()
    assert record is not None
    for epoch in range(1, epochs + 1):
        record.update({"epoch": float(epoch), "epoch_seconds": seconds, "val_top1": top1})
        study.report(record)
    if status is not None:
        study.end(record, status)


def test_hours_are_those_of_all_processes(opened: Callable[[str], Study], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    first = opened("budget: {hours: 1}")
    clock = 2000.0
    train(first, epochs=1, seconds=1.0)
    assert not first.over()
    first.close()
    clock = 9000.0  # nobody runs it meanwhile
    second = opened("budget: {hours: 1}")
    assert second.spent == 2000.0
    clock += 1500.0
    assert not second.over()
    clock += 101.0
    assert second.over() == "the budget of 1 hours is spent"
    second.close()
    third = opened("budget: {hours: 2}")
    assert not third.over()
    clock += 3600.0
    assert third.over() == "the budget of 2 hours is spent"


def test_hours_of_a_process_that_was_killed_count(
    opened: Callable[[str], Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of its first training, whose end it never saw."""
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    killed = opened("budget: {hours: 1}")
    clock = 3000.0
    train(killed, epochs=3, seconds=1.0, status=None)
    assert opened("budget: {hours: 1}").spent == pytest.approx(3000.0)


def test_gpu_hours_are_those_that_trainings_held(opened: Callable[[str], Study]) -> None:
    settings = "run: {{resources: {{workers: 2, gpus: {gpus}}}}}\nbudget: {{gpu_hours: {hours}}}"
    study = opened(settings.format(gpus=1, hours=1))
    train(study, epochs=3, seconds=300.0)
    assert not study.over()  # 900 s on two GPUs are half an hour
    train(study, epochs=3, seconds=300.1, status=None)
    assert study.over() == "the budget of 1 GPU-hours is spent"
    again = opened(settings.format(gpus=1, hours=1))
    assert again.trained == pytest.approx(study.trained)
    assert again.over() == "the budget of 1 GPU-hours is spent"
    assert not opened(settings.format(gpus=1, hours=1.1)).over()


@pytest.mark.parametrize(
    ("objective", "target", "values", "over"),
    [
        ("val_top1 max", 60, [59.9, 60.0], ["", "val_top1 60 is reached by trial 001"]),
        ("val_loss min", 0.5, [0.51, 0.49], ["", "val_loss 0.5 is reached by trial 001"]),
    ],
)
def test_a_target_is_reached_by_a_completed_trial(
    opened: Callable[[str], Study], objective: str, target: float, values: list[float], over: list[str]
) -> None:
    study = opened(f"objective: {objective}\nbudget: {{target: {target}}}")
    metric = objective.split(maxsplit=1)[0]
    for value, said in zip(values, over, strict=True):
        record = study.next()
        assert record is not None
        record.update({"epoch": 1.0, "epoch_seconds": 1.0, metric: value})
        study.report(record)
        assert not study.over()
        study.end(record, "completed")
        assert study.over() == said
    assert opened(f"objective: {objective}\nbudget: {{target: {target}}}").over() == over[-1]


def test_failures_are_counted_over_all_processes(opened: Callable[[str], Study]) -> None:
    statuses: list[Status] = ["failed", "diverged", "timed out", "stopped"]
    study = opened("max_failures: 1")
    for status in statuses[:2]:
        train(study, epochs=1, seconds=1.0, status=status)
    again = opened("max_failures: 1")
    assert not again.over()
    for status in statuses[2:]:
        train(again, epochs=1, seconds=1.0, status=status)
    assert again.over() == "2 trials failed, more than max_failures = 1"
    assert not opened("max_failures: 2").over()
