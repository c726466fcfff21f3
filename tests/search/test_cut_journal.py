"""A sweep whose process dies after any line of its journal goes on without a gap and without a double."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from optuna.trial import TrialState

from aln.config import parse_document, parse_sweep
from aln.records import Status, TrialRecord
from aln.search.plan import SweepPlan
from aln.search.study import STUDY, Study
from aln.space import parse_space
from real_sweeps import told

EPOCHS = 4
SPACE = "rule: information\nparameters:\n  rule.alpha: {min: 1e-4, max: 1e-2, log: true}\n"
SWEEP = """
run: {{epochs: {epochs}}}
trials: 4
baselines: [backprop]
seeds: {seeds}
sampler: random
scheduler: {{name: asha, grace: 2}}
"""


def opened(folder: Path, seeds: int) -> Study:
    sweep, base = parse_sweep(parse_document(SWEEP.format(epochs=EPOCHS, seeds=seeds)))
    space = parse_space(parse_document(SPACE), sweep.run)
    return Study(SweepPlan(name="p", space=space, sweep=sweep, base=base, folder=folder))


def train(study: Study, record: TrialRecord) -> None:
    """All epochs, from the first: its checkpoint is older than whatever the study holds."""
    number = 9 if record.of == "backprop" else int(record.of)
    for epoch in range(1, EPOCHS + 1):
        diverged = number == 3 and epoch == 3
        top1 = 10.0 * number + epoch + record.repetition
        metrics = {"epoch": float(epoch), "epoch_seconds": 1.0, "val_top1": top1, "diverged": float(diverged)}
        if record.update(metrics) and study.report(record):
            study.end(record, "stopped")
            return
        if diverged:
            study.end(record, "diverged")
            return
    study.end(record, "completed")


def finish(study: Study) -> None:
    """Hands out two trainings at a time, as a sweep with two slots does."""
    while not study.complete:
        records = [record for record in (study.next(), study.next()) if record is not None]
        assert records
        for record in records:
            train(study, record)


@pytest.mark.parametrize("seeds", [1, 2])
def test_after_whatever_line_it_dies(tmp_path: Path, seeds: int) -> None:
    finish(opened(tmp_path, seeds))
    lines = (tmp_path / STUDY).read_text().splitlines(keepends=True)
    assert len(lines) > 50
    for kept in range(len(lines)):
        folder = tmp_path / f"{kept}"
        folder.mkdir()
        (folder / STUDY).write_text("".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
        study = opened(folder, seeds)
        finish(study)
        assert sorted(study.points) == ["000", "001", "002", "003", "backprop"], kept
        assert all(record.status != "running" for record in study.records.values()), kept
        trials = [trial for trial in told(folder) if "label" in trial.user_attrs]
        assert sorted(trial.user_attrs["label"] for trial in trials) == ["000", "001", "002", "003"], kept
        for trial in trials:
            first = study.points[trial.user_attrs["label"]].records[0]
            assert list(trial.intermediate_values) == list(range(1, first.epoch + 1)), (kept, first)
            assert trial.state == (TrialState.COMPLETE if first.status == "completed" else TrialState.PRUNED)
            diverged = [epoch for epoch, value in trial.intermediate_values.items() if math.isnan(value)]
            assert diverged == ([3] if first.status == "diverged" else [])
        cut = [trial for trial in told(folder) if "label" not in trial.user_attrs]
        assert all(trial.state == TrialState.FAIL for trial in cut)


@pytest.mark.parametrize(
    ("bad", "stops", "last", "state"),
    [
        ("diverged", True, "stopped", TrialState.PRUNED),  # whatever the others reach
        ("failed", False, "completed", TrialState.COMPLETE),  # the others say how good the point is
    ],
)
def test_a_repetition_that_trains_while_another_ends_badly(
    tmp_path: Path, bad: Status, stops: bool, last: Status, state: TrialState
) -> None:
    study = opened(tmp_path, seeds=3)
    for _ in range(3):
        baseline = study.next()
        assert baseline is not None
        train(study, baseline)
    first = study.next()
    assert first is not None
    train(study, first)
    second, third = study.next(), study.next()
    assert second is not None
    assert third is not None
    assert [second.label, third.label] == ["000-s1", "000-s2"]
    for record in (third, second):
        record.update({"epoch": 1.0, "epoch_seconds": 1.0, "val_top1": 1.0})
        assert not study.report(record)
    study.end(second, bad)
    assert [trial.state for trial in told(tmp_path)] == [TrialState.RUNNING]
    third.update({"epoch": 2.0, "epoch_seconds": 1.0, "val_top1": 1.0})
    assert study.report(third) == stops
    study.end(third, last)
    assert [trial.state for trial in told(tmp_path)] == [state]
    again = opened(tmp_path, seeds=3).points["000"]
    assert [record.status for record in again.records] == ["completed", bad, last]
