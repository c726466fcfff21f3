"""Trials by many workers: their processes, and what they talk by, stay from one trial to the next.

Ray Train starts its workers in some 20 s, and inside Tune it leaves placement groups behind. So a trial has plain Ray
actors, which the process of the trial owns and Tune's own placement group holds: they go when either of them goes. Tune
hands that process from trial to trial (`reuse_actors=True`), and `warm_group` hands on the actors in it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.distributed import TCPStore, init_process_group  # type: ignore[attr-defined]

from aln.cluster import Cluster
from aln.config import Resources, RunConfig
from aln.engine import EpochResult
from aln.errors import ClusterError
from aln.job import Job, checkpoints_of
from aln.workers import backend, bundle, going_on, is_loss, placed, signed, too_many_losses, who_died
from aln.world import World

# Seconds that workers have for meeting each other; their processes stand by then.
_MEETING_SECONDS = 60.0
# Seconds to find out, when the first of them fails, what became of the others.
_INQUEST_SECONDS = 1.0

Say = Callable[[str], None]


def trial_resources(resources: Resources) -> Any:
    """What a trial takes, for `tune.with_resources`: a placement group with a bundle for each worker.

    The trial's own process takes a worker's bundle if it is the only one; beside many it takes nothing, so that as many
    workers fit as there are cores.
    """
    from ray.tune import PlacementGroupFactory  # here, because workers need nothing of Tune

    head: list[dict[str, float]] = [{}] if resources.workers > 1 else []
    return PlacementGroupFactory([*head, *[bundle(resources)] * resources.workers])


def trials_at_once(cluster: Cluster, resources: Resources) -> int:
    """How many such trials fit on an idle cluster; the workers of one may be on several machines."""
    return cluster.holds(resources.cpus, resources.gpus) // resources.workers


_warm: list[WorkerGroup] = []  # at most one; the process of a trial has one placement group


def warm_group(resources: Resources) -> WorkerGroup:
    """The workers that an earlier trial in this process left, or new ones."""
    if _warm and _warm[0].serves(resources):
        return _warm[0]
    for group in _warm:
        group.close()
    _warm[:] = [WorkerGroup(resources)]
    return _warm[0]


@dataclass(frozen=True)
class _Answer:
    """What a worker says when it has done what it was asked.

    Attributes:
        value: what came of it; None from all but worker 0.
        lines: what a person should read.
        error: what it failed of.
    """

    value: Any = None
    lines: Sequence[str] = ()
    error: Exception | None = None


class _LostError(Exception):
    """Workers were lost: which, and what is known of it."""

    def __init__(self, who: str, detail: str) -> None:
        super().__init__(f"{who} ({detail})")
        self.who = who


class WorkerGroup:
    """So many workers that train one configuration after the other, each with the face of `aln.job.Job`.

    They are started by the first training, on the placement group of this process, and stay until `close`, the end of
    this process or the end of the placement group. After an error of any kind they are gone, since some of them may
    wait for others for ever, and the next training starts new ones. Raises `ClusterError` if the placement group is not
    that of `trial_resources(resources)`.
    """

    def __init__(self, resources: Resources) -> None:
        self._place = ray.util.get_current_placement_group()
        bundles = 0 if self._place is None else self._place.bundle_count
        if bundles != resources.workers or bundles == 1:  # a single bundle is that of this process
            raise ClusterError(
                f"{resources.workers} workers need a placement group of as many bundles, but this process has one of "
                f"{bundles}: expected a trial by two workers or more whose resources are trial_resources({resources!r})"
            )
        self.resources = resources
        self._workers: list[Any] = []

    def serves(self, resources: Resources) -> bool:
        """Whether these workers are what a training with such resources needs."""
        return (resources.workers, bundle(resources)) == (self.resources.workers, bundle(self.resources))

    def train(self, config: RunConfig, root: str | Path, tell: Say | None = None) -> Iterator[EpochResult]:
        """Trains from the newest checkpoint to the end, yielding after each epoch.

        The next epoch begins, and the last one is saved, when the caller asks for more (see `Job.train`); who asks no
        more has stopped the training. When workers are lost, new ones go on from the newest checkpoint; the caller does
        not hear again of epochs it has heard of. Raises what a worker raised, or `ClusterError` if workers are lost
        more than `resources.restarts` times.

        Args:
            root: the folder or URL where checkpoints are.
            tell: hears lines that a person should read: that workers were lost, that a checkpoint is damaged.
        """
        config, heard = placed(config), 0
        root = str(root) if "://" in str(root) else str(Path(root).resolve())
        restarts, losses = config.resources.restarts, list[_LostError]()
        while len(losses) <= restarts:
            try:
                epoch, step = self._begin(config, root, tell)
                if losses:
                    self._say(tell, going_on(losses[-1].who, epoch, step, len(losses), restarts))
                while (result := self._ask("next_epoch", tell=tell)) is not None:
                    if result.epoch > heard:
                        yield result
                        heard = result.epoch
                return
            except _LostError as lost:
                losses.append(lost)
        raise ClusterError(too_many_losses(restarts, str(losses[-1])))

    def close(self) -> None:
        """Ends the workers, whatever they are doing."""
        for worker in self._workers:
            with contextlib.suppress(Exception):  # it, or the cluster, may be gone
                ray.kill(worker)
        self._workers = []

    def _begin(self, config: RunConfig, root: str, tell: Say | None) -> tuple[int, int]:
        """Has all workers, started if there are none, stand where the newest checkpoint does: epochs and steps done."""
        if self._workers:
            with contextlib.suppress(_LostError):  # who was lost since the training before is no loss of this one
                self._ask("leave")
        if not self._workers:
            self._start()
        place: tuple[int, int] = self._ask("begin", config, root, tell=tell)
        return place

    def _start(self) -> None:
        """Starts the workers, and has them meet."""
        each, workers = bundle(self.resources), self.resources.workers
        start = ray.remote(num_cpus=each["CPU"], num_gpus=each["GPU"])(_Worker)
        for rank in range(workers):
            where = PlacementGroupSchedulingStrategy(self._place, placement_group_bundle_index=rank)
            self._workers.append(start.options(scheduling_strategy=where).remote(World(rank, workers), str(Path.cwd())))
        address = self._ask("open_store")
        self._ask("meet", address, backend(self.resources))

    def _ask(self, action: str, *arguments: Any, tell: Say | None = None) -> Any:
        """Has all workers do something; what comes of it. If one fails, all are ended, and its error is raised."""
        asked = [getattr(worker, action).remote(*arguments) for worker in self._workers]
        answers: dict[int, _Answer] = {}
        waiting, failed = asked, False
        while waiting and not failed:
            ready, waiting = ray.wait(waiting)
            answers |= _answers(asked, ready)
            failed = any(answer.error for answer in answers.values())
        if failed:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=_INQUEST_SECONDS) if waiting else ([], [])
            answers |= _answers(asked, ready)
            self.close()
        if 0 in answers:
            self._say(tell, *answers[0].lines)
        if failed:
            raise _verdict({rank: answer.error for rank, answer in answers.items() if answer.error is not None})
        return answers[0].value

    @staticmethod
    def _say(tell: Say | None, *lines: str) -> None:
        if tell is not None:
            for line in lines:
                tell(line)


def _answers(asked: Sequence[Any], ready: Sequence[Any]) -> dict[int, _Answer]:
    """What workers have answered, by their numbers."""
    found = {}
    for reference in ready:
        try:
            answer = ray.get(reference)
        except Exception as error:  # its process is gone
            answer = _Answer(error=error)
        found[asked.index(reference)] = answer
    return found


def _verdict(errors: dict[int, Exception]) -> Exception:
    """What is to be raised: a worker's own error if there is one, for of that others may have been lost."""
    own = [error for _, error in sorted(errors.items()) if not is_loss(error)]
    return own[0] if own else _LostError(who_died({**errors}), _in_short(next(iter(errors.values()))))


def _in_short(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Worker:
    """One of the workers; a Ray actor, which trains when asked for an epoch and is idle otherwise."""

    def __init__(self, world: World, folder: str) -> None:
        with contextlib.suppress(OSError):  # another machine may not have the folder
            os.chdir(folder)
        self._world = world
        self._store: TCPStore | None = None
        self._lines: list[str] = []
        self._epochs: Iterator[EpochResult] = iter(())

    def open_store(self) -> _Answer:
        """Opens, on worker 0, where all of them meet: its address and port."""
        return self._answer(self._open_store)

    def meet(self, address: tuple[str, int], how: str) -> _Answer:
        """Joins all workers in one process group."""
        return self._answer(lambda: self._meet(address, how))

    def leave(self) -> _Answer:
        """Leaves the training before, wherever it stands, and what memory it took."""
        return self._answer(self._leave)

    def begin(self, config: RunConfig, root: str) -> _Answer:
        """Stands where the newest checkpoint of a training does."""
        return self._answer(lambda: self._begin(config, root))

    def next_epoch(self) -> _Answer:
        """Saves the epoch before if that is due, and trains the next."""
        return self._answer(lambda: next(self._epochs, None))

    def _open_store(self) -> tuple[str, int] | None:
        if self._world.rank:
            return None
        host = ray.util.get_node_ip_address()
        self._store = _store(host, 0, self._world, is_master=True)  # on a free port
        return host, self._store.port

    def _meet(self, address: tuple[str, int], how: str) -> None:
        if self._store is None:
            self._store = _store(*address, self._world)
        init_process_group(how, store=self._store, rank=self._world.rank, world_size=self._world.workers)

    def _leave(self) -> None:
        self._epochs = iter(())
        gc.collect()  # models hold themselves in circles, and there may be memory for one alone

    def _begin(self, config: RunConfig, root: str) -> tuple[int, int]:
        job = Job(config, checkpoints_of(config, root), World.current(), self._lines.append)
        self._epochs = job.train()
        return job.run.state.epoch, job.run.state.step

    def _answer(self, action: Callable[[], Any]) -> _Answer:
        self._lines.clear()
        try:
            value = action()
        except Exception as error:
            return _Answer(None, tuple(self._lines), _portable(signed(error, self._world.rank)))
        return _Answer(value if self._world.rank == 0 else None, tuple(self._lines))


def _store(host: str, port: int, world: World, is_master: bool = False) -> TCPStore:
    """What workers meet by, or its client."""
    seconds = timedelta(seconds=_MEETING_SECONDS)
    return TCPStore(host, port, world.workers, is_master=is_master, timeout=seconds, wait_for_workers=False)


def _portable(error: Exception) -> Exception:
    """The error, or what can be said of one that cannot travel to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (what was just pickled)
    except Exception:
        said = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            said.add_note(note)
        return said
    return error
