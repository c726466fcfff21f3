"""The thread that writes to MLflow: a server that dies, a database that is locked, a driver that is killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from aln.tracking import Tracker
from mlflow_server import free_port, served

TAGS = {"kind": "run", "run": "x"}


def history(client: MlflowClient, key: str = "val_top1") -> list[tuple[int, float]]:
    """All points of a metric of the one run there is."""
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    return sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))


def log(run: Any, epochs: range) -> None:
    for epoch in epochs:
        run.log({"val_top1": 10.0 * epoch, "epoch_seconds": 1.0}, epoch)


def test_what_was_told_while_the_server_was_dead_reaches_it_when_it_returns(workplace: Path) -> None:
    port, store = free_port(), f"sqlite:///{workplace / 'mlflow.db'}"
    with served(workplace, port, store) as uri:
        tracker = Tracker("test", uri, workplace / "spool")
        run = tracker.run("x", TAGS)
        log(run, range(1, 4))
        assert tracker.drain() == ""
    log(run, range(4, 8))
    later = tracker.run("y", {"kind": "run", "run": "y"})  # begins while there is no server
    log(later, range(1, 3))
    later.text("hello", "note.txt")
    run.finish("completed")
    missing = tracker.drain(3)
    assert missing.startswith(f"MLflow at {uri} cannot be written to (")
    assert missing.endswith(f"it lacks 9 entries and is kept in {workplace / 'spool'}")
    with served(workplace, port, store):
        assert tracker.close() == ""
    client = MlflowClient(store)
    points = [(epoch, 10.0 * epoch) for epoch in range(1, 8)]
    for name, expected in (("x", points), ("y", points[:2])):
        experiment = client.get_experiment_by_name("test").experiment_id
        (found,) = client.search_runs([experiment], f"tags.run = '{name}'")
        assert sorted((m.step, m.value) for m in client.get_metric_history(found.info.run_id, "val_top1")) == expected


def test_a_locked_database_holds_nothing_up(workplace: Path, client: MlflowClient) -> None:
    with closing(Tracker("test", spool=workplace / "spool")) as tracker:
        run = tracker.run("x", TAGS)
        log(run, range(1, 3))
        tracker.drain()
        lock = sqlite3.connect(workplace / "mlflow.db", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        log(run, range(3, 6))
        assert "it lacks 3 entries" in tracker.drain(0.5)
        lock.execute("ROLLBACK")
        lock.close()
        assert tracker.drain() == ""
    assert history(client) == [(epoch, 10.0 * epoch) for epoch in range(1, 6)]


def test_what_a_killed_driver_left_is_written_by_the_next_and_once(workplace: Path, client: MlflowClient) -> None:
    script = f"""
import os
from pathlib import Path
from aln.tracking import Tracker
tracker = Tracker("test", spool=Path({str(workplace / "spool")!r}))
run = tracker.run("x", {TAGS!r}, fresh=True)
for epoch in range(1, 200):
    run.log({{"val_top1": 10.0 * epoch, "epoch_seconds": 1.0}}, epoch)
    if epoch == 100:
        tracker.drain()
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=workplace).returncode == -9
    assert len(history(client)) >= 100
    with closing(Tracker("test", spool=workplace / "spool")) as tracker:
        run = tracker.run("x", TAGS)
        log(run, range(150, 221))  # the resumed training repeats some
        run.finish("completed")
        assert tracker.drain() == ""
    assert history(client) == [(epoch, 10.0 * epoch) for epoch in range(1, 221)]


def test_an_entry_that_is_written_again_is_kept_once(workplace: Path, client: MlflowClient) -> None:
    """The process died after MLflow had taken the entries, and before they were removed from the spool."""
    with closing(Tracker("test", spool=workplace / "spool")) as tracker:
        run = tracker.run("x", TAGS)
        log(run, range(1, 4))
        run.summarise({"test_top1": 5.0})
        entries = tracker._spool.head(9)
        assert tracker.drain() == ""
        for entry in entries:
            tracker._spool.add(entry.run, entry.kind, entry.content)
        tracker._writer._known.clear()
        assert tracker.drain() == ""
    assert history(client) == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert history(client, "test_top1") == [(0, 5.0)]


def test_an_entry_that_is_refused_is_named_and_holds_up_no_other(workplace: Path, client: MlflowClient) -> None:
    with closing(Tracker("test", spool=workplace / "spool")) as tracker:
        run = tracker.run("x", TAGS)
        run.tag(**{"not allowed$": "1"})
        log(run, range(1, 3))
        run.artifact(workplace / "nothing.png")
        run.finish("completed")
        missing = tracker.drain()
    assert missing.startswith("MLflow refused 2 entries: ")
    assert "not allowed$" in missing
    assert history(client) == [(1, 10.0), (2, 20.0)]


@pytest.mark.parametrize("error", [RuntimeError("first line\nsecond"), RuntimeError()])
def test_whatever_the_client_raises_is_tried_again(
    workplace: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real, answers = MlflowClient.log_batch, iter([error, error])

    def log_batch(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        if (failure := next(answers, None)) is not None:
            raise failure
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    with closing(Tracker("test")) as tracker:
        log(tracker.run("x", TAGS), range(1, 3))
        assert tracker.drain() == ""
    assert history(client) == [(1, 10.0), (2, 20.0)]
