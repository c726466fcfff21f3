"""How fast databases and servers take what a sweep writes: MLflow's rows, and Optuna's reports beside aln's journal.

    export PGPASSWORD=…                                   # or ~/.pgpass: passwords are for no command line
    python benchmarks/store_rates.py --mlflow sqlite=sqlite:///a.db postgresql=postgresql://me@host/mlflow \\
        server=http://127.0.0.1:5000 --studies sqlite=sqlite:///b.db postgresql=postgresql://me@host/optuna

Of MLflow: rows a second (a row is one metric of one epoch) of one writer, by ten a request, as for an epoch, and by
1,000, as when `aln` catches up; and this process's CPU time a row. Of Optuna: milliseconds until a reported epoch is
stored. Stores take turns, round by round; figures are medians over rounds. The databases of MLflow and of Optuna are
two, for both have a table `alembic_version`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from environment import load, machine, versions
from mlflow import MlflowClient
from mlflow.entities import Metric
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from rich.console import Console
from rich.table import Table

from aln.command import guarded
from aln.errors import AlnError
from aln.search.journal import Journal

ALONE, TOGETHER = 10, 1000
_BATCHES = {ALONE: 20, TOGETHER: 3}


class Rows:
    """One run of an MLflow store, to which rows are written."""

    def __init__(self, uri: str) -> None:
        self._client = MlflowClient(uri)
        name = f"store_rates {time.time_ns()}"
        self._run = self._client.create_run(self._client.create_experiment(name)).info.run_id
        self._step = 0
        self.write(ALONE)  # makes connections

    def write(self, count: int) -> None:
        """One request with so many rows."""
        self._step += 1
        rows = [Metric(f"metric/{number}", 0.5, int(time.time() * 1000), self._step) for number in range(count)]
        self._client.log_batch(self._run, metrics=rows)

    def measure(self) -> dict[str, float]:
        """Rows a second by size of request, and milliseconds of this process's CPU a row."""
        found = {}
        for count, batches in _BATCHES.items():
            began, cpu = time.perf_counter(), time.process_time()
            for _ in range(batches):
                self.write(count)
            found[f"rows_per_second_{count}"] = count * batches / (time.perf_counter() - began)
            found[f"cpu_milliseconds_per_row_{count}"] = 1000 * (time.process_time() - cpu) / (count * batches)
        return found


class Reports:
    """One study of a store of Optuna's, to which epochs are reported."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage, self._step = storage, 0
        study = storage.create_new_study([StudyDirection.MAXIMIZE], f"store_rates {time.time_ns()}")
        self._trial = storage.create_new_trial(study)

    def measure(self) -> dict[str, float]:
        """Milliseconds a report."""
        began, reports = time.perf_counter(), 50
        for _ in range(reports):
            self._step += 1
            self._storage.set_trial_intermediate_value(self._trial, self._step, 0.5)
        return {"milliseconds_per_report": 1000 * (time.perf_counter() - began) / reports}


def medians(stores: Mapping[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, dict[str, float]]:
    """What each store measures, in turns."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in stores}
    for _ in range(rounds):
        for name, measure in stores.items():
            measured[name].append(measure())
    return {name: {key: statistics.median(one[key] for one in of) for key in of[0]} for name, of in measured.items()}


def addresses(given: list[str]) -> dict[str, str]:
    """`NAME=URI` arguments. Raises `AlnError` naming one that is none."""
    pairs = [argument.partition("=") for argument in given]
    if wrong := [name for name, _, uri in pairs if not name or "://" not in uri]:
        raise AlnError(f"{wrong[0]}: expected NAME=URI, such as postgresql=postgresql://me@host/mlflow")
    return {name: uri for name, _, uri in pairs}


def table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    """A line a store."""
    found = Table("store", *next(iter(rows.values())), title=title, title_justify="left")
    for name, numbers in rows.items():
        found.add_row(name, *(f"{number:.3g}" if number < 100 else f"{number:,.0f}" for number in numbers.values()))
    return found


def command(options: argparse.Namespace, console: Console) -> int:
    """Measures all stores, prints them and writes the results."""
    if options.rounds < 1:
        raise AlnError(f"--rounds {options.rounds}: expected at least 1")
    mlflow, studies = addresses(options.mlflow), addresses(options.studies)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, Any] = {
        "benchmark": "store_rates",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "n": options.rounds,
        "machine": machine(),
        "versions": versions("mlflow", "optuna", "sqlalchemy", "psycopg"),
    }
    with tempfile.TemporaryDirectory() as folder:
        of_mlflow = {name: Rows(uri).measure for name, uri in mlflow.items()}
        found["mlflow"] = medians(of_mlflow, options.rounds)
        of_optuna = {"journal": Reports(Journal(Path(folder) / "study.log")).measure}
        of_optuna |= {name: Reports(RDBStorage(uri)).measure for name, uri in studies.items()}
        found["studies"] = medians(of_optuna, options.rounds)
    found["load_average"] = load()
    for title in ("mlflow", "studies"):
        if found[title]:
            console.print(table(title, found[title]))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    found = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    found.add_argument("--mlflow", nargs="+", default=[], metavar="NAME=URI", help="MLflow's stores and servers")
    found.add_argument("--studies", nargs="+", default=[], metavar="NAME=URI", help="databases for Optuna's studies")
    found.add_argument("--rounds", type=int, default=9, metavar="N")
    found.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    return found


if __name__ == "__main__":
    sys.exit(guarded(command, parser().parse_args()))
