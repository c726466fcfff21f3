"""Drives a `Study` as a sweep does, with made-up numbers in place of trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from aln.config import parse_document, parse_sweep
from aln.records import TrialRecord
from aln.search.plan import SweepPlan
from aln.search.study import Study
from aln.space import parse_space, sampler_problems

# Coefficients, epoch and repetition to the epoch's validation top-1; NaN diverges, an exception fails.
Training = Callable[[Mapping[str, Any], int, int], float]

RANGES = """
rule: mirror
parameters:
  rule.alpha: {min: 0.0, max: 1.0}
  optimizer.lr: {min: 1e-4, max: 1e-1, log: true}
"""
# Six points, three epochs, nothing else.
BARE = "trials: 6\nbaselines: []\nscheduler: none\nrun: {epochs: 3}\n"


def make_plan(folder: Path, sweep: str, space: str = RANGES, name: str = "s") -> SweepPlan:
    config, base = parse_sweep(parse_document(sweep, "sweep.yaml"))
    parsed = parse_space(parse_document(space, "space.yaml"), config.run)
    assert not sampler_problems(config, parsed)
    (folder / name).mkdir(parents=True, exist_ok=True)
    return SweepPlan(name=name, space=parsed, sweep=config, base=base, folder=folder / name)


def alpha(values: Mapping[str, Any], epoch: int, repetition: int) -> float:
    """Better with a larger alpha, and with every epoch; a baseline is worst of all."""
    return 50 * float(values.get("rule.alpha", 0.0)) + epoch


def drive(study: Study, training: Training = alpha, slots: int = 1, epochs: int | None = None) -> list[str]:
    """Trains what the study says, so many at once, to the end or for so many epochs; returns what began, in order."""
    began: list[str] = []
    running: list[TrialRecord] = []
    while epochs is None or epochs > 0:
        while len(running) < slots and not study.over() and (record := study.next()):
            began.append(record.label)
            running.append(record)
        if not running:
            break
        for record in list(running):
            if not epoch_of(study, record, training):
                running.remove(record)
            epochs = None if epochs is None else epochs - 1
    return began


def epoch_of(study: Study, record: TrialRecord, training: Training) -> bool:
    """One epoch of a training; says whether it goes on."""
    if record.epoch == record.epochs:  # its process died before it could say that this was all
        study.end(record, "completed")
        return False
    epoch = record.epoch + 1
    try:
        value = training(study.points[record.of].values, epoch, record.repetition)
    except ValueError as error:
        study.end(record, "failed", str(error))
        return False
    diverged = math.isnan(value)
    numbers = {"val_top1": 0.0 if diverged else value, "val_loss": math.nan if diverged else 1.0, "epoch_seconds": 2.0}
    assert record.update({"epoch": float(epoch), "diverged": float(diverged), **numbers})
    stop = study.report(record)
    status = "stopped" if stop else "diverged" if diverged else "completed" if epoch == record.epochs else None
    if status is not None:
        study.end(record, status)
    return status is None


def searched(study: Study) -> list[dict[str, Any]]:
    """The coefficients of the points so far, baselines left out."""
    return [dict(point.values) for point in study.points.values() if not point.baseline]


def told(plan: SweepPlan, name: str = "searched") -> list[optuna.trial.FrozenTrial]:
    """What Optuna itself reads in the journal."""
    storage = JournalStorage(JournalFileBackend(str(plan.folder / "study.log")))
    return optuna.load_study(study_name=name, storage=storage).get_trials()
