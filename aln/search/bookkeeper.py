"""What happens in a sweep, written down in the right order: MLflow's spool, the study, the screen."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlflow.entities import Run

from aln.checkpoint_folder import CheckpointFolder
from aln.config import parse_run
from aln.errors import ConfigError, StorageError
from aln.records import ENDED_BADLY, Status, TrialRecord
from aln.search.plan import SweepPlan
from aln.search.stall import last_words, stall_note
from aln.search.study import Study
from aln.tracking import TrackedRun, Tracker

_TELLING = "telling"  # the study's note of the trainings that MLflow is being told of again


def training_of(tags: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Which training of its sweep an MLflow run is of, by the run's tags; see `Bookkeeper.tags`."""
    return tags.get("trial"), tags.get("point_id")


class Bookkeeper:
    """Hears of every training of a sweep, in the driver: the embedded store of MLflow has one writer.

    An epoch is on disk when `reported` returns, and only then does its training save the checkpoint that holds it. So a
    training that goes on from a checkpoint has told of every epoch before.

    Args:
        changed: hears of a training that has begun, reported or ended.
        resumed: whether there may be checkpoints of which the study does not know: it was copied to another machine
            before they were written.
    """

    def __init__(
        self,
        plan: SweepPlan,
        study: Study,
        tracker: Tracker,
        parent: TrackedRun,
        changed: Callable[[TrialRecord], None],
        resumed: bool = False,
    ) -> None:
        self._resumed = resumed
        self._plan, self._study, self._tracker, self._parent, self._changed = plan, study, tracker, parent, changed
        self._runs: dict[str, TrackedRun] = {}
        self._placed: set[str] = set()  # said to be next, but not begun yet
        self._stopping = False

    @property
    def finished(self) -> bool:
        """Whether nothing will begin any more."""
        return (self._study.exhausted and not self._placed) or self.over()

    def stop(self) -> None:
        """All is to stop. What becomes of processes from now on says nothing of their trainings, which go on later."""
        self._stopping = True

    def over(self) -> bool:
        """Whether all is to stop: somebody has said so, or a budget is spent."""
        return self._stopping or bool(self._study.over())

    def next(self) -> dict[str, Any] | None:
        """What is to be trained next, for `run_trial`; None if there is nothing at the moment."""
        record = None if self.over() else self._study.next()
        if record is None:
            return None
        if self._resumed:
            try:
                CheckpointFolder(self._plan.checkpoints(record.label)).forget_after(record.epoch)
            except StorageError as error:
                self._end(record, "failed", str(error))
                return self.next()
        self._placed.add(record.label)
        return {
            "label": record.label,
            "run": self.content(record),
            "checkpoints": self._plan.checkpoints(record.label),
            "stall_timeout": self._plan.sweep.stall_timeout,
            "stall_note": str(stall_note(self._plan.folder, record.label)),
        }

    def content(self, record: TrialRecord) -> dict[str, Any]:
        """The run that a record is of."""
        point = self._study.points[record.of]
        if point.baseline:
            return self._plan.baseline(point.label, record.repetition)
        return self._plan.content(point.values, record.repetition)

    def run_of(self, record: TrialRecord) -> TrackedRun:
        """The MLflow run of a training: the one that it has had before, whatever process began it."""
        if record.label not in self._runs:
            self._runs[record.label] = self._tracker.run(record.label, self.tags(record), self._parent)
        return self._runs[record.label]

    def tags(self, record: TrialRecord) -> dict[str, str]:
        """What tells the MLflow run of a training from all others under the sweep's.

        Its point is among it: a study that is older than what MLflow has may give the same label to another one.
        """
        point = self._study.points[record.of]
        values = json.dumps(point.values, sort_keys=True)
        return {
            "sweep": self._plan.name,
            "trial": record.label,
            "kind": "baseline" if point.baseline else "searched",
            "point_id": hashlib.sha256(values.encode()).hexdigest()[:16],
        }

    def tell_again(self, runs: Iterable[Run]) -> int:
        """Tells MLflow of the trainings that are not among its runs: its tables were lost, or it is another MLflow.

        It hears of every epoch, but of no layer, and the time is that of telling. A run that begins with what waited
        for an MLflow that was lost is described and ended, too, but lacks the epochs before. Returns how many trainings
        these are. If the process dies meanwhile, the next one tells all of it again, of which MLflow takes what is new.
        """
        missing = self._missing(runs)
        if not missing:
            return 0
        self._study.note(_TELLING, [record.label for record in missing])
        epochs, tests = self._study.epochs(), self._study.tests
        for record in missing:
            run = self._describe(record)
            for metrics in epochs[record.label]:
                run.log(metrics, int(metrics["epoch"]))
            if record.status != "running":
                self._finish(record, record.status, record.error)
            if record.label in tests:
                self.tested(record, tests[record.label])
        self._study.note(_TELLING, [])
        return len(missing)

    def _missing(self, runs: Iterable[Run]) -> list[TrialRecord]:
        """Trainings that have trained or ended, of which these runs are not all that there is to tell."""
        held = {training_of(run.data.tags) for run in runs if "point" in run.data.tags}
        half_told = self._study.notes().get(_TELLING, [])
        return [
            record
            for record in self._study.records.values()
            if (record.epoch or record.status != "running")
            and (record.label in half_told or training_of(self.tags(record)) not in held)
        ]

    def tested(self, record: TrialRecord, test: Mapping[str, Any]) -> None:
        """A training has been tested (`Study.note_test`). Told again it has the same time, so MLflow keeps it once."""
        self.run_of(record).summarise({"test_top1": test["top1"]}, test["time"])

    def began(self, label: str) -> None:
        """A training begins or goes on, in a process of its own."""
        self._placed.discard(label)
        record = self._study.records[label]
        if record.status != "running":
            return
        self._describe(record)
        self._changed(record)

    def _describe(self, record: TrialRecord) -> TrackedRun:
        """Says what a training is, on its run, which is going on."""
        run = self.run_of(record)
        run.begin()
        run.tag(
            point=json.dumps(self._study.points[record.of].values),
            checkpoints=self._plan.checkpoints(record.label),
            repetition=str(record.repetition),
        )
        # Settings that are legal one by one and not together: the training itself will say so.
        with contextlib.suppress(ConfigError):
            run.describe(parse_run(self.content(record)))
        return run

    def reported(self, label: str, result: Mapping[str, Any]) -> bool:
        """An epoch's `metrics`, or `status` and `error` at the end; says whether its process is to turn to the next.

        One that timed out is not: it is about to end itself.
        """
        record = self._study.records[label]
        if self._stopping and result.get("status") in ENDED_BADLY:
            return True
        if record.status == "running" and "status" in result:
            self._end(record, result["status"], result["error"])
        if record.status != "running":
            return record.status != "timed out"
        metrics = {**result["metrics"], **self._of_layers(result["metrics"], record)}
        if record.update(metrics):
            self.run_of(record).log({**metrics, "train_seconds": record.metrics["train_seconds"]}, record.epoch)
            if self._study.report(record):
                self._end(record, "stopped")
                return True
            self._changed(record)
        return False

    def _of_layers(self, metrics: Mapping[str, float], record: TrialRecord) -> dict[str, float]:
        """Objectives that are means over layers: this epoch's, or the last if this one does not measure them."""
        found = {}
        for objective in self._plan.sweep.objectives:
            value = objective.value(metrics)
            value = record.metrics.get(objective.metric) if value is None else value
            if objective.metric not in metrics and objective.metric != "train_seconds" and value is not None:
                found[objective.metric] = value
        return found

    def epoch(self, label: str) -> int:
        """Epochs that a training has done so far."""
        return self._study.records[label].epoch

    def placed_again(self, label: str) -> bool:
        """The process that was to take a training died before it did; says whether another will be given it."""
        self._placed.discard(label)
        record = self._study.records[label]
        if self._stopping or record.status != "running" or record.restarts >= self._plan.sweep.restarts:
            return False
        record.restarts += 1
        self._study.again(record)
        return True

    def lost(self, label: str) -> None:
        """A training's process died; another goes on from its last checkpoint."""
        if not self._stopping:
            record = self._study.records[label]
            record.restarts += 1
            self._changed(record)

    def gave_up(self, label: str, reason: str) -> None:
        """A training's process died too often, or left word that it stalled."""
        self._placed.discard(label)
        record = self._study.records[label]
        if self._stopping or record.status != "running":
            return
        if stacks := last_words(stall_note(self._plan.folder, label)):
            self._end(record, "timed out", stacks)
        else:
            times = "once" if not record.restarts else f"{record.restarts + 1} times"
            self._end(record, "failed", f"its process died {times}, the last time so:\n{reason}")

    def interrupt(self) -> None:
        """What runs is not going on for now. The study has it as running, so that it is resumed; MLflow has not."""
        for record in self._study.records.values():
            if record.status == "running" and record.begun:
                record.status = "interrupted"
                self.run_of(record).finish("interrupted")
                self._changed(record)

    def _end(self, record: TrialRecord, status: Status, error: str = "") -> None:
        self._finish(record, status, error)
        self._study.end(record, status, error.strip()[-2000:])
        self._changed(record)

    def _finish(self, record: TrialRecord, status: Status, error: str) -> None:
        """Says how a training ended, on its run."""
        run = self.run_of(record)
        if error:
            run.text(error, "error.txt")
        if record.restarts:
            run.tag(restarts=str(record.restarts))
        run.finish(status)
