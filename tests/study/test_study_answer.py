"""The answer of a study, from sweeps whose numbers are made up."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aln.config import parse_document, parse_sweep
from aln.records import Point, Status, TrialRecord
from aln.search.plan import SweepPlan
from aln.space import RULE, parse_space
from aln.study.answer import Cell, cells, table, write_answer, write_trainings
from aln.study.description import Answer
from aln.study.plan import PlannedSweep
from aln.study.running import EndedSweep

SPACE = """
rule: {values: [mirror, symmetric]}
parameters: {rule.alpha: {min: 0.0, max: 1.0}}
"""
Trainings = list[tuple[Status, float, float]]
"""How each seed ended, its objective and its test accuracy."""


def point(label: str, trainings: Trainings, values: Mapping[str, Any] | None = None) -> Point:
    records = [
        TrialRecord(
            label=f"{label}-s{seed}",
            of=label,
            repetition=seed,
            epochs=3,
            begun=True,
            status=status,
            metrics={"val_top1": value},
        )
        for seed, (status, value, _) in enumerate(trainings)
    ]
    return Point(label=label, values=values or {}, baseline=values is None, records=records)


def ended(folder: Path, column: str, found: Mapping[str, Trainings], test: str = "all") -> EndedSweep:
    """A sweep whose points are baselines, or called `RULE:NUMBER`."""
    sweep, base = parse_sweep(parse_document(f"trials: 3\ntest: {test}\nrun: {{seed: 5}}"))
    space = parse_space(parse_document(SPACE, "space.yaml"), sweep.run)
    plan = SweepPlan(name=f"s-{column}", space=space, sweep=sweep, base=base, folder=folder)
    points, tested = [], {}
    for name, trainings in found.items():
        rule, number, label = name.partition(":")
        points.append(point(label or rule, trainings, {RULE: rule, "rule.alpha": 0.5} if number else None))
        tested |= {f"{label or rule}-s{seed}": test for seed, (_, _, test) in enumerate(trainings)}
    planned = PlannedSweep(name="s", values={"run.model": column}, sweep=sweep, base=base, space=space)
    return EndedSweep(stage="last", planned=planned, plan=plan, points=points, test_top1=tested)


BACKPROP: Trainings = [("completed", 98.0, 97.0), ("completed", 99.0, 99.0)]
MIRROR: Trainings = [("completed", 90.0, 91.0), ("completed", 92.0, 92.0)]
HALF: Trainings = [("completed", 80.0, 81.0), ("diverged", 0.0, 10.0)]
LOST: Trainings = [("diverged", 0.0, 10.0), ("diverged", 0.0, 10.0)]


def by_place(found: list[Cell]) -> dict[tuple[str, str], Cell]:
    return {(cell.row, cell.column): cell for cell in found}


def test_accuracy_is_that_of_the_tests_of_the_seeds_that_trained(tmp_path: Path) -> None:
    sweeps = [
        ended(tmp_path, "resnet8", {"backprop": BACKPROP, "mirror:000": MIRROR, "symmetric:001": HALF}),
        ended(tmp_path, "resnet20", {"backprop": BACKPROP, "mirror:000": LOST}),
    ]
    found = by_place(cells(Answer(stage="last"), sweeps))
    assert (found["mirror", "resnet8"].mean, found["mirror", "resnet8"].deviation) == (91.5, statistics.stdev([91, 92]))
    half = found["symmetric", "resnet8"]
    assert (half.mean, half.count, half.diverged) == (81.0, 2, 1)
    assert math.isnan(half.deviation)
    assert str(half) == "81.00 (1 of 2 diverged)"
    assert str(found["mirror", "resnet20"]) == "diverged"
    shown = table(Answer(stage="last"), list(found.values()))
    assert [column.header for column in shown.columns] == ["rule", "resnet8", "resnet20"]


def test_points_of_one_rule_are_told_apart(tmp_path: Path) -> None:
    sweep = ended(tmp_path, "x", {"mirror:000": MIRROR, "mirror:001": HALF, "symmetric:002": MIRROR})
    assert [cell.row for cell in cells(Answer(stage="last"), [sweep])] == ["mirror 000", "mirror 001", "symmetric"]


def test_a_point_of_a_rule_that_is_a_baseline_too_or_of_another_space_is_not_lost(tmp_path: Path) -> None:
    one = ended(tmp_path, "x", {"mirror": HALF, "mirror:000": MIRROR})
    found = by_place(cells(Answer(stage="last"), [one]))
    assert {place: cell.mean for place, cell in found.items()} == {("mirror", "x"): 81.0, ("mirror (s)", "x"): 91.5}


def test_of_a_search_the_best_point_alone_stands_for_its_rule(tmp_path: Path) -> None:
    sweep = ended(tmp_path, "x", {"backprop": BACKPROP, "mirror:000": HALF, "symmetric:001": MIRROR}, test="best")
    assert [cell.row for cell in cells(Answer(stage="last"), [sweep])] == ["backprop", "symmetric"]


def test_the_gap_is_to_backprop_of_the_same_column(tmp_path: Path) -> None:
    worse: Trainings = [("completed", 95.0, 95.0), ("completed", 95.0, 95.0)]
    sweeps = [
        ended(tmp_path, "resnet8", {"backprop": BACKPROP, "mirror:000": MIRROR}),
        ended(tmp_path, "resnet20", {"backprop": worse, "mirror:000": MIRROR}),
        ended(tmp_path, "resnet32", {"mirror:000": MIRROR}),
    ]
    found = by_place(cells(Answer(stage="last", measure="gap"), sweeps))
    assert {place: cell.mean for place, cell in found.items()} == {
        ("mirror", "resnet8"): 6.5,
        ("mirror", "resnet20"): 3.5,
    }
    expected = math.hypot(statistics.stdev([97, 99]), statistics.stdev([91, 92]))
    assert found["mirror", "resnet8"].deviation == pytest.approx(expected)


def test_the_share_is_of_all_trials_that_said_something(tmp_path: Path) -> None:
    one = {"completed": 95.0, "stopped": 70.0, "diverged": 0.0, "failed": 0.0}
    trials: dict[str, Trainings] = {
        f"mirror:{n:03d}": [(status, value, 0.0)] for n, (status, value) in enumerate(one.items())
    }
    (cell,) = cells(Answer(stage="last", measure="share", at_least=70.0), [ended(tmp_path, "x", trials, "best")])
    assert (cell.mean, cell.count, cell.diverged) == (pytest.approx(200 / 3), 3, 1)
    z, n, share = 1.959964, 3, 2 / 3
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))  # Wilson 1927
    assert cell.deviation == pytest.approx(100 * half, rel=1e-5)


def test_what_is_written_holds_every_number(tmp_path: Path) -> None:
    sweep = ended(tmp_path, "resnet8", {"backprop": BACKPROP, "mirror:000": HALF, "symmetric:001": LOST})
    found = cells(Answer(stage="last"), [sweep])
    write_answer(found, tmp_path / "answer.csv")
    write_trainings([sweep], tmp_path / "trainings.csv")
    answer = list(csv.DictReader((tmp_path / "answer.csv").read_text().splitlines()))
    assert [(line["rule"], line["mean"], line["diverged"]) for line in answer] == [
        ("backprop", "98.0000", "0"),
        ("mirror", "81.0000", "1"),
        ("symmetric", "", "2"),
    ]
    lines = list(csv.DictReader((tmp_path / "trainings.csv").read_text().splitlines()))
    assert [(line["rule"], line["seed"], line["status"], line["test_top1"]) for line in lines] == [
        ("backprop", "5", "completed", "97.0"),
        ("backprop", "6", "completed", "99.0"),
        ("mirror", "5", "completed", "81.0"),
        ("mirror", "6", "diverged", ""),
        ("symmetric", "5", "diverged", ""),
        ("symmetric", "6", "diverged", ""),
    ]
