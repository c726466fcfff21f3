"""The best points of sweeps as a search space of their own: what holds nothing but them, to be trained unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aln.space import RULE, SearchSpace, listed, thawed

Found = tuple[SearchSpace, Mapping[str, Any]]
"""A space, and a point of it."""


def space_of(name: str, found: Sequence[Found]) -> dict[str, Any]:
    """The content of a space whose enqueued points are those found, and which holds no other values than theirs.

    What all spaces fix at one value stays fixed, so that baselines have it, too; what some fix or tie is a value like
    any other. A setting is there under the rules whose points have it, and under what its own space asks for besides.
    Points of one rule must be of one space.
    """
    points: list[dict[str, Any]] = [{RULE: space.rule, **thawed(space.values(point))} for space, point in found]
    rules = list(dict.fromkeys(point[RULE] for point in points))
    values: dict[str, list[Any]] = {}
    under: dict[str, dict[str, list[Any]]] = {}
    for (space, _), point in zip(found, points, strict=True):
        for key, value in point.items():
            known = values.setdefault(key, [])
            known += [] if listed(value, known) else [value]
            asked = under.setdefault(key, {RULE: [], **_asked(space, key)})
            asked[RULE] += [] if point[RULE] in asked[RULE] else [point[RULE]]
    several = len(rules) > 1
    parameters: dict[str, dict[str, Any]] = {}
    fixed = {key: values[key][0] for key in values if _is_fixed(key, found)}
    for key in values.keys() - {RULE} - fixed.keys():
        when = {other: those for other, those in under[key].items() if several or other != RULE}
        parameters[key] = {"values": values[key], **({"when": when} if when else {})}
    left_out = fixed.keys() | (set() if several else {RULE})
    enqueued = [{key: value for key, value in point.items() if key not in left_out} for point in points]
    parameters |= {key: {"value": value} for key, value in fixed.items()}
    rule = {"values": rules} if several else rules[0]
    return {"name": name, "rule": rule, "parameters": dict(sorted(parameters.items())), "enqueue": enqueued}


def _is_fixed(key: str, found: Sequence[Found]) -> bool:
    """Whether all spaces fix a setting at the same value."""
    values = [space.fixed[key] for space, _ in found if key in space.fixed]
    return len(values) == len(found) and all(listed(value, values[:1]) for value in values)


def _asked(space: SearchSpace, key: str) -> dict[str, list[Any]]:
    """What the space asks of other parameters for the setting to be there; of the rule something is asked anyway."""
    entry = space.parameters.get(key) or space.ties.get(key)
    return {other: thawed(values) for other, values in entry.when.items() if other != RULE} if entry else {}
