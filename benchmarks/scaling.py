"""What a sweep of ImageNet ResNet-18 asks of head, MLflow, storage and purse on many GPUs: arithmetic, nothing is run.

    python benchmarks/scaling.py --gpus 10 100 1000 --price 1.5

It takes what was measured from `results/` (the driver's time, MLflow's rates, a rule's cost) and assumes the rest, each
as an option. Every GPU trains a trial of its own to its end; early stopping makes a trial cheaper, and nothing dearer
but the suggestions, which come more often.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aln.alignment import METRICS
from aln.command import guarded
from aln.errors import AlnError

_RESULTS = Path(__file__).parent / "results"
TRAIN_IMAGES, IMAGE_BYTES = 1_281_167, 110_000  # of ImageNet 2012
PARAMETERS, LAYERS = 11_689_512, 21  # of ResNet-18; convolutions and the linear layer
_ROWS_OF_AN_EPOCH = 8  # losses, accuracies, learning rate, times
_PER_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What is not measured here.

    Attributes:
        images_per_second: of plain backprop on one GPU; 88 epochs in 187.3 min on an A100 (FFCV's published ResNet-18).
        price: of a GPU-hour, in whatever money.
        epochs: of a run.
        align_every: epochs between two measurements of every layer's alignment.
        checkpoint_every: epochs between two checkpoints.
        kept: checkpoints of a run that stay.
    """

    images_per_second: float
    price: float
    epochs: int
    align_every: int
    checkpoint_every: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `results/` holds.

    Attributes:
        epoch_seconds: CPU time of the driver for a reported epoch: study, early stopping, MLflow's spool, the table.
        suggestion_seconds: CPU time of a suggestion of TPE that knows 1,000 trials.
        row_seconds: CPU time of the driver for a row of MLflow's, sent an epoch at a time to a server on PostgreSQL.
        mlflow_request_seconds: what that server takes for a request, its rows left out. Each run's epoch is one.
        mlflow_row_seconds: what it takes for each of the rows; both from requests of 10 and of 1,000.
        rule_cost: a training step of information alignment over one of backprop, ResNet-18.
        row_bytes: of a row of MLflow's in PostgreSQL with its indexes.
    """

    epoch_seconds: float
    suggestion_seconds: float
    row_seconds: float
    mlflow_request_seconds: float
    mlflow_row_seconds: float
    rule_cost: float = 1.55
    row_bytes: float = 362.0


def measured() -> Measured:
    """What was measured."""
    growth = json.loads((_RESULTS / "sweep_growth.json").read_text(encoding="utf-8"))
    (row,) = [row for row in growth["rows"] if (row["layer"], row["sampler"], row["trials"]) == ("search", "tpe", 1000)]
    asking = row["of_it_asking"]["late"]
    stores = json.loads((_RESULTS / "store_rates.json").read_text(encoding="utf-8"))
    server = stores["mlflow"]["server on postgresql"]
    few, many = (size / server[f"rows_per_second_{size}"] for size in (10, 1000))
    each = (many - few) / (1000 - 10)
    return Measured(
        epoch_seconds=(row["milliseconds"]["late"] - asking) / 4 / 1000,  # trials of four epochs
        suggestion_seconds=asking / 1000,
        row_seconds=server["cpu_milliseconds_per_row_10"] / 1000,
        mlflow_request_seconds=few - 10 * each,
        mlflow_row_seconds=each,
    )


def scaled(gpus: int, assumed: Assumed, known: Measured) -> dict[str, float]:
    """One line of the table: so many GPUs."""
    epoch = TRAIN_IMAGES * known.rule_cost / assumed.images_per_second  # seconds of a GPU
    epochs_per_second = gpus / epoch
    rows_of_an_epoch = _ROWS_OF_AN_EPOCH + LAYERS + len(METRICS) * LAYERS / assumed.align_every
    rows = epochs_per_second * rows_of_an_epoch
    checkpoint = 4 * 4 * PARAMETERS  # float32: W, B and the momentum of both
    run_hours = assumed.epochs * epoch / 3600
    return {
        "gpus": gpus,
        "epochs_per_second": epochs_per_second,
        "head_cores": epochs_per_second * known.epoch_seconds
        + epochs_per_second / assumed.epochs * known.suggestion_seconds
        + rows * known.row_seconds,
        "rows_per_second": rows,
        "share_of_mlflow": epochs_per_second * known.mlflow_request_seconds + rows * known.mlflow_row_seconds,
        "rows_gigabytes_per_day": rows * known.row_bytes * _PER_DAY / 1e9,
        "checkpoint_megabytes_per_second": epochs_per_second * checkpoint / assumed.checkpoint_every / 1e6,
        "checkpoint_terabytes_per_1000_runs": 1000 * assumed.kept * checkpoint / 1e12,
        "reading_gigabytes_per_second": gpus * assumed.images_per_second / known.rule_cost * IMAGE_BYTES / 1e9,
        "runs_per_day": gpus * 24 / run_hours,
        "gpu_hours_per_run": run_hours,
        "price_per_run": run_hours * assumed.price,
    }


def most_gpus(assumed: Assumed, known: Measured) -> dict[str, float]:
    """How many GPUs fill one core of the head, and MLflow."""
    one = scaled(1, assumed, known)
    return {"head_core": 1 / one["head_cores"], "mlflow": 1 / one["share_of_mlflow"]}


def command(options: argparse.Namespace, console: Console) -> int:
    """Prints the table and writes it with all that it stands on."""
    given: dict[str, Any] = {
        "--" + name.replace("_", "-"): value for name, value in vars(options).items() if name not in ("gpus", "out")
    }
    given |= {"--gpus": min(options.gpus)}
    if wrong := [name for name, value in given.items() if value <= 0]:
        raise AlnError("\n".join(f"{name} {given[name]:g}: expected more than 0" for name in wrong))
    assumed = Assumed(**{name: getattr(options, name) for name in Assumed.__dataclass_fields__})
    known = measured()
    rows, most = [scaled(gpus, assumed, known) for gpus in options.gpus], most_gpus(assumed, known)
    table = Table("", *(f"{row['gpus']:,}" for row in rows), title="GPUs", title_justify="left")
    for key in list(rows[0])[1:]:
        table.add_row(key, *(f"{row[key]:,.3g}" if row[key] < 100 else f"{row[key]:,.0f}" for row in rows))
    console.print(table)
    console.print(
        f"One core of the head is full at {most['head_core']:,.0f} GPUs, MLflow at {most['mlflow']:,.0f}.",
        highlight=False,
    )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        content = {"benchmark": "scaling", "assumed": asdict(assumed), "measured": asdict(known)}
        options.out.write_text(json.dumps({**content, "rows": rows, "full_at_gpus": most}, indent=1) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    found = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    found.add_argument("--gpus", nargs="+", type=int, default=[10, 100, 1000], metavar="N")
    found.add_argument("--images-per-second", type=float, default=88 * TRAIN_IMAGES / (187.3 * 60), metavar="X")
    found.add_argument("--price", type=float, default=1.5, metavar="X", help="of a GPU-hour")
    found.add_argument("--epochs", type=int, default=90, metavar="N")
    found.add_argument("--align-every", type=int, default=10, metavar="EPOCHS")
    found.add_argument("--checkpoint-every", type=int, default=5, metavar="EPOCHS")
    found.add_argument("--kept", type=int, default=3, metavar="N", help="checkpoints of a run that stay")
    found.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    return found


if __name__ == "__main__":
    sys.exit(guarded(command, parser().parse_args()))
