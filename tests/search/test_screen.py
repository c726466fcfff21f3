"""What a person sees while a sweep runs."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from aln.config import parse_sweep
from aln.config.documents import Document
from aln.records import Point, TrialRecord
from aln.search.plan import SweepPlan
from aln.search.screen import Screen
from aln.space import parse_space


@pytest.fixture
def plan(tmp_path):
    sweep, base = parse_sweep(Document({"trials": 3, "run": {"epochs": 4}}))
    space = parse_space(Document({"rule": "mirror", "parameters": {"rule.alpha": {"min": 0.1, "max": 0.9}}}), sweep.run)
    return SweepPlan(name="mine", space=space, sweep=sweep, base=base, folder=tmp_path / "mine")


def trial(label, status, top1=None, alpha=0.5, error=""):
    baseline = not label.isdigit()
    record = TrialRecord(label=label, of=label, repetition=0, epochs=4, status=status, error=error)
    if top1 is not None:
        record.metrics = {"val_top1": top1, "epoch": 4.0 if status == "completed" else 2.0, "train_seconds": 3.0}
    return Point(label=label, values={} if baseline else {"rule.alpha": alpha}, baseline=baseline, records=[record])


def shown(plan, terminal, *points, width=120, height=40):
    """What the screen prints as trials change, without colours and movements of the cursor."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, height=height, _environ={})
    study = SimpleNamespace(points={}, records={})
    with Screen(plan, study, console) as screen:
        for point in points:
            study.points[point.label] = point
            study.records |= {record.label: record for record in point.records}
            screen.changed(point.records[0])
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", console.file.getvalue())


def test_a_terminal_shows_the_best_trials_under_the_baselines(plan):
    out = shown(
        plan,
        True,
        trial("backprop", "completed", 99.0),
        trial("000", "stopped", 95.0, alpha=0.25),
        trial("001", "completed", 90.0, alpha=0.75),
        trial("002", "failed"),
    )
    last = out[out.rindex("mine: 4 of 5 trainings, best val_top1 90.00 (trial 001), 1 failed, about ") :]
    rows = [line.split("│")[1].strip() for line in last.splitlines() if line.startswith("│")]
    assert rows == ["backprop", "001", "000", "002"]
    assert "alpha" in last
    assert "0.75" in last


def test_elsewhere_each_ended_trial_is_a_line(plan):
    failed = trial("001", "failed", error="Traceback\nValueError: a rule with a bug")
    out = shown(plan, False, trial("000", "running"), trial("000", "completed", 90.0), failed)
    first, second = out.splitlines()
    assert first.split() == ["[1/5]", "000", "completed", "epoch", "4", "val_top1", "90.00", "rule.alpha=0.5"]
    assert second.startswith("[2/5]      001  failed ")
    assert second.endswith("ValueError: a rule with a bug")


def test_a_diverged_training_has_no_score(plan):
    line = shown(plan, False, trial("000", "diverged", 0.0))
    assert line.split()[1:6] == ["000", "diverged", "epoch", "2", "val_top1"]
    assert line.split()[6] == "-"


def test_the_table_fits_the_terminal(plan):
    plan = replace(plan, sweep=plan.sweep.model_copy(update={"trials": 28}))
    points = [trial(f"{i:03d}", "completed", 90.0) for i in range(30)]
    out = shown(plan, True, *points, width=70, height=12)
    last = out[out.rindex("mine: 30 of") :].splitlines()
    assert 10 < len(last) <= 12
    assert max(map(len, last)) <= 70
    assert "best val_top1 90.00 (trial 000), about 0:00:00 left" in " ".join(line.strip() for line in last[:2])


def test_a_running_training_says_how_long_it_goes_on(plan):
    out = shown(plan, True, trial("000", "running", 50.0))
    row = [line for line in out.splitlines() if line.startswith("│ 000")][-1]
    assert row.split("│")[-2].strip() == "0:00:03"  # two of four epochs took three seconds


def test_an_error_with_brackets_is_printed_as_it_is(plan):
    failed = trial("000", "failed", error="Traceback\nValueError: x is [batch, 3], in [/data/x]")
    assert shown(plan, False, failed).endswith("ValueError: x is [batch, 3], in [/data/x]\n")
