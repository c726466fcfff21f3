"""Sweeps whose MLflow is on PostgreSQL: through a server that is killed meanwhile, and without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import RDBStorage

from commands import REPOSITORY, command_lines
from mlflow_server import free_port, served
from postgresql_server import PASSWORD, QUOTED, PostgreSQL
from real_sweeps import DIGITS, TINY, SweepProcess, Tracked, told

pytestmark = pytest.mark.timeout(600)

EPOCHS = 5
# Learns; some trainings wait in their third epoch until they are told to hurry.
MY_LAB = """
import time
from dataclasses import dataclass
from pathlib import Path

from aln.rules import LearningRule

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Patient(LearningRule):
    gain: float = 0.1
    waits: bool = False

    def backward_grad(self, s):
        calls = vars(self).get("calls", 0) + 1
        object.__setattr__(self, "calls", calls)
        while self.waits and calls > 17 and not (HERE / "hurry").exists():  # two epochs of eight calls
            (HERE / f"waits-{self.gain}").touch()
            time.sleep(0.05)
        return self.gain * (s.B - s.W)
"""
GAINS = [0.1, 0.2, 0.3, 0.4, 0.5]
SPACE = f"""
rule: my_lab:Patient
parameters:
  rule.gain: {{values: {GAINS}}}
  rule.waits: {{value: {{waits}}}}
"""
SETTINGS = [*TINY, f"run.epochs={EPOCHS}", "sampler=grid", "scheduler=none", "baselines=[feedback]"]


def begin(folder: Path, uri: str, waits: bool, **environment: str) -> SweepProcess:
    (folder / "my_lab.py").write_text(MY_LAB)
    (folder / "space.yaml").write_text(SPACE.replace("{waits}", str(waits).lower()))
    arguments = ["space.yaml", "--sweep", str(DIGITS), "--trials", str(len(GAINS)), "--name", "mine"]
    return SweepProcess(folder, *arguments, "--set", *SETTINGS, environment={"MLFLOW_TRACKING_URI": uri, **environment})


def check_whole(folder: Path, uri: str) -> None:
    """One run a training under one parent, ended well, with each epoch once."""
    tracked = Tracked(folder, uri=uri)
    try:
        check_runs(tracked)
    finally:  # it would be complained of when the connections are collected
        tracked.client._tracking_client.store.engine.dispose()


def check_runs(tracked: Tracked) -> None:
    assert tracked.parent.data.tags["status"] == "completed"
    assert tracked.children.keys() == {"feedback", *(f"{number:03d}" for number in range(len(GAINS)))}
    assert set(tracked.statuses().values()) == {"completed"}
    for run in tracked.children.values():
        assert run.data.tags["mlflow.parentRunId"] == tracked.parent.info.run_id
        for metric in ("val_top1", "val_loss", "epoch_seconds"):
            assert [epoch for epoch, _ in tracked.points(run, metric)] == list(range(1, EPOCHS + 1))
    searched = [run for label, run in tracked.children.items() if label != "feedback"]
    assert sorted(float(run.data.params["rule.gain"]) for run in searched) == GAINS


def test_a_server_on_postgresql_that_is_killed_meanwhile_misses_nothing(
    tmp_path: Path, postgresql: PostgreSQL, ray_head: str
) -> None:
    store, port = postgresql.create("behind_server", "empty"), free_port()
    with ExitStack() as held:
        first = held.enter_context(ExitStack())
        uri = first.enter_context(served(tmp_path, port, store))
        process = begin(tmp_path, uri, waits=True, RAY_ADDRESS=ray_head)
        assert process.wait_until(lambda: bool(list(tmp_path.glob("waits-*")))), process.out
        first.close()  # the first epochs are there or on their way, the others are still to come
        shown = {line for line in command_lines() if "mlflow" in line or "postgres" in line}
        held.enter_context(served(tmp_path, port, store))
        shown |= {line for line in command_lines() if "mlflow" in line or "postgres" in line}
        (tmp_path / "hurry").touch()
        end = process.wait()
    assert end.returncode == 0, end.out
    assert "cannot be written" not in end.out
    check_whole(tmp_path, store)
    assert {path.name for path in (tmp_path / "artifacts").rglob("*.yaml")} >= {"best.yaml", "config.yaml"}
    assert any("mlflow server" in line for line in shown)
    assert not [line for line in shown if QUOTED in line or PASSWORD in line]


@pytest.fixture(scope="module")
def straight(postgresql: PostgreSQL) -> Iterator[SimpleNamespace]:
    """A sweep whose MLflow is a database: what it printed, the command lines meanwhile, and the files."""
    uri = postgresql.create("straight", "empty")
    with tempfile.TemporaryDirectory(prefix="aln", dir="/tmp") as name:  # names of sockets must be short
        folder, seen = Path(name), set[str]()
        process = begin(folder, uri, waits=False, RAY_TMPDIR=name, HOME=name)
        assert process.wait_until((folder / "results/mine/study.log").exists), process.out
        while process.wait_until(lambda: True):
            seen |= command_lines()
            time.sleep(0.5)
        end = process.wait()
        texts = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        yield SimpleNamespace(uri=uri, folder=folder, end=end, seen=seen, texts=texts)


def test_a_sweep_straight_to_postgresql_is_whole(straight: SimpleNamespace) -> None:
    assert straight.end.returncode == 0, straight.end.out
    check_whole(straight.folder, straight.uri)


def test_its_password_is_nowhere(straight: SimpleNamespace, postgresql: PostgreSQL) -> None:
    assert 'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI"' in straight.end.out
    assert any("raylet" in line for line in straight.seen)
    assert {"sweep.yaml", "study.log", "raylet.out", "best.yaml"} <= straight.texts.keys()
    dumped = postgresql.dump("straight")
    assert "val_top1" in dumped
    for secret in (QUOTED, PASSWORD):
        assert secret not in straight.end.out
        assert not [line for line in straight.seen if secret in line]
        assert not [name for name, text in straight.texts.items() if secret.encode() in text]
        assert secret not in dumped


def test_its_study_goes_to_postgresql_as_documented(straight: SimpleNamespace, postgresql: PostgreSQL) -> None:
    database = postgresql.create("studies")
    (program,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/scaling.md").read_text(), re.DOTALL)
    program = program.replace("results/first/", "results/mine/")
    environment = {**os.environ, "OPTUNA_STORAGE": database}
    subprocess.run([sys.executable, "-c", program], cwd=straight.folder, env=environment, check=True)
    original = told(straight.folder / "results/mine")
    storage = RDBStorage(database)
    copied = optuna.load_study(study_name="first", storage=storage).trials
    storage.engine.dispose()
    assert len(copied) == len(original) >= len(GAINS)
    for copy, trial in zip(copied, original, strict=True):
        assert (copy.params, copy.values, copy.state) == (trial.params, trial.values, trial.state)
        assert copy.intermediate_values == trial.intermediate_values
