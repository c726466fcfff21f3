"""One trial, inside a reused Tune actor: the same `fit` as everywhere, reporting after each epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

from ray import tune

from aln.config import parse_run
from aln.job import Job, checkpoints_of

# What a diverged trial is ranked by. Finite, because Optuna drops values that are not.
_WORST = {"max": 0.0, "min": sys.float_info.max}


def run_trial(assignment: dict[str, Any]) -> None:
    """Trains what `assignment["run"]` describes, from the newest checkpoint in `assignment["checkpoints"]` on.

    Reports `EpochResult.metrics()` with `epoch`, `diverged`, `objective` (what the search ranks by) and `fit_seconds`
    (time spent in training and evaluation so far).
    """
    config = parse_run(assignment["run"])
    job = Job(config, checkpoints_of(config, assignment["checkpoints"]))
    fit_seconds, began = 0.0, time.perf_counter()
    for result in job.train():
        fit_seconds += time.perf_counter() - began
        metrics: dict[str, Any] = dict(result.metrics())
        metrics["objective"] = _WORST[assignment["mode"]] if result.diverged else metrics[assignment["metric"]]
        tune.report(metrics | {"epoch": result.epoch, "diverged": result.diverged, "fit_seconds": fit_seconds})
        began = time.perf_counter()
