"""Tracking, on a real embedded MLflow store."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aln.config import parse_run
from aln.errors import AlnError
from aln.tracking import Tracker, default_uri, ui_command


def test_the_default_store_is_a_database_in_the_working_folder(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_uri() == f"sqlite:///{workplace}/mlflow.db"
    assert ui_command(default_uri()) == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert default_uri() == "http://127.0.0.1:5000"
    assert ui_command(default_uri()) == ""


def test_a_run_holds_the_whole_configuration(client: Any, small_run: dict[str, Any]) -> None:
    config = parse_run(small_run)
    with closing(Tracker("test")) as tracker:
        run = tracker.run("first", {"kind": "run", "run": "first"})
        assert run.run_id is None
        run.describe(config)
        run.finish("completed")
        assert tracker.drain() == ""
    logged = client.get_run(run.run_id)
    assert logged.data.params == {key: str(value) for key, value in config.flat().items()}
    assert {key: logged.data.tags[key] for key in ("rule", "model", "data", "status")} == {
        "rule": "information",
        "model": "mlp",
        "data": "synthetic",
        "status": "completed",
    }
    assert logged.info.status == "FINISHED"
    text = Path(client.download_artifacts(run.run_id, "config.yaml")).read_text()
    assert text == config.to_yaml()


def test_the_same_tags_find_the_same_run(client: Any, small_run: dict[str, Any]) -> None:
    for _ in range(2):
        with closing(Tracker("test")) as tracker:
            parent = tracker.run("s", {"sweep": "s", "kind": "sweep"})
            child = tracker.run("s/000", {"sweep": "s", "trial": "000", "kind": "searched"}, parent)
            child.describe(parse_run(small_run))
            tracker.drain()
            assert [run.info.run_id for run in tracker.trials(parent)] == [child.run_id]
            assert tracker.trials(child) == []
    runs = client.search_runs([tracker.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["s", "s/000"]
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_a_new_run_of_an_old_name_is_a_new_run(client: Any, small_run: dict[str, Any]) -> None:
    tags = {"kind": "run", "run": "x"}
    with closing(Tracker("test")) as tracker:
        old, new = tracker.run("x", tags), tracker.run("x", tags, fresh=True)
        old.describe(parse_run(small_run))
        new.describe(parse_run({**small_run, "seed": 7}))
        tracker.drain()
    assert old.run_id != new.run_id
    assert client.get_run(new.run_id).data.params["seed"] == "7"
    with closing(Tracker("test")) as tracker:
        resumed = tracker.run("x", tags)
        resumed.tag(again="yes")
        tracker.drain()
    assert resumed.run_id == new.run_id  # the newest is the one to resume


def test_a_resumed_run_runs_again_and_keeps_the_parameters_it_has(client: Any, small_run: dict[str, Any]) -> None:
    for seed, status in ((3, "interrupted"), (4, "")):
        with closing(Tracker("test")) as tracker:
            run = tracker.run("x", {"kind": "run", "run": "x"})
            run.begin()
            run.describe(parse_run({**small_run, "seed": seed}))
            if status:
                run.finish(status)
            tracker.drain()
    logged = client.get_run(run.run_id)
    assert logged.info.status == "RUNNING"
    assert logged.data.params["seed"] == "3"


def test_every_metric_arrives_once_even_if_epochs_are_repeated(client: Any, workplace: Path) -> None:
    for epochs in ((1, 2, 3), (3, 4)):
        with closing(Tracker("test")) as tracker:
            run = tracker.run("x", {"kind": "run", "run": "x"})
            for epoch in epochs:
                run.log({"val_top1": 10.0 * epoch, "epoch_seconds": 1.0}, epoch)
            tracker.drain()
    history = client.get_metric_history(run.run_id, "val_top1")
    assert sorted((m.step, m.value) for m in history) == [(1, 10.0), (2, 20.0), (3, 30.0), (4, 40.0)]


def test_more_metrics_than_fit_one_request(client: Any, workplace: Path) -> None:
    with closing(Tracker("test")) as tracker:
        run = tracker.run("x", {"kind": "run", "run": "x"})
        run.log({f"angle/{index}": float(index) for index in range(1234)}, 1)
        run.finish("stopped")
        tracker.drain()
    assert len(client.get_run(run.run_id).data.metrics) == 1234


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        ("completed", "FINISHED"),
        ("diverged", "FINISHED"),
        ("failed", "FAILED"),
        ("timed out", "FAILED"),
        ("interrupted", "KILLED"),
    ],
)
def test_how_a_run_ended(client: Any, workplace: Path, status: str, ended: str) -> None:
    with closing(Tracker("test")) as tracker:
        run = tracker.run("x", {"kind": "run", "run": "x"})
        run.finish(status)
        tracker.drain()
    assert client.get_run(run.run_id).info.status == ended
    assert client.get_run(run.run_id).data.tags["status"] == status


def test_runs_are_listed_in_the_order_in_which_they_began(workplace: Path) -> None:
    with closing(Tracker("test")) as tracker:
        parent = tracker.run("s", {"kind": "sweep"})
        children = [tracker.run(f"{n}", {"trial": f"{n}"}, parent) for n in range(5)]
        for child in reversed(children):
            child.tag(kind="searched")
        tracker.drain()
        assert [run.info.run_name for run in tracker.trials(parent)] == ["0", "1", "2", "3", "4"]


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, and long enough to be told from one" * 100)
    with pytest.raises(AlnError, match=r"MLflow at sqlite:.*mlflow\.db cannot be used"):
        Tracker("test", f"sqlite:///{tmp_path}/mlflow.db")


def test_processes_that_make_the_same_store_at_once_do_not_break_it(tmp_path: Path) -> None:
    script = "\n".join(
        [
            "from aln.tracking import Tracker",
            "tracker = Tracker('test')",
            "run = tracker.run('x', {'kind': 'run'}, fresh=True)",
            "run.tag(a='b')",
            "assert tracker.drain() == ''",
            "print(run.run_id)",
        ]
    )
    command = [sys.executable, "-c", script]
    makers = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made = {process.communicate()[0].strip() for process in makers}
    assert [process.returncode for process in makers] == [0, 0, 0]
    runs = Tracker("test", f"sqlite:///{tmp_path / 'mlflow.db'}").client.search_runs(["1"])
    assert {run.info.run_id for run in runs} == made
    assert len(made) == 3


def test_runs_under_a_parent_are_looked_for_once_and_found_again(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: MLflow's search goes through all of them."""
    ids: list[set[str]] = []
    for _ in range(2):
        tracker, asked = Tracker("test"), []
        search = tracker.client.search_runs
        monkeypatch.setattr(
            tracker.client,
            "search_runs",
            lambda *a, search=search, asked=asked, **k: asked.append(a) or search(*a, **k),
        )
        parents = [tracker.run(name, {"kind": "sweep", "sweep": name}) for name in ("one", "other")]
        for number in range(5):
            for parent in parents:
                tracker.run("x", {"kind": "searched", "trial": f"{number}"}, parent).tag(seen="yes")
        assert tracker.close() == ""
        assert len(asked) == 4  # for each parent, and for what is under it
        runs = client.search_runs([tracker.experiment_id])
        children = [run for run in runs if run.data.tags["kind"] == "searched"]
        ids.append({run.info.run_id for run in children})
        assert {(run.data.tags["mlflow.parentRunId"], run.data.tags["trial"]) for run in children} == {
            (parent.run_id, f"{number}") for parent in parents for number in range(5)
        }
    assert len(ids[0]) == 10
    assert ids[0] == ids[1]
