"""MLflow: one parent run a sweep, one child run a trial. Calls may be repeated: runs are found again by their tags.

With the embedded store (SQLite) there must be one writer, so trials report to the driver and the driver logs.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
    MLFLOW_USER,
)

import aln
from aln.config import RunConfig
from aln.preflight import require_listener, shown
from aln.tracking.reasons import unusable
from aln.tracking.spool import Spool
from aln.tracking.writer import Writer

SPOOL = "mlflow.spool"  # the file's name in the folder of a run or a sweep

# The tag that tells a run from all others of the same name.
_KEY = "aln.key"

# Two lines a run, in the midst of our own.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A bar for every file that is read.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A client that gives up soon: the writer tries again itself, and says so at the end.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# They tell every step of making the database, and every failed try.
for _logger in ("mlflow.store.db.utils", "urllib3.connectionpool"):
    logging.getLogger(_logger).setLevel(logging.CRITICAL)


def default_uri() -> str:
    """`MLFLOW_TRACKING_URI` if set, else an SQLite file `mlflow.db` in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def ui_command(uri: str) -> str:
    """The command that serves what was logged at `uri` to a browser; nothing if a server does so already.

    A password stays in the environment: command lines can be read by everybody on the machine.
    """
    if uri.startswith(("http://", "https://")):
        return ""
    if shown(uri) != uri:
        return 'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" mlflow ui'
    return f"mlflow ui --backend-store-uri {uri.replace(f'{Path.cwd()}/', '')}"


def ui_page(uri: str, experiment_id: str) -> str:
    """Address of the experiment's table of runs: on the server, or where `mlflow ui` shows it."""
    server = uri if uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"
    return f"{shown(server).rstrip('/')}/#/experiments/{experiment_id}?workflowType=machine_learning"


def find_runs(name_or_id: str, uri: str | None = None) -> list[Run]:
    """The MLflow runs of this name or id in all experiments, the newest first. Raises `AlnError` as `Tracker` does."""
    uri = uri or default_uri()
    require_listener(uri, "MLflow")
    quoted = name_or_id.replace("'", "")
    try:
        client = MlflowClient(uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        newest = ["attributes.start_time DESC"]
        found = client.search_runs(experiments, f"attributes.run_id = '{quoted}'", order_by=newest)
        return list(found or client.search_runs(experiments, f"attributes.run_name = '{quoted}'", order_by=newest))
    except Exception as error:  # as in `Tracker`
        raise unusable(uri, error) from error


def all_runs(client: MlflowClient, experiments: list[str], wanted: str, order: str) -> list[Run]:
    """All runs that are wanted, in order, page by page."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(experiments, wanted, order_by=[order], page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def trials_of(client: MlflowClient, experiment: str, sweep: str) -> list[Run]:
    """All runs under a sweep's, baselines included, in the order in which they began."""
    return all_runs(client, [experiment], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{sweep}'", "attributes.start_time ASC")


def _alone(uri: str) -> AbstractContextManager[object]:
    """A lock beside the file of an SQLite store; nothing for servers, which look after themselves."""
    path = uri.removeprefix("sqlite:///")
    return FileLock(f"{path}.lock") if path != uri else nullcontext()


class Tracker:
    """One MLflow experiment. Raises `AlnError` naming the address if the store cannot be reached or written to.

    Everything that runs are told goes to a spool on disk and from there to MLflow, in a thread of its own: a server
    that goes away later stops no training, and hears everything when it is back. Artifacts of the embedded store lie in
    `mlartifacts` beside its file; a server knows its own place for them.

    Args:
        spool: the file that holds what MLflow has not heard yet; made with the first run. Its entries of an earlier
            process are delivered, too. In memory if None.
    """

    def __init__(self, experiment: str, uri: str | None = None, spool: Path | None = None) -> None:
        self.uri = uri or default_uri()
        self.experiment = experiment
        self._path = spool
        require_listener(self.uri, "MLflow")
        try:
            # Two processes that make or migrate the same SQLite file at once leave it broken.
            with _alone(self.uri):
                self.client = MlflowClient(self.uri)
                found = self.client.get_experiment_by_name(experiment)
                self.experiment_id = found.experiment_id if found else self._create()
                # Who may only read hears it now, not from a writer that tries for ever.
                self.client.set_experiment_tag(self.experiment_id, "aln.version", aln.__version__)
        except Exception as error:  # MLflow lets the errors of database drivers and HTTP clients through
            raise unusable(self.uri, error, experiment) from error
        self._commit = _git_commit()
        self._began = 0

    def _create(self) -> str:
        location = None
        if self.uri.startswith("sqlite:///"):
            location = (Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
        experiment_id: str = self.client.create_experiment(self.experiment, artifact_location=location)
        return experiment_id

    @cached_property
    def _spool(self) -> Spool:
        return Spool(self._path)

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self.client, self.experiment_id, self._spool)

    def run(
        self, name: str, tags: Mapping[str, str], parent: TrackedRun | None = None, fresh: bool = False
    ) -> TrackedRun:
        """The last run with exactly these tags under this parent; a new one if there is none or `fresh` asks for it."""
        if fresh:
            tags = {**tags, _KEY: uuid.uuid4().hex}
        extra = {MLFLOW_RUN_NAME: name, MLFLOW_USER: os.environ.get("USER", "unknown")}
        if self._commit:
            extra[MLFLOW_GIT_COMMIT] = self._commit
        self._began = max(self._began + 1, _now())  # runs are listed by when they began
        above = None if parent is None else parent.key
        key = json.dumps([above, dict(tags)], sort_keys=True)
        self._spool.name(key, {"tags": dict(tags), "parent": above, "extra": extra, "began": self._began})
        return TrackedRun(key, self._spool, self._writer)

    def drain(self, seconds: float = 60.0) -> str:
        """Waits until MLflow has everything, at most so many seconds; says what is missing, nothing if nothing is."""
        waiting, refused = self._writer.drain(seconds), self._spool.refused()
        said = []
        if waiting:
            kept = f" and is kept in {self._path}" if self._path else ""
            reason = f" ({self._writer.away})" if self._writer.away else ""
            said.append(f"MLflow at {shown(self.uri)} cannot be written to{reason}: it lacks {waiting} entries{kept}")
        if refused:
            said.append(f"MLflow refused {len(refused)} entries: {refused[0]}")
        return "; ".join(said)

    def delivered(self, seconds: float) -> bool:
        """Whether MLflow has all that it will take, for which this waits at most so many seconds."""
        return not self._writer.drain(seconds)

    def close(self, seconds: float = 60.0) -> str:
        """Ends the writing after a last `drain`, whose answer it gives; what waits stays in the spool."""
        missing = self.drain(seconds)
        self._writer.close()
        self._spool.close()
        return missing

    def trials(self, parent: TrackedRun) -> list[Run]:
        """All trials under a sweep's run, baselines included, in the order in which they began; see `drain`."""
        return trials_of(self.client, self.experiment_id, str(parent.run_id))


class TrackedRun:
    """One MLflow run. What it is told is on disk when a call returns, and in MLflow a little later.

    Epochs that the run holds already, because a resumed training repeats them, are not logged again: MLflow would keep
    both points.
    """

    def __init__(self, key: str, spool: Spool, writer: Writer) -> None:
        self.key = key
        self._spool, self._writer = spool, writer

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None until something was written to the run (`Tracker.drain` waits for that)."""
        return self._writer.run_id(self.key)

    def begin(self) -> None:
        """The run is going on, though it may have ended before."""
        self._spool.add(self.key, "begin", {})

    def note(self, markdown: str) -> None:
        """Sets the description that MLflow shows at the head of the run."""
        self.tag(**{MLFLOW_RUN_NOTE: markdown})

    def describe(self, config: RunConfig) -> None:
        """Logs the resolved configuration: flat parameters, tags to filter by, and the YAML that repeats the run.

        Parameters that the run holds already stay as they are: MLflow does not let a resumed run change them.
        """
        self._spool.add(self.key, "params", {key: str(value) for key, value in config.flat().items()})
        self.tag(rule=config.rule.name, model=config.model.name, data=config.data.name)
        self.text(config.to_yaml(), "config.yaml")

    def tag(self, **tags: str) -> None:
        """Sets tags."""
        self._spool.add(self.key, "tags", tags)

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Logs an epoch's numbers."""
        self._spool.add(self.key, "metrics", {"values": dict(metrics), "epoch": epoch, "time": _now()})

    def summarise(self, metrics: Mapping[str, float], at: int | None = None) -> None:
        """Logs numbers of the run as a whole. Said again with the same time `at` (ms since 1970) they are kept once."""
        self._spool.add(self.key, "metrics", {"values": dict(metrics), "epoch": None, "time": at or _now()})

    def text(self, text: str, name: str) -> None:
        """Stores a text as an artifact."""
        self._spool.add(self.key, "text", {"text": text, "name": name})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Stores a file, which must stay where it is until MLflow has it."""
        self._spool.add(self.key, "file", {"path": str(path.resolve()), "folder": folder})

    def finish(self, status: str) -> None:
        """Ends the run. `status` (completed, stopped, diverged, failed, timed out, interrupted) is kept as a tag."""
        self.tag(status=status)
        ended = {"failed": "FAILED", "timed out": "FAILED", "interrupted": "KILLED"}.get(status, "FINISHED")
        self._spool.add(self.key, "end", {"status": ended, "time": _now()})


def _now() -> int:
    """Milliseconds since 1970, MLflow's time."""
    return int(time.time() * 1000)


def _git_commit() -> str | None:
    """The commit of the working folder, with `-dirty` behind it if files differ from it; None outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
