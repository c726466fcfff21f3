"""How a sweep stands, kept up to date training by training: trial 10,000 costs no more than trial 10."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from itertools import chain

from aln.config import Objective
from aln.records import Point, Status, TrialRecord, best_point, rank
from aln.search.plan import SweepPlan

# More of the best points than any terminal has lines.
_KEPT = 200


class Standing:
    """Counts, and the best points so far.

    Attributes:
        running: trainings that have reported and not ended, by label.
        baselines: the points of baselines, in the order in which they began.
    """

    def __init__(self, plan: SweepPlan, points: Iterable[Point]) -> None:
        self.running: dict[str, TrialRecord] = {}
        self.baselines: list[Point] = []
        self._plan = plan
        self._objective: Objective = plan.sweep.objectives[0]
        self._statuses: dict[str, Status] = {}
        self._counts: Counter[Status] = Counter()
        self._trainings: dict[str, int] = {}
        self._begun = 0
        self._best: list[tuple[tuple[bool, bool, float, float], int, Point]] = []
        for point in points:
            for record in point.records:
                self.changed(record, point)

    def changed(self, record: TrialRecord, point: Point) -> None:
        """A training of a point has begun, reported or ended."""
        if (before := self._statuses.get(record.label)) is not None:
            self._counts[before] -= 1
        self._statuses[record.label] = record.status
        self._counts[record.status] += 1
        if point.label not in self._trainings and point.baseline:
            self.baselines.append(point)
        # A point is given up with trainings that have not begun.
        self._begun += len(point.records) - self._trainings.get(point.label, 0)
        self._trainings[point.label] = len(point.records)
        if record.status == "running" and record.metrics:
            self.running[record.label] = record
        elif record.status != "running":
            self.running.pop(record.label, None)
            if not point.baseline:
                self._place(point)

    def _place(self, point: Point) -> None:
        """Puts a point where it belongs among the best. It only rises: while it is running it ranks last."""
        self._best = [entry for entry in self._best if entry[2] is not point]
        insort(self._best, (rank(point, self._objective), len(self._trainings), point), key=lambda entry: entry[:2])
        del self._best[_KEPT:]

    def count(self, *statuses: Status) -> int:
        """How many trainings stand so."""
        return sum(self._counts[status] for status in statuses)

    @property
    def ended(self) -> int:
        """Trainings that are not running."""
        return self._counts.total() - self._counts["running"]

    @property
    def total(self) -> int:
        """Trainings that there will be, if no point is given up before it was repeated."""
        sweep, seen = self._plan.sweep, len(self._trainings)
        searched = seen - len(self.baselines)
        return self._begun + sweep.seeds * max(
            0, self._plan.trials - searched + len(sweep.baselines) - len(self.baselines)
        )

    @property
    def ranked(self) -> list[Point]:
        """The best searched points of which a training has ended, the best first."""
        return [point for _, _, point in self._best]

    @property
    def best(self) -> Point | None:
        """The best searched point that trained; None if none did."""
        return best_point(self.ranked[:1], self._objective)

    @property
    def shown(self) -> list[TrialRecord]:
        """Trainings in the order in which a person wants to see them: what runs, what is compared with, the best."""
        ended = chain(self.baselines, self.ranked)
        return [*self.running.values(), *(r for point in ended for r in point.records if r.status != "running")]
