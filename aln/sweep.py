"""`python -m aln.sweep SPACE`: search a learning rule's coefficients and compare the best with the baselines."""

# The clock starts before the imports, which are part of what a person waits for.
# ruff: noqa: E402

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse
import itertools
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from aln import memory
from aln.command import guarded, relative, runnable
from aln.config import (
    Document,
    Resources,
    RunConfig,
    SweepConfig,
    check_name,
    flatten,
    parse_sweep,
    read_document,
    sound_part,
    with_settings,
)
from aln.errors import ConfigError, Problem
from aln.space import Range, SearchSpace, When, format_point, format_value, parse_space, sampler_problems
from aln.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from aln.search.cost import Cost
    from aln.search.plan import SweepPlan
    from aln.search.sweeper import SweepOutcome

_DEFAULT_SWEEP = Path("sweeps/digits.yaml")
# How far a sweep goes and how it runs may change when it is resumed; what it searches and on what may not.
_CHANGEABLE = ("budget", "trials", "max_failures", "restarts", "stall_timeout", "max_concurrent")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (0 found something, 1 nothing trained, 2 bad input, 130 interrupted)."""
    return guarded(_main, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aln.sweep", description=__doc__)
    parser.add_argument("space", type=Path, nargs="?", help="search space (search_spaces/*.yaml)")
    parser.add_argument(
        "--sweep", type=Path, help=f"on what and how far (sweeps/*.yaml; default {_DEFAULT_SWEEP}, the embedded digits)"
    )
    parser.add_argument("--trials", type=int, help="number of suggested trials in all, baselines not counted")
    parser.add_argument("--name", help="name of the sweep and of its folder (default: space, sweep and time)")
    parser.add_argument("--resume", metavar="NAME", help="go on with the sweep of that name, as it was described")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change the sweep: run.epochs=5 …"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    return parser


def _main(options: argparse.Namespace, console: Console) -> int:
    name, folder, sweep, base, space = _resumed(options) if options.resume else _begun(options)

    # Ray, Optuna and MLflow take seconds to import: a mistake in a file should not wait for them.
    from aln.search.plan import SweepPlan
    from aln.search.sweeper import run_sweep

    plan = SweepPlan(name=name, space=space, sweep=sweep, base=base, folder=folder.path, remote=folder.remote)
    _show_plan(plan, console)
    if options.dry_run:
        _show_estimate(plan, console)
        return 0
    try:
        outcome = run_sweep(plan, console, BEGAN, resume=bool(options.resume))
    except KeyboardInterrupt:
        if folder.is_described():
            _show_how_to_go_on(plan, console)
        raise
    _show_outcome(plan, outcome, console)
    return 130 if outcome.interrupted else 0 if outcome.best else 1


def _begun(options: argparse.Namespace) -> tuple[str, SweepFolder, SweepConfig, RunConfig, SearchSpace]:
    """A new sweep. Raises `ConfigError` with every problem of both its files."""
    if options.space is None:
        raise ConfigError([Problem(key="SPACE", message="is missing: a file of search_spaces, or --resume NAME")])
    source = options.sweep or _default_sweep(options.space)
    sweep, base, space = _parsed(lambda: _changed(read_document(source), options), options.space)
    if options.name is None:
        name = _unused(Path(sweep.storage), f"{space.name}-{source.stem}-{datetime.now():%Y%m%d-%H%M%S}")
    else:
        name = check_name(options.name)
    folder = SweepFolder(sweep.storage, name)
    if folder.path.exists():
        again = f"go on with it by --resume {name}, or " if folder.is_described() else ""
        message = f"is '{name}', but {folder.path} exists; {again}choose another name"
        raise ConfigError([Problem(key="--name", message=message)])
    return name, folder, sweep, base, space


def _resumed(options: argparse.Namespace) -> tuple[str, SweepFolder, SweepConfig, RunConfig, SearchSpace]:
    """The sweep called `--resume`, as it was described. Raises `ConfigError` naming each setting that differs."""
    name = check_name(options.resume, "--resume")
    given = Document({}) if options.sweep is None else read_document(options.sweep)
    storage = _changed(given, options).content.get("storage", SweepConfig.model_fields["storage"].default)
    folder = SweepFolder(str(storage), name)
    described, space_document = folder.documents()
    before, _ = parse_sweep(described)
    sweep, base = parse_sweep(_changed(described if options.sweep is None else given, options))
    problems = [
        Problem(key=key, message=f"is {new!r}, but the sweep began with {old!r}; {_WHAT_MAY_CHANGE}")
        for key, old, new in _differences(before, sweep)
    ]
    space = parse_space(space_document, sweep.run)
    if options.space is not None and parse_space(read_document(options.space), sweep.run).plain() != space.plain():
        message = f"differs from {space_document.source}, which the sweep began with"
        problems.append(Problem(key=str(options.space), message=message))
    if problems:
        raise ConfigError(problems)
    return name, folder, sweep, base, space


def _changed(document: Document, options: argparse.Namespace) -> Document:
    """A sweep's file with what the command line changes in it."""
    settings = list(options.set)
    if options.trials is not None:
        budget = document.content.get("budget")
        there = isinstance(budget, dict) and budget.get("trials") is not None  # a sweep's own description has null
        key = "budget.trials" if there else "trials"
        settings.append(f"{key}={options.trials}")
    return with_settings(document, settings)


_WHAT_MAY_CHANGE = f"a sweep that is resumed may change {', '.join(_CHANGEABLE[:-1])} and {_CHANGEABLE[-1]} alone"


def _differences(before: SweepConfig, now: SweepConfig) -> list[tuple[str, Any, Any]]:
    """Settings that differ and may not, under dotted keys, with both values."""
    old, new = (dict(flatten(config.plain())) for config in (before, now))
    return [
        (key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key.partition(".")[0] not in (*_CHANGEABLE, "storage")
    ]


def _parsed(sweep_file: Callable[[], Document], space_file: Path) -> tuple[SweepConfig, RunConfig, SearchSpace]:
    """Both files of a sweep. Raises `ConfigError` with the problems of both."""
    problems: list[Problem] = []
    run: Any = None
    sweep = space = None
    try:
        document = sweep_file()
        run = document.content.get("run")
        sweep, base = parse_sweep(document)
    except ConfigError as error:
        problems += error.problems
    try:
        space = parse_space(read_document(space_file), sound_part(run, problems))
    except ConfigError as error:
        problems += error.problems
    if sweep and space:
        problems += sampler_problems(sweep, space)
    if problems or not sweep or not space:
        raise ConfigError(problems)
    return sweep, base, space


def _unused(storage: Path, name: str) -> str:
    """The name, numbered if another sweep of the same second has it."""
    candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if not (storage / candidate).exists())


def _default_sweep(space: Path) -> Path:
    """`sweeps/digits.yaml` of the working folder, else the one beside the folder of the search space."""
    beside = space.resolve().parent.parent / _DEFAULT_SWEEP
    return beside if beside.exists() and not _DEFAULT_SWEEP.exists() else _DEFAULT_SWEEP


def _show_plan(plan: SweepPlan, console: Console) -> None:
    """Prints what will be searched, on what, and where results go."""
    rules = " or ".join(plan.space.rules)
    title = f"{plan.name}: {rules} on {plan.base.data.name}, {plan.base.model.name}"
    console.print(title, style="italic", highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("searched")
    table.add_column("over")
    for key, parameter in plan.space.parameters.items():
        if isinstance(parameter, Range):
            scale = ", log" if parameter.log else f", step {parameter.step:g}" if parameter.step else ""
            over = f"{format_value(parameter.min)} … {format_value(parameter.max)}{scale}"
        else:
            over = " | ".join(format_value(value) for value in parameter.values)
        table.add_row(key, over + _show_when(parameter.when))
    for key, value in plan.space.fixed.items():
        table.add_row(key, f"{format_value(value)} (fixed)", style="dim")
    for key, tie in plan.space.ties.items():
        as_what = f"{tie.factor:g} x {tie.to}" if tie.factor != 1 else f"as {tie.to}"
        table.add_row(key, as_what + _show_when(tie.when), style="dim")
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


def _show_when(when: When) -> str:
    """Under what a parameter is there, in words."""
    asked = [f"{key} is {' or '.join(map(format_value, values))}" for key, values in when.items()]
    return f", where {' and '.join(asked)}" if asked else ""


def _show_estimate(plan: SweepPlan, console: Console) -> None:
    """Prints how many trials fit at once, how long they take and what memory, from one in the middle of the space."""
    from aln.cluster import Cluster
    from aln.search.cost import cost_of
    from aln.worker_group import trials_at_once

    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    here = Cluster("this machine", [(cpus, gpus)])
    fit = min(trials_at_once(here, plan.base.resources), plan.sweep.max_concurrent or sys.maxsize)
    console.print(f"This machine ({cpus} CPU cores, {gpus} GPUs) holds {fit} trials at once.", highlight=False)
    if fit:
        cost = cost_of(plan.config(plan.example()))
        trials = plan.sweep.seeds * (plan.trials + len(plan.sweep.baselines))
        hours = trials * plan.base.epochs * cost.seconds / fit / 3600
        total = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
        console.print(
            f"An epoch takes about {cost.seconds:.2g} s: "
            f"at most {total} for {trials} trials, less with early stopping.",
            highlight=False,
            soft_wrap=True,
        )
        for line in memory_lines(cost, plan.base.resources, fit, memory.of_machine()):
            console.print(line, highlight=False, soft_wrap=True)


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


def _show_outcome(plan: SweepPlan, outcome: SweepOutcome, console: Console) -> None:
    """Prints the answer: the best trial beside the baselines, its coefficients, and the commands that go on."""
    from aln.tracking import ui_command, ui_page

    _show_answer(plan, outcome, console)
    counts = Counter(point.status for point in outcome.points if not point.baseline)
    ended = ", ".join(f"{count} {status}" for status, count in counts.items())
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
    if (plan.folder / "plots").exists():
        show("plots", relative(plan.folder / "plots"))
    show("all trials", relative(plan.folder / "trials.csv"))
    if command := ui_command(outcome.tracker.uri):
        show("compare trials", runnable(command))
    show("in a browser", ui_page(outcome.tracker.uri, outcome.tracker.experiment_id))
    if outcome.interrupted or outcome.ended:
        _show_how_to_go_on(plan, console)


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
        rule = point.label if point.baseline else point.values.get("rule.name", plan.space.rule)
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


def _show_how_to_go_on(plan: SweepPlan, console: Console) -> None:
    storage = plan.root.removesuffix(f"/{plan.name}")
    where = "" if storage == str(Path("results").resolve()) else f" --set storage={storage}"
    command = runnable(f"python -m aln.sweep --resume {plan.name}{where}")
    console.print(f"Go on with it by {command}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
