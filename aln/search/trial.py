"""One training of a sweep, inside a reused Tune actor: the same `fit` as everywhere, reporting after each epoch."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune

from aln.config import RunConfig, parse_run
from aln.engine import EpochResult
from aln.errors import AlnError
from aln.job import Job, checkpoints_of
from aln.search.stall import StallWatch, last_words
from aln.worker_group import warm_group


class _Stopped(BaseException):
    """Tune has ended the training in the midst of a report, where a rule that leaves the interpreter has not."""


def run_trial(assignment: dict[str, Any]) -> None:
    """Trains what `assignment["run"]` describes, from the newest checkpoint in `assignment["checkpoints"]` on.

    Reports `metrics` after each epoch (`EpochResult.metrics()`, `epoch` and `diverged`), `status` and `error` at the
    end. The driver ends a training in the midst of a report. An error is reported, not raised: the process is sound,
    and the next training has it.
    """
    # A thread that Tune ends in the midst of a report may have files to close before the process has the next one.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    note = Path(assignment["stall_note"])
    if stacks := last_words(note):
        note.unlink()
        _end("timed out", stacks)
        return
    with StallWatch(assignment["stall_timeout"], lambda stacks: _end("timed out", stacks), note) as watch:
        try:
            status = _train(assignment, watch)
        except _Stopped:
            sys.exit(0)
        except AlnError as error:
            _end("failed", f"{error}\n\n{traceback.format_exc()}")
        except (Exception, SystemExit):
            _end("failed", traceback.format_exc())
        else:
            _end(status)


def _train(assignment: dict[str, Any], watch: StallWatch) -> str:
    config = parse_run(assignment["run"])
    for result in _epochs(config, assignment["checkpoints"], watch):
        numbers = {"epoch": float(result.epoch), "diverged": float(result.diverged)}
        with watch.paused():  # the driver may be busy
            try:
                tune.report({"metrics": result.metrics() | numbers})
            except SystemExit:
                raise _Stopped from None
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
