"""Sweeps in MLflow as `aln.search` leaves them there, with made-up numbers in place of trainings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aln.config import Document, dump, parse_sweep
from aln.records import Point, TrialRecord
from aln.report.runs import TrackedSweep, read_sweeps
from aln.space import parse_space
from aln.tracking import Reader, Tracker

RUN = {"model": {"name": "mlp", "width": 16}, "data": "digits", "epochs": 3}
ALPHA = {"rule.alpha": {"min": 1e-4, "max": 1e-1, "log": True}}
SPACE = {"rule": "mirror", "parameters": ALPHA}


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training, whose last epoch has `metrics`; `top1` are the accuracies of all its epochs."""

    label: str
    top1: Sequence[float]
    point: Mapping[str, Any] = field(default_factory=dict)
    status: str = "completed"
    repetition: int = 0
    kind: str = "searched"
    metrics: Mapping[str, float] = field(default_factory=dict)


def log_sweep(
    folder: Path,
    trainings: Sequence[Training],
    name: str = "first",
    space: Mapping[str, Any] = SPACE,
    status: str | None = "completed",
    images: int | None = 360,
    **settings: Any,
) -> None:
    """Logs a sweep that ended with this status; with None it still goes on."""
    content = {"run": RUN, "trials": 12, "baselines": [], **settings}
    sweep, base = parse_sweep(Document(content))
    tracker = Tracker("digits")
    parent = tracker.run(name, {"sweep": name, "kind": "sweep", "sweep_id": name})
    parent.begin()
    parent.describe(base)
    parent.tag(versions=json.dumps({"aln": "0.1.0", "torch": "2.15.0"}))
    if images is not None:
        parent.tag(validation_images=str(images))
    described = folder / f"described-{name}"
    described.mkdir()
    for file, text in (("sweep.yaml", sweep.to_yaml()), ("space.yaml", dump(space))):
        (described / file).write_text(text)
        parent.artifact(described / file)
    for training in trainings:
        tags = {"sweep": name, "trial": training.label, "kind": training.kind}
        run = tracker.run(training.label, tags, parent)
        run.begin()
        run.tag(point=json.dumps(training.point), repetition=str(training.repetition))
        run.describe(base)
        for epoch, top1 in enumerate(training.top1, start=1):
            last = training.metrics if epoch == len(training.top1) else {}
            run.log(
                {"val_top1": top1, "epoch": epoch, "epoch_seconds": 2.0, "train_seconds": 2.0 * epoch, **last}, epoch
            )
        if training.status != "running":
            run.finish(training.status)
    if status is not None:
        parent.finish(status)
    assert tracker.close() == ""


def imagined(trainings: Sequence[Training], space: Mapping[str, Any], **settings: Any) -> TrackedSweep:
    """The same sweep as if it had been read from MLflow, without runs there."""
    config, _ = parse_sweep(Document({"run": RUN, "baselines": [], **settings}))
    points = []
    for training in trainings:
        record = TrialRecord(
            label=training.label,
            of=training.label,
            repetition=0,
            epochs=len(training.top1),
            status=training.status,  # type: ignore[arg-type]
            metrics={"val_top1": training.top1[-1], **training.metrics},
        )
        points.append(Point(label=training.label, values=training.point, baseline=False, records=[record]))
    parsed = parse_space(Document(dict(space)), config.run)
    return TrackedSweep(name="first", parent=None, config=config, space=parsed, runs={}, points=points)


def tracked(*names: str) -> list[TrackedSweep]:
    """The sweeps as the report reads them."""
    return read_sweeps(names or ("first",), Reader())
