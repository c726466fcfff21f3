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

from aln.build import build_model, load_data
from aln.checkpoint_folder import CHECKPOINTS, CheckpointFolder
from aln.command import guarded, relative, runnable
from aln.config import Document, RunConfig, check_name, parse_run, preset_names, read_run, with_settings
from aln.conversion import coverage
from aln.engine import EpochResult
from aln.errors import CheckpointError, ConfigError, Problem
from aln.job import Job, checkpoints_of
from aln.preflight import make_folder
from aln.progress import TrainingProgress

if TYPE_CHECKING:
    from torch import nn

    from aln.distributed import DistributedJob
    from aln.tracking import TrackedRun, Tracker


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (0 trained, 1 diverged, 2 bad input)."""
    return guarded(_main, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aln.train", description=__doc__)
    presets = ", ".join(preset_names())
    parser.add_argument("run", metavar="PRESET|FILE", nargs="?", help=f"a YAML file or one of: {presets}")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change the run: optimizer.lr=0.05 …"
    )
    parser.add_argument("--workers", type=int, help="how many train together, on the Ray cluster if more than one")
    parser.add_argument("--name", help="name of the run and of its folder (default: rule, model, data and time)")
    parser.add_argument("--storage", type=Path, default=Path("results"), help="where run folders go (default: results)")
    parser.add_argument("--experiment", help="MLflow experiment (default: the data set's name)")
    parser.add_argument("--resume", action="store_true", help="continue the run called --name, as it was described")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the whole configuration, stop")
    return parser


def _main(options: argparse.Namespace, console: Console) -> int:
    document = _described(options)
    workers = [] if options.workers is None else [f"resources.workers={options.workers}"]
    config = parse_run(with_settings(document, [*options.set, *workers]))
    if options.dry_run:
        console.print(config.to_yaml(), highlight=False, markup=False, soft_wrap=True, end="")
        return 0
    default_name = f"{config.rule.name}-{config.model.name}-{config.data.name}-{datetime.now():%Y%m%d-%H%M%S}"
    name = check_name(options.name or default_name.replace(":", "."))
    folder = options.storage / name
    if folder.exists() and not options.resume:
        message = f"is '{name}', but {folder} exists; continue it with --resume, or choose another name"
        raise ConfigError([Problem(key="--name", message=message)])
    checkpoints = checkpoints_of(config, folder / CHECKPOINTS)
    if options.resume and checkpoints.newest() is None:
        raise CheckpointError(f"{checkpoints.storage.root}: no such checkpoint")
    with _job(config, checkpoints, console) as job:
        # MLflow takes seconds to import: a mistake in a file should not wait for it.
        from aln.tracking import SPOOL, Tracker

        tracker = Tracker(options.experiment or config.data.name, spool=folder / SPOOL)
        if not options.resume:
            make_folder(folder)
        tracked = tracker.run(name, {"kind": "run", "run": name}, fresh=not options.resume)
        tracked.describe(config)
        tracked.tag(checkpoints=str((folder / CHECKPOINTS).resolve()))
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
            tracked.finish(status)
            if missing := tracker.close():
                console.print(missing, highlight=False, soft_wrap=True)
            if status in ("interrupted", "failed") and checkpoints.newest() is not None:
                again = runnable(f"python -m aln.train --resume --name {name}")
                console.print(f"continue it with {again}", highlight=False, soft_wrap=True)
        if status == "diverged":
            console.print(f"Diverged in epoch {job.epoch + 1}: a loss or a weight was not finite.")
        else:
            accuracy = f"Test top-1 {test.top1:.2f} %, top-5 {test.top5:.2f} %, loss {test.loss:.4f}"
            console.print(accuracy, highlight=False)
            _show(console, "checkpoints", relative(folder / CHECKPOINTS))
    _show_runs(tracker, console)
    return 1 if status == "diverged" else 0


@contextmanager
def _job(config: RunConfig, checkpoints: CheckpointFolder, console: Console) -> Iterator[Job | DistributedJob]:
    """The training, by this process or by many workers."""

    def tell(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    def aligned(model: nn.Module) -> None:
        tell(f"{config.rule.name} on {config.model.name}: {coverage(model)}.")

    if config.resources.workers == 1:
        job = Job(config, checkpoints, tell=tell)
        aligned(job.run.state.model)
        yield job
        return
    # What cannot be built is refused before anything starts; on the CPU, since this process has no other device.
    aligned(build_model(config, load_data(config.data)))
    from aln.distributed import DistributedJob

    with DistributedJob(config, checkpoints.storage.root, tell) as distributed:
        yield distributed


def _show(console: Console, label: str, value: object) -> None:
    console.print(f"  {label:<13}  {value}", highlight=False, soft_wrap=True)


def _show_runs(tracker: Tracker, console: Console) -> None:
    """Says how to look at the run beside others."""
    from aln.tracking import ui_command, ui_page

    if command := ui_command(tracker.uri):
        _show(console, "compare runs", runnable(command))
    _show(console, "in a browser", ui_page(tracker.uri, tracker.experiment_id))


def _described(options: argparse.Namespace) -> Document:
    """What the preset or file describes; without one, what the checkpoint of the resumed run does."""
    if options.run is not None:
        return read_run(options.run)
    if not options.resume:
        raise ConfigError([Problem(key="PRESET|FILE", message=f"is missing (presets: {', '.join(preset_names())})")])
    if options.name is None:
        raise ConfigError([Problem(key="--name", message="is missing: --resume continues the run of that name")])
    checkpoints = CheckpointFolder(options.storage / check_name(options.name) / CHECKPOINTS)
    found = checkpoints.newest()
    if found is None:
        raise CheckpointError(f"{checkpoints.storage.root}: no such checkpoint")
    return Document(found.content["description"], source=found.address)


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
