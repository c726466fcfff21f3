"""A search space against the run configuration: whether every value that may come is legal there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aln.config import check_run
from aln.errors import Problem
from aln.space.conditions import Context, contexts
from aln.space.parameters import Choice, Parameter, Range, format_point
from aln.space.space import RULE, SearchSpace

_DRAWS, _TRIED = 500, 5
_UNKNOWN = "unknown key"


def refused(space: SearchSpace, run: Mapping[str, Any], unread: Sequence[str]) -> dict[str, str]:
    """What the run configuration says against the space, by the space's own keys; of rules under `rule.name`.

    A key answers for every problem that is there with it and gone without it, under each rule and condition for which
    it is there. Of the keys `unread`, whose entries are wrong in themselves, it is asked only whether they exist.
    """
    found: dict[str, str] = {}
    bare = replace(space, fixed={}, ties={})

    def problems(settings: Mapping[str, Any]) -> list[Problem]:
        return check_run(bare.apply(run, settings))[1]

    unknown: set[str] = set()
    for rule in space.rules:
        for problem in problems({RULE: rule}):
            if problem.key == RULE:
                found.setdefault(RULE, problem.message)
                unknown.add(rule)
    tried = {key: parameter for key, parameter in _tried(space, unread).items() if key != RULE}
    if unknown:  # what belongs to a rule that is not there cannot be checked, the rest can
        bare = replace(bare, rule="backprop", parameters={k: p for k, p in bare.parameters.items() if k != RULE})
        if len(unknown) == len(space.rules):
            tried = {key: parameter for key, parameter in tried.items() if not key.startswith("rule.")}
    for key, parameter in tried.items():
        fixed = {other: value for other, value in space.fixed.items() if other != key and other in tried}
        heard: list[tuple[str, Context]] = []
        cases = [c for c in contexts(space.parameters, key, parameter.when) if c.get(RULE) not in unknown]
        for context in cases:
            anyway = problems({**fixed, **context})
            for value in parameter.examples:
                for problem in problems({**fixed, **context, key: value}):
                    if problem not in anyway and not _kept_apart(space, run, {**context, key: value}, problem):
                        own = problem.key == key or not problem.key.startswith(key)
                        heard.append((problem.message if own else f"{problem.key} {problem.message}", context))
        heard = [(message, context) for message, context in heard if key not in unread or message.startswith(_UNKNOWN)]
        if heard:
            found[key] = _told(heard, cases)
    return found


def _told(heard: Sequence[tuple[str, Context]], cases: Sequence[Context]) -> str:
    """The first of the objections to a setting, and the context in which it was heard."""
    message, context = heard[0]
    if not context:
        return message
    if message.startswith(_UNKNOWN):
        known = [case for case in cases if all(case != other for _, other in heard)]
        return f"{_UNKNOWN} under {format_point(context)}: say `when` it is there" if known else message
    return f"{message} (with {format_point(context)})"


def clashes(space: SearchSpace, run: Mapping[str, Any]) -> Iterator[Problem]:
    """What of the sweep's run does not go with the space's rules, by the run's keys."""
    anyway = check_run(run, with_rule=False)[1]
    for rule in space.rules:
        given = {RULE: rule} if len(space.rules) > 1 else {}
        first = space.choose(lambda key, parameter, given=given: given.get(key, parameter.examples[0]))  # type: ignore[misc]
        point = space.example(given) if space.violated(first) else first
        for problem in check_run(space.apply(run, point or first))[1]:
            if problem not in anyway:
                under = f" (with {RULE}={rule})" if given else ""
                yield Problem(key=problem.key, message=problem.message + under)


def takes_whole_numbers(space: SearchSpace, run: Mapping[str, Any], key: str, parameter: Range) -> bool:
    """Whether the setting takes the lower end of the range and refuses what lies between two whole numbers."""
    if not isinstance(parameter.min, int) or not isinstance(parameter.max, int):
        return False
    context: Context = next(iter(contexts(space.parameters, key, parameter.when)), {})
    whole, half = (check_run(space.apply(run, {**context, key: parameter.min + part}))[1] for part in (0, 0.5))
    return any(problem not in whole for problem in half)


def _tried(space: SearchSpace, unread: Sequence[str]) -> dict[str, Parameter]:
    """Every setting of the space as something with examples and conditions, whatever it is."""
    tried: dict[str, Parameter] = {**space.parameters}
    tried |= {key: Choice(values=(value,)) for key, value in space.fixed.items()}
    for key, tie in space.ties.items():
        if tie.to in tried:
            other = tried[tie.to]
            values = tuple(tie.value(value) for value in other.examples)
            when = {subject: tie.when.get(subject, asked) for subject, asked in {**tie.when, **other.when}.items()}
            tried[key] = Choice(values=values, when=when)
    return tried | {key: Choice(values=(None,)) for key in unread}


def _kept_apart(space: SearchSpace, run: Mapping[str, Any], given: Context, problem: Problem) -> bool:
    """Whether the space's constraints keep a setting from what it clashes with.

    A setting that is tried alone meets the defaults of the others. If it stands in a constraint, it is heard again
    beside values of theirs that the constraint allows.
    """
    if not any(key in constraint.keys for constraint in space.constraints for key in given):
        return False
    generator = random.Random(0)  # noqa: S311 (no secret)
    points = (space.draw(generator, given) for _ in range(_DRAWS))
    allowed = [point for point in points if not space.violated(point)][:_TRIED]
    return all(all(other.key != problem.key for other in check_run(space.apply(run, point))[1]) for point in allowed)
