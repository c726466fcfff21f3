"""Records of trainings and points: how they ended, and which are best."""

from __future__ import annotations

from typing import Any

from aln.config import Objective
from aln.records import Point, TrialRecord, best_point, pareto_front, ranked

TOP1, SECONDS = Objective.model_validate("val_top1"), Objective.model_validate("train_seconds")


def record(label: str, status: Any = "completed", repetition: int = 0, **metrics: float) -> TrialRecord:
    return TrialRecord(label=label, of=label, repetition=repetition, epochs=10, status=status, metrics=metrics)


def point(label: str, *records: TrialRecord, baseline: bool = False) -> Point:
    return Point(label=label, values={}, baseline=baseline, records=list(records))


def test_a_record_takes_over_each_epoch_once_and_adds_up_its_time() -> None:
    made = record("a", "running")
    assert made.update({"epoch": 1.0, "val_top1": 40.0, "epoch_seconds": 2.0})
    assert made.update({"epoch": 2.0, "val_top1": 50.0, "epoch_seconds": 3.0})
    assert not made.update({"epoch": 2.0, "val_top1": 99.0, "epoch_seconds": 9.0})
    assert made.metrics == {"epoch": 2.0, "val_top1": 50.0, "epoch_seconds": 3.0, "train_seconds": 5.0}
    assert made.epoch == 2


def test_what_the_study_keeps_leaves_out_the_metrics_of_layers() -> None:
    kept = record("a", val_top1=50.0, **{"angle/head": 80.0}).plain()
    assert kept == {"status": "completed", "metrics": {"val_top1": 50.0}, "error": "", "restarts": 0}


def test_ranking_puts_completed_points_first_and_breaks_ties_by_loss() -> None:
    points = [
        point("stopped", record("stopped", "stopped", val_top1=99.0, val_loss=0.1)),
        point("diverged", record("diverged", "diverged", val_top1=0.0)),
        point("good", record("good", val_top1=95.0, val_loss=0.3)),
        point("better", record("better", val_top1=95.0, val_loss=0.2)),
        point("backprop", record("backprop", val_top1=99.0), baseline=True),
        point("failed", record("failed", "failed")),
    ]
    assert [p.label for p in ranked(points, TOP1)][:3] == ["better", "good", "stopped"]
    best = best_point(points, TOP1)
    assert best is not None
    assert best.label == "better"


def test_the_mean_over_seeds_decides() -> None:
    lucky = point("lucky", record("lucky", val_top1=99.0), record("lucky", repetition=1, val_top1=80.0))
    steady = point("steady", record("steady", val_top1=92.0), record("steady", repetition=1, val_top1=91.0))
    assert [p.label for p in ranked([lucky, steady], TOP1)] == ["steady", "lucky"]
    assert steady.mean("val_top1") == 91.5


def test_what_a_diverged_training_reports_for_the_search_was_not_measured() -> None:
    metrics = {"val_top1": 0.0, "val_top5": 0.0, "train_seconds": 2.0}
    assert record("a", "diverged", **metrics).measured == {"train_seconds": 2.0}
    assert record("a", "completed", **metrics).measured == metrics


def test_a_point_of_which_one_training_diverged_has_diverged() -> None:
    mixed = point("mixed", record("mixed", val_top1=99.0), record("mixed", "diverged", repetition=1, val_top1=0.0))
    sound = point("sound", record("sound", val_top1=50.0), record("sound", repetition=1, val_top1=50.0))
    assert mixed.status == "diverged"
    assert [p.label for p in ranked([mixed, sound], TOP1)] == ["sound", "mixed"]
    assert best_point([mixed], TOP1) is None


def test_nothing_is_best_where_nothing_trained() -> None:
    assert best_point([point("a", record("a", "failed")), point("b", record("b", "diverged"))], TOP1) is None


def test_the_pareto_front_is_what_no_other_point_beats() -> None:
    points = [
        point(label, record(label, val_top1=top1, train_seconds=seconds))
        for label, top1, seconds in [
            ("slow", 99.0, 9.0),
            ("fast", 90.0, 1.0),
            ("worse", 89.0, 2.0),
            ("same", 99.0, 9.0),
        ]
    ]
    points.append(point("stopped", record("stopped", "stopped", val_top1=100.0, train_seconds=0.5)))
    assert [p.label for p in pareto_front(points, [TOP1, SECONDS])] == ["slow", "fast", "same"]
