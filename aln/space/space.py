"""The search space itself: what a point of it is, and what run a point describes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aln.config import Document, set_at
from aln.errors import Problem
from aln.space.constraints import Constraint
from aln.space.parameters import Choice, Parameter, Range, Tie, When, listed, thawed

Point = Mapping[str, Any]

RULE = "rule.name"  # under which a space that ranges over rules has its `Choice` of them
_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A rule or several, the parameters that are searched, the settings that are fixed; all under dotted keys.

    Attributes:
        rule: the rule's name, or the names of all the rules that the space ranges over, joined by `|`.
        parameters: what is searched, in the order of declaration; what a condition asks of comes before what it holds
            for, and the names of sections before their options.
        fixed: settings with one value.
        ties: settings that follow another one, searched or fixed.
        constraints: what every point must satisfy.
        enqueued: known points to try first; what they leave out is for the sampler to choose.
        document: what the space was read from, if it was; for the lines of what is found wrong later.
    """

    name: str
    rule: str
    parameters: Mapping[str, Parameter]
    fixed: Mapping[str, Any]
    ties: Mapping[str, Tie] = field(default_factory=dict)
    constraints: tuple[Constraint, ...] = ()
    enqueued: tuple[Point, ...] = ()
    document: Document | None = field(default=None, compare=False, repr=False)

    @property
    def rules(self) -> tuple[str, ...]:
        """The names of all the rules that the space ranges over."""
        return self.parameters[RULE].examples if RULE in self.parameters else (self.rule,)

    def problem(self, key: str, message: str) -> Problem:
        """Something wrong with the space, at the line on which `key` stands: a parameter, or a key of the file."""
        source, line = "", None
        if self.document is not None:
            within = self.document.content.get("parameters")
            inside = isinstance(within, Mapping) and key in within
            path = ("parameters", key) if inside else ("rule",) if key == RULE else (key,)
            source, line = self.document.source, self.document.line(path)
        return Problem(key=key, message=message, source=source, line=line)

    def choose(self, choose: Callable[[str, Parameter], Any]) -> dict[str, Any]:
        """The point made of what `choose(key, parameter)` answers for each parameter that is there.

        A parameter is asked for only if its conditions hold under the answers given before.
        """
        point: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            if holds(parameter.when, point):
                point[key] = choose(key, parameter)
        return point

    def draw(self, generator: random.Random, given: Point | None = None) -> dict[str, Any]:
        """A point at random, with the values `given`; it may break constraints."""
        known = given or {}
        return self.choose(lambda key, parameter: known[key] if key in known else parameter.drawn(generator))

    def example(self, given: Point | None = None) -> dict[str, Any] | None:
        """A point that keeps the constraints and has the values `given`: the middle of the space if that does.

        Otherwise the first of 1,000 points at random that does, or None.
        """
        known, generator = given or {}, random.Random(0)  # noqa: S311 (no secret)
        middle = self.choose(lambda key, parameter: known.get(key, parameter.middle))
        others = (self.draw(generator, known) for _ in range(_DRAWS))
        return next((point for point in itertools.chain([middle], others) if not self.violated(point)), None)

    def values(self, point: Point) -> dict[str, Any]:
        """All that the space says of a run at a point: fixed values, the point's, and what is tied to them."""
        values = {**self.fixed, **point}
        tied = {
            key: tie.value(values[tie.to])
            for key, tie in self.ties.items()
            if tie.to in values and holds(tie.when, point)
        }
        return values | tied

    def violated(self, point: Point) -> list[str]:
        """The constraints that a point breaks, as written. A constraint on a parameter that is not there holds."""
        if not self.constraints:
            return []
        values = self.values(point)
        return [constraint.text for constraint in self.constraints if not constraint.holds(values)]

    def apply(self, run: Mapping[str, Any], point: Point) -> dict[str, Any]:
        """The content of the run configuration at a point: the sweep's `run`, the space's rule, the point's values."""
        content: dict[str, Any] = _deep_copy(run)
        content["rule"] = {"name": self.rules[0]}
        # Whole sections and their names first: naming a section drops the options it had.
        for key, value in sorted(self.values(point).items(), key=lambda item: _depth(item[0])):
            set_at(content, key, thawed(value))
        return content

    def walk(self) -> Iterator[dict[str, Any]]:
        """Every point of the grid, those that break constraints too; one at a time, since there may be very many.

        Raises `ValueError` for a range that says neither `points` nor steps.
        """

        def extended(point: dict[str, Any], rest: list[tuple[str, Parameter]]) -> Iterator[dict[str, Any]]:
            if not rest:
                yield point
                return
            (key, parameter), *others = rest
            if not holds(parameter.when, point):
                yield from extended(point, others)
                return
            values = parameter.grid
            if values is None:
                raise ValueError(f"{key} has no grid")
            for value in values:
                yield from extended({**point, key: value}, others)

        return extended({}, list(self.parameters.items()))

    def grid(self) -> list[dict[str, Any]]:
        """The points of the grid that keep the constraints; see `grid_problems` for whether there is one."""
        return [point for point in self.walk() if not self.violated(point)]

    def plain(self) -> dict[str, Any]:
        """The space as plain data, from which `parse_space` makes it again."""
        rule = {"values": list(self.rules)} if RULE in self.parameters else self.rule
        entries = {key: _plain_parameter(parameter) for key, parameter in self.parameters.items() if key != RULE}
        entries |= {key: {"value": thawed(value)} for key, value in self.fixed.items()}
        for key, tie in self.ties.items():
            factor = {} if tie.factor == 1 else {"factor": tie.factor}
            entries[key] = {"tie": tie.to, **factor, **_plain_when(tie.when)}
        content: dict[str, Any] = {"name": self.name} if self.name else {}
        content |= {"rule": rule, "parameters": entries}
        if self.constraints:
            content["constraints"] = [constraint.text for constraint in self.constraints]
        if self.enqueued:
            content["enqueue"] = [thawed(point) for point in self.enqueued]
        return content


def holds(when: When, point: Point) -> bool:
    """Whether conditions hold at a point; not if what they ask of is not there."""
    return all(key in point and listed(point[key], values) for key, values in when.items())


def _plain_parameter(parameter: Parameter) -> dict[str, Any]:
    if isinstance(parameter, Choice):
        return {"values": thawed(parameter.values), **_plain_when(parameter.when)}
    return {**_plain_range(parameter), **_plain_when(parameter.when)}


def _plain_range(parameter: Range) -> dict[str, Any]:
    options = {"log": parameter.log or None, "step": parameter.step, "points": parameter.points}
    given = {name: value for name, value in options.items() if value is not None}
    return {"min": parameter.min, "max": parameter.max, **given}


def _plain_when(when: When) -> dict[str, Any]:
    return {"when": {key: thawed(values) for key, values in when.items()}} if when else {}


def _depth(key: str) -> tuple[int, bool]:
    return key.count("."), not key.endswith(".name")


def _deep_copy(content: Any) -> Any:
    return {key: _deep_copy(value) for key, value in content.items()} if isinstance(content, Mapping) else content
