"""What a person reads before a sweep and after it: the plan, what it will take, the answer."""

from __future__ import annotations

import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from aln import memory
from aln.cluster import Cluster
from aln.command import relative, runnable
from aln.config import Resources
from aln.report.pareto import FRONT
from aln.search.cost import Cost, cost_of
from aln.search.plan import SweepPlan
from aln.search.sweeper import SweepOutcome
from aln.space import RULE, When, format_parameter, format_point, format_value, format_when
from aln.tracking import ui_command, ui_page
from aln.worker_group import trials_at_once

# What a sweep takes besides training (benchmarks/README.md): Ray's own start, and passing from one trial to the next.
_RAY_SECONDS = 6.0
_SECONDS_BETWEEN = 0.2


def show_plan(plan: SweepPlan, console: Console) -> None:
    """Prints what will be searched, on what, and where results go."""
    rules = " or ".join(plan.space.rules)
    title = f"{plan.name}: {rules} on {plan.base.data.name}, {plan.base.model.name}"
    console.print(title, style="italic", highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("searched")
    table.add_column("over")
    for key, parameter in plan.space.parameters.items():
        table.add_row(key, _with(format_parameter(parameter), parameter.when))
    for key, value in plan.space.fixed.items():
        table.add_row(key, f"{format_value(value)} (fixed)", style="dim")
    for key, tie in plan.space.ties.items():
        as_what = f"{tie.factor:g} x {tie.to}" if tie.factor != 1 else f"as {tie.to}"
        table.add_row(key, _with(as_what, tie.when), style="dim")
    console.print(table)
    for constraint in plan.space.constraints:
        console.print(f"Only where {constraint.text}.", highlight=False)
    sweep, run = plan.sweep, plan.base
    several = "s" if len(sweep.baselines) > 1 else ""
    baselines = f" and the baseline{several} {', '.join(sweep.baselines)}" if sweep.baselines else ""
    seeds = f", each with {sweep.seeds} seeds" if sweep.seeds > 1 else ""
    acts = sweep.scheduler.name != "none" and sweep.scheduler.grace < run.epochs
    stopping = f"{sweep.scheduler.name} from epoch {sweep.scheduler.grace}" if acts else "no early stopping"
    console.print(
        f"{plan.trials} trials{baselines}{seeds}, at most {run.epochs} epochs each; {sweep.sampler.name}, {stopping}.",
        soft_wrap=True,
    )
    budget = sweep.budget
    ends = [f"{budget.hours:g} hours"] if budget.hours is not None else []
    ends += [f"{budget.gpu_hours:g} GPU-hours"] if budget.gpu_hours is not None else []
    ends += [f"{sweep.objectives[0].metric} {budget.target:g}"] if budget.target is not None else []
    if ends:
        console.print(f"It ends before at {' or '.join(ends)}.", highlight=False)
    cores = f"{run.resources.cpus} CPU core{'s' if run.resources.cpus > 1 else ''}"
    each = f"{cores} and {run.resources.gpus:g} GPUs"
    takes = each if run.resources.workers == 1 else f"{run.resources.workers} workers with {each} each"
    checkpoints = "" if plan.remote is None else f", checkpoints to {plan.remote}"
    console.print(f"A trial takes {takes}. Results go to {plan.folder}{checkpoints}.", soft_wrap=True)


def _with(what: str, when: When) -> str:
    return f"{what}, {format_when(when)}" if when else what


def show_estimate(plan: SweepPlan, console: Console) -> None:
    """Prints how many trials fit at once, how long they take and what memory, from one in the middle of the space."""
    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    here = Cluster("this machine", [(cpus, gpus)])
    fit = min(trials_at_once(here, plan.base.resources), plan.sweep.max_concurrent or sys.maxsize)
    console.print(f"This machine ({cpus} CPU cores, {gpus} GPUs) holds {fit} trials at once.", highlight=False)
    if fit:
        cost = cost_of(plan.config(plan.example()))
        trials = plan.sweep.seeds * (plan.trials + len(plan.sweep.baselines))
        for line in time_lines(cost, trials, plan.base.epochs, fit):
            console.print(line, highlight=False, soft_wrap=True)
        for line in memory_lines(cost, plan.base.resources, fit, memory.of_machine()):
            console.print(line, highlight=False, soft_wrap=True)


def time_lines(cost: Cost, trials: int, epochs: int, at_once: int) -> list[str]:
    """How long so many trials train, and what starting them takes besides."""
    training = _duration(trials * epochs * cost.seconds / at_once)
    start = _RAY_SECONDS + cost.start
    starting = _duration(start + _SECONDS_BETWEEN * trials / at_once)
    parts = f"{start:.0f} s for Ray and the first processes, {_SECONDS_BETWEEN} s a trial"
    return [
        f"An epoch takes about {cost.seconds:.2g} s: at most {training} for {trials} trials, less with early stopping.",
        f"Start-up comes on top, about {starting}: {parts}.",
    ]


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def memory_lines(cost: Cost, resources: Resources, at_once: int, machine: int) -> list[str]:
    """What is to be said of the memory that so many trials at once take of a machine with so many bytes."""
    lines = []
    each = cost.memory * resources.workers
    if each and machine:
        room = machine // each
        lines.append(
            f"One takes about {memory.in_words(each)} of {memory.in_words(machine)} of memory, which would hold {room}."
        )
        if at_once > room:
            lines.append(
                f"[bold]{at_once} at once take about {memory.in_words(at_once * each)}, more than there is: "
                f"say max_concurrent={room}.[/bold]"
                if room
                else "[bold]This machine has not the memory for one trial.[/bold]"
            )
    if cost.gpu_memory:
        held, has = memory.in_words(cost.gpu_memory), memory.in_words(cost.gpu_has)
        share = memory.share_of_gpu(cost.gpu_memory, cost.gpu_has)
        lines.append(f"Its tensors take {held} of {has} of a GPU's memory: resources.gpus={share:g} would fit.")
        if resources.gpus < min(share or 1.0, 1.0):
            lines.append(
                f"[bold]resources.gpus={resources.gpus:g} puts more trials on a GPU than it has memory for.[/bold]"
            )
    return lines


def show_outcome(plan: SweepPlan, outcome: SweepOutcome, console: Console) -> None:
    """Prints the answer: the best trial beside the baselines, its coefficients, and the commands that go on."""
    _show_answer(plan, outcome, console)
    counts = Counter(point.status for point in outcome.points if not point.baseline)
    ended = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none began"
    cut = " The sweep was interrupted." if outcome.interrupted else ""
    cut = f" The sweep ended before its last trial: {outcome.ended}." if outcome.ended else cut
    console.print(f"Trials: {ended}.{cut}", highlight=False, soft_wrap=True)
    console.print(
        f"{outcome.seconds:.0f} s, of which training took {100 * outcome.training_share:.0f} % of every slot's time."
    )

    def show(label: str, value: object) -> None:
        console.print(f"  {label:<17}  {value}", highlight=False, soft_wrap=True)

    if outcome.best is None:
        unfinished = any(point.status == "interrupted" for point in outcome.points if not point.baseline)
        none = "No searched trial has ended well yet." if unfinished else "No searched trial trained: none ended well."
        console.print(f"[bold]{none}[/bold]")
    else:
        point = format_point(outcome.best.values)
        of = f" by {plan.sweep.metric}" if outcome.front else ""
        console.print(f"Best trial{of} {outcome.best.label}: {point}", highlight=False, soft_wrap=True)
        if outcome.best.status == "stopped":
            record = outcome.best.usable[0]
            console.print(
                f"It was stopped early, after {record.epoch} of {record.epochs} epochs, where baselines have all of "
                "them; its configuration trains it to the end.",
                soft_wrap=True,
            )
        for other in outcome.front:
            if other is not outcome.best:
                console.print(
                    f"Pareto front {other.label}: {format_point(other.values)}", highlight=False, soft_wrap=True
                )
        best = relative(plan.folder / "best.yaml")
        show(f"configuration {outcome.best.label}", best)
        show("train it again", runnable(f"python -m aln.train {best}"))
    if outcome.front:
        show("Pareto front", relative(plan.folder / FRONT))
        show("its plot", relative(plan.folder / "plots" / f"{FRONT}.png"))
    if (plan.folder / "plots").exists():
        show("plots", relative(plan.folder / "plots"))
    show("all trials", relative(plan.folder / "trials.csv"))
    show("on one page", runnable(f"python -m aln.report {plan.name}"))
    if command := ui_command(outcome.tracker.uri):
        show("compare trials", runnable(command))
    show("in a browser", ui_page(outcome.tracker.uri, outcome.tracker.experiment_id))


def _show_answer(plan: SweepPlan, outcome: SweepOutcome, console: Console) -> None:
    """Prints the table of the best trial, or of the Pareto front, and of the baselines."""
    metrics = [objective.metric for objective in plan.sweep.objectives]
    if outcome.best is None and not any(point.baseline for point in outcome.points):
        return
    console.print("The answer", style="italic")
    table = Table(pad_edge=False)
    for column in ("", "rule", "epochs", *metrics, "test_top1"):
        justify: Literal["left", "right"] = "left" if column in ("", "rule") else "right"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column != "rule")
    best = [(f"best {outcome.best.label}", outcome.best)] if outcome.best else []
    front = [(f"front {point.label}", point) for point in outcome.front if point is not outcome.best]
    baselines = [("baseline", point) for point in outcome.points if point.baseline]
    for kind, point in best + front + baselines:
        tests = [outcome.test_top1[r.label] for r in point.usable if r.label in outcome.test_top1]
        rule = point.label if point.baseline else point.values.get(RULE, plan.space.rule)
        table.add_row(
            kind,
            rule,
            f"{max((record.epoch for record in point.records), default=0)}",
            *(_spread([r.metrics[m] for r in point.usable if m in r.metrics]) for m in metrics),
            _spread(tests),
        )
    console.print(table)


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of a number over seeds."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean
