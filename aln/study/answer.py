"""What a study found: a row for each rule, a column for each sweep of the stage that answers."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from aln.records import Point
from aln.report.confidence import wilson
from aln.space import RULE
from aln.study.description import Answer
from aln.study.running import EndedSweep

_BACKPROP = "backprop"
TITLES = {
    "accuracy": "Test top-1 (%), mean ± standard deviation over seeds",
    "gap": "Test top-1 behind backprop's (percentage points), difference of means ± standard deviation",
    "share": "Share of the trials (%) that reached the accuracy asked for, ± half of Wilson's 95 % interval",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the answer.

    Attributes:
        mean: NaN if nothing trained.
        deviation: standard deviation, NaN if there is one value alone; of a share half of Wilson's interval.
        count: over how many trainings, or trials.
        diverged: how many of them did.
    """

    row: str
    column: str
    mean: float
    deviation: float
    count: int
    diverged: int

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "diverged" if self.diverged else "-"
        spread = "" if math.isnan(self.deviation) else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread}" + (f" ({self.diverged} of {self.count} diverged)" if self.diverged else "")


def cells(answer: Answer, ended: Sequence[EndedSweep]) -> list[Cell]:
    """The answer, in the order of its sweeps."""
    sweeps = [sweep for sweep in ended if sweep.stage == answer.stage]
    if answer.measure == "share":
        return [cell for sweep in sweeps for cell in _shares(sweep, answer.at_least or 0.0)]
    found: dict[tuple[str, str], Cell] = {}
    for sweep in sweeps:
        for row, point in _rows(sweep):
            place = (row, sweep.planned.column)
            if place in found and not point.baseline:  # of another space, or of a rule that is a baseline, too
                place = (f"{row} ({sweep.planned.name})", sweep.planned.column)
            found.setdefault(place, _accuracy(sweep, place[0], point))
    if answer.measure == "accuracy":
        return list(found.values())
    return [
        _behind(found[_BACKPROP, column], cell)
        for (row, column), cell in found.items()
        if row != _BACKPROP and (_BACKPROP, column) in found
    ]


def _rows(sweep: EndedSweep) -> Iterator[tuple[str, Point]]:
    """The points that stand for their rules: baselines, and of a search the best one, of an earlier stage's all."""
    searched = [point for point in sweep.points if not point.baseline]
    chosen = searched if sweep.plan.sweep.test == "all" else sweep.best(1)
    rules = [rule_of(sweep, point) for point in chosen]
    for point in sweep.points:
        if point.baseline:
            yield point.label, point
    for rule, point in zip(rules, chosen, strict=True):
        yield rule if rules.count(rule) == 1 else f"{rule} {point.label}", point


def rule_of(sweep: EndedSweep, point: Point) -> str:
    """The name of a point's rule."""
    return point.label if point.baseline else str(point.values.get(RULE, sweep.plan.space.rule))


def _accuracy(sweep: EndedSweep, row: str, point: Point) -> Cell:
    values = [sweep.test_top1[record.label] for record in point.usable if record.label in sweep.test_top1]
    return Cell(
        row=row,
        column=sweep.planned.column,
        mean=statistics.fmean(values) if values else math.nan,
        deviation=statistics.stdev(values) if len(values) > 1 else math.nan,
        count=sum(record.begun for record in point.records),
        diverged=sum(record.status == "diverged" for record in point.records),
    )


def _behind(backprop: Cell, cell: Cell) -> Cell:
    return Cell(
        row=cell.row,
        column=cell.column,
        mean=backprop.mean - cell.mean,
        deviation=math.hypot(backprop.deviation, cell.deviation),
        count=cell.count,
        diverged=cell.diverged,
    )


def _shares(sweep: EndedSweep, at_least: float) -> Iterator[Cell]:
    """Of each rule, how many of the trials of its space reached an objective."""
    sign = 1 if sweep.objective.mode == "max" else -1
    by_rule: dict[str, list[Point]] = {}
    for point in sweep.points:
        if not point.baseline and point.status in ("completed", "stopped", "diverged"):
            by_rule.setdefault(rule_of(sweep, point), []).append(point)
    for rule, points in by_rule.items():
        values = [point.mean(sweep.objective.metric) for point in points if point.status != "diverged"]
        reached = sum(value is not None and sign * value >= sign * at_least for value in values)
        low, high = wilson(reached, len(points))
        yield Cell(
            row=rule,
            column=sweep.planned.column,
            mean=100 * reached / len(points),
            deviation=50 * (high - low),
            count=len(points),
            diverged=sum(point.status == "diverged" for point in points),
        )


def table(answer: Answer, found: Sequence[Cell]) -> Table:
    """The answer for the terminal."""
    columns = list(dict.fromkeys(cell.column for cell in found))
    shown = Table(title=TITLES[answer.measure], title_justify="left")
    shown.add_column("rule", no_wrap=True)
    for column in columns:
        shown.add_column(column, justify="right")
    by_place = {(cell.row, cell.column): str(cell) for cell in found}
    for row in dict.fromkeys(cell.row for cell in found):
        shown.add_row(row, *(by_place.get((row, column), "-") for column in columns))
    return shown


def write_answer(found: Sequence[Cell], path: Path) -> None:
    """Writes the answer, a line for each of its numbers."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["rule", "of", "mean", "deviation", "trainings", "diverged"])
        for cell in found:
            numbers = ["" if math.isnan(value) else f"{value:.4f}" for value in (cell.mean, cell.deviation)]
            lines.writerow([cell.row, cell.column, *numbers, cell.count, cell.diverged])


def write_trainings(ended: Sequence[EndedSweep], path: Path) -> None:
    """Writes what all the answers rest on, a line for each training of each stage."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["stage", "sweep", "of", "rule", "trial", "seed", "status", "epochs", "objective", "test_top1"])
        for sweep in ended:
            for point in sweep.points:
                for record in point.records:
                    usable = record in point.usable
                    value = record.metrics.get(sweep.objective.metric, "") if usable else ""
                    test = sweep.test_top1.get(record.label, "") if usable else ""
                    seed = sweep.plan.base.seed + record.repetition
                    mine = [sweep.stage, sweep.plan.name, sweep.planned.column, rule_of(sweep, point), record.label]
                    lines.writerow([*mine, seed, record.status, record.epoch, value, test])
