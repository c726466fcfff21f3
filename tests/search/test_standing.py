"""How a sweep stands: counts and the best, kept as trainings change, are those of all points counted anew."""

import random

import pytest

from aln.config import parse_sweep
from aln.config.documents import Document
from aln.records import Point, TrialRecord, best_point, ranked
from aln.search.plan import SweepPlan
from aln.search.standing import Standing
from aln.space import parse_space


def plan_of(tmp_path, seeds):
    sweep, base = parse_sweep(Document({"trials": 40, "seeds": seeds, "run": {"epochs": 4}}))
    space = parse_space(Document({"rule": "mirror", "parameters": {"rule.alpha": {"min": 0.1, "max": 0.9}}}), sweep.run)
    return SweepPlan(name="mine", space=space, sweep=sweep, base=base, folder=tmp_path)


def points_of(seeds, count=30):
    for label in ["backprop", "feedback", *(f"{number:03d}" for number in range(count))]:
        records = [TrialRecord(label=f"{label}-{i}", of=label, repetition=i, epochs=4) for i in range(seeds)]
        yield Point(label=label, values={}, baseline=not label.isdigit(), records=records)


def trained(point, chance, standing):
    """Trains a point in whatever way, telling of each change."""
    for record in list(point.records):
        standing.changed(record, point)
        record.metrics = {"epoch": 1.0, "val_top1": chance.choice([1.0, 2.0, 3.0]), "val_loss": chance.random()}
        standing.changed(record, point)
        if chance.random() < 0.1:
            return  # goes on
        record.status = chance.choice(["completed", "completed", "stopped", "diverged", "failed"])
        if record.status != "completed" and not point.baseline:
            point.records[:] = [other for other in point.records if other.status != "running" or other is record]
        standing.changed(record, point)
        if record.status != "completed":
            return


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("draw", range(5))
def test_it_is_what_counting_anew_finds(tmp_path, seeds, draw):
    chance, plan = random.Random(draw), plan_of(tmp_path, seeds)
    (objective,) = plan.sweep.objectives
    points, standing = list(points_of(seeds)), Standing(plan, [])
    for number, point in enumerate(points, 1):
        trained(point, chance, standing)
        seen = points[:number]
        records = [record for other in seen for record in other.records]
        searched = [other for other in seen if not other.baseline]
        ended = [other for other in searched if any(record.status != "running" for record in other.records)]
        assert standing.ended == sum(record.status != "running" for record in records)
        assert standing.count("failed", "diverged") == sum(r.status in ("failed", "diverged") for r in records)
        assert standing.total == len(records) + seeds * (40 - len(searched) + 2 - (number - len(searched)))
        assert [p.label for p in standing.ranked] == [p.label for p in ranked(ended, objective)]
        assert standing.best is best_point(seen, objective)
        assert set(standing.running) == {r.label for r in records if r.status == "running" and r.metrics}
    again = Standing(plan, points)
    assert (again.ended, again.total) == (standing.ended, standing.total)
    assert [p.label for p in again.ranked] == [p.label for p in standing.ranked]
