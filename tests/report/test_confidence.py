"""Intervals of confidence."""

from __future__ import annotations

import pytest

from aln.records import Point, TrialRecord
from aln.report.confidence import estimate, wilson


def point(*top1: float, status: str = "completed") -> Point:
    records = [
        TrialRecord(label=f"000-s{i}", of="000", repetition=i, epochs=1, status=status, metrics={"val_top1": value})  # type: ignore[arg-type]
        for i, value in enumerate(top1)
    ]
    return Point(label="000", values={}, baseline=False, records=records)


def test_one_training_has_wilsons_interval_over_the_images() -> None:
    found = estimate(point(90.0), "val_top1", 100)
    assert found is not None
    # (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) at p = 0.9, n = 100, z = 1.96
    assert (found.low, found.high) == pytest.approx((82.563, 94.478), abs=1e-2)
    assert found.basis == "Wilson, 100 images"
    assert found.deviation is None


def test_several_seeds_have_students_interval() -> None:
    found = estimate(point(89.0, 90.0, 91.0), "val_top1", 100)
    assert found is not None
    reach = 4.303 / 3**0.5  # t of two degrees of freedom; the deviation is 1
    assert (found.mean, found.deviation) == (90, 1)
    assert (found.low, found.high) == pytest.approx((90 - reach, 90 + reach), abs=1e-3)
    assert found.basis == "t, 3 seeds"


@pytest.mark.parametrize(("metric", "images"), [("val_top1", None), ("val_loss", 100)])
def test_without_images_or_accuracy_there_is_no_interval(metric: str, images: int | None) -> None:
    one = point(0.5)
    one.records[0].metrics = {metric: 0.5}
    found = estimate(one, metric, images)
    assert found is not None
    assert (found.low, found.high, found.basis) == (None, None, "one training, no interval")


def test_a_diverged_point_has_no_estimate() -> None:
    assert estimate(point(0.0, status="diverged"), "val_top1", 100) is None


def test_a_share_of_none_reaches_above_none() -> None:
    low, high = wilson(0, 5)
    assert low == 0
    assert high == pytest.approx(0.4345, abs=1e-3)
