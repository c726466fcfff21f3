"""`python -m aln.sweep SPACE`: search a learning rule's coefficients and compare the best with the baselines."""

# The clock starts before the imports, which are part of what a person waits for.
# ruff: noqa: E402

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse
import itertools
import os
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from aln.command import guarded, relative, runnable
from aln.config import Document, check_name, parse_sweep, read_document, sound_part, with_settings
from aln.errors import ConfigError, Problem
from aln.space import Range, format_point, format_value, parse_space, sampler_problems

if TYPE_CHECKING:
    from aln.search import SweepOutcome, SweepPlan

_DEFAULT_SWEEP = Path("sweeps/digits.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (0 found something, 1 nothing trained, 2 bad input)."""
    return guarded(_main, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aln.sweep", description=__doc__)
    parser.add_argument("space", type=Path, help="search space (search_spaces/*.yaml)")
    parser.add_argument(
        "--sweep", type=Path, help=f"on what and how far (sweeps/*.yaml; default {_DEFAULT_SWEEP}, the embedded digits)"
    )
    parser.add_argument("--trials", type=int, help="number of suggested trials, baselines not counted")
    parser.add_argument("--name", help="name of the sweep and of its folder (default: space, sweep and time)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change the sweep: run.epochs=5 …"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    return parser


def _main(options: argparse.Namespace, console: Console) -> int:
    problems: list[Problem] = []
    run: Any = None
    sweep = space = None
    try:
        document = _sweep_document(options)
        run = document.content.get("run")
        sweep, base = parse_sweep(document)
    except ConfigError as error:
        problems += error.problems
    try:
        space = parse_space(read_document(options.space), sound_part(run, problems))
    except ConfigError as error:
        problems += error.problems
    if sweep and space:
        problems += sampler_problems(sweep, space)
    if problems or not sweep or not space:
        raise ConfigError(problems)
    storage = Path(sweep.storage).resolve()
    if options.name is None:
        name = _unused(storage, f"{space.name}-{Path(document.source).stem}-{datetime.now():%Y%m%d-%H%M%S}")
    else:
        name = check_name(options.name)
        if (storage / name).exists():
            message = f"is '{name}', but {storage / name} exists; choose another name"
            raise ConfigError([Problem(key="--name", message=message)])
    folder = storage / name

    # Ray, Optuna and MLflow take seconds to import: a mistake in a file should not wait for them.
    from aln.search import SweepPlan, run_sweep

    plan = SweepPlan(name=name, space=space, sweep=sweep, base=base, folder=folder)
    _show_plan(plan, console)
    if options.dry_run:
        _show_estimate(plan, console)
        return 0
    outcome = run_sweep(plan, console, BEGAN)
    _show_outcome(plan, outcome, console)
    return 130 if outcome.interrupted else 0 if outcome.best else 1


def _sweep_document(options: argparse.Namespace) -> Document:
    """The sweep's file with what the command line changes in it."""
    document = read_document(options.sweep or _default_sweep(options.space))
    settings = list(options.set)
    if options.trials is not None:
        budget = document.content.get("budget")
        key = "budget.trials" if isinstance(budget, dict) and "trials" in budget else "trials"
        settings.append(f"{key}={options.trials}")
    return with_settings(document, settings)


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
    table = Table(
        title=f"{plan.name}: {plan.space.rule} on {plan.base.data.name}, {plan.base.model.name}", title_justify="left"
    )
    table.add_column("searched")
    table.add_column("over")
    for key, parameter in plan.space.parameters.items():
        if isinstance(parameter, Range):
            scale = ", log" if parameter.log else f", step {parameter.step:g}" if parameter.step else ""
            table.add_row(key, f"{format_value(parameter.min)} … {format_value(parameter.max)}{scale}")
        else:
            table.add_row(key, " | ".join(format_value(value) for value in parameter.values))
    for key, value in plan.space.fixed.items():
        table.add_row(key, f"{format_value(value)} (fixed)", style="dim")
    console.print(table)
    sweep, run = plan.sweep, plan.base
    baselines = f" and the baselines {', '.join(sweep.baselines)}" if sweep.baselines else ""
    acts = sweep.scheduler.name == "asha" and sweep.scheduler.grace < run.epochs
    stopping = f"ASHA from epoch {sweep.scheduler.grace}" if acts else "no early stopping"
    console.print(
        f"{sweep.trials} trials{baselines}, at most {run.epochs} epochs each; {sweep.sampler.name}, {stopping}."
    )
    console.print(
        f"A trial takes {run.resources.cpus} CPU cores and {run.resources.gpus:g} GPUs. Results go to {plan.folder}.",
        soft_wrap=True,
    )


def _show_estimate(plan: SweepPlan, console: Console) -> None:
    """Prints how many trials fit at once and how long they take, from one timed epoch in the middle of the space."""
    from aln.search import slots
    from aln.timing import time_epoch

    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    fit = min(slots(plan.base.resources, cpus, gpus), plan.sweep.max_concurrent or sys.maxsize)
    console.print(f"This machine ({cpus} CPU cores, {gpus} GPUs) holds {fit} trials at once.", highlight=False)
    if fit:
        seconds = time_epoch(plan.config(plan.example()))
        trials = plan.sweep.trials + len(plan.sweep.baselines)
        hours = trials * plan.base.epochs * seconds / fit / 3600
        total = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
        console.print(
            f"An epoch takes about {seconds:.2g} s: at most {total} for {trials} trials, less with early stopping.",
            highlight=False,
            soft_wrap=True,
        )


def _show_outcome(plan: SweepPlan, outcome: SweepOutcome, console: Console) -> None:
    """Prints the answer: the best trial beside the baselines, its coefficients, and the commands that go on."""
    from aln.tracking import ui_command, ui_page

    metric = plan.sweep.metric
    table = Table(title="The answer", title_justify="left")
    for column in ("", "rule", "epochs", metric, "test_top1"):
        table.add_column(column, justify="left" if column in ("", "rule") else "right")
    rows = [("best trial", outcome.best)] if outcome.best else []
    rows += [("baseline", record) for record in outcome.records if record.baseline]
    for kind, record in rows:
        value = f"{record.metrics[metric]:.2f}" if metric in record.metrics else "-"
        test = outcome.test_top1.get(record.label)
        rule = plan.space.rule if record is outcome.best else record.label
        table.add_row(kind, rule, f"{record.epoch}", value, "-" if test is None else f"{test:.2f}")
    console.print(table)
    counts = Counter(record.status for record in outcome.records if not record.baseline)
    ended = ", ".join(f"{count} {status}" for status, count in counts.items())
    cut = " The sweep was interrupted." if outcome.interrupted else ""
    console.print(f"Trials: {ended}.{cut}", highlight=False)
    console.print(
        f"{outcome.seconds:.0f} s, of which training took {100 * outcome.training_share:.0f} % of every slot's time."
    )

    def show(label: str, value: object) -> None:
        console.print(f"  {label:<17}  {value}", highlight=False, soft_wrap=True)

    if outcome.best is None:
        console.print("[bold]No searched trial trained: every one diverged or failed.[/bold]")
    else:
        point = format_point(outcome.best.point)
        console.print(f"Best trial {outcome.best.label}: {point}", highlight=False, soft_wrap=True)
        best = relative(plan.folder / "best.yaml")
        show("its configuration", best)
        show("train it again", runnable(f"python -m aln.train {best}"))
    if (plan.folder / "plots").exists():
        show("plots", relative(plan.folder / "plots"))
    show("all trials", relative(plan.folder / "trials.csv"))
    if command := ui_command(outcome.tracker.uri):
        show("compare trials", runnable(command))
    show("in a browser", ui_page(outcome.tracker.uri, outcome.tracker.experiment_id))


if __name__ == "__main__":
    sys.exit(main())
