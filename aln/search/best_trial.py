"""The best trial of a sweep, from the sweep's folder alone. It is only read: the sweep may be running."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from aln.checkpoint_folder import CHECKPOINTS
from aln.config import SweepConfig, parse_sweep, read_document
from aln.errors import SweepError
from aln.records import Point, TrialRecord, best_point, training_label
from aln.search.study import SEARCHED
from aln.storage import places
from aln.sweep_folder import STUDY, SWEEP


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """The training that `best.yaml` describes.

    Attributes:
        label: what it is called.
        checkpoints: path or URL of what it left.
    """

    label: str
    checkpoints: str


def best_trial(folder: Path) -> BestTrial:
    """The best trial so far. Raises `SweepError` if none has trained, `ConfigError` for a file that is wrong."""
    sweep, _ = parse_sweep(read_document(folder / SWEEP))
    best = best_point(_points(folder / STUDY, sweep), sweep.objectives[0])
    if best is None:
        raise SweepError(f"{folder}: no trial of this sweep has trained to its end yet")
    _, remote = places(sweep.storage, folder.name)
    label = best.usable[0].label
    return BestTrial(label=label, checkpoints=f"{remote or folder}/trials/{label}/{CHECKPOINTS}")


def _points(study: Path, sweep: SweepConfig) -> Iterator[Point]:
    """The searched points, with those of their trainings that have begun or will."""
    if not study.exists():  # Optuna would make it
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(study)))
    for trial in optuna.load_study(study_name=SEARCHED, storage=storage).get_trials(deepcopy=False):
        if (label := trial.user_attrs.get("label")) is None:
            continue
        kept = [trial.user_attrs.get(f"training{n}") for n in range(sweep.seeds)]
        # One that has not begun will, unless another one of the point has ended otherwise than well.
        given_up = any(training and training["status"] not in ("running", "completed") for training in kept)
        records = [
            TrialRecord(
                label=training_label(label, n, sweep.seeds),
                of=label,
                repetition=n,
                epochs=0,
                status=training["status"] if training else "running",
                metrics=training["metrics"] if training else {},
            )
            for n, training in enumerate(kept)
            if training or not given_up
        ]
        yield Point(label=label, values=trial.user_attrs["point"], baseline=False, records=records)
