"""The configuration of a sweep: on what it runs, how far it goes, how it searches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from aln.config.course import OF_ALIGNMENT
from aln.config.documents import Document, dump
from aln.config.objectives import OF_LAYERS, Mode, Objective, refusal
from aln.config.run import RunConfig, check_run, device_problems, known_keys, located, problems_of
from aln.config.section import Section
from aln.errors import ConfigError, Problem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LONGEST = 250


class _Named(Section):
    """A section that may be written as its name alone: `sampler: random`."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, written: Any) -> Any:
        return {"name": written} if isinstance(written, str) else written


class Sampler(_Named):
    """How points are suggested.

    `tpe` is Optuna's tree-structured Parzen estimator, `cmaes` the evolution strategy CMA-ES (ranges alone, one
    objective), `gp` a Gaussian process, `qmc` a quasi-random sequence, `grid` every combination of values once. The
    first `startup` points of tpe, cmaes and gp are drawn at random, before there is enough to model.
    """

    name: Literal["tpe", "random", "grid", "cmaes", "gp", "qmc"] = "tpe"
    seed: int = Field(0, ge=0, lt=2**32)
    startup: int = Field(10, ge=1)


class Scheduler(_Named):
    """When a trial is stopped early: ASHA (arXiv 1810.05934), Hyperband (arXiv 1603.06560), the median rule, or never.

    Under ASHA and Hyperband a trial may stop at `grace` epochs and at every `reduction`-fold of it, if it is not in the
    best 1/`reduction`. Under the median rule it may stop at any epoch from `grace` on, if it is worse than the median
    of the trials before it, once there are `startup` of them.
    """

    name: Literal["asha", "hyperband", "median", "none"] = "asha"
    grace: int = Field(3, ge=1)
    reduction: int = Field(3, ge=2)
    startup: int = Field(5, ge=1)


class Budget(Section):
    """What ends a sweep besides its number of trials; whatever comes first does.

    Attributes:
        trials: another place for the sweep's `trials`.
        hours: of wall clock since the sweep began, resumed ones' earlier parts included.
        gpu_hours: of GPUs that trials held.
        target: a value of the objective that is good enough.
    """

    trials: int | None = Field(None, ge=1)
    hours: float | None = Field(None, gt=0)
    gpu_hours: float | None = Field(None, gt=0)
    target: float | None = None


class SweepConfig(Section):
    """A sweep, complete. Make it with `parse_sweep`; `run` is kept as plain data for spaces to fill in.

    Attributes:
        objective: what is optimised: one metric or more, written `val_top1`, `val_top1 max` or a list of such.
        trials: suggested trials, baselines not counted.
        seeds: each point is trained so many times, with the run's seed and those after it; the mean is optimised.
        warm_start: sweeps or MLflow experiments whose trials the sampler knows from the beginning.
        test: which searched points are tested when all have ended: the best, or all that trained. Baselines are always.
        max_failures: the sweep ends after more failed trials than that; never if null.
        restarts: how often a trial whose process died is started again from its last checkpoint.
        stall_timeout: seconds without a step after which a trial is ended as timed out, ten times that before its first
            step; never if null. Of trials by several workers only epochs are seen.
    """

    run: dict[str, Any]
    trials: int = Field(24, ge=1)
    objective: tuple[Objective, ...] = (Objective(metric="val_top1", mode="max"),)
    budget: Budget = Budget()
    sampler: Sampler = Sampler()
    scheduler: Scheduler = Scheduler()
    seeds: int = Field(1, ge=1)
    warm_start: list[str] = Field(default_factory=list)
    baselines: list[str] = Field(default_factory=lambda: ["backprop", "feedback"])
    test: Literal["best", "all"] = "best"
    max_concurrent: int | None = Field(None, ge=1)
    max_failures: int | None = Field(None, ge=0)
    restarts: int = Field(3, ge=0)
    stall_timeout: float | None = Field(None, gt=0)
    storage: str = "results"
    experiment: str = Field("aln", min_length=1)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is optimised."""
        return self.objective

    @property
    def metric(self) -> str:
        """The first objective's metric."""
        return self.objective[0].metric

    @property
    def mode(self) -> Mode:
        """The first objective's direction."""
        return self.objective[0].mode

    def plain(self) -> dict[str, Any]:
        """The sweep as plain data, from which `parse_sweep` makes it again."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The sweep as YAML, complete."""
        return dump(self.plain())

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, content: Any) -> Any:
        """What one key says of another: the budget's trials are the sweep's, several objectives stop nothing early."""
        if not isinstance(content, Mapping):
            return content
        content = dict(content)
        budget, objective = content.get("budget"), content.get("objective")
        trials = budget.get("trials") if isinstance(budget, Mapping) else None
        if isinstance(budget, Mapping) and "trials" not in content and type(trials) is int and trials > 0:
            content |= {"trials": trials, "budget": {**budget, "trials": None}}
        if isinstance(objective, list | tuple) and len(objective) > 1:
            content.setdefault("scheduler", {"name": "none"})
        return content

    @field_validator("objective", mode="before")
    @classmethod
    def _in_a_row(cls, objective: Any) -> Any:
        objectives = tuple(objective) if isinstance(objective, list | tuple) else (objective,)
        if not objectives:
            raise refusal("expected a metric, or a list of metrics")
        return objectives

    @field_validator("objective")
    @classmethod
    def _once_each(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if len({objective.metric for objective in objectives}) < len(objectives):
            raise refusal("expected each metric once")
        return objectives

    @field_validator("budget")
    @classmethod
    def _reachable(cls, budget: Budget, info: ValidationInfo) -> Budget:
        if budget.trials is not None:
            raise refusal(f"has trials, but the sweep itself has too ({info.data.get('trials')}): say one of them")
        objectives = info.data.get("objective", ())
        if budget.target is not None and len(objectives) > 1:
            raise refusal("has a target, expected none beside several objectives, of which none alone ends a sweep")
        percent = any(objective.metric.endswith(("top1", "top5")) for objective in objectives)
        if budget.target is not None and percent and not 0 <= budget.target <= 100:
            raise refusal(f"target is {budget.target:g}, expected percent, from 0 to 100")
        return budget

    @field_validator("sampler")
    @classmethod
    def _for_so_many(cls, sampler: Sampler, info: ValidationInfo) -> Sampler:
        if sampler.name == "cmaes" and len(info.data.get("objective", ())) > 1:
            raise refusal("cmaes optimises one objective; tpe and gp optimise several")
        return sampler

    @field_validator("scheduler")
    @classmethod
    def _of_one(cls, scheduler: Scheduler, info: ValidationInfo) -> Scheduler:
        if scheduler.name != "none" and len(info.data.get("objective", ())) > 1:
            raise refusal("expected none: which of several objectives a trial should be stopped by is undefined")
        return scheduler

    @field_validator("baselines", "warm_start")
    @classmethod
    def _distinct(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise refusal("expected each name once")
        return names

    @field_validator("warm_start")
    @classmethod
    def _well_formed(cls, names: list[str]) -> list[str]:
        for name in names:
            if not name.strip() or not name.isprintable() or len(name) > _LONGEST:
                raise refusal(f"expected names of sweeps or experiments, and {name!r} cannot be one")
        return names


def parse_sweep(document: Document) -> tuple[SweepConfig, RunConfig]:
    """The sweep that a document describes, and the run it starts from. Raises `ConfigError` with every problem."""
    if "stages" in document.content:
        message = "this is a study, not a sweep: run it by python -m aln.study"
        raise ConfigError([located(Problem(key="stages", message=message), document)])
    content = {"run": {}, **document.content}
    run = content["run"] if isinstance(content["run"], dict) else {}
    base, problems = check_run(run, "run.", with_rule="rule" in run)
    problems += _replaced(content)
    config: SweepConfig | None = None
    keys = known_keys(SweepConfig) + [f"run.{key}" for key in known_keys(RunConfig)]
    try:
        config = SweepConfig.model_validate(content)
    except ValidationError as error:
        problems += problems_of(error, keys)
    if config is not None:
        problems += _baseline_problems(config, run, base)
        if base is not None:
            problems += _asks_of_run(config, base)
    if base is not None:
        problems += device_problems(base, "run.")
    if problems or config is None or base is None:
        raise ConfigError([located(problem, document) for problem in problems])
    return config, base


def sound_part(run: object, problems: Sequence[Problem]) -> dict[str, Any]:
    """A sweep's run without what is wrong with it, so that a search space can be checked beside a faulty sweep.

    Of a section in which something is wrong there remains the name, if that is right.
    """
    faulty = [problem.key.split(".")[1:] for problem in problems if problem.key.startswith("run.")]
    sound = dict(run) if isinstance(run, Mapping) else {}
    for section, *within in faulty:
        entry = sound.pop(section, None)
        if within and within != ["name"] and isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            sound[section] = {"name": entry["name"]}
    return sound


def _replaced(content: dict[str, Any]) -> list[Problem]:
    """Takes out the keys that `objective` has replaced, and says what to write for them."""
    written = " ".join(str(content[key]) for key in ("metric", "mode") if key in content and content[key] is not None)
    instead = written if "metric" in content else f"val_top1 {written}"
    message = f"is now part of the objective: write `objective: {instead.strip()}`"
    old = [key for key in ("metric", "mode") if key in content]
    for key in old:
        del content[key]
    return [Problem(key=key, message=message) for key in old]


def _baseline_problems(config: SweepConfig, run: Mapping[str, Any], base: RunConfig | None) -> Iterator[Problem]:
    """Baselines that are no rules, or that do not go with the run."""
    shared = {key: value for key, value in run.items() if key not in OF_ALIGNMENT}
    for baseline in config.baselines:
        for problem in check_run({**shared, "rule": {"name": baseline}}, "run.")[1]:
            if problem.key == "run.rule.name":
                yield Problem(key="baselines", message=problem.message)
            elif base is not None:  # what is wrong with the run itself has been said
                yield Problem(key="baselines", message=f"{baseline}: {problem.key} {problem.message}")


def _asks_of_run(config: SweepConfig, base: RunConfig) -> Iterator[Problem]:
    """What the sweep asks for that its run does not give."""
    if config.budget.gpu_hours is not None and not base.resources.gpus:
        message = f"is {config.budget.gpu_hours:g}, but a trial takes no GPU (run.resources.gpus)"
        yield Problem(key="budget.gpu_hours", message=message)
    measured = base.alignment.every
    for objective in config.objective:
        if objective.metric in OF_LAYERS and not measured:
            message = f"is {objective.metric}, but run.alignment.every is 0: it is never measured"
            yield Problem(key="objective", message=message)
        elif objective.metric in OF_LAYERS and measured > 1 and config.scheduler.name != "none":
            message = (
                f"is {objective.metric}, measured every {measured} epochs, but the scheduler compares trials at every "
                "one: say run.alignment.every=1, or scheduler=none"
            )
            yield Problem(key="objective", message=message)


def check_name(name: str, key: str = "--name") -> str:
    """The name of a sweep or run, which becomes a folder: refuses (`ConfigError`) what could leave the storage path."""
    if not _NAME.fullmatch(name):
        message = f"is {name!r}, expected up to 100 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        raise ConfigError([Problem(key=key, message=message)])
    return name
