"""Reading a study: every mistake of its file, and of the files that it names, at once."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aln.config import (
    Document,
    SweepConfig,
    located,
    parse_sweep,
    read_document,
    set_at,
    settings_of,
    sound_part,
)
from aln.errors import ConfigError, Problem
from aln.space import SearchSpace, parse_space, sampler_problems
from aln.study.description import StageDescription, describe_study
from aln.study.plan import PlannedSweep, Stage, StudyPlan, called
from aln.study.points import space_of

# How points of another stage are trained: each of them, to its end.
_UNCHANGED = {"sampler": "random", "scheduler": "none", "test": "all", "budget": {"target": None}}
# What the share of a space that trains is measured by: nothing looks where it is good, nothing ends early.
_UNBIASED = ("random", "none")


def parse_study(document: Document) -> StudyPlan:
    """Reads a study and all that it names. Raises `ConfigError` with every problem at once."""
    return _Reader(document).read()


class _Reader:
    """One reading of one document. What is wrong is reported and left out, so that the rest can be read."""

    def __init__(self, document: Document) -> None:
        self._document, self._described = document, describe_study(document)
        self._problems: list[Problem] = []
        self._base = self._found(self._described.base, "base")
        self._stages: dict[str, Stage] = {}

    def read(self) -> StudyPlan:
        contents = {}
        for name, described in self._described.stages.items():
            spaces = self._spaces(name, described)
            sweeps = [self._planned(name, described, *each) for each in self._each(described, spaces)]
            planned = [sweep for sweep in sweeps if sweep is not None]
            self._check_names(name, planned)
            if name == self._described.answer.stage:
                self._check_answer(planned)
            if "storage" in described.sweep:
                self._report(
                    "a study has one storage, for all its sweeps: set sweep.storage", "stages", name, "sweep", "storage"
                )
            self._stages[name] = Stage(name=name, sweeps=planned, source=described.source, top=described.top)
            given = self._document.content["stages"][name]
            contents[name] = given if described.source else {**given, "space": [space.content for space in spaces]}
        if self._problems:
            raise ConfigError(list(dict.fromkeys(self._problems)))
        stages = list(self._stages.values())
        return StudyPlan(
            question=self._described.question,
            stages=stages,
            answer=self._described.answer,
            storage=stages[0].sweeps[0].sweep.storage,
            content={**self._document.content, "base": self._base.content, "stages": contents},
        )

    def _report(self, message: str, *path: str | int) -> None:
        key, line = ".".join(map(str, path)), self._document.line(path)
        self._problems.append(Problem(key=key, message=message, source=self._document.source, line=line))

    def _found(self, named: str | Mapping[str, Any], *path: str | int) -> Document:
        """What a file beside the study's says, or what is written out in its place; nothing if that cannot be read."""
        if isinstance(named, str):
            try:
                return read_document(Path(self._document.source).parent / named)
            except ConfigError as error:
                self._problems += error.problems
                return Document({}, named)
        lines = {place[len(path) :]: line for place, line in self._document.lines.items() if place[: len(path)] == path}
        return Document(dict(named), self._document.source, lines)

    def _spaces(self, stage: str, described: StageDescription) -> list[Document]:
        """The search spaces of a stage. A file's space is called like the file."""
        if described.source is not None:
            return [self._examples(stage, self._stages[described.source], described.top)]
        several = isinstance(self._document.content["stages"][stage]["space"], list)
        spaces = []
        for index, named in enumerate(described.space):
            found = self._found(named, "stages", stage, "space", *((index,) if several else ()))
            name = Path(named).stem if isinstance(named, str) else f"space{index}"
            content = {"name": name, **found.content} if found.content else {}  # it could not be read
            spaces.append(Document(content, found.source, found.lines))
        return spaces

    def _examples(self, stage: str, source: Stage, top: int) -> Document:
        """A space with as many points as will be taken from another stage, to check what is said of it."""
        by_rule: dict[str, SearchSpace] = {}
        for space in (sweep.space for sweep in source.sweeps):
            for rule in space.rules:
                if by_rule.setdefault(rule, space).plain() != space.plain():
                    message = (
                        f"is {source.name}, which searches {rule} over different spaces: expected one for each rule"
                    )
                    self._report(message, "stages", stage, "from")
        found = [(sweep.space, sweep.space.example() or {}) for sweep in source.sweeps for _ in range(top)]
        return Document(space_of(source.name, found) if found else {}, self._document.source)

    def _each(
        self, described: StageDescription, spaces: Sequence[Document]
    ) -> Iterator[tuple[Document, list[str], dict[str, Any]]]:
        """Each sweep of a stage: its space, what tells it from the others, and what `for_each` gives it."""
        for space, values in itertools.product(spaces, itertools.product(*described.for_each.values())):
            apart = [str(space.content.get("name"))] if len(spaces) > 1 else []
            apart += map(called, values)
            yield space, apart, dict(zip(described.for_each, values, strict=True))

    def _planned(
        self, stage: str, described: StageDescription, space: Document, apart: Sequence[str], values: dict[str, Any]
    ) -> PlannedSweep | None:
        """One sweep of a stage; None if something is wrong with it."""
        points = len(space.content.get("enqueue", []))
        layers: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [
            (("sweep",), self._described.sweep),
            ((), {**_UNCHANGED, "trials": points or 1} if described.source else {}),
            (("stages", stage, "sweep"), described.sweep),
            (("stages", stage, "for_each"), values),
        ]
        content = copy.deepcopy(self._base.content)
        for _, layer in layers:
            for key, value in settings_of(layer):
                set_at(content, key, value)
        problems: list[Problem] = []
        sweep: SweepConfig | None = None
        try:
            sweep, base = parse_sweep(Document(content))
        except ConfigError as error:
            problems += [self._placed(problem, layers) for problem in error.problems]
        read: SearchSpace | None = None
        try:
            if space.content:
                read = parse_space(space, sound_part(content.get("run"), problems))
                problems += sampler_problems(sweep, read) if sweep is not None else []
        except ConfigError as error:
            problems += error.problems
        self._problems += problems
        if problems or sweep is None or read is None:
            return None
        name = "-".join([stage, *(re.sub(r"[^A-Za-z0-9._]+", "_", part).strip("_.") for part in apart)])
        return PlannedSweep(name=name, values=values, sweep=sweep, base=base, space=read)

    def _placed(self, problem: Problem, layers: Sequence[tuple[tuple[str, ...], Mapping[str, Any]]]) -> Problem:
        """A sweep's problem, at the line of whatever said last what is wrong: a layer of the study, or the base."""
        for place, layer in reversed(layers):
            if not place:
                continue  # ours, in which nothing is wrong
            for key, _ in settings_of(layer):
                if key == problem.key or f"{key}.".startswith(f"{problem.key}.") or problem.key.startswith(f"{key}."):
                    whole = key in layer  # with its dots, as `for_each` has it
                    source, line = self._document.place(".".join((*place, key)))
                    if source != "--set":
                        line = self._document.line((*place, *((key,) if whole else key.split("."))))
                    return Problem(key=problem.key, message=problem.message, source=source, line=line)
        return located(problem, self._base)

    def _check_answer(self, sweeps: Sequence[PlannedSweep]) -> None:
        """Refuses sweeps that cannot answer what is asked."""
        measure, stage = self._described.answer.measure, self._described.answer.stage
        for planned in sweeps:
            sweep = planned.sweep
            if measure == "gap" and "backprop" not in sweep.baselines:
                self._report(f"is gap, but {stage} has no baseline backprop to be behind of", "answer", "measure")
            if measure == "share" and (sweep.sampler.name, sweep.scheduler.name) != _UNBIASED:
                message = f"is share, which asks {stage} for `sampler: random` and `scheduler: none`"
                self._report(message, "answer", "measure")

    def _check_names(self, stage: str, sweeps: Sequence[PlannedSweep]) -> None:
        """Refuses what would give two sweeps one folder, here or in the stages before."""
        known = [sweep.name for other in self._stages.values() for sweep in other.sweeps]
        for sweep in sweeps:
            if sweep.name in known:
                self._report(f"gives two sweeps the name {sweep.name}", "stages", stage)
            known.append(sweep.name)
