"""How sure a number is: intervals of 95 % confidence, over seeds or over the images that an accuracy was counted on."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from scipy import stats

from aln.records import Point

_CONFIDENCE = 0.95
_ACCURACIES = ("val_top1", "val_top5")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric of a point: its mean over the usable trainings.

    Attributes:
        deviation: standard deviation over seeds; None of one training.
        low, high: the interval; None if there is nothing to tell it from.
        basis: what the interval is of, in words.
    """

    mean: float
    trainings: int
    deviation: float | None = None
    low: float | None = None
    high: float | None = None
    basis: str = "one training, no interval"


def estimate(point: Point, metric: str, images: int | None) -> Estimate | None:
    """The metric with its interval: Student's t over seeds, else Wilson's of an accuracy (percent) over `images`.

    None if one of the usable trainings lacks the metric, or there is none.
    """
    mean = point.mean(metric)
    if mean is None:
        return None
    values = [record.metrics[metric] for record in point.usable]
    if len(values) > 1:
        deviation = statistics.stdev(values)
        reach = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
        low, high, basis = mean - reach, mean + reach, f"t, {len(values)} seeds"
        return Estimate(mean=mean, trainings=len(values), deviation=deviation, low=low, high=high, basis=basis)
    if metric in _ACCURACIES and images:
        low, high = wilson(round(mean / 100 * images), images)
        basis = f"Wilson, {images:,} images"
        return Estimate(mean=mean, trainings=1, low=100 * low, high=100 * high, basis=basis)
    return Estimate(mean=mean, trainings=1)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Wilson's interval of a share, both ends from 0 to 1."""
    found = stats.binomtest(hits, of).proportion_ci(_CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)
