"""`python -m aln.study`, as a person runs it, killed in the middle and resumed: real Ray, real Optuna, real MLflow."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from aln.study.__main__ import main
from commands import Command, count_lines, run_command
from real_sweeps import runs_in, store_in

BASE = """
run:
  model: {name: mlp, width: 16, depth: 1}
  data: {name: synthetic, train: 128, validation: 50, test: 50, image_size: 4, channels: 1}
  optimizer: {name: sgd, lr: 0.05}
  batch_size: 32
  epochs: 3
trials: 3
scheduler: none
baselines: []
experiment: study
max_concurrent: 1
"""
STUDY = """
question: Do the points of a small network train a larger one?
base: base.yaml
stages:
  search:
    space:
      - {name: mirror, rule: mirror, parameters: {rule.alpha: {min: 1e-3, max: 1e-1, log: true}}}
      - {name: symmetric, rule: symmetric, parameters: {rule.beta: {min: 1e-3, max: 1e-1, log: true}}}
  larger:
    from: search
    for_each: {run.model.width: [32]}
    sweep: {seeds: 2, baselines: [backprop]}
answer: {stage: larger}
"""
SWEEPS = ["search-mirror", "search-symmetric", "larger-32"]


def prepare(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE)
    (folder / "study.yaml").write_text(STUDY)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, ray_head: str) -> SimpleNamespace:
    """A study whose process was killed in its second sweep, and resumed twice; its files are gone meanwhile."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(empty_store, folder / "mlflow.db")
    prepare(folder)
    journal = folder / "results/s-search-symmetric/study.log"
    process = Command(folder, "aln.study", "study.yaml", "--name", "s")
    assert process.wait_until(lambda: count_lines(journal) >= 8), process.out
    process.signal(signal.SIGKILL)
    before = (folder / "results/s-search-mirror/study.log").read_bytes()
    for file in ("study.yaml", "base.yaml"):
        (folder / file).unlink()
    outs = []
    for _ in range(2):
        end = run_command(folder, "aln.study", "--resume", "s", environment={"RAY_ADDRESS": ray_head})
        assert end.returncode == 0, end.out
        outs.append(end.out)
    return SimpleNamespace(folder=folder, outs=outs, before=before, results=folder / "results")


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_sweep_is_there_once_with_all_its_trainings(resumed: SimpleNamespace) -> None:
    trainings = lines(resumed.results / "s/trainings.csv")
    count = {name: sum(line["sweep"] == f"s-{name}" for line in trainings) for name in SWEEPS}
    assert count == {"search-mirror": 3, "search-symmetric": 3, "larger-32": 6}
    assert {line["status"] for line in trainings} == {"completed"}


def test_mlflow_has_one_run_a_training_and_each_epoch_once(resumed: SimpleNamespace) -> None:
    everything = runs_in(MlflowClient(store_in(resumed.folder)), "study")
    trainings = [run for run in everything if run.data.tags["kind"] != "sweep"]
    assert len(everything) - len(trainings) == 3
    assert len({(run.data.tags["mlflow.parentRunId"], run.data.tags["trial"]) for run in trainings}) == 12
    assert {run.info.status for run in everything} == {"FINISHED"}


def test_a_sweep_that_had_ended_is_left_alone(resumed: SimpleNamespace) -> None:
    journal = (resumed.results / "s-search-mirror/study.log").read_bytes()
    assert journal.startswith(resumed.before)
    # Optuna writes that a study is to be made whenever it is opened; nothing else has come.
    assert {json.loads(line)["op_code"] for line in journal[len(resumed.before) :].splitlines()} <= {0}


def test_the_points_found_are_trained_unchanged_on_every_network(resumed: SimpleNamespace) -> None:
    found = {}
    for rule, key in (("mirror", "rule.alpha"), ("symmetric", "rule.beta")):
        searched = lines(resumed.results / f"s-search-{rule}/trials.csv")
        found[rule] = max(searched, key=lambda line: (float(line["val_top1"]), -float(line["val_loss"])))[key]
    for rule, key in (("mirror", "rule.alpha"), ("symmetric", "rule.beta")):
        mine = [row for row in lines(resumed.results / "s-larger-32/trials.csv") if row["rule"] == rule]
        assert [row["seed"] for row in mine] == ["0", "1"]
        assert {row[key] for row in mine} == {found[rule]}


def test_the_answer_is_the_mean_of_the_tests_in_mlflow(resumed: SimpleNamespace) -> None:
    answer = {(line["rule"], line["of"]): line for line in lines(resumed.results / "s/answer.csv")}
    assert set(answer) == {(rule, "32") for rule in ("backprop", "mirror", "symmetric")}
    rows = [row for row in lines(resumed.results / "s-larger-32/trials.csv") if row["rule"] == "mirror"]
    tests = [float(row["test_top1"]) for row in rows]
    assert float(answer["mirror", "32"]["mean"]) == pytest.approx(statistics.fmean(tests), abs=1e-4)
    assert (resumed.results / "s/answer.png").stat().st_size > 10_000


def test_a_study_that_is_over_says_its_answer_again(resumed: SimpleNamespace) -> None:
    first, second = resumed.outs
    table = first[first.index("Test top-1") :]
    assert second.endswith(table)
    assert "Running on" not in second


def test_a_dry_run_shows_the_sweeps_and_begins_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(workplace)
    assert main(["study.yaml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in SWEEPS)
    assert "3 sweeps, at most 12 trainings" in out
    assert not (workplace / "results").exists()


def test_a_study_takes_no_sweep_that_is_there(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(workplace)
    (workplace / "results/s-larger-32").mkdir(parents=True)
    assert main(["study.yaml", "--name", "s"]) == 2
    assert "--name: is 's', but there are sweeps of the names s-larger-32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "STUDY: is missing"),
        (["nix.yaml"], "nix.yaml: there is no such file"),
        (["study.yaml", "--name", "../up"], "--name: is '../up'"),
        (["--resume", "nobody"], "--resume: is 'nobody', but .* holds no study"),
        (["study.yaml", "--storage", "x"], "--storage: goes with --resume"),
        (["study.yaml", "--resume", "s"], "is resumed as it was described, without STUDY"),
        (["study.yaml", "--set", "stages.search.sweep.trials=0"], "--set: trials: is 0"),
    ],
    ids=["nothing", "no file", "a name that leaves", "nobody", "storage", "both", "a setting"],
)
def test_bad_input_is_refused_before_anything_starts(
    workplace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    prepare(workplace)
    assert main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (workplace / "results").exists()
