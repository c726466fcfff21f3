"""The sections that say how a training goes in time, and what of them does not go together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from aln.config.section import Section
from aln.errors import AlnError, Problem
from aln.optim import Clip, CoefficientSchedule, Course, ScheduledRule, UpdateNoise
from aln.rules import LearningRule

if TYPE_CHECKING:
    from aln.config.run import RunConfig


# Keys of a run that mean nothing, or something else, under another rule.
OF_ALIGNMENT = ("coefficients", "alignment_optimizer", "alignment_schedule", "delay_epochs", "alternate_step_freq")


class Coefficient(Section):
    """One of the rule's coefficients over time, see `aln.optim.CoefficientSchedule`."""

    schedule: Literal["linear", "exponential"] = "linear"
    rate: float = 0.0
    start: float = Field(0.0, ge=0, lt=1)
    stop: float = Field(1.0, gt=0, le=1)
    cycle: float | None = Field(None, gt=0)


class Rates(Section):
    """Factors on the task's loss and on the rules' own, times `gamma` at each of the epochs `drops`."""

    loss: float = Field(1.0, ge=0)
    alignment: float = Field(1.0, ge=0)
    drops: list[float] = Field(default_factory=list)
    gamma: float = Field(0.1, gt=0)


class Noise(Section):
    """Noise on updates, see `aln.optim.UpdateNoise`."""

    variance: float = Field(0.0, ge=0)
    distribution: Literal["normal", "uniform"] = "normal"
    part: Literal["all", "forward", "backward"] = "all"

    def make(self) -> UpdateNoise:
        """The noise, as the engine takes it."""
        return UpdateNoise(variance=self.variance, distribution=self.distribution, part=self.part)


class Clipping(Section):
    """Gradient clipping by norm or by value, see `aln.optim.Clip`."""

    norm: float | None = Field(None, gt=0)
    value: float | None = Field(None, gt=0)

    def make(self) -> Clip:
        """The bounds, as the engine takes them. Raises `AlnError` if there are two."""
        return Clip(norm=self.norm, value=self.value)


def course_of(config: RunConfig) -> Course:
    """The course of a run's training. Raises `AlnError` for one that trains nothing."""
    return Course(
        delay_epochs=config.delay_epochs,
        alternate_step_freq=config.alternate_step_freq,
        loss_rate=config.rates.loss,
        alignment_rate=config.rates.alignment,
        rate_drops=tuple(config.rates.drops),
        rate_gamma=config.rates.gamma,
    )


def scheduled_rule(config: RunConfig) -> ScheduledRule | None:
    """The run's rule over time; None if nothing about it changes. Raises `AlnError` for what is no coefficient."""
    if not config.coefficients:
        return None
    schedules = {name: _schedule(entry) for name, entry in config.coefficients.items()}
    return ScheduledRule(rule=config.rule.make("rule"), schedules=schedules)


def course_problems(config: RunConfig, with_rule: bool) -> list[Problem]:
    """What does not go together in a run whose sections are right by themselves; of its rule only if `with_rule`."""
    rule: LearningRule = config.rule.make("rule")
    complaints = [*(_asks_of_rule(config, rule) if with_rule else ()), *_asks_of_recipe(config)]
    problems = [Problem(key=key, message=f"is {value}, but {why}") for key, value, why in complaints]
    checks: dict[str, Callable[[], object]] = {"rates": lambda: course_of(config), "clip": config.clip.make}
    checks |= _coefficient_checks(config, rule) if with_rule else {}
    for key, check in checks.items():
        try:
            check()
        except AlnError as error:
            problems.append(Problem(key=key, message=str(error)))
    return problems


def _coefficient_checks(config: RunConfig, rule: LearningRule) -> dict[str, Callable[[], object]]:
    """What tries out each coefficient's schedule, by key."""

    def try_out(name: str, entry: Coefficient) -> None:
        ScheduledRule(rule=rule, schedules={name: _schedule(entry)}).try_out(config.epochs)

    coefficients = config.coefficients.items()
    return {f"coefficients.{name}": functools.partial(try_out, name, entry) for name, entry in coefficients}


_Complaint = tuple[str, object, str]


def _asks_of_rule(config: RunConfig, rule: LearningRule) -> Iterator[_Complaint]:
    """What asks for something that the rule does not do: key, value and why not."""
    name = config.rule.name
    if not rule.learns_backward_weight:
        no_B = f"{name} has no backward weight that learns"
        if config.alignment_optimizer is not None:
            yield "alignment_optimizer", config.alignment_optimizer.name, no_B
        if config.noise.variance and config.noise.part == "backward":
            yield "noise.part", "backward", no_B
    elif config.alignment_optimizer is not None and rule.moves_forward_weight:
        moves = f"{name} moves forward weights too (update_forward), which get one update for both losses"
        yield "alignment_optimizer", config.alignment_optimizer.name, moves
    if not rule.learns_without_task:
        alone = f"{name} has nothing to train without the task"
        if config.delay_epochs:
            yield "delay_epochs", config.delay_epochs, alone
        if config.alternate_step_freq:
            yield "alternate_step_freq", config.alternate_step_freq, alone
        if not config.rates.loss:
            yield "rates.loss", config.rates.loss, alone
    if config.alternate_step_freq and rule.skips_steps:
        yield "alternate_step_freq", config.alternate_step_freq, f"{name} leaves out steps itself (align_every)"


def _asks_of_recipe(config: RunConfig) -> Iterator[_Complaint]:
    """What asks for something that the rest of the recipe does not have: key, value and why not."""
    if config.alignment_schedule is not None and config.alignment_optimizer is None:
        yield "alignment_schedule", config.alignment_schedule.name, "there is no alignment_optimizer to follow it"
    if config.delay_epochs >= config.epochs:
        yield "delay_epochs", config.delay_epochs, f"the task would not be trained: expected fewer than {config.epochs}"
    share = config.batch_size // config.resources.workers
    if share % config.accumulate:
        yield "accumulate", config.accumulate, f"a worker's {share} images of a batch do not fall into equal parts"


def _schedule(entry: Coefficient) -> CoefficientSchedule:
    return CoefficientSchedule(
        schedule=entry.schedule, rate=entry.rate, start=entry.start, stop=entry.stop, cycle=entry.cycle
    )
