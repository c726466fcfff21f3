"""`python -m aln.sweep SPACE`: search a learning rule's coefficients and compare the best with the baselines."""

# The clock starts before the imports, which are part of what a person waits for.
# ruff: noqa: E402

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from aln.command import add_settings, guarded, runnable
from aln.config import (
    Document,
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
from aln.space import SearchSpace, parse_space, sampler_problems
from aln.sweep_folder import SweepFolder

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
    add_settings(parser, "change the sweep: run.epochs=5 …")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    return parser


def _main(options: argparse.Namespace, console: Console) -> int:
    name, folder, sweep, base, space = _resumed(options) if options.resume else _begun(options)

    # Ray, Optuna and MLflow take seconds to import: a mistake in a file should not wait for them.
    from aln.search.interruption import Interruption
    from aln.search.plan import SweepPlan
    from aln.search.sweeper import Sweeper
    from aln.sweep_summary import show_estimate, show_outcome, show_plan

    plan = SweepPlan(name=name, space=space, sweep=sweep, base=base, folder=folder.path, remote=folder.remote)
    show_plan(plan, console)
    if options.dry_run:
        show_estimate(plan, console)
        return 0
    resuming = runnable(f"python -m aln.sweep {folder.resuming}")

    def show_how_to_go_on() -> None:
        console.print(f"Go on with it by {resuming}", highlight=False, soft_wrap=True)

    try:
        with Interruption(console, resuming) as interruption:
            sweeper = Sweeper(
                plan=plan,
                folder=folder,
                console=console,
                interruption=interruption,
                resume=bool(options.resume),
                began=BEGAN,
            )
            outcome = sweeper.run()
    except KeyboardInterrupt:
        if folder.is_described():
            show_how_to_go_on()
        raise
    show_outcome(plan, outcome, console)
    if outcome.interrupted or outcome.ended:
        show_how_to_go_on()
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
    if folder.exists():
        again = f"go on with it by --resume {name}, or " if folder.is_described() else ""
        there = folder.path if folder.path.exists() else folder.remote
        message = f"is '{name}', but {there} exists; {again}choose another name"
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


if __name__ == "__main__":
    sys.exit(main())
