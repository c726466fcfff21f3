"""What one suggestion costs, by the number of trials that there are and of those that the sampler is shown.

    python benchmarks/suggestion_cost.py
    python benchmarks/suggestion_cost.py --samplers tpe random --history 100 1000 --windows 1000 all

Optuna is shown a window of a study (`aln.search.journal`): what runs, the newest, the best. Each row here is measured
in a process of its own, on a study that has been told of so many trials, which `surrogate.epochs` made up; time is CPU
time of a suggestion and of writing it to the journal.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from environment import load, machine, versions
from rich.console import Console
from rich.table import Table
from surrogate import epochs, plan

from aln.command import guarded
from aln.errors import AlnError
from aln.records import KnownTrial
from aln.search import journal
from aln.search.plan import SweepPlan
from aln.search.study import Study

_ALL = 10**9


def known(searched: SweepPlan, trials: int) -> Iterator[KnownTrial]:
    """So many completed trials at points drawn at random."""
    generator = random.Random(0)
    for _ in range(trials):
        point = searched.space.draw(generator, {})
        *_, last = epochs(searched.content(point))
        yield KnownTrial(source="made up", values=point, metrics=last)


def measure(sampler: str, window: int, history: list[int], repetitions: int) -> list[float]:
    """Milliseconds of a suggestion after so many trials, the median of the repetitions, for each length of history."""
    journal._NEWEST = window
    found = []
    for trials in history:
        with tempfile.TemporaryDirectory() as place:
            searched = plan(Path(place), repetitions + 1, sampler)
            study = Study(searched)
            study.learn(known(searched, trials))
            study.next()  # what is made once
            times = []
            for _ in range(repetitions):
                began = time.thread_time()
                study.next()
                times.append(1000 * (time.thread_time() - began))
            found.append(statistics.median(times))
    return found


def apart(*arguments: Any) -> list[float]:
    """One row, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def table(rows: list[dict[str, Any]], history: list[int]) -> Table:
    """A line a row."""
    found = Table(title="CPU milliseconds of a suggestion after so many trials", title_justify="left")
    found.add_column("sampler")
    for name in ("shown", *(f"{trials:,}" for trials in history)):
        found.add_column(name, justify="right")
    for row in rows:
        window = "all" if row["window"] is None else f"{row['window']:,}"
        found.add_row(row["sampler"], window, *(f"{number:.1f}" for number in row["milliseconds"]))
    return found


def command(options: argparse.Namespace, console: Console) -> int:
    """Measures every row asked for, prints them and writes the results."""
    if wrong := [number for number in (*options.history, options.repetitions) if number < 1]:
        raise AlnError(f"--history and --repetitions: expected at least 1, found {wrong[0]}")
    rows = []
    for sampler in options.samplers:
        for window in options.windows:
            console.print(f"{sampler}, shown {'all' if window == _ALL else window} …", highlight=False)
            times = apart(sampler, window, options.history, options.repetitions)
            shown = None if window == _ALL else window
            rows.append({"sampler": sampler, "window": shown, "milliseconds": times, "load_average": load()})
    console.print(table(rows, options.history))
    if options.out:
        head = {
            "benchmark": "suggestion_cost",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "n": options.repetitions,
            "machine": machine(),
            "versions": versions("optuna"),
            "units": "CPU milliseconds of a suggestion, medians; window: newest trials that are shown (null: all)",
            "history": options.history,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")
    return 0


def _window(text: str) -> int:
    return _ALL if text == "all" else int(text)


def parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    found = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    found.add_argument("--samplers", nargs="+", default=["tpe"], metavar="NAME")
    found.add_argument(
        "--windows", nargs="+", type=_window, default=[300, journal._NEWEST, 3000, _ALL], metavar="N|all"
    )
    found.add_argument("--history", nargs="+", type=int, default=[100, 1000, 3000, 10000], metavar="N")
    found.add_argument("--repetitions", type=int, default=7, metavar="N")
    found.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    return found


if __name__ == "__main__":
    sys.exit(guarded(command, parser().parse_args()))
