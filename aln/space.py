"""Search spaces: which coefficients are searched, and over what.

    rule: information
    parameters:
      rule.alpha: {min: 1e-5, max: 1e-1, log: true}
      rule.input_distribution: {values: [null, normal]}
      optimizer.lr: {value: 0.05}

A parameter is a range (`min`, `max`, optionally `log` or `step`; whole numbers where the setting is one), a list of
`values`, or one `value`. Every key is a key of the run configuration, and both ends of a range must be legal there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aln.config import Document, check_run, set_at
from aln.errors import ConfigError, Problem


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `min` to `max` inclusive, on a logarithmic scale if `log`, else in steps of `step` if given.

    `integer` if the setting takes whole numbers alone.
    """

    min: float
    max: float
    log: bool = False
    step: float | None = None
    integer: bool = False

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
        return self.min + (half if step is None else half // step * step)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the listed values."""

    values: tuple[Any, ...]

    @property
    def examples(self) -> tuple[Any, ...]:
        return self.values

    @property
    def middle(self) -> Any:
        """The value that stands in the middle."""
        return self.values[len(self.values) // 2]


Parameter = Range | Choice


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A rule, the parameters that are searched, and the settings that the space fixes; all under dotted keys."""

    name: str
    rule: str
    parameters: Mapping[str, Parameter]
    fixed: Mapping[str, Any]

    def apply(self, run: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
        """The content of the run configuration at a point: the sweep's `run`, the space's rule, the point's values."""
        content: dict[str, Any] = _deep_copy(run)
        content["rule"] = {"name": self.rule}
        # Whole sections and their names first: naming a section drops the options it had.
        for key, value in sorted({**self.fixed, **point}.items(), key=lambda item: _depth(item[0])):
            set_at(content, key, value)
        return content


def parse_space(document: Document, run: Mapping[str, Any]) -> SearchSpace:
    """Reads a search space and checks it against the run configuration that a sweep fills in.

    Raises `ConfigError` with every problem of the space at once.
    """
    content, problems = document.content, []

    def report(message: str, *path: str) -> None:
        problems.append(Problem(key=path[-1], message=message, source=document.source, line=document.line(path)))

    if "run" in content and "parameters" not in content:
        report("this is a sweep, not a search space: name it with --sweep", "run")
        raise ConfigError(problems)
    for key in content:
        if key not in ("rule", "parameters"):
            report("unknown key; a search space has `rule` and `parameters`", str(key))
    rule, entries = content.get("rule"), content.get("parameters")
    if not isinstance(rule, str):
        report(f"is {rule!r}, expected the name of a learning rule", "rule")
        rule = "backprop"
    if not isinstance(entries, Mapping) or not entries:
        report(f"is {entries!r}, expected a mapping of settings to what is searched", "parameters")
        entries = {}
    parameters, fixed = _parse_entries(entries, lambda key, message: report(message, "parameters", key))
    space = SearchSpace(name=Path(document.source).stem, rule=rule, parameters=parameters, fixed=fixed)
    unread = [str(key) for key in entries if key not in parameters and key not in fixed]
    for key, message in _refused(space, run, unread).items():
        report(message, *(("rule",) if key == "rule" else ("parameters", key)))
    if not problems:
        for problem in _clashes(space, run):
            report(f"on this sweep {problem.key} {problem.message}", "rule")
    for key, parameter in parameters.items():
        if isinstance(parameter, Range) and not problems and _takes_whole_numbers(space, run, key, parameter):
            parameters[key] = replace(parameter, integer=True)
            if parameter.step is not None and parameter.step % 1:
                report(f"step is {parameter.step}, expected a whole number", "parameters", key)
    if problems:
        raise ConfigError(problems)
    return space


def _parse_entries(
    entries: Mapping[str, Any], report: Callable[[str, str], None]
) -> tuple[dict[str, Parameter], dict[str, Any]]:
    """What is searched and what is fixed; `report(key, message)` hears of each entry that is neither."""
    parameters: dict[str, Parameter] = {}
    fixed: dict[str, Any] = {}
    for key, entry in entries.items():
        try:
            if key in ("rule", "rule.name"):
                raise ValueError("the space's own `rule` says which rule is searched")
            parsed = _parse_entry(entry)
        except ValueError as error:
            report(str(key), str(error))
            continue
        if isinstance(parsed, Range | Choice):
            parameters[str(key)] = parsed
        else:
            fixed[str(key)] = parsed["value"]
    return parameters, fixed


def _refused(space: SearchSpace, run: Mapping[str, Any], unread: Sequence[str]) -> dict[str, str]:
    """What the run configuration says against the space, by the space's own keys.

    A key answers for every problem that is there with it and gone without it. Of the keys `unread`, whose entries are
    wrong in themselves, it is asked only whether they exist.
    """
    refused: dict[str, str] = {}
    tried = {**space.parameters, **{key: Choice(values=(value,)) for key, value in space.fixed.items()}}
    tried |= {key: Choice(values=(None,)) for key in unread}

    def problems(settings: Mapping[str, Any]) -> list[Problem]:
        return check_run(replace(space, fixed={}).apply(run, settings))[1]

    for problem in problems({}):
        if problem.key == "rule.name":  # what belongs to a rule that is not there cannot be checked, the rest can
            refused["rule"] = problem.message
            tried = {key: parameter for key, parameter in tried.items() if not key.startswith("rule.")}
            space = replace(space, rule="backprop")
    for key, parameter in tried.items():
        others = {other: value for other, value in space.fixed.items() if other != key and other in tried}
        anyway = problems(others)
        for value in parameter.examples:
            for problem in problems({**others, key: value}):
                if problem not in anyway and (key not in unread or problem.message.startswith("unknown key")):
                    own = problem.key == key or not problem.key.startswith(key)
                    refused.setdefault(key, problem.message if own else f"{problem.key} {problem.message}")
    return refused


def _clashes(space: SearchSpace, run: Mapping[str, Any]) -> list[Problem]:
    """What of the sweep's run does not go with the space's rule, by the run's keys."""
    point = {key: parameter.examples[0] for key, parameter in space.parameters.items()}
    anyway = check_run(run, with_rule=False)[1]
    return [problem for problem in check_run(space.apply(run, point))[1] if problem not in anyway]


def _takes_whole_numbers(space: SearchSpace, run: Mapping[str, Any], key: str, parameter: Range) -> bool:
    """Whether the setting, which takes both ends of the range, refuses what lies between two whole numbers."""
    whole = isinstance(parameter.min, int) and isinstance(parameter.max, int)
    return whole and check_run(space.apply(run, {key: parameter.min + 0.5}))[0] is None


def _depth(key: str) -> tuple[int, bool]:
    return key.count("."), not key.endswith(".name")


def _parse_entry(entry: Any) -> Parameter | dict[str, Any]:
    """A parameter, or {"value": …} for a fixed one. Raises ValueError saying what was expected."""
    expected = "expected {min, max[, log][, step]}, {values: […]} or {value: …}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"is {entry!r}, {expected}")
    keys = set(entry)
    if keys == {"value"}:
        return {"value": entry["value"]}
    if keys == {"values"}:
        values = entry["values"]
        if not isinstance(values, list) or not values:
            raise ValueError(f"values is {values!r}, expected a list that is not empty")
        return Choice(values=tuple(values))
    if not {"min", "max"} <= keys or keys - {"min", "max", "log", "step"}:
        raise ValueError(f"has the keys {sorted(map(str, keys))}, {expected}")
    return _parse_range(entry)


def _parse_range(entry: Mapping[str, Any]) -> Range:
    low, high, log, step = entry["min"], entry["max"], entry.get("log", False), entry.get("step")
    for name, value in (("min", low), ("max", high), ("step", step)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{name} is {value!r}, expected a number")
    if not isinstance(log, bool):
        raise ValueError(f"log is {log!r}, expected true or false")
    if not low < high:
        raise ValueError(f"min {low} is not below max {high}")
    if log and low <= 0:
        raise ValueError(f"min is {low}, expected a number above 0 on a logarithmic scale")
    if step is not None and (log or step <= 0):
        raise ValueError(f"step is {step}, expected a number above 0, and none on a logarithmic scale")
    return Range(min=low, max=high, log=log, step=step)


def _deep_copy(content: Any) -> Any:
    return {key: _deep_copy(value) for key, value in content.items()} if isinstance(content, Mapping) else content


def format_value(value: Any) -> str:
    """A coefficient in as few digits as tell it apart."""
    return f"{value:.3g}" if isinstance(value, float) else "null" if value is None else str(value)


def format_point(point: Mapping[str, Any]) -> str:
    """A point of the space in one line."""
    return " ".join(f"{key}={format_value(value)}" for key, value in point.items())
