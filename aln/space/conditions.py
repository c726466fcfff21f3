"""Under which values of other parameters a parameter is there, and in which order parameters are chosen for that."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from aln.hints import hint
from aln.space.entries import Entry
from aln.space.parameters import Choice, Parameter, When, format_value, listed
from aln.space.space import RULE

Context = dict[str, Any]


def condition_problems(
    entries: Mapping[str, Entry], searched: Mapping[str, Parameter], unread: Collection[str]
) -> Iterator[tuple[str, str]]:
    """What is wrong with the conditions, by the key of the entry that has them."""
    for key, entry in entries.items():
        for subject, values in entry.when.items():
            if message := _wrong_condition(key, subject, values, searched, unread):
                yield key, message
                break


def _wrong_condition(
    key: str, subject: str, values: tuple[Any, ...], searched: Mapping[str, Parameter], unread: Collection[str]
) -> str:
    if subject == key:
        return "when asks of the setting itself"
    if subject not in searched:
        if subject in unread:
            return ""
        ranged = f"the space has one rule, say `rule: {{values: [{values[0]}, …]}}`" if subject == RULE else ""
        return f"when asks of '{subject}', but " + (ranged or f"the space does not search it{hint(subject, searched)}")
    asked = searched[subject]
    for value in values:
        if not isinstance(asked, Choice) and asked.grid is None and not isinstance(value, int):
            return (
                f"when.{subject} is {format_value(value)}, but {subject} is a range: a single value hardly ever comes"
            )
        if expected := asked.expected(value):
            return f"when.{subject} is {format_value(value)}, expected {expected}"
    return ""


def in_order(searched: Mapping[str, Parameter]) -> tuple[dict[str, Parameter], list[str]]:
    """The parameters in an order in which they can be chosen, and a circle of conditions, if there is one.

    What a condition asks of comes before what it holds for, and the name of a section before the section's options;
    otherwise the order is that of the declaration.
    """
    ordered: dict[str, Parameter] = {}

    def place(key: str, waiting: list[str]) -> list[str]:
        if key in waiting:
            return [*waiting[waiting.index(key) :], key]
        if key in ordered:
            return []
        for subject in _subjects(searched, key, searched[key].when):
            if circle := place(subject, [*waiting, key]):
                return circle
        ordered[key] = searched[key]
        return []

    for key in searched:
        if circle := place(key, []):
            return dict(searched), circle
    return ordered, []


def contexts(searched: Mapping[str, Parameter], key: str, when: When) -> list[Context]:
    """Every combination of other parameters' values under which a setting must be legal.

    Those are the values that its conditions name, and theirs in turn; and, of the names that its section may have
    (`rule.name` for `rule.alpha`), those that no condition leaves out.
    """
    found: list[Context] = [{}]
    for subject in _subjects(searched, key, when):
        values = when.get(subject) or searched[subject].examples
        outer = contexts(searched, subject, searched[subject].when)
        cases = [{**context, subject: value} for context in outer for value in values]
        found = [{**a, **b} for a in found for b in cases if _agree(a, b)]
    return found


def _subjects(searched: Mapping[str, Parameter], key: str, when: When) -> list[str]:
    """The parameters whose values decide what a setting means, or whether it is there."""
    naming = f"{key.partition('.')[0]}.name"
    named = [naming] if naming in searched and naming != key and naming not in when else []
    return [*named, *(subject for subject in when if subject in searched)]


def _agree(one: Context, other: Context) -> bool:
    return all(listed(value, (other[key],)) for key, value in one.items() if key in other)
