"""`python -m aln.validate CHECKPOINT`: accuracy, loss and alignment of a checkpoint, into an MLflow run of its own.

CHECKPOINT is a file, the folder of a run or of a sweep's trial, a URL of either, the name or id of an MLflow run, or
the name or folder of a sweep, which stands for its best trial.
Model and rule are those of the checkpoint's own description; the data set, too, unless another one is named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aln.alignment import LayerAlignment, flat_metrics
from aln.build import build, evaluate_split, load_weights
from aln.checkpoint import CHECKPOINT, read_checkpoint
from aln.checkpoint_folder import CHECKPOINTS, CheckpointFolder
from aln.command import add_settings, guarded, relative, runnable
from aln.config import Document, RunConfig, parse_run, with_settings
from aln.engine import measure
from aln.errors import CheckpointError, ConfigError, Problem
from aln.hints import hint_of_path
from aln.sweep_folder import SWEEP
from aln.threads import compute_with

_RESULTS = Path("results")  # where runs and sweeps are unless they were told otherwise

# What an evaluation may differ in from the run that left the checkpoint.
_FREE = ("data", "compute", "resources", "batch_size")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (0 evaluated, 2 bad input)."""
    return guarded(_main, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aln.validate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help="file, folder, URL, MLflow run or sweep")
    where.add_argument("--checkpoint", metavar="CHECKPOINT", dest="named", help="the same, by name")
    parser.add_argument("--best", action="store_true", help="of a folder, the best checkpoint in place of the newest")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--data", metavar="NAME", help="another data set; its options with --set data.KEY=VALUE")
    add_settings(parser, f"evaluate otherwise than the run did: {', '.join(_FREE)} and their keys")
    parser.add_argument("--experiment", help="MLflow experiment (default: the data set's name)")
    parser.add_argument("--no-log", action="store_true", help="print only, leave MLflow alone")
    return parser


def _main(options: argparse.Namespace, console: Console) -> int:
    content, address = _found(options.checkpoint or options.named, options.best)
    settings = [*([f"data={options.data}"] if options.data else []), *options.set]
    config = _configuration(content, address, settings)
    compute_with(config.resources.cpus)
    run = build(config)
    load_weights(run, content, address)
    result = evaluate_split(run, options.split)
    console.print(
        f"{config.rule.name} {config.model.name} on the {options.split} split of {config.data.name}:", highlight=False
    )
    console.print(
        f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, loss {result.loss:.4f}, {result.examples} examples",
        highlight=False,
    )
    device = next(run.state.model.parameters()).device
    alignment = measure(run.state.model, run.source.to(device), run.settings)
    _show_alignment(alignment, console)
    if not options.no_log:
        prefix = {"validation": "val", "test": "test"}[options.split]
        numbers = {f"{prefix}_top1": result.top1, f"{prefix}_top5": result.top5, f"{prefix}_loss": result.loss}
        numbers |= {key: value for key, value in flat_metrics(alignment).items() if value == value}  # noqa: PLR0124 (nan)
        numbers |= {"examples": float(result.examples), "epoch": float(content["epoch"])}
        tags = {"kind": "validation", "checkpoint": address, "split": options.split}
        _log(config, options.experiment or config.data.name, numbers, tags, console)
    return 0


def _found(text: str, best: bool) -> tuple[Mapping[str, Any], str]:
    """Content and address of the checkpoint that was meant. Raises `CheckpointError` saying where it was looked for."""
    path = Path(text)
    if (path / CHECKPOINT).is_file():
        return read_checkpoint(path / CHECKPOINT), str(path / CHECKPOINT)
    if path.is_file() or text.endswith(".pt"):
        return read_checkpoint(text), text
    if (sweep := _sweep_folder(path)) is not None:
        return _of_sweep(sweep, best)
    places = [f"{text.rstrip('/')}/{CHECKPOINTS}", text] if path.is_dir() or "://" in text else _of_mlflow_run(text)
    if (found := _in(places, best)) is None:
        raise CheckpointError(f"{text}: no such checkpoint (looked in {', '.join(places)})")
    return found


def _in(places: Sequence[str], best: bool) -> tuple[Mapping[str, Any], str] | None:
    """The newest or the best checkpoint in the first of the places that has one."""
    for place in places:
        folder = CheckpointFolder(place)
        if (loaded := folder.best() if best else folder.newest()) is not None:
            return loaded.content, loaded.address
    return None


def _sweep_folder(path: Path) -> Path | None:
    """The folder of the sweep that was meant by its path or its name, if one was."""
    return next((folder.resolve() for folder in (path, _RESULTS / path) if (folder / SWEEP).is_file()), None)


def _of_sweep(folder: Path, best: bool) -> tuple[Mapping[str, Any], str]:
    """The checkpoint of the sweep's best trial."""
    from aln.search.best_trial import best_trial

    trial = best_trial(folder)
    if (found := _in([trial.checkpoints], best)) is None:
        described = relative(folder / "best.yaml")
        command = runnable(f"python -m aln.train {described}")
        message = f"no checkpoint of its best trial {trial.label} is in {trial.checkpoints}; this trains it: {command}"
        raise CheckpointError(f"{folder.name}: {message}")
    return found


def _of_mlflow_run(name_or_id: str) -> list[str]:
    """Where the MLflow run says that its checkpoints are; of several of that name, the newest."""
    from aln.tracking import find_runs

    runs = find_runs(name_or_id)
    if not runs:
        meant = hint_of_path(_RESULTS / name_or_id) or hint_of_path(Path(name_or_id))
        raise CheckpointError(f"{name_or_id}: no such checkpoint, neither a file nor a sweep nor an MLflow run{meant}")
    if runs[0].data.tags.get("kind") == "sweep":
        raise CheckpointError(f"{name_or_id}: is a sweep that is not in {_RESULTS}; name its folder")
    if (place := runs[0].data.tags.get("checkpoints")) is None:
        raise CheckpointError(f"{name_or_id}: the MLflow run {runs[0].info.run_id} does not say where checkpoints are")
    return [place]


def _configuration(content: Mapping[str, Any], address: str, settings: Sequence[str]) -> RunConfig:
    """The description that a checkpoint carries, with settings laid over it."""
    document = with_settings(Document(content["description"], source=address), settings)
    problems = [
        Problem(key=key, message=f"belongs to the checkpoint; expected a key of {', '.join(_FREE)}", source="--set")
        for key in document.settings
        if key.split(".")[0] not in _FREE
    ]
    if "data" not in document.content:
        message = f"{address} was imported and names no data set; name one with --set data=…"
        problems.append(Problem(key="data", message=message))
    if problems:
        raise ConfigError(problems)
    try:
        return parse_run(document)
    except ConfigError as error:
        if settings:
            raise
        raise CheckpointError(f"{address}: its configuration is no longer valid: {error}") from error


def _show_alignment(alignment: Mapping[str, LayerAlignment], console: Console) -> None:
    """Prints the angles of layers that have a feedback of their own."""
    columns = {"W to B": "angle", "dx to backprop's": "error_angle", "dW to backprop's": "gradient_angle"}
    rows = {
        name: [getattr(layer, metric) for metric in columns.values()]
        for name, layer in alignment.items()
        if any(getattr(layer, metric) > 0 for metric in columns.values())
    }
    if not rows:
        return
    table = Table(title="Angles (degrees)", title_justify="left")
    table.add_column("layer")
    for column in columns:
        table.add_column(column, justify="right")
    for name, angles in rows.items():
        table.add_row(name, *("" if angle != angle else f"{angle:.1f}" for angle in angles))  # noqa: PLR0124 (nan)
    console.print(table)


def _log(
    config: RunConfig, experiment: str, numbers: Mapping[str, float], tags: Mapping[str, str], console: Console
) -> None:
    """Writes the evaluation to a run of its own, and says where it is seen."""
    from aln.tracking import Tracker, ui_command, ui_page

    tracker = Tracker(experiment)
    name = f"validate-{config.rule.name}-{config.model.name}-{datetime.now():%Y%m%d-%H%M%S}"
    tracked = tracker.run(name, tags, fresh=True)
    tracked.describe(config)
    tracked.summarise(numbers)
    tracked.finish("completed")
    missing = tracker.close()
    lines = [missing] if missing else []
    lines += [runnable(command) for command in [ui_command(tracker.uri)] if command]
    for line in [*lines, ui_page(tracker.uri, tracker.experiment_id)]:
        console.print(f"  {line}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
