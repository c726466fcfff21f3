"""What happens in a sweep, written down: in the study, in MLflow, for the screen."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from driving import RANGES, make_plan
from mlflow import MlflowClient

from aln.search.bookkeeper import Bookkeeper
from aln.search.study import Study
from aln.tracking import SPOOL, Tracker

SWEEP = "trials: 3\nbaselines: [backprop]\nscheduler: none\nrun: {epochs: 2}\nstall_timeout: 60\n"


class Book:
    """A bookkeeper with all that it needs, on the working folder's MLflow."""

    def __init__(self, folder: Path, sweep: str = SWEEP, space: str = RANGES) -> None:
        self.plan = make_plan(folder, sweep, space)
        self.study = Study(self.plan)
        self.tracker = Tracker("books", spool=self.plan.folder / SPOOL)
        self.parent = self.tracker.run("s", {"sweep": "s", "kind": "sweep"})
        self.seen: list[tuple[str, str]] = []
        self.keeper = Bookkeeper(self.plan, self.study, self.tracker, self.parent, self.saw)

    def saw(self, record) -> None:
        self.seen.append((record.label, record.status))

    def close(self) -> None:
        self.study.close()
        assert self.tracker.close() == ""

    def begin(self) -> str:
        assignment = self.keeper.next()
        assert assignment is not None
        self.keeper.began(assignment["label"])
        return assignment["label"]

    def epoch(self, label: str, epoch: int, **metrics: float) -> bool:
        numbers = {"epoch": float(epoch), "diverged": 0.0, "val_top1": 50.0, "epoch_seconds": 2.0, **metrics}
        return self.keeper.reported(label, {"metrics": numbers})

    def end(self, label: str, status: str = "completed", error: str = "") -> bool:
        return self.keeper.reported(label, {"status": status, "error": error})


def runs_of(client: Any) -> dict[str, Any]:
    """MLflow's runs by trial."""
    found = client.search_runs([client.get_experiment_by_name("books").experiment_id])
    return {run.data.tags.get("trial", "sweep"): run for run in found}


@pytest.fixture
def runs(client: Any):
    """Reads the runs of the working folder's MLflow."""
    return lambda: runs_of(client)


def test_a_training_is_an_assignment_then_a_run(workplace: Path, runs) -> None:
    with closing(Book(workplace)) as book:
        assert book.keeper.next()["label"] == "backprop"
        assignment = book.keeper.next()
        assert assignment["label"] == "000"
        assert assignment["stall_timeout"] == 60
        assert assignment["checkpoints"] == str(book.plan.folder / "trials/000/checkpoints")
        assert assignment["run"]["rule"]["alpha"] == book.study.points["000"].values["rule.alpha"]
        book.keeper.began("000")
        assert not book.epoch("000", 1, val_top1=40.0, **{"angle/head": 80.0})
        assert not book.epoch("000", 2, val_top1=50.0, **{"angle/head": 70.0})
        assert book.end("000")
        assert book.seen == [("000", "running")] * 3 + [("000", "completed")]
    found = runs()
    assert set(found) == {"sweep", "000"}  # what never began has none
    run = found["000"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == found["sweep"].info.run_id
    assert run.data.tags["kind"] == "searched"
    assert json.loads(run.data.tags["point"]) == book.study.points["000"].values
    assert run.data.params["rule.name"] == "mirror"
    assert run.data.metrics["val_top1"] == 50
    assert run.data.metrics["train_seconds"] == 4
    assert run.data.metrics["angle/head"] == 70


def test_epochs_that_a_restarted_training_repeats_are_written_once(workplace: Path, client: Any, runs) -> None:
    with closing(Book(workplace)) as book:
        label = book.begin()
        assert not book.epoch(label, 1, val_top1=40.0)
        book.keeper.lost(label)
        assert not book.epoch(label, 1, val_top1=99.0)
        assert not book.epoch(label, 2, val_top1=60.0)
        assert book.end(label)
        assert book.study.trained == 4
    run = runs()[label]
    history = client.get_metric_history(run.info.run_id, "val_top1")
    assert sorted((m.step, m.value) for m in history) == [(1, 40.0), (2, 60.0)]
    assert run.data.tags["restarts"] == "1"


@pytest.mark.parametrize(
    ("status", "error", "ended"),
    [("failed", "Traceback\nValueError: a bug", "FAILED"), ("timed out", "no step for 60 s", "FAILED"),
     ("diverged", "", "FINISHED")],
)  # fmt: skip
def test_a_training_that_ends_badly_says_why(
    workplace: Path, client: Any, runs, status: str, error: str, ended: str
) -> None:
    with closing(Book(workplace)) as book:
        label = book.begin()
        # The process of one that timed out is about to end itself.
        assert book.end(label, status, error) == (status != "timed out")
        assert book.end(label, status, error) == (status != "timed out")  # said twice it changes nothing
        assert book.seen == [(label, "running"), (label, status)]
    run = runs()[label]
    assert (run.data.tags["status"], run.info.status) == (status, ended)
    if error:
        text = Path(client.download_artifacts(run.info.run_id, "error.txt")).read_text()
        assert text == error
    assert Study(book.plan).records[label].error == error


def test_a_training_whose_process_dies_again_and_again_has_failed(workplace: Path, client: Any, runs) -> None:
    with closing(Book(workplace)) as book:
        label = book.begin()
        book.keeper.lost(label)
        book.keeper.lost(label)
        book.keeper.gave_up(label, "killed by signal 9")
    run = runs()[label]
    text = Path(client.download_artifacts(run.info.run_id, "error.txt")).read_text()
    assert text == "its process died 3 times, the last time so:\nkilled by signal 9"
    assert run.data.tags["restarts"] == "2"
    assert book.study.points[label].status == "failed"


def test_early_stopping_turns_the_process_to_the_next(workplace: Path, runs) -> None:
    sweep = "trials: 9\nbaselines: []\nscheduler: {name: asha, grace: 1, reduction: 3}\nrun: {epochs: 3}\n"
    with closing(Book(workplace, sweep)) as book:
        first, second = book.begin(), book.begin()
        assert not book.epoch(first, 1, val_top1=90.0)
        assert book.epoch(second, 1, val_top1=10.0)
        assert book.study.records[second].status == "stopped"
        assert book.epoch(second, 2, val_top1=99.0)  # it had not heard yet
        assert book.begin() == "002"
    run = runs()[second]
    assert (run.data.tags["status"], run.info.status) == ("stopped", "FINISHED")
    assert run.data.metrics["val_top1"] == 10


def test_an_objective_over_layers_is_their_mean(workplace: Path, runs) -> None:
    sweep = SWEEP.replace("run: {epochs: 2}", "run: {epochs: 3, alignment: {every: 2}}\nobjective: angle")
    with closing(Book(workplace, sweep.replace("[backprop]", "[]"))) as book:
        label = book.begin()
        book.epoch(label, 1)
        book.epoch(label, 2, **{"angle/a": 60.0, "angle/b": 80.0})
        book.epoch(label, 3)  # not measured: the last stands
        book.end(label)
        assert book.study.points[label].mean("angle") == 70
    assert runs()[label].data.metrics["angle"] == 70


def test_an_interrupted_sweep_goes_on_in_another_process(workplace: Path, runs) -> None:
    with closing(Book(workplace)) as book:
        done, cut, unreported = book.begin(), book.begin(), book.begin()
        book.epoch(done, 1)
        book.epoch(done, 2)
        book.end(done)
        book.epoch(cut, 1)
        book.keeper.interrupt()
    assert {name: run.info.status for name, run in runs().items() if name != "sweep"} == {
        done: "FINISHED",
        cut: "KILLED",
        unreported: "KILLED",
    }
    with closing(Book(workplace)) as book:
        assert [book.begin(), book.begin()] == [cut, unreported]
        book.tracker.drain()
        assert runs()[cut].info.status == "RUNNING"
        assert not book.epoch(cut, 2)
        book.end(cut)
        book.keeper.interrupt()
    found = runs()
    assert len(found) == 4
    assert found[cut].info.status == "FINISHED"
    assert found[unreported].info.status == "KILLED"
    assert found[cut].data.metrics["train_seconds"] == 4


def test_what_a_killed_process_left_running_is_closed_though_the_budget_is_spent(workplace: Path, runs) -> None:
    with closing(Book(workplace)) as book:
        label = book.begin()
        book.epoch(label, 1)
    assert runs()[label].info.status == "RUNNING"
    Study(book.plan).note("spent", 3601.0)
    with closing(Book(workplace, SWEEP + "budget: {hours: 1}\n")) as book:
        assert book.keeper.over()
        assert book.keeper.finished
        assert book.keeper.next() is None
        book.keeper.interrupt()
    assert runs()[label].info.status == "KILLED"
    assert Study(book.plan).records[label].status == "running"  # with more hours it would go on


def test_repetitions_are_runs_of_their_own_with_their_own_seeds(workplace: Path, runs) -> None:
    with closing(Book(workplace, SWEEP + "seeds: 2\n")) as book:
        labels = [book.begin() for _ in range(3)]
        assert labels == ["backprop-s0", "backprop-s1", "000-s0"]
        assert not book.keeper.finished
        for label in labels:
            book.epoch(label, 1)
            book.end(label)
        assert book.begin() == "000-s1"
        book.end("000-s1", "failed", "a bug")
    found = runs()
    assert {name: run.data.params["seed"] for name, run in found.items() if name != "sweep"} == {
        "backprop-s0": "0",
        "backprop-s1": "1",
        "000-s0": "0",
        "000-s1": "1",
    }
    assert {run.data.tags["repetition"] for name, run in found.items() if name != "sweep"} == {"0", "1"}


def test_another_mlflow_hears_of_all_that_was_before(
    workplace: Path, empty_store: Path, runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables were lost, with the machine that held them: the study has all but what was measured of layers."""
    with closing(Book(workplace)) as book:
        for label, status, error in (("backprop", "completed", ""), ("000", "failed", "no luck"), ("001", "", "")):
            assert book.begin() == label
            for epoch in (1, 2):
                book.epoch(label, epoch, val_top1=40.0 + epoch, **{"angle/head": 80.0})
            if status:
                book.end(label, status, error)
    before = runs()
    (book.plan.folder / SPOOL).unlink()
    shutil.copy(empty_store, workplace / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'other.db'}")
    with closing(Book(workplace)) as later:
        later.study.note("test/backprop", {"top1": 41.5, "epoch": 2, "time": 1000})
        assert later.keeper.tell_again([]) == 3
    client = MlflowClient(f"sqlite:///{workplace / 'other.db'}")
    found = runs_of(client)
    assert found.keys() == before.keys()
    for label, run in found.items():
        if label == "sweep":
            continue
        was = before[label]
        assert (run.info.status, run.data.params) == (was.info.status, was.data.params)
        tested = {"test_top1": 41.5} if label == "backprop" else {}
        assert run.data.metrics == tested | {
            name: was.data.metrics[name] for name in was.data.metrics if "/" not in name
        }
        told = {"trial", "kind", "point", "point_id", "checkpoints", "status", "rule", "repetition"}
        assert {name: run.data.tags.get(name) for name in told} == {name: was.data.tags.get(name) for name in told}
    history = client.get_metric_history(found["000"].info.run_id, "val_top1")
    assert [(point.step, point.value) for point in history] == [(1, 41.0), (2, 42.0)]
    assert Path(client.download_artifacts(found["000"].info.run_id, "error.txt")).read_text() == "no luck"


def test_what_mlflow_holds_is_not_told_again(workplace: Path, runs) -> None:
    with closing(Book(workplace)) as book:
        label = book.begin()
        book.epoch(label, 1)
    with closing(Book(workplace)) as later:
        assert later.keeper.tell_again(list(runs().values())) == 0


def test_what_had_not_begun_to_train_is_not_told_again(workplace: Path) -> None:
    with closing(Book(workplace)) as book:
        assert book.keeper.next() is not None  # its process was still to come
    with closing(Book(workplace)) as later:
        assert later.keeper.tell_again([]) == 0


def test_a_process_that_dies_while_it_tells_again_leaves_the_rest_to_the_next(
    workplace: Path, runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Book(workplace)) as book:
        label = book.begin()
        for epoch in (1, 2):
            book.epoch(label, epoch)
        book.end(label)
    (book.plan.folder / SPOOL).unlink()
    with closing(Book(workplace)) as dying:
        monkeypatch.setattr(dying.keeper, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dying.keeper.tell_again([])
    assert runs()[label].info.status == "RUNNING"
    with closing(Book(workplace)) as later:
        assert later.keeper.tell_again(list(runs().values())) == 1
        assert later.keeper.tell_again(list(runs().values())) == 0
    assert runs()[label].info.status == "FINISHED"
