"""`python -m aln.study FILE`: several sweeps, one after the other, that answer a question together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from aln.command import add_settings, guarded, relative, runnable
from aln.config import check_name, read_document, with_settings
from aln.errors import AlnError, ConfigError, Problem
from aln.study.folder import StudyFolder
from aln.study.parsing import parse_study
from aln.study.plan import StudyPlan
from aln.sweep_folder import SweepFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (0 answered, 1 nothing trained, 2 bad input, 130 interrupted)."""
    return guarded(_main, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aln.study", description=__doc__)
    parser.add_argument("study", type=Path, nargs="?", help="a study (sweeps/*.yaml that have `stages`)")
    parser.add_argument("--name", help="name of the study and beginning of its sweeps' (default: the file's, and time)")
    parser.add_argument("--resume", metavar="NAME", help="go on with the study of that name, as it was described")
    parser.add_argument("--storage", help="with --resume, on another machine than before: the URL where the study is")
    add_settings(
        parser, "change the study: sweep.run.epochs=5 for all sweeps, stages.NAME.sweep.trials=8 for a stage's …"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    return parser


def _main(options: argparse.Namespace, console: Console) -> int:
    study, folder = _resumed(options) if options.resume else _begun(options)
    _show_plan(study, folder, console)
    if options.dry_run:
        return 0
    # Ray, Optuna and MLflow take seconds to import: a mistake in a file should not wait for them.
    from aln.report.page import write_report
    from aln.search.interruption import Interruption
    from aln.study.answer import cells, table, write_answer, write_trainings
    from aln.study.figure import draw_answer
    from aln.study.running import run_study

    if not options.resume:
        folder.begin(study)
    resuming = runnable(f"python -m aln.study {folder.resuming}")
    try:
        with Interruption(console, resuming) as interruption:
            ended = run_study(study, folder, console, interruption)
    except BaseException:
        console.print(f"Go on with the study by {resuming}", highlight=False, soft_wrap=True)
        raise
    found = cells(study.answer, ended)
    write_trainings(ended, folder.path / "trainings.csv")
    write_answer(found, folder.path / "answer.csv")
    if not found:
        console.print("[bold]There is no answer: nothing trained.[/bold]")
        return 1
    draw_answer(study, found, folder.path / "answer.png")
    console.print(study.question, style="italic", highlight=False, markup=False)
    console.print(table(study.answer, found))
    console.print(f"Tables and figure are in {relative(folder.path)}.", highlight=False, soft_wrap=True)
    try:
        page = write_report([sweep.plan.name for sweep in ended], folder.path / "report.html", title=study.question)
        console.print(f"All sweeps on one page: {relative(page)}", highlight=False, soft_wrap=True)
    except AlnError as error:  # of MLflow, on which the answer does not depend
        console.print(f"No report: {error}\n{resuming} writes it.", highlight=False, markup=False, soft_wrap=True)
    return 0


def _begun(options: argparse.Namespace) -> tuple[StudyPlan, StudyFolder]:
    """A new study. Raises `ConfigError` with every problem of all its files."""
    if options.study is None:
        raise ConfigError(
            [Problem(key="STUDY", message="is missing: a file of sweeps with `stages`, or --resume NAME")]
        )
    study = parse_study(with_settings(read_document(options.study), options.set))
    name = check_name(options.name or f"{options.study.stem}-{datetime.now():%Y%m%d-%H%M%S}")
    folder = StudyFolder(study.storage, name)
    if options.storage is not None:
        raise ConfigError([Problem(key="--storage", message="goes with --resume; a new study's is sweep.storage")])
    if folder.exists():
        message = f"is '{name}', but there is something of that name; --resume {name} goes on with a study"
        raise ConfigError([Problem(key="--name", message=message)])
    sweeps = [check_name(f"{name}-{planned.name}") for stage in study.stages for planned in stage.sweeps]
    if there := [sweep for sweep in sweeps if SweepFolder(study.storage, sweep).exists()]:
        message = f"is '{name}', but there are sweeps of the names {', '.join(there)}; choose another name"
        raise ConfigError([Problem(key="--name", message=message)])
    return study, folder


def _resumed(options: argparse.Namespace) -> tuple[StudyPlan, StudyFolder]:
    """The study called `--resume`, as it was described. Raises `ConfigError` if there is none, or it is to change."""
    given = {"STUDY": options.study, "--name": options.name, "--set": options.set}
    if other := [key for key, value in given.items() if value]:
        message = f"a study is resumed as it was described, without {', '.join(other)}"
        raise ConfigError([Problem(key="--resume", message=message)])
    name = check_name(options.resume, "--resume")
    study = parse_study(StudyFolder(options.storage or "results", name).description())
    return study, StudyFolder(study.storage, name)


def _show_plan(study: StudyPlan, folder: StudyFolder, console: Console) -> None:
    """Prints the question, and what each stage trains."""
    console.print(study.question, style="italic", highlight=False, markup=False)
    shown = Table()
    shown.add_column("sweep", overflow="fold")
    for column in ("trials", "seeds", "baselines", "epochs"):
        shown.add_column(column, justify="right")
    shown.add_column("model")
    trainings = 0
    for stage in study.stages:
        for planned in stage.sweeps:
            sweep, run = planned.sweep, planned.base
            trainings += sweep.seeds * (sweep.trials + len(sweep.baselines))
            numbers = [str(n) for n in (sweep.trials, sweep.seeds, len(sweep.baselines), run.epochs)]
            shown.add_row(planned.name, *numbers, run.model.name)
    console.print(shown)
    count = sum(len(stage.sweeps) for stage in study.stages)
    console.print(
        f"{count} sweeps, at most {trainings} trainings. Results go to {folder.path} and its neighbours.",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
