"""What a study will do, settled before anything starts: its stages, and the sweeps of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aln.config import RunConfig, SweepConfig
from aln.space import SearchSpace, format_value
from aln.study.description import Answer


@dataclass(frozen=True, kw_only=True)
class PlannedSweep:
    """One sweep of a stage.

    Attributes:
        name: the stage's, and what tells the sweep from the stage's others.
        values: what `for_each` gives it, by key.
        base: the run that it starts from.
        space: what it searches. Of a stage that trains points of another one, which are not known yet, an example with
            as many.
    """

    name: str
    values: Mapping[str, Any]
    sweep: SweepConfig
    base: RunConfig
    space: SearchSpace

    @property
    def column(self) -> str:
        """What it is called beside the stage's other sweeps of the same space."""
        return ", ".join(map(called, self.values.values()))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Sweeps that do not depend on each other.

    Attributes:
        source: the stage whose best points they train; None if they search spaces of their own.
        top: how many of the best points of each of that stage's sweeps.
    """

    name: str
    sweeps: Sequence[PlannedSweep]
    source: str | None
    top: int


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """A study, complete.

    Attributes:
        storage: where the folders of the study and of its sweeps go.
        content: the study as plain data that names no other file, from which it is resumed.
    """

    question: str
    stages: Sequence[Stage]
    answer: Answer
    storage: str
    content: Mapping[str, Any]


def called(value: Any) -> str:
    """What a value of `for_each` is called; a section is called by its name."""
    return format_value(value["name"] if isinstance(value, Mapping) and "name" in value else value)
