"""A rule's coefficients over time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from aln.errors import AlnError, RuleError
from aln.hints import hint
from aln.optim.checks import above_zero
from aln.rules import LearningRule

# At how many moments a schedule is tried out before a training begins.
_TRIALS = 200


@dataclass(frozen=True, kw_only=True)
class CoefficientSchedule:
    """A coefficient over time, as the code of arXiv 2003.01513 has it. A pure function: nothing to save.

    With t the epochs since its start, or where a triangle of period `cycle` stands then (0, up to cycle/2, back to 0):
    linear is value + rate·t, exponential value·exp(rate·t).

    Attributes:
        schedule: `linear` or `exponential`.
        rate: change per epoch.
        start: fraction of the training before which the coefficient is 0.
        stop: fraction of the training after which the coefficient is 0.
        cycle: epochs of a triangle up and down; None for time that goes on.
    """

    schedule: Literal["linear", "exponential"] = "linear"
    rate: float = 0.0
    start: float = 0.0
    stop: float = 1.0
    cycle: float | None = None

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "exponential"):
            raise AlnError(f"schedule = {self.schedule!r}: expected linear or exponential")
        if not math.isfinite(self.rate):
            raise AlnError(f"rate = {self.rate}: expected a finite number")
        if not 0 <= self.start < self.stop <= 1:
            raise AlnError(f"start = {self.start}, stop = {self.stop}: expected fractions, 0 ≤ start < stop ≤ 1")
        above_zero(cycle=self.cycle)

    def at(self, value: float, epoch: float, epochs: float) -> float:
        """The coefficient whose setting is `value`, at the fractional epoch of a training that lasts `epochs`.

        Infinite where the number is too large.
        """
        if not self.start <= epoch / epochs <= self.stop:
            return 0.0
        time = max(0.0, epoch - self.start * epochs)
        if self.cycle is not None:
            time = min(time % self.cycle, self.cycle - time % self.cycle)
        if self.schedule == "linear":
            return value + self.rate * time
        try:
            return value * math.exp(self.rate * time)
        except OverflowError:
            return math.inf


@dataclass(frozen=True, kw_only=True)
class ScheduledRule:
    """A rule whose coefficients change over time.

    Raises `RuleError` for a schedule of what is no coefficient of the rule.
    """

    rule: LearningRule
    schedules: Mapping[str, CoefficientSchedule]

    def __post_init__(self) -> None:
        known = coefficients(self.rule)
        for name in self.schedules:
            if name not in known:
                unknown = f"{name} is no coefficient of {type(self.rule).__name__}{hint(name, known)}"
                raise RuleError(f"{unknown} (known: {', '.join(known) or 'none'})")

    def at(self, epoch: float, epochs: float) -> LearningRule:
        """The rule at the fractional epoch of a training that lasts `epochs`."""
        return dataclasses.replace(self.rule, **self.values(epoch, epochs))

    def values(self, epoch: float, epochs: float) -> dict[str, float]:
        """The scheduled coefficients at that time."""
        return {name: s.at(getattr(self.rule, name), epoch, epochs) for name, s in self.schedules.items()}

    def try_out(self, epochs: float) -> None:
        """Raises `RuleError` if at some time of the training the rule would not take its coefficients."""
        moments = {epochs * trial / _TRIALS for trial in range(_TRIALS + 1)}
        for schedule in self.schedules.values():
            start = schedule.start * epochs
            moments |= {start, schedule.stop * epochs, min(start + (schedule.cycle or 0.0) / 2, epochs)}
        for epoch in sorted(moments):
            try:
                self.at(epoch, epochs)
            except RuleError as error:
                raise RuleError(f"at epoch {epoch:g} of {epochs:g}: {error}") from error


def coefficients(rule: LearningRule) -> list[str]:
    """The names of a rule's real-valued settings."""
    fields = dataclasses.fields(rule)
    return [field.name for field in fields if isinstance(field.default, float) or field.type in ("float", float)]
