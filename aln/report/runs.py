"""A sweep as MLflow has it: what was searched and on what, its trainings, and what they reached."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlflow.entities import Run

from aln.config import Objective, SweepConfig, parse_document, parse_sweep
from aln.errors import ConfigError, Problem
from aln.hints import hint
from aln.preflight import shown
from aln.records import Point, Status, TrialRecord, ranked
from aln.space import RULE, SearchSpace, parse_space
from aln.sweep_folder import SPACE, SWEEP
from aln.tracking import Reader

_TITLES = {
    "val_top1": "validation top-1 (%)",
    "val_top5": "validation top-5 (%)",
    "val_loss": "validation loss (nats)",
    "train_top1": "training top-1 (%)",
    "train_loss": "training loss (nats)",
    "train_seconds": "time of training (s)",
}


def axis_title(metric: str) -> str:
    """What an axis of this metric is called, with its unit."""
    return _TITLES.get(metric, f"{metric.replace('_', ' ')} (degrees)")


def points_of(runs: Iterable[Run]) -> list[Point]:
    """The points and baselines that the runs are trainings of, in the order in which they began."""
    points: dict[str, Point] = {}
    for run in runs:
        tags, metrics = run.data.tags, run.data.metrics
        if "point" not in tags and tags["kind"] != "baseline":  # it is just being made
            continue
        label, repetition = tags["trial"], int(tags.get("repetition", "0"))
        of = label.removesuffix(f"-s{repetition}")
        status: Status = tags.get("status") or "running"
        record = TrialRecord(
            label=label,
            of=of,
            repetition=repetition,
            epochs=int(run.data.params.get("epochs", metrics.get("epoch", 0))),
            begun=True,
            status="running" if run.info.status == "RUNNING" else status,
            metrics=metrics,
        )
        values = json.loads(tags.get("point", "{}"))
        point = Point(label=of, values=values, baseline=tags["kind"] == "baseline", records=[])
        points.setdefault(of, point).records.append(record)
    return list(points.values())


@dataclass(frozen=True, kw_only=True)
class TrackedSweep:
    """One sweep.

    Attributes:
        parent: its run.
        runs: those of its trainings, by label.
        points: all of them, baselines included.
    """

    name: str
    parent: Run
    config: SweepConfig
    space: SearchSpace
    runs: Mapping[str, Run]
    points: Sequence[Point]

    @property
    def objective(self) -> Objective:
        """The first of its objectives, by which points are ranked."""
        return self.config.objectives[0]

    @cached_property
    def searched(self) -> list[Point]:
        """Its points in the order in which they were suggested, baselines left out."""
        return sorted((point for point in self.points if not point.baseline), key=lambda point: int(point.label))

    @property
    def baselines(self) -> list[Point]:
        """Its baselines, by name."""
        return sorted((point for point in self.points if point.baseline), key=lambda point: point.label)

    @cached_property
    def good(self) -> list[Point]:
        """The searched points whose objective is known, the best first."""
        return [point for point in ranked(self.searched, self.objective) if self.value(point) is not None]

    def value(self, point: Point) -> float | None:
        """The point's objective, of those that ended well."""
        return point.mean(self.objective.metric)

    def rule(self, point: Point) -> str:
        """The name of the point's rule."""
        return point.label if point.baseline else str(point.values.get(RULE, self.space.rule))

    @property
    def validation_images(self) -> int | None:
        """How many images the trainings are compared by; None if the data set did not say."""
        images = self.parent.data.tags.get("validation_images")
        return None if images is None else int(images)

    def content(self, point: Point) -> dict[str, Any]:
        """The run of a searched point's first usable training, or of its first, on the device that it had."""
        record = (point.usable or point.records)[0]
        content = self.space.apply(self.config.run, point.values)
        compute = {**(content.get("compute") or {}), "device": self.runs[record.label].data.params["compute.device"]}
        return {**content, "seed": int(content.get("seed", 0)) + record.repetition, "compute": compute}


def read_sweeps(names: Sequence[str], reader: Reader) -> list[TrackedSweep]:
    """The sweeps of these names, of several of one name the newest.

    Raises `ConfigError` naming each that MLflow does not know, or does not know enough of.
    """
    runs: dict[str, Run] = {}
    for run in reader.sweeps():
        runs.setdefault(run.data.tags["sweep"], run)
    problems = [_unknown(name, runs, reader.uri) for name in names if name not in runs]
    found = []
    for name in dict.fromkeys(names):
        if name in runs:
            try:
                found.append(_read(name, runs[name], reader))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def _unknown(name: str, known: Mapping[str, Run], uri: str) -> Problem:
    some = ", ".join(list(known)[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
    listed = f" (known: {some})" if known else "; it knows none"
    return Problem(key="SWEEP", message=f"MLflow at {shown(uri)} knows no sweep '{name}'{hint(name, known)}{listed}")


def _read(name: str, parent: Run, reader: Reader) -> TrackedSweep:
    texts = {file: reader.text(parent, file) for file in (SWEEP, SPACE)}
    missing = [file for file, text in texts.items() if text is None]
    if missing:
        message = f"MLflow lacks {' and '.join(missing)} of '{name}': `python -m aln.sweep --resume {name}` logs them"
        raise ConfigError([Problem(key="SWEEP", message=message)])
    config, _ = parse_sweep(parse_document(texts[SWEEP] or "", f"{name}/{SWEEP}"))
    space = parse_space(parse_document(texts[SPACE] or "", f"{name}/{SPACE}"), config.run)
    runs = [run for run in reader.trials(parent) if run.data.tags.get("status") != "lost"]
    by_label = {run.data.tags["trial"]: run for run in runs}
    return TrackedSweep(
        name=name, parent=parent, config=config, space=space, runs=by_label, points=points_of(by_label.values())
    )
