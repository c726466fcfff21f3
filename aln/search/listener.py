"""What happens in a sweep as Tune tells it, passed on to the records, MLflow and the screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from aln.config import parse_run
from aln.errors import ConfigError
from aln.search.records import Status, TrialRecord
from aln.tracking import TrackedRun, Tracker


class Listener(Callback):
    """Keeps one record and one MLflow run a trial. All in the driver: the embedded store has one writer."""

    def __init__(
        self, sweep: str, tracker: Tracker, parent: TrackedRun, changed: Callable[[TrialRecord], None]
    ) -> None:
        self.records: dict[str, TrialRecord] = {}
        self._runs: dict[str, TrackedRun] = {}
        self._sweep, self._tracker, self._parent, self._changed = sweep, tracker, parent, changed

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks when it starts; what listens in this process stays here."""
        return {}

    def run_of(self, record: TrialRecord) -> TrackedRun:
        """The MLflow run of a record's trial."""
        return self._runs[record.label]

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._changed(self._begin(trial))

    def _begin(self, trial: Trial) -> TrialRecord:
        assignment = trial.config
        try:
            config = parse_run(assignment["run"])
        except ConfigError:  # settings that are legal one by one and not together: the trial itself will say so
            config = None
        record = TrialRecord(
            label=assignment["label"],
            point=assignment["point"],
            content=assignment["run"],
            baseline=assignment["baseline"],
            epochs=0 if config is None else config.epochs,
        )
        self.records[trial.trial_id] = record
        kind = "baseline" if record.baseline else "searched"
        tags = {"sweep": self._sweep, "trial": record.label, "kind": kind}
        run = self._tracker.run(record.label, tags, self._parent)
        run.tag(point=json.dumps(record.point), checkpoints=assignment["checkpoints"])
        if config is not None:
            run.describe(config)
        self._runs[record.label] = run
        return record

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self.records[trial.trial_id]
        self._runs[record.label].log(record.update(result), record.epoch)
        self._changed(record)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self.records[trial.trial_id]
        self._finish(record, record.ended())

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        # A trial whose process could not start fails without having begun.
        record = self.records.get(trial.trial_id) or self._begin(trial)
        # `trial.get_error` reads the storage, where the file arrives later.
        record.error = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "no traceback"
        self._finish(record, "failed")

    def interrupt(self) -> None:
        """Ends what is still running, so that nothing stays RUNNING in MLflow."""
        for record in self.records.values():
            if record.status == "running":
                self._finish(record, "interrupted")

    def _finish(self, record: TrialRecord, status: Status) -> None:
        record.status = status
        run = self._runs[record.label]
        if record.error:
            run.text(record.error, "error.txt")
        run.finish(status)
        self._changed(record)
