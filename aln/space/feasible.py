"""The constraints and the known points of a space: whether they name what there is, and whether they can be met."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from aln.hints import hint
from aln.space.constraints import Constraint, parse_constraint
from aln.space.parameters import format_value, frozen
from aln.space.space import SearchSpace, holds

Complaint = tuple[str, tuple[str | int, ...]]  # what is wrong, and where in the list


def parse_constraints(
    texts: Any, space: SearchSpace, unread: Collection[str]
) -> tuple[tuple[Constraint, ...], list[Complaint]]:
    """The constraints that can be read, and what is wrong with the rest. On keys `unread` there is no judgement."""
    if texts is None:
        return (), []
    if not isinstance(texts, list):
        return (), [(f"is {texts!r}, expected a list of comparisons", ())]
    constraints: list[Constraint] = []
    complaints: list[Complaint] = []
    for index, text in enumerate(texts):
        try:
            constraint = parse_constraint(text)
            _check_keys(constraint, space, unread)
        except ValueError as error:
            complaints.append((str(error), (index,)))
            continue
        if not set(constraint.keys) & set(unread):
            if replace(space, constraints=(constraint,)).example() is not None:
                constraints.append(constraint)
            else:
                complaints.append((f"'{constraint.text}' holds at none of 1,000 points drawn at random", (index,)))
    if not complaints and replace(space, constraints=tuple(constraints)).example() is None:
        complaints.append(("none of 1,000 points drawn at random keeps them all", ()))
    return tuple(constraints), complaints


def _check_keys(constraint: Constraint, space: SearchSpace, unread: Collection[str]) -> None:
    """Raises `ValueError` for a key of a constraint that the space does not set, or that is not always a number."""
    examples = {key: parameter.examples for key, parameter in space.parameters.items()}
    examples |= {key: (value,) for key, value in space.fixed.items()}
    examples |= {key: examples.get(tie.to, ()) for key, tie in space.ties.items()}
    for key in constraint.keys:
        if key not in examples and key not in unread:
            raise ValueError(f"'{constraint.text}' names '{key}', which the space does not set{hint(key, examples)}")
        for value in examples.get(key, ()):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"'{constraint.text}' compares numbers, but {key} may be {format_value(value)}")


def parse_points(
    points: Any, space: SearchSpace, unread: Collection[str]
) -> tuple[tuple[dict[str, Any], ...], list[Complaint]]:
    """The known points of a space, and what is wrong with them. On keys `unread` there is no judgement."""
    if points is None:
        return (), []
    if not isinstance(points, list):
        return (), [(f"is {points!r}, expected a list of points, each a mapping of parameters to values", ())]
    parsed: list[dict[str, Any]] = []
    complaints: list[Complaint] = []
    for index, point in enumerate(points):
        if not isinstance(point, Mapping) or not point:
            complaints.append((f"point {index + 1} is {point!r}, expected a mapping of parameters to values", (index,)))
            continue
        values = {str(key): frozen(value) for key, value in point.items()}
        wrong = list(_wrong_values(values, space, unread))
        complaints += [(f"point {index + 1}: {key} {message}", (index, key)) for key, message in wrong]
        if not wrong:
            # In the space's order, which is the one in which a sampler asks for them.
            parsed.append({key: values[key] for key in space.parameters if key in values})
            for text in space.violated(parsed[-1]):
                complaints.append((f"point {index + 1} breaks the constraint '{text}'", (index,)))
    return tuple(parsed), complaints


def _wrong_values(point: Mapping[str, Any], space: SearchSpace, unread: Collection[str]) -> Iterator[tuple[str, str]]:
    for key, value in point.items():
        parameter = space.parameters.get(key)
        if parameter is not None:
            if expected := parameter.expected(value):
                yield key, f"is {format_value(value)}, expected {expected}"
            elif not holds(parameter.when, point):
                asked = " and ".join(
                    f"{name} {' or '.join(map(format_value, values))}" for name, values in parameter.when.items()
                )
                yield key, f"is there only under {asked}, which the point does not say"
        elif key in space.ties:
            yield key, f"is tied to {space.ties[key].to}: leave it out"
        elif key in space.fixed:
            yield key, f"is fixed at {format_value(space.fixed[key])}: leave it out"
        elif key not in unread:
            yield key, f"is not searched{hint(key, space.parameters)}"
