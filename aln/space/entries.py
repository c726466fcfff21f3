"""One entry of a space's parameters: what it searches, fixes or ties."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aln.space.parameters import Choice, Parameter, Range, Tie, When, frozen, listed

_EXPECTED = "expected {min, max[, log][, step]}, {values: […]}, {value: …} or {tie: …}"


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A setting with one value."""

    value: Any
    when: When = field(default_factory=dict, hash=False)


Entry = Parameter | Fixed | Tie


def parse_entry(entry: Any) -> Entry:
    """What an entry describes. Raises `ValueError` saying what was expected."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"is {entry!r}, {_EXPECTED}")
    when = _parse_when(entry["when"]) if "when" in entry else {}
    keys = {str(key) for key in entry} - {"when"}
    if keys == {"value"}:
        value = frozen(entry["value"])
        return Choice(values=(value,), when=when) if when else Fixed(value=value)
    if keys == {"values"}:
        return Choice(values=_parse_values(entry["values"]), when=when)
    if "tie" in keys and keys <= {"tie", "factor"}:
        return _parse_tie(entry, when)
    if not {"min", "max"} <= keys or keys - {"min", "max", "log", "step", "points"}:
        raise ValueError(f"has the keys {sorted(map(str, entry))}, {_EXPECTED}")
    return _parse_range(entry, when)


def _parse_when(when: Any) -> When:
    if not isinstance(when, Mapping) or not when:
        raise ValueError(f"when is {when!r}, expected a mapping of other parameters to a value or a list of values")
    conditions = {
        str(key): frozen(value) if isinstance(value, list) else (frozen(value),) for key, value in when.items()
    }
    for key, values in conditions.items():
        if not values:
            raise ValueError(f"when.{key} is [], expected a value or a list of values")
    return conditions


def _parse_values(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"values is {values!r}, expected a list that is not empty")
    for index, value in enumerate(values):
        if listed(value, values[:index]):
            raise ValueError(f"values has {value!r} twice")
    return tuple(frozen(value) for value in values)


def _parse_tie(entry: Mapping[str, Any], when: When) -> Tie:
    to, factor = entry["tie"], entry.get("factor", 1)
    if not isinstance(to, str):
        raise ValueError(f"tie is {to!r}, expected the key of another setting of the space")
    if not _is_number(factor) or not math.isfinite(factor) or not factor:
        raise ValueError(f"factor is {factor!r}, expected a number other than 0")
    return Tie(to=to, factor=factor, when=when)


def _parse_range(entry: Mapping[str, Any], when: When) -> Range:
    low, high, log, step = entry["min"], entry["max"], entry.get("log", False), entry.get("step")
    points = entry.get("points")
    for name, value in (("min", low), ("max", high), ("step", step)):
        if not _is_number(value) and not (value is None and name == "step"):
            raise ValueError(f"{name} is {value!r}, expected a number")
    if not isinstance(log, bool):
        raise ValueError(f"log is {log!r}, expected true or false")
    if not low < high:
        raise ValueError(f"min {low} is not below max {high}")
    if log and low <= 0:
        raise ValueError(f"min is {low}, expected a number above 0 on a logarithmic scale")
    if step is not None and (log or not step > 0):
        raise ValueError(f"step is {step}, expected a number above 0, and none on a logarithmic scale")
    if points is not None and (type(points) is not int or points < 2 or step is not None):
        raise ValueError(f"points is {points!r}, expected a whole number above 1, and no step beside it")
    return Range(min=low, max=high, log=log, step=step, points=points, when=when)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
