"""What one setting may be searched over: a range of numbers, or a list of values; or what it is tied to."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Under which values of other searched parameters something is there: {"rule.name": ("information", "mirror")}.
When = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `min` to `max` inclusive, on a logarithmic scale if `log`, else in steps of `step` if given.

    `integer` if the setting takes whole numbers alone. `points` matters to a grid only: so many, evenly on the range's
    own scale.
    """

    min: float
    max: float
    log: bool = False
    step: float | None = None
    points: int | None = None
    integer: bool = False
    when: When = field(default_factory=dict, hash=False)

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that a configuration must accept for the whole range to be legal."""
        return (self.min, self.max)

    @property
    def middle(self) -> float:
        """The value half-way, on the range's own scale and among its steps."""
        if self.log:
            return round(math.sqrt(self.min * self.max)) if self.integer else math.sqrt(self.min * self.max)
        step = self.step or (1 if self.integer else None)
        half = (self.max - self.min) / 2
        value = self.min + (half if step is None else half // step * step)
        return int(value) if self.integer else value

    @property
    def grid(self) -> Sequence[Any] | None:
        """The values of a grid; None for a range that says neither `points` nor steps."""
        if self.points is not None:
            parts = [i / (self.points - 1) for i in range(self.points)]
            return tuple(dict.fromkeys(self._at(part) for part in parts))
        if self.integer:
            return range(int(self.min), int(self.max) + 1, int(self.step or 1))
        if self.step is None:
            return None
        return tuple(self._rounded(self.min + i * self.step) for i in range(self._steps + 1))

    def expected(self, value: object) -> str:
        """What was expected in place of a value that does not lie in the range; empty for one that does."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        if self.integer and not isinstance(value, int):
            return "a whole number"
        if not self.min <= value <= self.max:
            return f"a number from {self.min} to {self.max}"
        if self.step is not None:
            steps = (value - self.min) / self.step
            if abs(steps - round(steps)) > 1e-8:
                return f"{self.min} and a multiple of {self.step}"
        return ""

    def drawn(self, generator: random.Random) -> Any:
        """A value at random: uniform on the range's own scale, among its steps."""
        if self.step is not None or (self.integer and not self.log):
            step = self.step or 1
            value = self.min + generator.randint(0, self._steps) * step
            return int(value) if self.integer else self._rounded(value)
        return self._at(generator.random())

    @property
    def last(self) -> float:
        """The largest of the values that there are: `max`, or the last step before it."""
        return self.max if self.step is None else self._rounded(self.min + self._steps * self.step)

    @property
    def _steps(self) -> int:
        return math.floor((self.max - self.min) / (self.step or 1) + 1e-9)

    def _at(self, part: float) -> Any:
        """The value so far along the range, 0 to 1."""
        if self.log:
            value = math.exp(math.log(self.min) + part * (math.log(self.max) - math.log(self.min)))
        else:
            value = self.min + part * (self.max - self.min)
        return round(value) if self.integer else self._rounded(value)

    def _rounded(self, value: float) -> float:
        """Without what floating point adds at the end: 0.3, not 0.30000000000000004; and within the range."""
        return float(min(max(float(f"{value:.12g}"), self.min), self.max))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the listed values. A list among them is a tuple here."""

    values: tuple[Any, ...]
    when: When = field(default_factory=dict, hash=False)

    @property
    def examples(self) -> tuple[Any, ...]:
        return self.values

    @property
    def middle(self) -> Any:
        """The value that stands in the middle."""
        return self.values[len(self.values) // 2]

    @property
    def grid(self) -> Sequence[Any]:
        return self.values

    def expected(self, value: object) -> str:
        """What was expected in place of a value that is not listed; empty for one that is."""
        return "" if listed(value, self.values) else f"one of {', '.join(map(format_value, self.values))}"

    def drawn(self, generator: random.Random) -> Any:
        """A value at random."""
        return generator.choice(self.values)


Parameter = Range | Choice


@dataclass(frozen=True, kw_only=True)
class Tie:
    """A setting that always is another one, `to`, times `factor`."""

    to: str
    factor: float = 1
    when: When = field(default_factory=dict, hash=False)

    def value(self, of: Any) -> Any:
        """The tied setting's value when the other one's is `of`."""
        return of if self.factor == 1 else of * self.factor


def listed(value: object, values: Sequence[Any]) -> bool:
    """Whether a value is among others; true is not 1 here."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def frozen(value: Any) -> Any:
    """A value of a YAML file in which every list is a tuple, so that points can be compared and kept."""
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    return {key: frozen(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def thawed(value: Any) -> Any:
    """The value as YAML has it: every tuple a list."""
    if isinstance(value, list | tuple):
        return [thawed(item) for item in value]
    return {key: thawed(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def format_value(value: Any) -> str:
    """A coefficient in as few digits as tell it apart."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(format_value, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else "null" if value is None else str(value)


def format_parameter(parameter: Parameter) -> str:
    """Over what a parameter is searched, in words."""
    if isinstance(parameter, Range):
        scale = ", log" if parameter.log else f", step {parameter.step:g}" if parameter.step else ""
        return f"{format_value(parameter.min)} … {format_value(parameter.max)}{scale}"
    return " | ".join(format_value(value) for value in parameter.values)


def format_when(when: When) -> str:
    """Under what something is there, in words."""
    asked = [f"{key} is {' or '.join(map(format_value, values))}" for key, values in when.items()]
    return f"where {' and '.join(asked)}" if asked else ""


def format_point(point: Mapping[str, Any]) -> str:
    """A point of the space in one line."""
    return " ".join(f"{key}={format_value(value)}" for key, value in point.items())
