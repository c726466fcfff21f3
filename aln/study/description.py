"""What a study's file says, by itself: its stages and what is asked in the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from aln.config import Document, Section, check_name, known_keys, located, problems_of, refusal
from aln.errors import ConfigError, Problem

Measure = Literal["accuracy", "gap", "share"]


class Answer(Section):
    """What the study says in the end.

    Attributes:
        stage: of whose sweeps.
        measure: of each rule `accuracy`, the mean test top-1 over the seeds of its best point; `gap`, by how much that
            is behind backprop's; `share`, how much of its space reaches `at_least` by the objective.
    """

    stage: str
    measure: Measure = "accuracy"
    at_least: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.measure == "share") != (self.at_least is not None):
            raise refusal("expected at_least beside `measure: share`, and there alone")
        return self


class StageDescription(Section):
    """Sweeps that do not depend on each other: one for each space and each combination of what `for_each` lists.

    Attributes:
        space: files of search spaces, or spaces written out; empty if points of another stage are trained.
        source: that stage, written `from`.
        top: how many of the best points of each of its sweeps.
        for_each: keys of the sweep to lists of values.
        sweep: what the stage changes in the study's sweep.
    """

    space: list[str | dict[str, Any]] = Field(default_factory=list)
    source: str | None = Field(None, alias="from")
    top: int = Field(1, ge=1)
    for_each: dict[str, list[Any]] = Field(default_factory=dict)
    sweep: dict[str, Any] = Field(default_factory=dict)

    @field_validator("space", mode="before")
    @classmethod
    def _in_a_row(cls, space: Any) -> Any:
        return space if isinstance(space, list) else [space]

    @field_validator("for_each")
    @classmethod
    def _not_empty(cls, lists: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if empty := [key for key, values in lists.items() if not values]:
            raise refusal(f"expected values for {', '.join(empty)}")
        return lists

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.space) == bool(self.source):
            raise refusal("expected either `space` or `from`")
        if self.space and "top" in self.model_fields_set:
            raise refusal("has `top`, which belongs beside `from`")
        return self


class StudyDescription(Section):
    """A study's file.

    Attributes:
        question: what is asked, in a sentence.
        base: file of the sweep that all sweeps start from, or that sweep written out.
        sweep: what all of them change in it.
    """

    question: str = Field(min_length=1)
    base: str | dict[str, Any]
    sweep: dict[str, Any] = Field(default_factory=dict)
    stages: dict[str, StageDescription] = Field(min_length=1)
    answer: Answer

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: dict[str, StageDescription]) -> dict[str, StageDescription]:
        before: list[str] = []
        for name, stage in stages.items():
            try:
                check_name(name)
            except ConfigError as error:
                raise refusal(f"a stage {error.problems[0].message}") from None
            if stage.source is not None and stage.source not in before:
                earlier = ", ".join(before) or "there is none"
                raise refusal(f"{name} is from {stage.source}, expected an earlier stage ({earlier})")
            before.append(name)
        return stages

    @model_validator(mode="after")
    def _answered(self) -> Self:
        if self.answer.stage not in self.stages:
            raise refusal(f"answer.stage is {self.answer.stage!r}, expected one of {', '.join(self.stages)}")
        return self


def describe_study(document: Document) -> StudyDescription:
    """What a document says. Raises `ConfigError` with every problem, each with its line."""
    if "run" in document.content and "stages" not in document.content:
        message = "this is a sweep, not a study: run it by python -m aln.sweep SPACE --sweep FILE"
        raise ConfigError([located(Problem(key="run", message=message), document)])
    try:
        return StudyDescription.model_validate(document.content)
    except ValidationError as error:
        stages = document.content.get("stages")
        names = list(map(str, stages)) if isinstance(stages, Mapping) else []
        fields = [info.alias or name for name, info in StageDescription.model_fields.items()]
        keys = [f"stages.{name}.{field}" for name in names for field in fields] + [f"stages.{name}" for name in names]
        found = problems_of(error, [*known_keys(StudyDescription), *keys])
        raise ConfigError([located(problem, document) for problem in found]) from error
