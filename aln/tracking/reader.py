"""What MLflow holds of sweeps, for those who write nothing there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from aln.preflight import require_listener
from aln.tracking.reasons import unusable
from aln.tracking.tracker import all_runs, default_uri, trials_of


class Reader:
    """Reads from MLflow at an address. Every method raises `AlnError` naming the address if MLflow cannot be read."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or default_uri()
        require_listener(self.uri, "MLflow")
        with self._told():
            self._client = MlflowClient(self.uri)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # MLflow lets the errors of database drivers and HTTP clients through
            raise unusable(self.uri, error) from error

    def sweeps(self) -> list[Run]:
        """The run of each sweep in all experiments, the newest first."""
        with self._told():
            everywhere = [experiment.experiment_id for experiment in self._client.search_experiments()]
            return all_runs(self._client, everywhere, "tags.kind = 'sweep'", "attributes.start_time DESC")

    def trials(self, sweep: Run) -> list[Run]:
        """All runs under a sweep's, baselines included, in the order in which they began."""
        with self._told():
            return trials_of(self._client, sweep.info.experiment_id, sweep.info.run_id)

    def history(self, run: Run, metric: str) -> list[tuple[int, float]]:
        """All points of a run's metric as epoch and value, in the order of the epochs."""
        with self._told():
            return sorted((m.step, m.value) for m in self._client.get_metric_history(run.info.run_id, metric))

    def text(self, run: Run, name: str) -> str | None:
        """A text artifact of a run; None if it has none of that name."""
        with self._told(), tempfile.TemporaryDirectory() as folder:
            if name not in (artifact.path for artifact in self._client.list_artifacts(run.info.run_id)):
                return None
            return Path(self._client.download_artifacts(run.info.run_id, name, folder)).read_text(encoding="utf-8")
