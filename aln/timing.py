"""How long an epoch takes, measured before anybody waits for one."""

from __future__ import annotations

import dataclasses
import time

from aln.build import build
from aln.config import RunConfig
from aln.engine import StepProgress, fit
from aln.threads import compute_with


class _Enough(Exception):  # noqa: N818 (no error)
    """The steps timed so far say how long the epoch takes."""


def time_epoch(config: RunConfig, seconds: float = 10.0) -> float:
    """Seconds that an epoch of the run takes on this machine: the second one's, or what its training promises after so
    many seconds, evaluation left out.
    """
    compute_with(config.resources.cpus)
    run = build(config)
    settings = dataclasses.replace(run.settings, epochs=2, alignment_every=None)
    began, first = time.perf_counter(), 0.0
    promised = 0.0

    def listen(progress: StepProgress) -> None:
        nonlocal first, promised
        now = time.perf_counter()
        if progress.step == 1:
            first = now  # what is made once is made in the first step
        elif now - began > seconds:
            promised = (now - first) * progress.steps / (progress.step - 1)
            raise _Enough

    try:
        *_, last = fit(run.state, run.source, settings, on_step=listen)
    except _Enough:
        return promised
    return last.seconds
