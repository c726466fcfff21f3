"""One training of a sweep, inside a reused Tune actor: the same `fit` as everywhere, reporting after each epoch."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

from ray import tune

from aln.config import RunConfig, parse_run
from aln.engine import EpochResult
from aln.errors import AlnError
from aln.job import Job, checkpoints_of
from aln.search.stall import StallWatch
from aln.worker_group import warm_group


def run_trial(assignment: dict[str, Any]) -> None:
    """Trains what `assignment["run"]` describes, from the newest checkpoint in `assignment["checkpoints"]` on.

    Reports `metrics` after each epoch (`EpochResult.metrics()`, `epoch` and `diverged`), `status` and `error` at the
    end. The driver ends a training in the midst of a report. An error is reported, not raised: the process is sound,
    and the next training has it.
    """
    with StallWatch(assignment["stall_timeout"], lambda stacks: _end("timed out", stacks)) as watch:
        try:
            status = _train(assignment, watch)
        except AlnError as error:
            _end("failed", f"{error}\n\n{traceback.format_exc()}")
        except Exception:
            _end("failed", traceback.format_exc())
        else:
            _end(status)


def _train(assignment: dict[str, Any], watch: StallWatch) -> str:
    config = parse_run(assignment["run"])
    for result in _epochs(config, assignment["checkpoints"], watch):
        numbers = {"epoch": float(result.epoch), "diverged": float(result.diverged)}
        with watch.paused():  # the driver may be busy
            tune.report({"metrics": result.metrics() | numbers})
        if result.diverged:
            return "diverged"
    return "completed"


def _epochs(config: RunConfig, checkpoints: str, watch: StallWatch) -> Iterator[EpochResult]:
    """The training's epochs, in this process or by workers of its own, which stay for the next training."""
    if config.resources.workers == 1:
        return Job(config, checkpoints_of(config, checkpoints)).train(on_step=watch.moved)
    return warm_group(config.resources).train(config, checkpoints)


def _end(status: str, error: str = "") -> None:
    tune.report({"status": status, "error": error})
