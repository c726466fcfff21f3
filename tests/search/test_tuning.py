"""Ray Tune under a sweep, in this process: what it leaves where all machines write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from driving import BARE, make_plan
from ray import tune

from aln.search import tuning
from aln.search.bookkeeper import Bookkeeper
from aln.search.study import Study
from aln.storage import open_storage
from aln.tracking import Tracker
from stores import Store


def idle(assignment: dict[str, Any]) -> None:
    """In place of a training: its first epoch, and the end."""
    tune.report({"metrics": {"epoch": 1.0, "epoch_seconds": 1.0, "val_top1": 50.0}})
    tune.report({"status": "completed", "error": ""})


def test_nothing_of_tune_stays_in_a_bucket(workplace: Path, s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(make_plan(workplace, BARE.replace("trials: 6", "trials: 2")), remote=f"{s3.url}/sweeps/far")
    study, tracker = Study(plan), Tracker("test")
    bookkeeper = Bookkeeper(plan, study, tracker, tracker.run("s", {"kind": "sweep"}), lambda record: None)
    seen: list[str] = []

    def look(assignment_of: Any = bookkeeper.next) -> Any:
        seen.extend(open_storage(plan.root).listing().folders)
        return assignment_of()

    monkeypatch.setattr(bookkeeper, "next", look)
    monkeypatch.setattr(tuning, "has_many_machines", lambda: True)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with tuning.cluster(plan) as (_, concurrent):
        tuning.tune_trials(plan, concurrent, bookkeeper, idle)
    assert study.complete
    assert ".tune" in seen  # while it ran
    found = open_storage(s3.url).listing("sweeps/far")
    assert (found.files, found.folders) == ([], [])
    tracker.close()
