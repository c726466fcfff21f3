"""The time of an epoch."""

from __future__ import annotations

from typing import Any

import pytest

from aln import timing
from aln.config import parse_run


def test_a_short_epoch_is_timed_whole(small_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    real = timing.fit

    def fit(*args: Any, **kwargs: Any) -> Any:
        for result in real(*args, **kwargs):
            told.append(result.seconds)
            yield result

    monkeypatch.setattr(timing, "fit", fit)
    assert timing.time_epoch(parse_run(small_run)) == told[1]
    assert len(told) == 2


def test_a_long_epoch_is_not_waited_for(small_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 3))  # three seconds a look
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    data = {**small_run["data"], "train": 32 * 100}
    between = timing.time_epoch(parse_run({**small_run, "data": data}), seconds=60.0)
    assert 100 * 3 <= between < 100 * 12  # `fit` looks at the clock, too: up to three times a step
