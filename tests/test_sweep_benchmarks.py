"""The benchmarks of sweeps, run as a person runs them, at sizes that take seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    paths = [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | variables
    command = [sys.executable, str(FOLDER / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def overhead(tmp_path_factory: pytest.TempPathFactory, ray_head: str) -> dict[str, Any]:
    """A round of small searches, `aln`'s on a cluster that runs, which spares it the start of one."""
    out = tmp_path_factory.mktemp("overhead") / "new" / "result.json"
    sizes = ["--trials", "2", "--rounds", "1", "--epochs", "1", "--slots", "1"]
    ways = ["aln", "tune_reused", "optuna"]
    done = run("sweep_overhead.py", "--ways", *ways, *sizes, "--out", str(out), RAY_ADDRESS=ray_head)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("way", ["aln", "tune_reused", "optuna"])
def test_a_search_takes_longer_than_its_training_and_less_than_its_command(overhead: dict[str, Any], way: str) -> None:
    (measured,) = overhead["rounds"][way]
    assert overhead["medians"][way] == measured
    assert 0 < measured["fit_seconds"] < measured["span_seconds"] < measured["command_seconds"]
    assert measured["ratio"] == pytest.approx(measured["span_seconds"] / measured["fit_seconds"])
    idle = measured["span_seconds"] - measured["fit_seconds"]
    assert measured["startup_seconds"] == pytest.approx(idle / 2)


@pytest.fixture(scope="module")
def growth(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("growth") / "new" / "result.json"
    done = run(
        "sweep_growth.py", "--layers", "search", "mlflow", "--trials", "20", "--samplers", "tpe", "--out", str(out)
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    return found


def test_every_layer_says_what_a_trial_costs(growth: list[dict[str, Any]]) -> None:
    assert [(row["layer"], row["trials"], row["sampler"]) for row in growth] == [
        ("search", 20, "tpe"),
        ("mlflow", 20, "tpe"),
    ]
    for row in growth:
        for when in ("early", "late"):
            assert 0 < row["of_it_asking"][when] < row["milliseconds"][when]
        assert row["mebibytes_at_end"] > 100


def test_a_suggestion_is_timed_by_history_and_window(tmp_path: Path) -> None:
    sizes = ["--windows", "10", "all", "--history", "5", "20", "--repetitions", "2"]
    done = run("suggestion_cost.py", *sizes, "--out", str(tmp_path / "result.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["history"] == [5, 20]
    assert [(row["sampler"], row["window"]) for row in found["rows"]] == [("tpe", 10), ("tpe", None)]
    for row in found["rows"]:
        assert len(row["milliseconds"]) == 2
        assert min(row["milliseconds"]) > 0


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("sweep_overhead.py", ["--trials", "0"], "error: --trials 0: expected at least 1"),
        ("suggestion_cost.py", ["--history", "0"], "error: --history and --repetitions: expected at least 1, found 0"),
        ("sweep_growth.py", ["--trials", "25"], "error: --trials 25: expected a multiple of 10, at least 10"),
    ],
)
def test_mistakes_are_named(script: str, arguments: list[str], message: str) -> None:
    done = run(script, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
