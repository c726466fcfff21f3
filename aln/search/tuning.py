"""Ray Tune: places trainings, reuses their processes and replaces lost ones. What to train the bookkeeper says."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from ray import tune
from ray.tune import Callback, Stopper, TuneError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from aln.cluster import has_many_machines, joined_cluster, require_shared
from aln.errors import AlnError, StorageError, SweepError
from aln.search.bookkeeper import Bookkeeper
from aln.search.plan import SweepPlan
from aln.search.trial import run_trial
from aln.storage import open_storage
from aln.worker_group import trial_resources, trials_at_once

# Tune's own files, which nobody reads: what it would resume from is not what a sweep resumes from.
_SCRATCH = ".tune"
# Signals are for `Interruption`.
_SETTINGS = {"TUNE_GLOBAL_CHECKPOINT_S": "86400", "TUNE_DISABLE_SIGINT_HANDLER": "1"}


class _Here:
    """Stays in this process, wherever Tune pickles or copies it."""

    def __init__(self, bookkeeper: Bookkeeper) -> None:
        self._bookkeeper = bookkeeper

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class _Suggestions(_Here, Searcher):
    """What Tune asks for the next training."""

    def __init__(self, bookkeeper: Bookkeeper) -> None:
        Searcher.__init__(self)
        _Here.__init__(self, bookkeeper)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        assignment = self._bookkeeper.next()
        return Searcher.FINISHED if assignment is None and self._bookkeeper.finished else assignment

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class _Verdicts(_Here, Stopper):
    """What Tune asks whether a training, or all of them, are to stop."""

    def __init__(self, bookkeeper: Bookkeeper, labels: dict[str, str]) -> None:
        super().__init__(bookkeeper)
        self._labels = labels
        self.failed: AlnError | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        try:
            return self._bookkeeper.reported(self._labels[trial_id], result)
        except AlnError as error:  # Tune makes a traceback of it
            self.failed = error
            raise

    def stop_all(self) -> bool:
        return self._bookkeeper.over()


class _Watch(_Here, Callback):
    """What Tune tells of processes."""

    def __init__(self, bookkeeper: Bookkeeper, labels: dict[str, str]) -> None:
        super().__init__(bookkeeper)
        self._labels = labels
        self._epochs: dict[str, int] = {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._labels[trial.trial_id] = trial.config["label"]
        self._bookkeeper.began(trial.config["label"])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        label = trial.config["label"]
        epoch = self._bookkeeper.epoch(label)
        if result.get("status") == "timed out":
            trial.max_failures = 0  # its process is ending itself, and none is to follow
        elif epoch > self._epochs.get(label, 0):
            # Restarts are counted from the last progress on: on machines that come and go a long training has many.
            # Epochs that are repeated after a restart are none, or a training that always dies would never end.
            trial.run_metadata.num_failures = 0
        self._epochs[label] = epoch

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._bookkeeper.lost(trial.config["label"])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if trial.trial_id not in self._labels and self._bookkeeper.placed_again(trial.config["label"]):
            return
        # `trial.get_error` reads the storage, where the file arrives later.
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "no traceback"
        self._bookkeeper.gave_up(trial.config["label"], text)


@contextmanager
def cluster(plan: SweepPlan) -> Iterator[tuple[str, int]]:
    """The Ray cluster for the sweep, which ends with it if it was started for it.

    Yields its description and the number of trials that fit at once. Raises `AlnError` if the cluster cannot be joined,
    `SweepError` if not one trial fits.
    """
    # Tune prints every trial's traceback; ours are in the trial's run and folder.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # Tune hands the keys of an object store on to trials by the command line that starts their process, which everybody
    # on the machine can read, and Ray writes it down. Every machine has keys of its own.
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    with joined_cluster() as here:
        resources = plan.base.resources
        fits = trials_at_once(here, resources)
        if fits < 1:
            each = f"{resources.cpus} CPU cores and {resources.gpus:g} GPUs"
            wants = each if resources.workers == 1 else f"{resources.workers} workers with {each} each"
            raise SweepError(f"no trial fits: each takes {wants}, {here.where} has {here.has}")
        if plan.remote is None:
            require_shared(plan.folder)
        yield f"{here.where} with {here.has}", min(fits, plan.sweep.max_concurrent or fits)


def tune_trials(
    plan: SweepPlan,
    concurrent: int,
    bookkeeper: Bookkeeper,
    train: Callable[[dict[str, Any]], None] = run_trial,
) -> None:
    """Trains what the bookkeeper says, so many at once, until it has nothing more or the process is interrupted.

    Args:
        train: what a process does with an assignment (`Bookkeeper.next`), reporting as `run_trial` does.
    """
    labels: dict[str, str] = {}
    verdicts = _Verdicts(bookkeeper, labels)
    # Where all machines write, if there are several.
    place = open_storage(plan.root if has_many_machines() else plan.folder)
    tuner = tune.Tuner(
        tune.with_resources(train, trial_resources(plan.base.resources)),
        tune_config=tune.TuneConfig(
            search_alg=_Suggestions(bookkeeper),
            num_samples=-1,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=place.address(_SCRATCH),
            stop=verdicts,
            callbacks=[_Watch(bookkeeper, labels)],
            failure_config=tune.FailureConfig(max_failures=plan.sweep.restarts),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except TuneError:
        if verdicts.failed is None:
            raise
        raise verdicts.failed from None
    finally:
        with suppress(StorageError):  # nobody reads it
            place.delete_folder(_SCRATCH)


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['label']}"
