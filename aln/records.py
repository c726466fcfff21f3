"""What a sweep knows of its trainings: a record a training, a `Point` for those that share one set of coefficients."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aln.config import Objective

Status = Literal["running", "completed", "stopped", "diverged", "failed", "timed out", "interrupted"]
ENDED_BADLY: tuple[Status, ...] = ("failed", "timed out")
_TRAINED: tuple[Status, ...] = ("completed", "stopped")


@dataclass(kw_only=True)
class TrialRecord:
    """One training of a sweep.

    Attributes:
        label: what it is called in MLflow and in the sweep's folder: number of its point or rule of its baseline, and
            which repetition it is if points are repeated.
        of: label of its point.
        repetition: which of the point's trainings, from 0; its seed is the run's plus that.
        epochs: those it has if nothing ends it before.
        begun: whether a process has ever been given it.
        metrics: what it reported last, with `train_seconds`, the time of all its epochs.
        restarts: how often its process died and another went on.
    """

    label: str
    of: str
    repetition: int
    epochs: int
    begun: bool = False
    status: Status = "running"
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
    restarts: int = 0

    @property
    def epoch(self) -> int:
        """Epochs done so far."""
        return int(self.metrics.get("epoch", 0))

    @property
    def measured(self) -> Mapping[str, float]:
        """The metrics without those that a diverged training does not have: it reports the worst validation there is
        (`EpochResult.metrics`), for the search alone.
        """
        if self.status != "diverged":
            return self.metrics
        return {name: value for name, value in self.metrics.items() if not name.startswith("val_")}

    def update(self, metrics: Mapping[str, float]) -> bool:
        """Takes over an epoch's numbers; False if it knew them: a training repeats epochs after a restart."""
        if metrics["epoch"] <= self.epoch:
            return False
        seconds = self.metrics.get("train_seconds", 0.0) + metrics.get("epoch_seconds", 0.0)
        self.metrics = {**metrics, "train_seconds": seconds}
        return True

    def plain(self) -> dict[str, Any]:
        """What the study keeps of it: metrics of layers are MLflow's business."""
        metrics = {key: value for key, value in self.metrics.items() if "/" not in key}
        return {"status": self.status, "metrics": metrics, "error": self.error, "restarts": self.restarts}


@dataclass(kw_only=True)
class Point:
    """A set of coefficients, or a baseline, and its trainings: as many as the sweep has seeds.

    Attributes:
        label: its number, in the order in which points were suggested; the rule's name for a baseline.
        values: the searched coefficients; empty for a baseline.
    """

    label: str
    values: Mapping[str, Any]
    baseline: bool
    records: list[TrialRecord]

    @property
    def status(self) -> Status:
        """How it ended: as its trainings did. One that failed beside others that completed is left out."""
        statuses = [record.status for record in self.records]
        order: tuple[Status, ...] = ("diverged", "running", "interrupted", "stopped", "completed", *ENDED_BADLY)
        return next((status for status in order if status in statuses), "running")

    @property
    def usable(self) -> list[TrialRecord]:
        """The trainings that say how good the point is: those that ended well, if there are any."""
        completed = [record for record in self.records if record.status == "completed"]
        return completed or [record for record in self.records if record.status == "stopped"]

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over the usable trainings; None if one of them lacks it, or there is none."""
        values = [record.metrics.get(metric, math.nan) for record in self.usable]
        return statistics.fmean(values) if values and all(map(math.isfinite, values)) else None

    def shown(self, metric: str) -> float:
        """Where a plot has the point: mean of a metric over the trainings that ended as it did; nan if none has it.

        Unlike `mean` this gives a diverged point the worst accuracy, which its trainings reported.
        """
        values = [r.metrics[metric] for r in self.records if r.status == self.status and metric in r.metrics]
        return statistics.fmean(values) if values else math.nan

    def objectives(self, objectives: Sequence[Objective]) -> list[float] | None:
        """What the search ranks by; None if that is not known."""
        found = [self.mean(objective.metric) for objective in objectives]
        return None if None in found else [value for value in found if value is not None]


def training_label(point: str, repetition: int, seeds: int) -> str:
    """What a training of a point is called, one of as many as there are seeds."""
    return point if seeds == 1 else f"{point}-s{repetition}"


@dataclass(frozen=True, kw_only=True)
class KnownTrial:
    """A point that another sweep has tried. `metrics` is empty if it diverged."""

    source: str
    values: Mapping[str, Any]
    metrics: Mapping[str, float]


def rank(point: Point, objective: Objective) -> tuple[bool, bool, float, float]:
    """What sorts points from best to worst (`ranked`)."""
    sign = -1.0 if objective.mode == "max" else 1.0
    value = point.mean(objective.metric) if point.status in _TRAINED else None
    loss = point.mean("val_loss")
    return (
        value is None,
        point.status != "completed",
        0.0 if value is None else sign * value,
        math.inf if loss is None else loss,
    )


def ranked(points: Iterable[Point], objective: Objective) -> list[Point]:
    """Searched points from best to worst: those that ran to the end first, then by objective, then by validation loss.

    An early-stopped training's objective is that of a shorter one, so it never outranks a completed one.
    """
    return sorted((point for point in points if not point.baseline), key=lambda point: rank(point, objective))


def trained_points(points: Iterable[Point], objective: Objective) -> list[Point]:
    """Those of the searched points that trained, from best to worst."""
    found = ranked(points, objective)
    return [point for point in found if point.status in _TRAINED and point.mean(objective.metric) is not None]


def best_point(points: Iterable[Point], objective: Objective) -> Point | None:
    """The best searched point that trained; None if none did."""
    return next(iter(trained_points(points, objective)), None)


def pareto_front(points: Iterable[Point], objectives: Sequence[Objective]) -> list[Point]:
    """The completed searched points that no other beats in one objective without losing in another."""
    signs = [-1.0 if objective.mode == "max" else 1.0 for objective in objectives]
    costs = {
        point.label: (point, [sign * value for sign, value in zip(signs, values, strict=True)])
        for point in points
        if not point.baseline and point.status == "completed" and (values := point.objectives(objectives))
    }

    def beaten(own: list[float]) -> bool:
        return any(other != own and all(map(float.__le__, other, own)) for _, other in costs.values())

    return [point for point, own in costs.values() if not beaten(own)]
