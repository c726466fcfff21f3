"""`python -m aln.validate SWEEP`: the best trial of a sweep, found by the sweep's name or folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from driving import BARE, drive, make_plan

from aln import validate
from aln.build import build, evaluate_split
from aln.checkpoint_folder import CheckpointFolder
from aln.config import parse_run
from aln.engine import fit
from aln.search.plan import SweepPlan
from aln.search.study import Study

BEST = "002"


def peaked(values: Any, epoch: int, repetition: int) -> float:
    """Trial 002 is the best."""
    return 90.0 if values["rule.alpha"] == 0.5 else epoch


@pytest.fixture
def plan(workplace: Path) -> SweepPlan:
    """A sweep of four trials in `results/first`, which trained nothing and left no checkpoint."""
    grid = "rule: mirror\nparameters:\n  rule.alpha: {values: [0.1, 0.2, 0.5, 0.9]}\n"
    plan = make_plan(workplace / "results", BARE + "sampler: grid\n", grid, name="first")
    (plan.folder / "sweep.yaml").write_text(plan.sweep.to_yaml())
    return plan


def searched(plan: SweepPlan) -> None:
    study = Study(plan)
    drive(study, peaked)
    study.close()


def test_a_sweep_stands_for_its_best_trial(
    plan: SweepPlan, small_run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    searched(plan)
    before = (plan.folder / "study.log").read_bytes()
    run = build(parse_run(small_run))
    list(fit(run.state, run.source, run.settings))
    CheckpointFolder(plan.checkpoints(BEST)).save(run.state, 50.0)
    expected = evaluate_split(run, "test")
    for named in ("first", "results/first", str(plan.folder)):
        assert validate.main([named, "--split", "test", "--no-log"]) == 0
        assert f"top-1 {expected.top1:.2f} %" in capsys.readouterr().out
    assert (plan.folder / "study.log").read_bytes() == before


def test_one_whose_checkpoint_was_not_kept_names_the_command_that_trains_it(
    plan: SweepPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    searched(plan)
    assert validate.main(["first"]) == 2
    expected = rf"first: no checkpoint of its best trial {BEST} is in .*/trials/{BEST}/checkpoints; "
    assert re.search(
        expected + r"this trains it: .*python -m aln\.train results/first/best\.yaml", capsys.readouterr().err
    )


def test_one_in_which_nothing_has_trained_is_refused(plan: SweepPlan, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate.main(["first"]) == 2
    assert "first: no trial of this sweep has trained to its end yet" in capsys.readouterr().err
    assert not (plan.folder / "study.log").exists()


def test_the_nearest_name_is_suggested(plan: SweepPlan, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate.main(["frist"]) == 2
    error = capsys.readouterr().err
    assert "frist: no such checkpoint, neither a file nor a sweep nor an MLflow run" in error
    assert "did you mean 'results/first'?" in error


def test_one_that_has_been_moved_away_is_still_known_to_mlflow(
    plan: SweepPlan, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    client.create_run("0", run_name="first", tags={"kind": "sweep"})
    shutil.rmtree(plan.folder)
    assert validate.main(["first"]) == 2
    assert "first: is a sweep that is not in results; name its folder" in capsys.readouterr().err
