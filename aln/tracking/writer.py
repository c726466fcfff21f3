"""Writes what a spool holds to MLflow, in a thread of its own: training waits for no server and no database.

What is written twice is kept once: runs are found again by their tags, a metric's time stamp is that of its entry, and
epochs that a run holds already (because a resumed training repeats them, or the process died between writing an entry
and removing it) are left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from aln.errors import StorageError
from aln.tracking.reasons import reason
from aln.tracking.spool import Entry, Spool

# The metric that every epoch has, by which a run tells which epochs it holds.
EPOCH_MARK = "epoch_seconds"

# MLflow takes at most so many of each in one request.
_METRICS_PER_BATCH, _PARAMS_PER_BATCH, _TAGS_PER_BATCH = 1000, 100, 100
# Entries wait so long for company: a transaction costs nearly the same for one as for a hundred.
_COMPANY_SECONDS = 2.0
_ENTRIES_AT_ONCE = 2000
_LONGEST_PAUSE = 30.0
# What MLflow would answer again and again. Everything else may be a matter of time.
_PERMANENT = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
# But of what MLflow calls bad requests some is a database that restarts.
_PASSING = ("InterfaceError", "QueuePool limit", "PendingRollbackError")

T = TypeVar("T")


@dataclass
class _Known:
    """A run as MLflow has it: its id, the last epoch and the parameters that it holds."""

    run_id: str
    epoch: int
    params: frozenset[str]


class Writer:
    """The thread that empties a spool. It begins with the first call and goes on until `close`.

    Attributes:
        away: why MLflow could not be written to when it was last tried; empty if it could.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, spool: Spool) -> None:
        self.away, self._stuck = "", False
        self._client, self._experiment_id, self._spool = client, experiment_id, spool
        self._known: dict[str, _Known] = {}
        self._children: dict[tuple[str, frozenset[str]], dict[frozenset[tuple[str, str]], str]] = {}
        self._same: dict[frozenset[str], frozenset[str]] = {}
        self._wake, self._tried, self._closing = threading.Event(), threading.Condition(), False
        self._thread = threading.Thread(target=self._loop, name="mlflow-writer", daemon=True)
        self._thread.start()

    def drain(self, seconds: float) -> int:
        """Waits until all is written, or so many seconds; returns the number of entries that wait.

        A spool that cannot be used (its disk is full) is not waited for.
        """
        deadline = time.monotonic() + seconds
        with self._tried:
            self._stuck = False
            while (waiting := len(self._spool)) and time.monotonic() < deadline and not self._stuck:
                self._wake.set()
                self._tried.wait(timeout=min(1.0, max(0.0, deadline - time.monotonic())))
        return waiting

    def run_id(self, run: str) -> str | None:
        """MLflow's id of a run; None until something was written to it."""
        return self._known[run].run_id if run in self._known else None

    def close(self) -> None:
        """Ends the thread once what it is writing is written."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _loop(self) -> None:
        pause = _COMPANY_SECONDS
        while not self._closing:
            self._wake.wait(timeout=pause)
            self._wake.clear()
            try:
                while not self._closing and (entries := self._spool.head(_ENTRIES_AT_ONCE)):
                    for run, group in _by_run(entries):
                        self._write(run, group)
                self.away, pause = "", _COMPANY_SECONDS
            except Exception as error:  # whatever a driver, a proxy or a file system lets through
                self._children.clear()  # a run may have been made, though the answer was lost
                self.away = reason(error)
                pause = min(_LONGEST_PAUSE, 2 * pause)
                self._stuck = isinstance(error, StorageError)
            with self._tried:
                self._tried.notify_all()

    def _write(self, run: str, entries: Sequence[Entry]) -> None:
        """Writes one run's entries in their order: neighbours that fit one request together, all others alone."""
        for kind, group in groupby(entries, key=lambda entry: "batch" if entry.kind in _BATCHED else entry.kind):
            together = list(group)
            for part in [together] if kind == "batch" else [[entry] for entry in together]:
                self._attempt(run, part)

    def _attempt(self, run: str, entries: list[Entry]) -> None:
        """Writes entries and removes them; lays aside those that MLflow will never take."""
        try:
            known = self._known.get(run) or self._find(run)
            if entries[0].kind in _BATCHED:
                self._log(known, entries)
            else:
                self._act(known, entries[0])
        except MlflowException as error:
            if error.error_code not in _PERMANENT or any(name in str(error) for name in _PASSING):
                raise
            if len(entries) > 1:
                for entry in entries:
                    self._attempt(run, [entry])
            else:
                self._spool.refuse(entries, reason(error))
            return
        self._spool.remove(entries)

    def _find(self, run: str) -> _Known:
        """The newest run with the identity's tags, or a new one."""
        identity = self._spool.identity(run)
        tags: dict[str, str] = identity["tags"]
        if (parent := identity["parent"]) is not None:
            tags = {**tags, MLFLOW_PARENT_RUN_ID: (self._known.get(parent) or self._find(parent)).run_id}
        if (found := self._there(tags)) is not None:
            run_id: str = found.info.run_id
            marks = self._client.get_metric_history(run_id, EPOCH_MARK) if found.data.metrics else []
            known = _Known(run_id, max((mark.step for mark in marks), default=-1), frozenset(found.data.params))
        else:
            made = self._client.create_run(
                self._experiment_id, start_time=identity["began"], tags={**tags, **identity["extra"]}
            )
            known = _Known(made.info.run_id, -1, frozenset())
            if MLFLOW_PARENT_RUN_ID in tags:
                self._siblings(tags)[frozenset(tags.items())] = known.run_id
        self._known[run] = known
        return known

    def _there(self, tags: Mapping[str, str]) -> Run | None:
        """The newest run with these tags."""
        if MLFLOW_PARENT_RUN_ID in tags:
            run_id = self._siblings(tags).get(frozenset(tags.items()))
            return None if run_id is None else self._client.get_run(run_id)
        return next(self._search(tags), None)

    def _siblings(self, tags: Mapping[str, str]) -> dict[frozenset[tuple[str, str]], str]:
        """The ids of all runs under a parent, by their values of such tags.

        They are read once: MLflow's search goes through all of them each time, and nobody else makes any meanwhile.
        """
        parent, keys = tags[MLFLOW_PARENT_RUN_ID], frozenset(tags)
        if (parent, keys) not in self._children:
            found: dict[frozenset[tuple[str, str]], str] = {}
            for run in self._search({MLFLOW_PARENT_RUN_ID: parent}):
                own = frozenset((key, run.data.tags[key]) for key in keys if key in run.data.tags)
                found.setdefault(own, run.info.run_id)
            self._children[parent, keys] = found
        return self._children[parent, keys]

    def _search(self, tags: Mapping[str, str]) -> Iterator[Run]:
        """All runs with these tags, the newest first."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        newest, token = ["attributes.start_time DESC"], None
        while True:
            page = self._client.search_runs([self._experiment_id], wanted, order_by=newest, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _log(self, known: _Known, entries: Sequence[Entry]) -> None:
        """Metrics, parameters and tags. Parameters that the run holds stay: MLflow does not let them change."""
        metrics: list[Metric] = []
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        epoch = known.epoch
        for entry in entries:
            if entry.kind == "params":
                params |= {
                    key: value for key, value in entry.content.items() if key not in known.params | params.keys()
                }
            elif entry.kind == "tags":
                tags |= entry.content
            elif entry.content["epoch"] is None or entry.content["epoch"] > epoch:
                metrics += _metrics(entry.content)
                epoch = epoch if entry.content["epoch"] is None else entry.content["epoch"]
        parts = (
            _parts(metrics, _METRICS_PER_BATCH),
            _parts([Param(key, value) for key, value in params.items()], _PARAMS_PER_BATCH),
            _parts([RunTag(key, value) for key, value in tags.items()], _TAGS_PER_BATCH),
        )
        for some_metrics, some_params, some_tags in zip_longest(*parts, fillvalue=()):
            self._client.log_batch(known.run_id, metrics=some_metrics, params=some_params, tags=some_tags)
        known.epoch = epoch
        # The trials of a sweep have the same parameters, and there may be thousands of trials.
        held = known.params.union(params)
        known.params = self._same.setdefault(held, held)

    def _act(self, known: _Known, entry: Entry) -> None:
        """Artifacts, and the run's beginning and end."""
        content = entry.content
        if entry.kind == "begin":
            self._client.update_run(known.run_id, status="RUNNING")
        elif entry.kind == "text":
            self._client.log_text(known.run_id, content["text"], content["name"])
        elif entry.kind == "file":
            if not Path(content["path"]).exists():
                raise MlflowException.invalid_parameter_value(f"{content['path']}: no such file")
            self._client.log_artifact(known.run_id, content["path"], content["folder"])
        elif entry.kind == "end":
            self._client.set_terminated(known.run_id, content["status"], content["time"])


_BATCHED = ("metrics", "params", "tags")


def _by_run(entries: Sequence[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """The entries of each run, in their order."""
    runs: dict[str, list[Entry]] = {}
    for entry in entries:
        runs.setdefault(entry.run, []).append(entry)
    yield from runs.items()


def _metrics(content: dict[str, Any]) -> list[Metric]:
    """The metrics of an entry, the one that marks an epoch last: a request cut short does not have it."""
    epoch = content["epoch"] or 0
    values = sorted(content["values"].items(), key=lambda item: item[0] == EPOCH_MARK)
    return [Metric(key, value, content["time"], epoch) for key, value in values]


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
