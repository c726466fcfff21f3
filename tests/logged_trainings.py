"""What `aln.train` leaves in MLflow, for tests that compare whole trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient


def logged(folder: Path) -> dict[str, Any]:
    """What MLflow holds of the folder's one run: values by epoch, as often as they were logged, and how it ended."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("synthetic").experiment_id])
    names = ("train_loss", "train_top1", "val_loss", "val_top1")
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    values = {name: sorted((point.step, point.value) for point in points) for name, points in histories.items()}
    tested = {name: run.data.metrics.get(name) for name in ("test_top1", "test_loss")}
    return {"status": run.data.tags["status"], **values, **tested}
