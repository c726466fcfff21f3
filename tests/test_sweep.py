"""`python -m aln.sweep`, as a person runs it: real Ray, real Optuna, real MLflow."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from aln import sweep as command
from aln.config import parse_run, read_run, with_settings
from aln.report.commands import train_command
from aln.report.runs import read_sweeps
from aln.tracking import Reader
from commands import REPOSITORY, run_command
from real_sweeps import DIGITS, Tracked, sweep

INFORMATION = REPOSITORY / "search_spaces/information.yaml"
FAST = ["run.model={name: mlp, width: 32}", "run.epochs=4", "scheduler.grace=1"]

# A user's own rule, in a file of the folder where the sweep is started: 0 trains, 1 raises, 2 diverges.
MY_LAB = """
from dataclasses import dataclass
from aln.rules import LearningRule

@dataclass(frozen=True, kw_only=True)
class Fragile(LearningRule):
    mood: int = 0

    def backward_grad(self, s):
        if self.mood == 1:
            raise ValueError("a rule with a bug")
        return s.B - s.W if self.mood == 0 else s.B / 0
"""
JOINT_LAB = """
from dataclasses import dataclass
from aln.errors import RuleError
from aln.rules import LearningRule

@dataclass(frozen=True, kw_only=True)
class Ordered(LearningRule):
    low: float = 0.1
    high: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if self.low >= self.high:
            raise RuleError(f"low = {self.low}: expected less than high = {self.high}")

    def backward_grad(self, s):
        return self.low * (s.B - s.W)
"""
JOINT_SPACE = """
rule: my_lab:Ordered
parameters:
  rule.low: {values: [0.1, 0.5]}
  rule.high: {values: [0.3, 0.9]}
"""
MY_SPACE = """
rule: my_lab:Fragile
parameters:
  rule.mood: {values: [0, 1, 2]}
"""


def sweep_own_rule(folder: Path, lab: str, space: str, seed: int, address: str) -> Tracked:
    """What MLflow holds of six random trials, of a rule in the folder's own module, on a cluster."""
    (folder / "my_lab.py").write_text(lab)
    (folder / "space.yaml").write_text(space)
    settings = [
        *FAST,
        f"sampler={{name: random, seed: {seed}}}",
        "baselines=[]",
        "scheduler.name=none",
        "max_concurrent=1",
    ]
    arguments = ["space.yaml", "--sweep", str(DIGITS), "--trials", "6", "--name", "own", "--set", *settings]
    done = sweep(folder, *arguments, environment={"RAY_ADDRESS": address})
    assert done.returncode == 0, done.out
    assert f"Running on the Ray cluster at {address} with 2 CPU cores" in done.out
    return Tracked(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> SimpleNamespace:
    """A finished sweep of six trials and two baselines."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(empty_store, folder / "mlflow.db")
    words = [sys.executable, "-m", "aln.sweep", str(INFORMATION), "--trials", "6", "--name", "mine", "--set", *FAST]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = Tracked(folder)
    return SimpleNamespace(folder=folder, out=done.stdout, err=done.stderr, parent=found.parent, **vars(found))


def test_every_trial_is_one_nested_run(finished: SimpleNamespace) -> None:
    assert set(finished.children) == {"backprop", "feedback", *(f"{i:03d}" for i in range(6))}
    assert len(finished.runs) == 9
    for child in finished.children.values():
        assert child.data.tags["mlflow.parentRunId"] == finished.parent.info.run_id
        assert child.info.status == "FINISHED"
        assert child.data.tags["sweep"] == "mine"
        assert child.data.tags["status"] in ("completed", "stopped", "diverged")


def test_no_metric_has_a_gap_or_a_double(finished: SimpleNamespace) -> None:
    for child in finished.children.values():
        epochs = int(child.data.metrics["epoch"])
        steps = [m.step for m in finished.client.get_metric_history(child.info.run_id, "val_top1")]
        assert sorted(steps) == list(range(1, epochs + 1))
        completed = child.data.tags["status"] == "completed"
        assert completed == (epochs == 4)


def test_baselines_run_to_the_end_with_the_same_recipe(finished: SimpleNamespace) -> None:
    for rule in ("backprop", "feedback"):
        child = finished.children[rule]
        assert child.data.tags["status"] == "completed"
        assert child.data.params["rule.name"] == rule
    differing = {
        key
        for key, value in finished.children["backprop"].data.params.items()
        if finished.children["000"].data.params[key] != value
    }
    assert differing == {"rule.name"}


def test_trials_differ_in_the_searched_coefficients_alone(finished: SimpleNamespace) -> None:
    searched = {"rule.alpha", "rule.beta", "rule.gamma", "rule.input_distribution"}
    first, second = finished.children["000"].data.params, finished.children["001"].data.params
    assert {key for key in first if first[key] != second[key]} <= searched
    assert len({finished.children[f"{i:03d}"].data.params["rule.alpha"] for i in range(6)}) == 6


def test_the_answer_names_the_best_trial_and_tests_it_beside_the_baselines(finished: SimpleNamespace) -> None:
    label = re.search(r"Best trial (\d{3}): rule\.alpha=", finished.out)
    assert label is not None
    searched = [r for name, r in finished.children.items() if name.isdigit() and r.data.tags["status"] == "completed"]
    best = max(searched, key=lambda r: (r.data.metrics["val_top1"], -r.data.metrics["val_loss"]))
    assert best.data.tags["trial"] == label[1]
    tested = {r.data.tags["trial"] for r in finished.children.values() if "test_top1" in r.data.metrics}
    assert tested == {label[1], "backprop", "feedback"}
    for trial in tested:
        assert f"{finished.children[trial].data.metrics['test_top1']:.2f}" in finished.out
    assert finished.parent.data.metrics["best_val_top1"] == best.data.metrics["val_top1"]
    assert finished.parent.data.tags["status"] == "completed"
    assert 0 < finished.parent.data.metrics["training_share"] < 1


def test_best_yaml_trains_the_best_trial_again_to_the_same_numbers(finished: SimpleNamespace) -> None:
    arguments = ["results/mine/best.yaml", "--name", "again", "--experiment", "retrained"]
    done = run_command(finished.folder, "aln.train", *arguments)
    assert done.returncode == 0, done.out
    experiment = finished.client.get_experiment_by_name("retrained").experiment_id
    (again,) = finished.client.search_runs([experiment])
    best = next(
        r for name, r in finished.children.items() if name.isdigit() and "test_top1" in r.data.metrics
    )  # fmt: skip
    for metric in ("val_top1", "val_loss", "train_loss", "test_top1"):
        assert again.data.metrics[metric] == best.data.metrics[metric]


def test_validating_the_sweep_evaluates_its_best_trial(finished: SimpleNamespace) -> None:
    done = run_command(finished.folder, "aln.validate", "mine", "--split", "test", "--no-log")
    best = next(r for name, r in finished.children.items() if name.isdigit() and "test_top1" in r.data.metrics)
    assert f"top-1 {best.data.metrics['test_top1']:.2f} %" in done.out


def test_the_report_has_the_command_that_trains_the_best_trial_again(
    finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    (tracked,) = read_sweeps(["mine"], Reader())
    preset, _, *settings = shlex.split(train_command(tracked.content(tracked.good[0])))[3:]
    again = parse_run(with_settings(read_run(preset), settings))
    assert again.to_yaml() == Path("results/mine/best.yaml").read_text()


def test_plots_and_configuration_are_artifacts(finished: SimpleNamespace) -> None:
    names = {a.path for a in finished.client.list_artifacts(finished.parent.info.run_id, "plots")}
    assert names == {"plots/history.png", "plots/coefficients.png", "plots/angles.png"}
    for name in names:
        data = (finished.folder / "results/mine" / name).read_bytes()
        assert data.startswith(b"\x89PNG")
    top = {a.path for a in finished.client.list_artifacts(finished.parent.info.run_id)}
    assert top == {"best.yaml", "config.yaml", "plots", "space.yaml", "sweep.yaml", "trials.csv"}


def test_the_table_of_trials_holds_what_mlflow_does(finished: SimpleNamespace) -> None:
    with (finished.folder / "results/mine/trials.csv").open(newline="") as file:
        rows = {row["trial"]: row for row in csv.DictReader(file)}
    assert rows.keys() == finished.children.keys()
    for trial, child in finished.children.items():
        assert rows[trial]["status"] == child.data.tags["status"]
        if rows[trial]["status"] != "diverged":
            assert float(rows[trial]["val_top1"]) == child.data.metrics["val_top1"]
        if trial.isdigit():
            assert rows[trial]["rule.alpha"] == child.data.params["rule.alpha"]


def test_the_sweep_runs_again_from_its_own_description(finished: SimpleNamespace) -> None:
    again = ["--sweep", "results/mine/sweep.yaml", "--dry-run", "--name", "described"]
    done = sweep(finished.folder, str(INFORMATION), *again)
    assert done.returncode == 0, done.out
    assert "6 trials and the baselines backprop, feedback, at most 4 epochs each" in done.out


def test_nothing_is_printed_but_what_is_meant(finished: SimpleNamespace) -> None:
    assert finished.err == ""
    assert len(re.findall(r"^\[\d/8\]", finished.out, re.MULTILINE)) == 8


@pytest.mark.parametrize("how", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_finished_sweep_is_not_overwritten(finished: SimpleNamespace, how: list[str]) -> None:
    done = sweep(finished.folder, str(INFORMATION), "--name", "mine", *how)
    assert done.returncode == 2
    assert "choose another name" in done.err


def test_trials_that_fail_or_diverge_do_not_stop_the_sweep(tmp_path: Path, empty_store: Path, ray_head: str) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    found = sweep_own_rule(tmp_path, MY_LAB, MY_SPACE, 1, ray_head)
    expected = {"0": "completed", "1": "failed", "2": "diverged"}
    moods = {name: child.data.params["rule.mood"] for name, child in found.children.items()}
    assert set(moods.values()) == {"0", "1", "2"}
    for name, mood in moods.items():
        child = found.children[name]
        assert child.data.tags["status"] == expected[mood]
        assert child.info.status == ("FAILED" if mood == "1" else "FINISHED")
    failed = next(child for child in found.children.values() if child.data.tags["status"] == "failed")
    text = Path(found.client.download_artifacts(failed.info.run_id, "error.txt")).read_text()
    assert "a rule with a bug" in text
    assert "my_lab.py" in text  # the traceback, not only the message
    assert yaml.safe_load((tmp_path / "results/own/best.yaml").read_text())["rule"]["mood"] == 0
    with (tmp_path / "results/own/trials.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "diverged"]
    assert rows
    assert {(row["val_top1"], row["val_top5"], row["val_loss"]) for row in rows} == {("", "", "")}
    assert all(float(row["train_seconds"]) > 0 for row in rows)


def test_settings_that_are_legal_one_by_one_but_not_together_fail_their_trial(
    tmp_path: Path, empty_store: Path, ray_head: str
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    found = sweep_own_rule(tmp_path, JOINT_LAB, JOINT_SPACE, 0, ray_head)
    trials = {tuple(json.loads(child.data.tags["point"]).values()): child for child in found.children.values()}
    refused = trials.pop((0.5, 0.3))
    assert refused.data.tags["status"] == "failed"
    text = Path(found.client.download_artifacts(refused.info.run_id, "error.txt")).read_text()
    assert "expected less than high = 0.3" in text
    assert {child.data.tags["status"] for child in trials.values()} == {"completed"}


def test_a_cluster_that_is_not_there_is_said_at_once(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert command.main([str(INFORMATION), "--sweep", str(DIGITS)]) == 2
    message = f"error: The Ray cluster at {address} cannot be reached: [Errno 111] Connection refused\n"
    assert capsys.readouterr().err == message
    assert [path.name for path in workplace.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["nowhere.yaml"], ["nowhere.yaml: there is no such file"]),
        ([str(INFORMATION.with_name("infomation.yaml"))], [f"there is no such file; did you mean '{INFORMATION}'?"]),
        ([str(INFORMATION), "--trials", "0"], ["trials: is 0"]),
        (
            [str(INFORMATION), "--set", "run.epoch=3", "trails=3"],
            ["did you mean 'run.epochs'", "did you mean 'trials'"],
        ),
        ([str(INFORMATION), "--name", "a/b"], ["--name: is 'a/b', expected"]),
        ([str(INFORMATION), "--sweep", str(DIGITS.with_name("digts.yaml"))], [f"did you mean '{DIGITS}'?"]),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    workplace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], messages: list[str]
) -> None:
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert all(message in error for message in messages)
    assert [path.name for path in workplace.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("name", ["minr", "mine-2"])
def test_a_sweep_that_is_not_there_comes_with_the_nearest(
    workplace: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for folder in ("mine", "minr-run"):  # the second is no sweep
        (workplace / "results" / folder).mkdir(parents=True)
    (workplace / "results/mine/sweep.yaml").touch()
    assert command.main(["--resume", name]) == 2
    assert re.search(r"holds no sweep \(.*\); did you mean 'mine'\?$", capsys.readouterr().err.strip())


def test_a_dry_run_prints_the_plan_and_starts_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(INFORMATION), "--trials", "5", "--dry-run", "--name", "plan"]) == 0
    out = capsys.readouterr().out
    assert "rule.alpha" in out
    assert "5 trials and the baselines backprop, feedback" in out
    assert re.search(r"This machine \(\d+ CPU cores, \d+ GPUs\) holds \d+ trials at once", out)
    assert re.search(r"An epoch takes about [\d.]+ s: at most [\d.]+ (minutes|hours) for 7 trials", out)
    assert re.search(r"Start-up comes on top, about [\d.]+ minutes: \d+ s for Ray and the first processes", out)
    assert re.search(r"One takes about [\d.]+ GiB of [\d.]+ GiB of memory, which would hold \d+", out)
    assert [path.name for path in workplace.iterdir()] == ["mlflow.db"]
