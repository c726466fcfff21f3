"""Ray Train: one training by many workers, with the face of `aln.job.Job`.

Each worker runs a `Job`; worker 0 tells this process what comes of it, and goes on when this process has dealt with
that. So there is one process that logs, and it has logged every epoch that a checkpoint holds. When a worker is lost,
Ray Train starts all of them anew, and their jobs go on from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ray
from ray import train as ray_train
from ray.train.torch import TorchConfig, TorchTrainer

from aln.cluster import Cluster, joined_cluster, on_node, require_shared, this_node
from aln.config import Resources, RunConfig
from aln.engine import EpochResult, Evaluation, StepProgress
from aln.errors import ClusterError
from aln.job import Job, checkpoints_of
from aln.mailbox import Mailbox
from aln.workers import backend, bundle, going_on, is_loss, placed, signed, too_many_losses, who_died
from aln.world import World

# Worker 0 reads the loss of the running epoch no more often than that: off the CPU, that waits for the device.
_SECONDS_BETWEEN_STEPS = 0.25
# After so long a person wants to know why nothing happens.
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far the running epoch is, by worker 0's share of it."""

    epoch: int
    step: int
    steps: int
    images_per_second: float
    train_loss: float
    train_top1: float


@dataclass(frozen=True)
class _Began:
    """The workers train, after so many epochs and steps."""

    epoch: int
    step: int


@dataclass(frozen=True)
class _Lost:
    """Workers were lost; why, in words."""

    reason: str


class DistributedJob:
    """A training of a configuration by `config.resources.workers` workers; use as a context manager.

    Raises `AlnError` before anything starts if checkpoints cannot be looked for, the cluster cannot be joined or does
    not hold the workers, or a folder for checkpoints is not seen from all its machines.

    Args:
        root: the folder or URL where checkpoints are.
        tell: hears lines that a person should read: where the training runs, and that workers were lost.

    Attributes:
        epoch: epochs done.
    """

    def __init__(self, config: RunConfig, root: str, tell: Callable[[str], None]) -> None:
        self.config, self.epoch = config, 0
        self._root, self._tell = root if "://" in root else str(Path(root).resolve()), tell
        self._reason, self._starts = "", 0
        self._tested: Evaluation | None = None
        self._error: BaseException | None = None
        self._open = contextlib.ExitStack()
        if saved := checkpoints_of(config, root).saved():
            self.epoch = saved[-1].epoch

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opening:
            cluster = opening.enter_context(joined_cluster())
            _require_room(cluster, self.config.resources)
            if "://" not in self._root:
                require_shared(Path(self._root))
            self._mailbox = ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=on_node(this_node())).remote()
            self._folder = opening.enter_context(tempfile.TemporaryDirectory(prefix="aln-"))
            self._open = opening.pop_all()
        self._tell(f"Running on {cluster.where} with {cluster.has}: {self.config.resources.workers} workers.")
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def train(self, *, on_step: Callable[[Step], None] | None = None) -> Iterator[EpochResult]:
        """Trains to the end, yielding after each epoch; see `Job.train`. `on_step` hears of a step now and then.

        Raises what a worker raised, or `ClusterError` if workers are lost more than `resources.restarts` times.
        """
        fitting = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        fitting.start()
        while (message := self._take()) is not None:
            match message:
                case Step():
                    if on_step is not None:
                        on_step(message)
                case EpochResult():
                    yield message
                    self.epoch = message.epoch - message.diverged
                case Evaluation():
                    self._tested = message
                case _Began():
                    self._say_where(message)
                case _Lost():
                    self._reason = message.reason
                case str():
                    self._tell(message)
        fitting.join()
        if self._error is not None:
            raise self._explained(self._error) from None

    def test(self) -> Evaluation:
        """The model as it stands after the last epoch, on the test split."""
        assert self._tested is not None
        return self._tested

    def _take(self) -> Any:
        """The next message; None after the last."""
        taken = self._mailbox.take.remote()
        if not self._starts and not ray.wait([taken], timeout=_PATIENCE_SECONDS)[0]:
            self._tell(f"Waiting for {self.config.resources.workers} workers to start; others may use the cluster.")
        return pickle.loads(ray.get(taken))  # noqa: S301 (of our own workers)

    def _fit(self) -> None:
        """Runs Ray Train to its end, beside the process's main thread."""
        resources = self.config.resources
        trainer = _Trainer(
            _work,
            train_loop_config={
                "config": placed(self.config),
                "root": self._root,
                "mailbox": self._mailbox,
                "folder": str(Path.cwd()),
            },
            torch_config=TorchConfig(backend=backend(resources)),
            scaling_config=ray_train.ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker=bundle(resources),
            ),
            run_config=ray_train.RunConfig(
                name="train",
                storage_path=self._folder,  # nothing of ours goes there
                failure_config=ray_train.FailureConfig(
                    max_failures=resources.restarts, controller_failure_limit=resources.restarts
                ),
                callbacks=[_Watch(self._mailbox)],
            ),
        )
        try:
            trainer.fit()
        except BaseException as error:  # told in the main thread
            self._error = error
        finally:
            with contextlib.suppress(Exception):  # the cluster may be gone
                _tell(self._mailbox, None)

    def _say_where(self, began: _Began) -> None:
        """Says of every start but the first why it was, and where it goes on."""
        if self._starts:
            reason, allowed = self._reason or "Workers were lost", self.config.resources.restarts
            self._tell(going_on(reason, began.epoch, began.step, self._starts, allowed))
        self._starts += 1

    def _explained(self, error: BaseException) -> BaseException:
        """What a person should read of an error of Ray Train."""
        if (cause := getattr(error, "controller_failure", None)) is not None:
            return ClusterError(f"workers cannot start: {cause}") if is_loss(cause) else cause
        if hasattr(error, "worker_failures"):
            return ClusterError(too_many_losses(self.config.resources.restarts, self._reason))
        return error


class _Trainer(TorchTrainer):
    """Ray Train's, without two of its processes: what hands out Ray's datasets costs seconds and has none here; what
    removes placement groups whose maker died is detached and would stay, while ours go with this process.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [callback for callback in callbacks if type(callback).__name__ not in unused]


class _Watch(ray_train.UserCallback):
    """Looks at what workers failed of, in the process that would start them anew: only a loss may be repaired so."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if not is_loss(error):
                raise error  # ends the training
        _tell(self._mailbox, _Lost(who_died({**worker_exceptions})))


def _work(setup: dict[str, Any]) -> None:
    """What each worker does."""
    with contextlib.suppress(OSError):  # another machine may not have the folder
        os.chdir(setup["folder"])
    config, mailbox, world = setup["config"], setup["mailbox"], World.current()

    def tell(message: Any) -> None:
        if world.rank == 0:
            ray.get(_tell(mailbox, message))

    try:
        job = Job(config, checkpoints_of(config, setup["root"]), world, tell)
        tell(_Began(job.run.state.epoch, job.run.state.step))
        diverged = False
        for result in job.train(on_step=_Teller(mailbox) if world.rank == 0 else None):
            tell(result)
            diverged = result.diverged
        if not diverged:
            tell(job.test())
    except Exception as error:
        signed(error, world.rank)
        raise


def _tell(mailbox: Any, message: Any) -> Any:
    """Sends a message; `ray.get` of what this returns waits until it has been dealt with."""
    return mailbox.tell.remote(pickle.dumps(message))


class _Teller:
    """Tells of a step now and then, and does not wait."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox, self._told = mailbox, 0.0

    def __call__(self, progress: StepProgress) -> None:
        if time.monotonic() - self._told < _SECONDS_BETWEEN_STEPS:
            return
        self._told = time.monotonic()
        step = Step(
            epoch=progress.epoch,
            step=progress.step,
            steps=progress.steps,
            images_per_second=progress.images_per_second,
            train_loss=progress.train_loss,
            train_top1=progress.train_top1,
        )
        _tell(self._mailbox, step)


def _require_room(cluster: Cluster, resources: Resources) -> None:
    """Raises `ClusterError` if the cluster, idle, does not hold the workers."""
    holds = cluster.holds(resources.cpus, resources.gpus)
    if holds < resources.workers:
        each = f"{resources.cpus} CPU cores and {resources.gpus:g} GPUs"
        raise ClusterError(
            f"resources.workers is {resources.workers}, but {cluster.where} holds {holds} workers of {each} "
            f"(it has {cluster.has})"
        )
