"""Reading a search space: every mistake of the file at once, each with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aln.config import Document, check_run
from aln.errors import ConfigError, Problem
from aln.hints import hint
from aln.space.checking import clashes, refused, takes_whole_numbers
from aln.space.conditions import condition_problems, in_order
from aln.space.entries import Entry, Fixed, parse_entry
from aln.space.feasible import parse_constraints, parse_points
from aln.space.parameters import Choice, Range, Tie
from aln.space.space import RULE, Point, SearchSpace, holds

_KEYS = ("name", "rule", "parameters", "constraints", "enqueue")


def parse_space(document: Document, run: Mapping[str, Any]) -> SearchSpace:
    """Reads a search space and checks it against the run configuration that a sweep fills in.

    Raises `ConfigError` with every problem of the space at once.
    """
    return _Reader(document, run).read()


class _Reader:
    """One reading of one document. Each step reports what is wrong and leaves it out, so that the next can go on."""

    def __init__(self, document: Document, run: Mapping[str, Any]) -> None:
        self._document, self._run, self._content = document, run, document.content
        self._problems: list[Problem] = []
        self._entries: dict[str, Entry] = {}
        self._unread: list[str] = []

    def read(self) -> SearchSpace:
        if "run" in self._content and "parameters" not in self._content:
            self._report("run", "this is a sweep, not a search space: name it with --sweep", "run")
            raise ConfigError(self._problems)
        for key in self._content:
            if key not in _KEYS:
                message = "unknown key; a search space has `rule`, `parameters`, `constraints` and `enqueue`"
                self._report(str(key), message, str(key))
        rule = self._read_rule()
        self._read_parameters()
        space = self._with_whole_numbers(self._space(rule))
        constraints, complaints = parse_constraints(self._content.get("constraints"), space, self._unread)
        for message, path in complaints:
            self._report("constraints", message, "constraints", *path)
        space = replace(space, constraints=constraints)
        for key, message in refused(space, self._run, self._unread).items():
            self._report(self._path(key)[-1], message, *self._path(key))
        if not self._problems:
            for problem in clashes(space, self._run):
                path = self._path(RULE)
                self._report(path[-1], f"on this sweep {problem.key} {problem.message}", *path)
        enqueued, complaints = parse_points(self._content.get("enqueue"), space, self._unread)
        for message, path in complaints:
            self._report("enqueue", message, "enqueue", *path)
        if not self._problems:
            self._check_points(space, enqueued)
        if self._problems:
            raise ConfigError(self._problems)
        return replace(space, enqueued=enqueued)

    def _report(self, key: str, message: str, *path: str | int) -> None:
        line = self._document.line(path)
        self._problems.append(Problem(key=key, message=message, source=self._document.source, line=line))

    def _path(self, key: str) -> tuple[str, ...]:
        """Where a setting's entry stands in the document."""
        within = self._content.get("parameters")
        below = key != RULE or (isinstance(within, Mapping) and RULE in within)
        return ("parameters", key) if below else ("rule",)

    def _read_rule(self) -> str:
        """The rule's name; empty if the space ranges over rules, which become its first parameter."""
        rule, entries = self._content.get("rule"), self._content.get("parameters")
        if isinstance(entries, Mapping) and RULE in entries:
            if "rule" in self._content:
                self._report(RULE, "the space's own `rule` says which rule is searched", "parameters", RULE)
            else:
                rule = entries[RULE]
        if isinstance(rule, str):
            return rule
        if isinstance(rule, Mapping) and set(rule) == {"values"} and _are_names(rule["values"]):
            self._entries[RULE] = Choice(values=tuple(rule["values"]))
            return ""
        values = " or {values: [name, …]} with each name once"
        message = f"is {rule!r}, expected the name of a learning rule{values if rule is not None else ''}"
        self._report(self._path(RULE)[-1], message, *self._path(RULE))
        return "backprop"

    def _read_parameters(self) -> None:
        entries = self._content.get("parameters")
        if not isinstance(entries, Mapping) or not (entries or RULE in self._entries):
            if entries is not None or RULE not in self._entries:
                message = f"is {entries!r}, expected a mapping of settings to what is searched"
                self._report("parameters", message, "parameters")
            return
        for key, entry in entries.items():
            if key != RULE:
                try:
                    if key == "rule":
                        raise ValueError("the space's own `rule` says which rule is searched")
                    self._entries[str(key)] = parse_entry(entry)
                except ValueError as error:
                    self._refuse(str(key), str(error))
        for key, entry in list(self._entries.items()):
            if isinstance(entry, Tie) and (message := self._wrong_tie(key, entry)):
                self._refuse(key, message)
        for key, message in list(condition_problems(self._entries, self._searched(), self._unread)):
            self._report(key, message, "parameters", key)
            self._entries[key] = replace(self._entries[key], when={})

    def _refuse(self, key: str, message: str) -> None:
        """Reports an entry and leaves it out."""
        self._report(key, message, "parameters", key)
        self._entries.pop(key, None)
        self._unread.append(key)

    def _searched(self) -> dict[str, Range | Choice]:
        return {key: entry for key, entry in self._entries.items() if isinstance(entry, Range | Choice)}

    def _wrong_tie(self, key: str, tie: Tie) -> str:
        """What is wrong with a tie; empty if nothing is, or if the other key's own entry is what is wrong."""
        other = self._entries.get(tie.to)
        if tie.to == key:
            return "is tied to itself"
        if isinstance(other, Tie):
            return f"is tied to '{tie.to}', which is itself tied"
        if other is None:
            if tie.to in self._unread:
                return ""
            others = [name for name in self._entries if name != key]
            return f"is tied to '{tie.to}', which the space neither searches nor fixes{hint(tie.to, others)}"
        values = (other.value,) if isinstance(other, Fixed) else other.examples
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return "" if numbers or tie.factor == 1 else f"has a factor, but '{tie.to}' is not always a number"

    def _space(self, rule: str) -> SearchSpace:
        """The space as far as it could be read, without constraints and points."""
        searched = self._searched()
        ordered, circle = in_order(searched)
        if circle:
            message = f"its conditions go in a circle: {' → '.join(circle)}"
            self._report(circle[0], message, "parameters", circle[0])
            ordered, _ = in_order({key: replace(entry, when={}) for key, entry in searched.items()})
        return SearchSpace(
            name=self._name(),
            rule="|".join(searched[RULE].examples) if RULE in searched else rule,
            parameters=ordered,
            fixed={key: entry.value for key, entry in self._entries.items() if isinstance(entry, Fixed)},
            ties={key: entry for key, entry in self._entries.items() if isinstance(entry, Tie)},
            document=self._document,
        )

    def _name(self) -> str:
        name = self._content.get("name", Path(self._document.source).stem)
        if not isinstance(name, str) or len(name) > 200 or any(sign in name for sign in "/\\\0\n"):
            self._report("name", f"is {name!r}, expected a text of one line without slashes", "name")
            return ""
        return name

    def _with_whole_numbers(self, space: SearchSpace) -> SearchSpace:
        """The space in which the ranges know whether their settings take whole numbers alone."""
        parameters = dict(space.parameters)
        for key, parameter in space.parameters.items():
            if isinstance(parameter, Range) and takes_whole_numbers(space, self._run, key, parameter):
                parameters[key] = replace(parameter, integer=True)
                if parameter.step is not None and parameter.step % 1:
                    self._report(key, f"step is {parameter.step}, expected a whole number", "parameters", key)
        return replace(space, parameters=parameters)

    def _check_points(self, space: SearchSpace, points: Sequence[Point]) -> None:
        """Reports complete points whose values are legal one by one and not together."""
        for index, point in enumerate(points):
            if all(key in point or not holds(entry.when, point) for key, entry in space.parameters.items()):
                for problem in check_run(space.apply(self._run, point))[1]:
                    self._report("enqueue", f"point {index + 1}: {problem.key} {problem.message}", "enqueue", index)


def _are_names(values: Any) -> bool:
    """Whether a value is a list of different names, and not an empty one."""
    names = [value for value in values if isinstance(value, str) and value] if isinstance(values, list) else []
    return bool(names) and len(set(names)) == len(names) == len(values)
