"""A sweep as a study of Optuna, made anew from MLflow's runs, for what Optuna can say of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import optuna
from optuna.importance import get_param_importances
from optuna.study import StudyDirection
from optuna.trial import TrialState

from aln.encoding import distribution, encoded
from aln.records import Point
from aln.report.runs import TrackedSweep

# Fewer say nothing of which coefficients matter.
FEWEST = 8


def rebuilt_study(sweep: TrackedSweep) -> optuna.Study:
    """The searched points that ran to the end, as completed trials with all the sweep's objectives."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = sweep.config.objectives
    directions = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    study = optuna.create_study(
        study_name=sweep.name, directions=[directions[objective.mode] for objective in objectives]
    )
    if len(objectives) > 1:
        with _still_experimental():
            study.set_metric_names([objective.metric for objective in objectives])
    study.add_trials([_trial(sweep, point, values) for point, values in _completed(sweep)])
    return study


def _completed(sweep: TrackedSweep) -> Sequence[tuple[Point, list[float]]]:
    found = [(point, point.objectives(sweep.config.objectives)) for point in sweep.searched]
    return [(point, values) for point, values in found if values is not None and point.status == "completed"]


def _trial(sweep: TrackedSweep, point: Point, values: Sequence[float]) -> optuna.trial.FrozenTrial:
    parameters = {key: sweep.space.parameters[key] for key in point.values}
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        values=list(values),
        params=encoded(parameters, point.values),
        distributions={key: distribution(parameter) for key, parameter in parameters.items()},
    )


def importances(study: optuna.Study) -> Mapping[str, float]:
    """PED-ANOVA's share of each coefficient in what tells good points from the rest, the largest first.

    With several objectives good is what lies on the front. Conditional coefficients are weighed where they are there.
    Empty for fewer than `FEWEST` completed points, or where all of them are alike.
    """
    if len(study.trials) < FEWEST or len({trial.values[0] for trial in study.trials}) == 1:
        return {}
    with _still_experimental():
        shares: Mapping[str, float] = get_param_importances(study)
    return shares


@contextmanager
def _still_experimental() -> Iterator[None]:
    """Lets Optuna not say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
