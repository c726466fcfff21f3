"""What other sweeps have found, for the sampler of a new one to begin with."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from aln.config import check_name
from aln.errors import ConfigError, Problem
from aln.hints import hint
from aln.preflight import shown
from aln.records import KnownTrial
from aln.search.plan import SweepPlan
from aln.search.study import SEARCHED
from aln.sweep_folder import STUDY
from aln.tracking import Tracker


def known_trials(plan: SweepPlan, tracker: Tracker) -> list[KnownTrial]:
    """The trials of the sweeps and MLflow experiments that `warm_start` names: those that completed or diverged.

    Raises `ConfigError` naming each that is neither a sweep beside this one nor an experiment.
    """
    found: list[KnownTrial] = []
    problems = []
    for name in plan.sweep.warm_start:
        path = plan.folder.parent / name / STUDY
        if _may_be_sweep(name) and path.exists():
            found += _of_sweep(name, path)
        elif (experiment := tracker.client.get_experiment_by_name(name)) is not None:
            found += _of_experiment(name, tracker, experiment.experiment_id)
        else:
            where = f"a sweep in {plan.folder.parent} nor an experiment of MLflow at {shown(tracker.uri)}"
            message = f"'{name}' is neither {where}{hint(name, _known_names(plan, tracker))}"
            problems.append(Problem(key="warm_start", message=message))
    if problems:
        raise ConfigError(problems)
    return found


def _known_names(plan: SweepPlan, tracker: Tracker) -> list[str]:
    """The names of the sweeps beside this one, and of MLflow's experiments."""
    sweeps = [path.parent.name for path in plan.folder.parent.glob(f"*/{STUDY}")]
    return [*sweeps, *(experiment.name for experiment in tracker.client.search_experiments())]


def _may_be_sweep(name: str) -> bool:
    """Whether a sweep may be called so; experiments of MLflow may be called anything."""
    try:
        return bool(check_name(name))
    except ConfigError:
        return False


def _of_sweep(name: str, path: Path) -> Iterable[KnownTrial]:
    storage = JournalStorage(JournalFileBackend(str(path)))
    for trial in optuna.load_study(study_name=SEARCHED, storage=storage).get_trials(deepcopy=False):
        trainings = [value for key, value in trial.user_attrs.items() if key.startswith("training")]
        statuses = {training["status"] for training in trainings}
        if statuses == {"completed"}:
            common = set.intersection(*(set(training["metrics"]) for training in trainings))
            means = {key: math.fsum(t["metrics"][key] for t in trainings) / len(trainings) for key in common}
            yield KnownTrial(source=name, values=trial.user_attrs["point"], metrics=means)
        elif "diverged" in statuses:
            yield KnownTrial(source=name, values=trial.user_attrs["point"], metrics={})


def _of_experiment(name: str, tracker: Tracker, experiment: str) -> Iterable[KnownTrial]:
    token: str | None = None
    while True:
        page = tracker.client.search_runs(
            [experiment], "tags.kind = 'searched'", order_by=["attributes.start_time ASC"], page_token=token
        )
        for run in page:
            status = run.data.tags.get("status")
            if status in ("completed", "diverged") and "point" in run.data.tags:
                metrics = run.data.metrics if status == "completed" else {}
                yield KnownTrial(source=name, values=json.loads(run.data.tags["point"]), metrics=metrics)
        token = page.token
        if not token:
            return
