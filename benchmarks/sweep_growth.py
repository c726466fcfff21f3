"""What a sweep's driver spends on a trial, in time and memory, as the number of trials grows. Nothing is trained.

    python benchmarks/sweep_growth.py                                  # all layers, 100 to 1,000 or 10,000 trials
    python benchmarks/sweep_growth.py --layers search --trials 10000 --samplers tpe

Layers, each measured in a process of its own:
- `search`: `Study`, `Bookkeeper`, the table on a terminal and MLflow's spool (not emptied meanwhile), asked and told
  one trial at a time.
- `tune`: the same under Ray Tune, whose trials report what `surrogate.epochs` says.
- `mlflow`: the thread that writes the spool to MLflow's embedded store.

Time is the CPU time of the driver's main thread (of the whole driver for `mlflow`), which others on the machine disturb
least. Each row compares the second tenth of the trials ("early"; in the first, modules are still being imported) with
the last ("late"). Memory is by how much the process grows in the second half, over the number of trials in it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from environment import load, machine, resident_mebibytes, versions
from rich.console import Console
from rich.table import Table
from surrogate import epochs, plan, surrogate_trial

from aln.command import guarded
from aln.errors import AlnError
from aln.records import TrialRecord
from aln.search.bookkeeper import Bookkeeper
from aln.search.plan import SweepPlan
from aln.search.screen import Screen
from aln.search.study import Study
from aln.search.tuning import cluster, tune_trials
from aln.tracking import Tracker

# How many trials each is measured at; the others grow as `search` does, and take longer.
LAYERS = {"search": [100, 1_000, 10_000], "tune": [100, 1_000], "mlflow": [100, 1_000]}
_TENTHS = 10


@dataclass
class Marks:
    """The clock and the memory at each tenth of the trials."""

    trials: int
    clock: Callable[[], float]
    asking: float = 0.0
    seconds: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    ended: int = 0

    def one_more(self) -> None:
        """A trial has ended."""
        self.ended += 1
        if self.ended % (self.trials // _TENTHS) == 0:
            self.seconds.append(self.clock())
            self.asked.append(self.asking)
            self.mebibytes.append(resident_mebibytes())

    def row(self) -> dict[str, Any]:
        """Milliseconds a trial of the second and the last tenth, KiB a trial of the second half."""
        tenth = self.trials // _TENTHS

        def each(of: list[float]) -> dict[str, float]:
            return {"early": 1000 * (of[1] - of[0]) / tenth, "late": 1000 * (of[-1] - of[-2]) / tenth}

        half = _TENTHS // 2
        return {
            "milliseconds": each(self.seconds),
            "of_it_asking": each(self.asked),
            "kibibytes": 1024 * (self.mebibytes[-1] - self.mebibytes[-1 - half]) / (tenth * half),
            "mebibytes_at_end": self.mebibytes[-1],
        }


def measure(layer: str, trials: int, sampler: str) -> dict[str, Any]:
    """One row, in this process."""
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        folder = Path(place) / "sweep"
        folder.mkdir()
        searched = plan(folder, trials, sampler)
        measured = {"search": _search, "tune": _tune, "mlflow": _mlflow}[layer](searched)
        os.chdir("/")
    return {"layer": layer, "trials": trials, "sampler": sampler, **measured}


class _Driver:
    """What `aln.search.sweeper` puts together, at a terminal that nobody sees."""

    def __init__(self, searched: SweepPlan, marks: Marks) -> None:
        self.marks = marks
        self.study = Study(searched)
        self.tracker = Tracker("growth", spool=searched.folder / "spool")
        console = Console(file=io.StringIO(), force_terminal=True, width=120, height=40, _environ={})
        self.screen = Screen(searched, self.study, console)
        parent = self.tracker.run("growth", {"sweep": "growth"})
        self.bookkeeper = Bookkeeper(searched, self.study, self.tracker, parent, self._changed)
        self._ask = self.bookkeeper.next
        self.bookkeeper.next = self._timed  # type: ignore[method-assign]

    def _timed(self) -> dict[str, Any] | None:
        began = time.thread_time()
        assignment = self._ask()
        self.marks.asking += time.thread_time() - began
        return assignment

    def _changed(self, record: TrialRecord) -> None:
        self.screen.changed(record)
        if record.status != "running":
            self.marks.one_more()


def _search(searched: SweepPlan) -> dict[str, Any]:
    driver = _Driver(searched, Marks(searched.sweep.trials, time.thread_time))
    keeper = driver.bookkeeper
    driver.tracker._writer.close()  # is measured as a layer of its own, and would compete for the interpreter
    with driver.screen:
        while (assignment := keeper.next()) is not None:
            label = assignment["label"]
            keeper.began(label)
            if not any(keeper.reported(label, {"metrics": metrics}) for metrics in epochs(assignment["run"])):
                keeper.reported(label, {"status": "completed", "error": ""})
    driver.tracker.close(0)
    return driver.marks.row()


def _tune(searched: SweepPlan) -> dict[str, Any]:
    driver = _Driver(searched, Marks(searched.sweep.trials, time.thread_time))
    with cluster(searched) as (_, concurrent):
        began = time.perf_counter()
        with driver.screen:
            tune_trials(searched, concurrent, driver.bookkeeper, surrogate_trial)
        seconds = time.perf_counter() - began
    driver.tracker.close(0)
    return driver.marks.row() | {"wall_seconds": seconds}


def _mlflow(searched: SweepPlan) -> dict[str, Any]:
    driver = _Driver(searched, Marks(searched.sweep.trials, time.process_time))
    keeper, marks = driver.bookkeeper, driver.marks
    marks.clock = lambda: (driver.tracker.drain(600.0), time.process_time())[1]
    while (assignment := keeper.next()) is not None:
        label = assignment["label"]
        keeper.began(label)
        for metrics in epochs(assignment["run"]):
            keeper.reported(label, {"metrics": metrics})
        keeper.reported(label, {"status": "completed", "error": ""})
    if missing := driver.tracker.close(600.0):
        raise AlnError(missing)
    return marks.row()


def apart(layer: str, trials: int, sampler: str) -> dict[str, Any]:
    """One row, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, layer, trials, sampler).result()


def table(rows: list[dict[str, Any]]) -> Table:
    """A line a row."""
    found = Table(title="A trial's share of the driver", title_justify="left")
    for name in ("layer", "sampler"):
        found.add_column(name)
    for name in ("trials", "ms early", "late", "sampler early", "late", "KiB", "MiB at end"):
        found.add_column(name, justify="right")
    for row in rows:
        time_of, asking = row["milliseconds"], row["of_it_asking"]
        numbers = (time_of["early"], time_of["late"], asking["early"], asking["late"])
        found.add_row(
            row["layer"],
            row["sampler"],
            f"{row['trials']:,}",
            *(f"{number:.2f}" for number in numbers),
            f"{row['kibibytes']:.0f}",
            f"{row['mebibytes_at_end']:.0f}",
        )
    return found


def command(options: argparse.Namespace, console: Console) -> int:
    """Measures every row asked for, prints them and writes the results."""
    if wrong := [trials for trials in options.trials or () if trials < _TENTHS or trials % _TENTHS]:
        raise AlnError(f"--trials {wrong[0]}: expected a multiple of {_TENTHS}, at least {_TENTHS}")
    rows = []
    for layer in options.layers:
        for sampler in options.samplers if layer == "search" else options.samplers[:1]:
            for trials in options.trials or LAYERS[layer]:
                console.print(f"{layer}, {sampler}, {trials:,} trials …", highlight=False)
                rows.append(apart(layer, trials, sampler) | {"load_average": load()})

    console.width = max(console.width, 110)
    console.print(table(rows))
    if options.out:
        head = {
            "benchmark": "sweep_growth",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "n": 1,
            "machine": machine(),
            "versions": versions("torch", "ray", "optuna", "mlflow"),
            "units": "CPU milliseconds of the driver a trial; KiB that the driver grows by a trial; MiB it holds",
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    found = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    found.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    found.add_argument("--trials", nargs="+", type=int, metavar="N", help="for all layers")
    found.add_argument("--samplers", nargs="+", default=["random", "tpe"], metavar="NAME", help="of the layer `search`")
    found.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    return found


if __name__ == "__main__":
    sys.exit(guarded(command, parser().parse_args()))
