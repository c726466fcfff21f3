"""What a person sees while a sweep runs: a table that lives on a terminal, a line a training elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aln.records import ENDED_BADLY, TrialRecord
from aln.search.plan import SweepPlan
from aln.search.standing import Standing
from aln.search.study import Study
from aln.space import format_point, format_value

# Lines of the terminal that the table's frame and its head take, and the cursor below.
_FRAME = 5
_REFRESH_SECONDS = 0.5
# What drawing may take of the driver's time: a slow or busy machine draws less often.
_SHARE = 0.02


class Screen:
    """Shows running trainings, baselines, the best points and how long it takes; use as a context manager."""

    def __init__(self, plan: SweepPlan, study: Study, console: Console) -> None:
        self._plan, self._study, self._console = plan, study, console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._next_drawing = self._began = time.monotonic()
        self._standing = Standing(plan, study.points.values())
        self._ended_before = self._standing.ended

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.update(self._table())
            self._live.stop()

    def changed(self, record: TrialRecord) -> None:
        """A training has begun, reported or ended."""
        self._standing.changed(record, self._study.points[record.of])
        if self._live is None:
            if record.status != "running":
                self._console.print(self._line(record), highlight=False, soft_wrap=True, markup=False)
        elif time.monotonic() >= self._next_drawing:
            began = time.thread_time()
            self._live.update(self._table(), refresh=True)
            pause = max(_REFRESH_SECONDS, (time.thread_time() - began) / _SHARE)
            self._next_drawing = time.monotonic() + pause

    def _line(self, record: TrialRecord) -> str:
        values = self._values(record)
        what = format_point(values) if values else "baseline"
        error = f"  {record.error.strip().splitlines()[-1]}" if record.error else ""
        total = str(self._standing.total)
        label = f"{record.label:>{self._label_width}}"
        done = f"[{self._standing.ended:>{len(total)}}/{total}]"
        counts = f"{done} {label}  {record.status:<9}  epoch {record.epoch:>3}"
        scores = "  ".join(self._score(record, objective.metric) for objective in self._plan.sweep.objectives)
        return f"{counts}  {scores}  {what}{error}"

    def _values(self, record: TrialRecord) -> Mapping[str, Any]:
        return self._study.points[record.of].values

    @property
    def _label_width(self) -> int:
        repetition = len("-s0") if self._plan.sweep.seeds > 1 else 0
        return max(map(len, ("000", *self._plan.sweep.baselines))) + repetition

    def _score(self, record: TrialRecord, metric: str) -> str:
        return f"{metric} {record.measured[metric]:.2f}" if metric in record.measured else f"{metric} -"

    def _table(self) -> Group:
        # A table wraps its own title at the table's width, which is often less than the terminal's.
        title = Text("\n").join(Text(self._title(), style="italic").wrap(self._console, self._console.width))
        rows = max(1, self._console.height - _FRAME - title.plain.count("\n") - 1)
        keys = self._fitting_keys()
        table = Table()
        for column in ("trial", "status", "epoch", self._plan.sweep.objectives[0].metric):
            table.add_column(column, justify="left" if column in ("trial", "status") else "right", no_wrap=True)
        for key in keys:
            table.add_column(_short(key), justify="right", no_wrap=True)
        table.add_column("left", justify="right", no_wrap=True)
        for record in self._standing.shown[:rows]:
            values = self._values(record)
            table.add_row(
                record.label,
                record.status,
                f"{record.epoch}/{record.epochs}",
                self._score(record, self._plan.sweep.metric).split()[-1],
                *(format_value(values[key]) if key in values else "" for key in keys),
                _left(record),
            )
        return Group(title, table)

    def _fitting_keys(self) -> list[str]:
        """As many of the searched parameters as the terminal has room for beside the other columns."""
        room = self._console.width - 60
        keys = []
        for key in self._plan.space.parameters:
            room -= max(len(_short(key)), 8) + 3
            if room < 0:
                break
            keys.append(key)
        return keys

    def _title(self) -> str:
        standing, objective = self._standing, self._plan.sweep.objectives[0].metric
        ended, total = standing.ended, standing.total
        parts = [f"{self._plan.name}: {ended} of {total} trainings"]
        if best := standing.best:
            parts.append(f"best {objective} {best.mean(objective):.2f} (trial {best.label})")
        if bad := standing.count(*ENDED_BADLY):
            parts.append(f"{bad} failed")
        if diverged := standing.count("diverged"):
            parts.append(f"{diverged} diverged")
        if done := ended - self._ended_before:
            seconds = (time.monotonic() - self._began) / done * (total - ended)
            parts.append(f"about {_duration(seconds)} left")
        return ", ".join(parts)


def _left(record: TrialRecord) -> str:
    """How long the training goes on at the pace of its epochs so far."""
    if record.status != "running" or not record.epoch:
        return ""
    return _duration(record.metrics["train_seconds"] / record.epoch * (record.epochs - record.epoch))


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _short(key: str) -> str:
    """The last part of a key, which tells coefficients apart; two of a section's name."""
    section, _, last = key.rpartition(".")
    return f"{section}.{last}" if last == "name" else last
