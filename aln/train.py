"""`python -m aln.train PRESET|FILE`: one run, with a progress bar, an MLflow run and a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from aln.build import build_model, load_data, require_same
from aln.command import add_settings, guarded, relative, runnable
from aln.config import Document, RunConfig, check_name, parse_run, preset_names, read_run, with_settings
from aln.conversion import coverage
from aln.engine import EpochResult
from aln.errors import ConfigError, Problem, StorageError
from aln.job import Job, checkpoints_of
from aln.progress import TrainingProgress
from aln.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from aln.distributed import DistributedJob
    from aln.tracking import TrackedRun, Tracker

_STORAGE = "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (0 trained, 1 diverged, 2 bad input)."""
    return guarded(_main, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aln.train", description=__doc__)
    presets = ", ".join(preset_names())
    parser.add_argument("run", metavar="PRESET|FILE", nargs="?", help=f"a YAML file or one of: {presets}")
    add_settings(parser, "change the run: optimizer.lr=0.05 …")
    parser.add_argument("--workers", type=int, help="how many train together, on the Ray cluster if more than one")
    parser.add_argument("--name", help="name of the run and of its folder (default: rule, model, data and time)")
    parser.add_argument(
        "--storage", default=_STORAGE, metavar="FOLDER|URL", help=f"where run folders go (default: {_STORAGE})"
    )
    parser.add_argument("--experiment", help="MLflow experiment (default: the data set's name)")
    parser.add_argument("--resume", action="store_true", help="continue the run called --name, as it was described")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the whole configuration, stop")
    return parser


def _main(options: argparse.Namespace, console: Console) -> int:
    begun = _begun(options)
    workers = [] if options.workers is None else [f"resources.workers={options.workers}"]
    document = begun if options.run is None else read_run(options.run)
    config = parse_run(with_settings(document or Document({}), [*options.set, *workers]))
    if options.dry_run:
        console.print(config.to_yaml(), highlight=False, markup=False, soft_wrap=True, end="")
        return 0
    default_name = f"{config.rule.name}-{config.model.name}-{config.data.name}-{datetime.now():%Y%m%d-%H%M%S}"
    name = check_name(options.name or default_name.replace(":", "."))
    folder = RunFolder(options.storage, name)
    if begun is not None:
        require_same(config, {"description": begun.content}, begun.source)
    elif folder.exists():
        message = f"is '{name}', but {folder.root} exists; continue it with --resume, or choose another name"
        raise ConfigError([Problem(key="--name", message=message)])
    with _job(config, folder, console) as job:
        # MLflow takes seconds to import: a mistake in a file should not wait for it.
        from aln.tracking import SPOOL, Tracker

        tracker = Tracker(options.experiment or config.data.name, spool=folder.local / SPOOL)
        if begun is None:
            folder.begin(config)
        folder.local.mkdir(parents=True, exist_ok=True)
        tracked = tracker.run(name, {"kind": "run", "run": name}, fresh=begun is None)
        tracked.begin()
        tracked.describe(config)
        tracked.tag(checkpoints=folder.checkpoints)
        status = "failed"
        try:
            last = _train(job, tracked, console)
            status = "diverged" if last is not None and last.diverged else "completed"
            if status == "completed":
                test = job.test()
                tracked.summarise({"test_top1": test.top1, "test_top5": test.top5, "test_loss": test.loss})
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            _end(tracker, tracked, status, console)
            if status in ("interrupted", "failed"):
                _show_how_to_go_on(name, options.storage, console)
        if status == "diverged":
            console.print(f"Diverged in epoch {job.epoch + 1}: a loss or a weight was not finite.")
        else:
            accuracy = f"Test top-1 {test.top1:.2f} %, top-5 {test.top5:.2f} %, loss {test.loss:.4f}"
            console.print(accuracy, highlight=False)
            here = folder.checkpoints
            _show(console, "checkpoints", here if "://" in here else relative(Path(here)))
    _show_runs(tracker, console)
    return 1 if status == "diverged" else 0


def _end(tracker: Tracker, tracked: TrackedRun, status: str, console: Console) -> None:
    """Tells MLflow how the run ended, and the person what MLflow has not heard."""
    try:
        tracked.finish(status)
    except StorageError:
        if status not in ("interrupted", "failed"):
            raise
        # What ended the run is raised already, and may well have the same cause.
    if missing := tracker.close():
        console.print(missing, highlight=False, soft_wrap=True)


@contextmanager
def _job(config: RunConfig, folder: RunFolder, console: Console) -> Iterator[Job | DistributedJob]:
    """The training, by this process or by many workers."""

    def tell(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    def aligned(model: nn.Module) -> None:
        tell(f"{config.rule.name} on {config.model.name}: {coverage(model)}.")

    if config.resources.workers == 1:
        job = Job(config, checkpoints_of(config, folder.checkpoints), tell=tell)
        aligned(job.run.state.model)
        yield job
        return
    # What cannot be built is refused before anything starts; on the CPU, since this process has no other device.
    aligned(build_model(config, load_data(config.data)))
    from aln.distributed import DistributedJob

    with DistributedJob(config, folder.checkpoints, tell) as distributed:
        yield distributed


def _show_how_to_go_on(name: str, storage: str, console: Console) -> None:
    where = "" if storage == _STORAGE else f" --storage {storage}"
    again = runnable(f"python -m aln.train --resume --name {name}{where}")
    console.print(f"continue it with {again}", highlight=False, soft_wrap=True)


def _show(console: Console, label: str, value: object) -> None:
    console.print(f"  {label:<13}  {value}", highlight=False, soft_wrap=True)


def _show_runs(tracker: Tracker, console: Console) -> None:
    """Says how to look at the run beside others."""
    from aln.tracking import ui_command, ui_page

    if command := ui_command(tracker.uri):
        _show(console, "compare runs", runnable(command))
    _show(console, "in a browser", ui_page(tracker.uri, tracker.experiment_id))


def _begun(options: argparse.Namespace) -> Document | None:
    """The description of the run that is resumed; None if none is."""
    if not options.resume:
        if options.run is None:
            presets = ", ".join(preset_names())
            raise ConfigError([Problem(key="PRESET|FILE", message=f"is missing (presets: {presets})")])
        return None
    if options.name is None:
        raise ConfigError([Problem(key="--name", message="is missing: --resume continues the run of that name")])
    return RunFolder(options.storage, check_name(options.name)).description()


def _train(job: Job | DistributedJob, tracked: TrackedRun, console: Console) -> EpochResult | None:
    """Trains to the end; returns the last epoch's result."""
    result = None
    with TrainingProgress(console, job.config.epochs, job.epoch) as progress:
        for result in job.train(on_step=progress.step):
            tracked.log(result.metrics(), result.epoch)
            progress.epoch(result)
    return result


if __name__ == "__main__":
    sys.exit(main())
