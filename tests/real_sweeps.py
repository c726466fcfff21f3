"""`python -m aln.sweep` in processes of its own, and what they leave in MLflow and in Optuna's study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from commands import REPOSITORY, Command, Ended

DIGITS = REPOSITORY / "sweeps/digits.yaml"
# A recipe whose epochs take milliseconds, with a whole training's checkpoints and metrics.
TINY = [
    "run.model={name: mlp, width: 16, depth: 1}",
    "run.data={name: synthetic, train: 128, validation: 50, test: 50, image_size: 4, channels: 1}",
    "run.optimizer={name: sgd, lr: 0.05}",
    "run.schedule=constant",
    "run.batch_size=32",
]


class SweepProcess(Command):
    """A running `python -m aln.sweep`."""

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, "aln.sweep", *arguments, environment=environment)


def sweep(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs the command to its end."""
    return SweepProcess(folder, *arguments, environment=environment).wait()


def store_in(folder: Path) -> str:
    """The address of MLflow's embedded store in the folder."""
    return f"sqlite:///{folder / 'mlflow.db'}"


def runs_in(client: MlflowClient, experiment: str) -> list[Run]:
    """All runs of an experiment."""
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], max_results=1000)) if found else []


class Tracked:
    """What MLflow holds of an experiment: its embedded store in the folder, or the store at an address.

    Attributes:
        runs: all of them.
        parent: the sweep's.
        children: its trials' by label; a label that two runs have fails.
    """

    def __init__(self, folder: Path, experiment: str = "digits", uri: str | None = None) -> None:
        self.client = MlflowClient(uri or store_in(folder))
        self.runs = runs_in(self.client, experiment)
        self.children: dict[str, Run] = {}
        for run in self.runs:
            if run.data.tags["kind"] != "sweep":
                assert run.data.tags["trial"] not in self.children, f"two runs of {run.data.tags['trial']}"
                self.children[run.data.tags["trial"]] = run

    @property
    def parent(self) -> Run:
        (parent,) = [run for run in self.runs if run.data.tags["kind"] == "sweep"]
        return parent

    def statuses(self) -> dict[str, str]:
        """How each trial ended."""
        return {label: run.data.tags["status"] for label, run in self.children.items()}

    def points(self, run: Run, metric: str) -> list[tuple[int, float]]:
        """All points of a metric, as epoch and value."""
        history = self.client.get_metric_history(run.info.run_id, metric)
        return sorted((point.step, point.value) for point in history)

    def text(self, label: str, name: str) -> str:
        """A text artifact of a trial."""
        return Path(self.client.download_artifacts(self.children[label].info.run_id, name)).read_text()

    def everything(self) -> dict[str, Any]:
        """All that the store knows of every run, times of ending left out."""
        return {
            run.info.run_id: (
                run.info.status,
                run.data.params,
                run.data.tags,
                {
                    key: sorted(
                        (p.step, p.timestamp, p.value) for p in self.client.get_metric_history(run.info.run_id, key)
                    )
                    for key in run.data.metrics
                },
            )
            for run in self.runs
        }


def told(folder: Path, study: str = "searched") -> list[FrozenTrial]:
    """The trials that the study in a sweep's folder holds, read by Optuna itself."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return optuna.load_study(study_name=study, storage=storage).trials


def told_by_label(folder: Path) -> dict[str, FrozenTrial]:
    """Those that became trials of the sweep; a label that two have fails."""
    trials = [trial for trial in told(folder) if "label" in trial.user_attrs]
    by_label = {str(trial.user_attrs["label"]): trial for trial in trials}
    assert len(by_label) == len(trials)
    return by_label
