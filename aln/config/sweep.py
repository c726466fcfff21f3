"""The configuration of a sweep: on what it runs, how far it goes, how it searches."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from aln.config.course import OF_ALIGNMENT
from aln.config.documents import Document
from aln.config.run import RunConfig, check_run, device_problems, known_keys, located, problems_of
from aln.config.section import Section
from aln.errors import ConfigError, Problem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Sampler(Section):
    """How points are suggested: Optuna's tree-structured Parzen estimator, or at random.

    `startup` points are drawn at random before TPE's model is used.
    """

    name: Literal["tpe", "random"] = "tpe"
    seed: int = Field(0, ge=0)
    startup: int = Field(10, ge=1)


class Scheduler(Section):
    """When a trial is stopped early: ASHA (arXiv 1810.05934), or never.

    A trial may stop at `grace` epochs and at every `reduction`-fold of it, if it is not in the best 1/`reduction`.
    """

    name: Literal["asha", "none"] = "asha"
    grace: int = Field(3, ge=1)
    reduction: float = Field(3.0, gt=1)


class SweepConfig(Section):
    """A sweep, complete. Make it with `parse_sweep`; `run` is kept as plain data for spaces to fill in."""

    run: dict[str, Any]
    trials: int = Field(24, ge=1)
    metric: Literal["val_top1", "val_top5", "val_loss"] = "val_top1"
    mode: Literal["max", "min"] = Field("max", validate_default=True)
    sampler: Sampler = Sampler()
    scheduler: Scheduler = Scheduler()
    baselines: list[str] = Field(default_factory=lambda: ["backprop", "feedback"])
    max_concurrent: int | None = Field(None, ge=1)
    storage: str = "results"
    experiment: str = Field("aln", min_length=1)

    @field_validator("baselines")
    @classmethod
    def _distinct(cls, baselines: list[str]) -> list[str]:
        if len(set(baselines)) < len(baselines):
            raise ValueError("expected each baseline once")
        return baselines

    @field_validator("mode")
    @classmethod
    def _suits_the_metric(cls, mode: str, info: ValidationInfo) -> str:
        metric = info.data.get("metric")
        if metric is not None and mode != ("min" if metric == "val_loss" else "max"):
            raise ValueError(f"expected {'min' if metric == 'val_loss' else 'max'} for {metric}")
        return mode


def parse_sweep(document: Document) -> tuple[SweepConfig, RunConfig]:
    """The sweep that a document describes, and the run it starts from. Raises `ConfigError` with every problem."""
    content = {"run": {}, **document.content}
    run = content["run"] if isinstance(content["run"], dict) else {}
    base, problems = check_run(run, "run.", with_rule="rule" in run)
    config: SweepConfig | None = None
    keys = known_keys(SweepConfig) + [f"run.{key}" for key in known_keys(RunConfig)]
    try:
        config = SweepConfig.model_validate(content)
    except ValidationError as error:
        problems += problems_of(error, keys)
    shared = {key: value for key, value in run.items() if key not in OF_ALIGNMENT}
    for baseline in config.baselines if config else ():
        for problem in check_run({**shared, "rule": {"name": baseline}}, "run.")[1]:
            if problem.key == "run.rule.name":
                problems.append(Problem(key="baselines", message=problem.message))
            elif base is not None:  # what is wrong with the run itself has been said
                problems.append(Problem(key="baselines", message=f"{baseline}: {problem.key} {problem.message}"))
    if base is not None and base.resources.workers > 1:
        message = (
            f"is {base.resources.workers}, expected 1: a sweep's trials have one worker each, aln.train takes many"
        )
        problems.append(Problem(key="run.resources.workers", message=message))
    elif base is not None:
        problems += device_problems(base, "run.")
    if problems or config is None or base is None:
        raise ConfigError([located(problem, document) for problem in problems])
    return config, base


def check_name(name: str) -> str:
    """The name of a sweep or run, which becomes a folder: refuses (`ConfigError`) what could leave the storage path."""
    if not _NAME.fullmatch(name):
        message = f"is {name!r}, expected up to 100 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        raise ConfigError([Problem(key="--name", message=message)])
    return name
