"""`python -m aln.sweep` in processes of its own, to be killed, and what they leave in MLflow and in Optuna's study.

The processes are forked from one that has imported what takes seconds to import, and done nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from forked import run_module

REPOSITORY = Path(__file__).parent.parent
DIGITS = REPOSITORY / "sweeps/digits.yaml"
# They run in folders of their own, but what is tested is this checkout.
_PATH = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": _PATH}

# A recipe whose epochs take milliseconds, with a whole training's checkpoints and metrics.
TINY = [
    "run.model={name: mlp, width: 16, depth: 1}",
    "run.data={name: synthetic, train: 128, validation: 50, test: 50, image_size: 4, channels: 1}",
    "run.optimizer={name: sgd, lr: 0.05}",
    "run.schedule=constant",
    "run.batch_size=32",
]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A process that has ended.

    Attributes:
        out: all that it printed; `err` is what of it went to standard error.
    """

    returncode: int
    out: str
    err: str


_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["aln.sweep_summary", "aln.study.running", "aln.study.answer", "aln.report.page"])
ensure_running()  # now, with an environment that no test has changed


class SweepProcess:
    """A running `python -m aln.sweep`, or another module, in a session and a process group of its own; what it prints
    goes to files of the folder.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        module: str = "aln.sweep",
    ) -> None:
        name = f"sweep-{time.monotonic_ns()}"
        self._logs = [folder / f"{name}.log", folder / f"{name}.err.log"]
        for log in self._logs:
            log.touch()
        variables = {**ENVIRONMENT, **(environment or {})}
        self._process = _FORKING.Process(target=run_module, args=(module, arguments, folder, self._logs, variables))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return "".join(log.read_text() for log in self._logs)

    def wait_for(self, path: Path, lines: int = 0) -> bool:
        """Waits until the file is there and has so many more lines than now; False if the process ended before."""
        before = count_lines(path)
        return self.wait_until(lambda: path.exists() and count_lines(path) - before >= lines)

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Waits until something is so; False if the process ended before."""
        try:
            while self._process.exitcode is None:
                if condition():
                    return True
                time.sleep(0.005)
        except BaseException:  # a test that is given up leaves nothing behind
            self._process.kill()
            self._process.join()
            raise
        return False

    def send(self, which: signal.Signals, *, group: bool = False) -> None:
        """Sends a signal to it, or to the whole process group."""
        (os.killpg if group else os.kill)(self.pid, which)

    def signal(self, which: signal.Signals) -> Ended:
        """Sends it a signal and waits for its end."""
        self.send(which)
        return self.wait()

    def left_behind(self) -> list[str]:
        """Command lines of the session's processes; those that have ended and that nobody asks for are none."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    found.append(stat.with_name("cmdline").read_text().replace("\0", " "))
        return found

    def wait(self) -> Ended:
        """Waits for its end."""
        self.wait_until(lambda: False)
        assert self._process.exitcode is not None
        return Ended(returncode=self._process.exitcode, out=self.out, err=self._logs[1].read_text())


def sweep(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, module: str = "aln.sweep"
) -> Ended:
    """Runs the command to its end."""
    return SweepProcess(folder, *arguments, environment=environment, module=module).wait()


def command_lines() -> set[str]:
    """Those of all processes of the machine that can be read."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return found


def count_lines(path: Path) -> int:
    """Lines of a file; none if it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


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
