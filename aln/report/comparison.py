"""Rules side by side: the best point of each, the baselines, and what they cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from aln.records import Point
from aln.report.colours import BEST, ENDINGS
from aln.report.confidence import Estimate, estimate
from aln.report.runs import TrackedSweep, axis_title


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A baseline of a sweep, or a rule's best point in it.

    Attributes:
        among: of how many points it is the best; 0 for a baseline.
        seconds: time of a whole training, mean over its trainings; None if it is not known. Like `images_per_second`.
    """

    sweep: str
    rule: str
    point: Point
    among: int
    value: Estimate
    test_top1: Estimate | None
    seconds: float | None
    images_per_second: float | None

    @property
    def name(self) -> str:
        """What tables and plots call it."""
        return f"{self.rule} (baseline)" if not self.among else f"{self.rule} {self.point.label}"


def contender(sweep: TrackedSweep, point: Point, among: int = 0) -> Contender:
    """The contender that a point is, whose objective is known."""
    value = estimate(point, sweep.objective.metric, sweep.validation_images)
    assert value is not None
    return Contender(
        sweep=sweep.name,
        rule=sweep.rule(point),
        point=point,
        among=among,
        value=value,
        test_top1=estimate(point, "test_top1", None),
        seconds=point.mean("train_seconds"),
        images_per_second=point.mean("images_per_second"),
    )


def contenders(sweeps: Sequence[TrackedSweep]) -> list[Contender]:
    """The best point of each rule of each sweep, and the baselines of each, in the order of the sweeps."""
    found = []
    for sweep in sweeps:
        by_rule: dict[str, list[Point]] = {}
        for point in sweep.good:
            by_rule.setdefault(sweep.rule(point), []).append(point)
        found += [contender(sweep, points[0], len(points)) for points in by_rule.values()]
        found += [contender(sweep, point) for point in sweep.baselines if sweep.value(point) is not None]
    return found


def relative_cost(one: Contender, others: Sequence[Contender]) -> float | None:
    """How many times the time of backprop's epoch, in the same sweep, an epoch takes; None if that is not known."""
    epochs = _epochs(one.point)
    for other in others:
        if (other.sweep, other.rule, other.among) == (one.sweep, "backprop", 0):
            reference = _epochs(other.point)
            if one.seconds and other.seconds and epochs and reference:
                return (one.seconds / epochs) / (other.seconds / reference)
    return None


def _epochs(point: Point) -> float:
    return statistics.fmean(record.epoch for record in point.usable)


def side_by_side(chosen: Sequence[Contender], metric: str) -> go.Figure:
    """The objective of each with its interval, the first on top."""
    figure = go.Figure()
    for name, colour, some in (
        ("best of its sweep", BEST, [c for c in chosen if c.among]),
        ("baseline", ENDINGS["completed"][0], [c for c in chosen if not c.among]),
    ):
        values = [c.value for c in some]
        figure.add_scatter(
            x=[v.mean for v in values],
            y=[_row(c, chosen) for c in some],
            mode="markers",
            name=name,
            marker={"size": 10, "color": colour, "line": {"width": 1, "color": "#333333"}},
            error_x={
                "array": [0 if v.high is None else v.high - v.mean for v in values],
                "arrayminus": [0 if v.low is None else v.mean - v.low for v in values],
            },
        )
    rows = [_row(c, chosen) for c in chosen]
    figure.update_yaxes(categoryorder="array", categoryarray=rows[::-1], type="category")
    return figure.update_layout(xaxis_title=axis_title(metric), height=190 + 34 * len(chosen))


def _row(one: Contender, chosen: Sequence[Contender]) -> str:
    return one.name if len({c.sweep for c in chosen}) == 1 else f"{one.name}<br>{one.sweep}"
