"""A sweep whose driver is killed again and again ends as if nothing had been: real processes, real kills."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from optuna.trial import TrialState

from aln import sweep as command
from aln.config import parse_run
from aln.job import Job
from aln.sweep_folder import SweepFolder
from commands import Ended
from real_sweeps import DIGITS, TINY, SweepProcess, Tracked, sweep, told, told_by_label

# Two minutes on two idle cores, nearly all of them start-ups of the processes that are killed.
pytestmark = pytest.mark.timeout(1200)

MY_LAB = """
from dataclasses import dataclass
from aln.rules import LearningRule

@dataclass(frozen=True, kw_only=True)
class Mine(LearningRule):
    gain: float = 0.1

    def backward_grad(self, s):
        return self.gain * (s.B - s.W)
"""
SPACE = """
rule: my_lab:Mine
parameters:
  rule.gain: {min: 1e-3, max: 1.0, log: true}
  optimizer.lr: {min: 1e-3, max: 1.0, log: true}
"""
EPOCHS, TRIALS = 20, 24
SETTINGS = [
    *TINY,
    f"run.epochs={EPOCHS}",
    "run.checkpoint={every: 2}",
    "run.alignment={every: 5}",
    "scheduler={name: asha, grace: 7}",
]
BASELINES = {"backprop", "feedback"}
LABELS = BASELINES | {f"{number:03d}" for number in range(TRIALS)}

# When the driver is killed: as its folder is made, and when its study has so many lines more than at its start. A
# trial writes some 45, so these lie before the first trials, within and between them.
KILLS = [None, 0, 1, 2, 17, 38, 55, 71, 93, 124]


def begin(folder: Path, name: str = "mine", space: str = SPACE) -> None:
    (folder / "my_lab.py").write_text(MY_LAB)
    (folder / "space.yaml").write_text(space)


ARGUMENTS = ["space.yaml", "--sweep", str(DIGITS), "--trials", str(TRIALS), "--name", "mine", "--set", *SETTINGS]
RESUME = ["--resume", "mine"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, ray_head: str) -> SimpleNamespace:
    """A sweep that was killed ten times, interrupted once, terminated once, and resumed each time, now on a cluster
    that runs, now on this machine.
    """
    folder = tmp_path_factory.mktemp("killed")
    shutil.copy(empty_store, folder / "mlflow.db")
    begin(folder)
    arguments, study = ARGUMENTS, folder / "results/mine/study.log"
    there = {"RAY_ADDRESS": ray_head}
    for number, lines in enumerate(KILLS):
        process = SweepProcess(folder, *arguments, environment=there if number % 5 else None)
        alive = process.wait_for(*(study.parent / "sweep.yaml",) if lines is None else (study, lines))
        assert alive, process.out
        assert process.signal(signal.SIGKILL).returncode == -signal.SIGKILL
        arguments = RESUME
    stopped = {}
    for which, where in ((signal.SIGINT, there), (signal.SIGTERM, None)):
        process = SweepProcess(folder, *RESUME, environment=where)
        assert process.wait_for(study, 60), process.out
        end = process.signal(which)
        tracked = Tracked(folder)
        stopped[which.name] = SimpleNamespace(end=end, runs=tracked.runs, statuses=tracked.statuses())
    last = sweep(folder, *RESUME, environment=there)
    assert last.returncode == 0, last.out
    return SimpleNamespace(folder=folder, last=last, stopped=stopped, tracked=Tracked(folder), there=there)


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_mlflow_holds_one_run_a_trial_and_none_is_running(killed: SimpleNamespace) -> None:
    assert killed.tracked.children.keys() == LABELS
    assert len(killed.tracked.runs) == len(LABELS) + 1
    assert {run.info.status for run in killed.tracked.runs} == {"FINISHED"}
    assert set(killed.tracked.statuses().values()) <= {"completed", "stopped", "diverged"}
    assert killed.tracked.parent.data.tags["status"] == "completed"


def test_no_metric_has_a_gap_or_a_double(killed: SimpleNamespace) -> None:
    every_epoch = {"epoch", "val_top1", "val_loss", "train_loss", "train_seconds", "epoch_seconds", "lr"}
    for label, run in killed.tracked.children.items():
        epochs = int(run.data.metrics["epoch"])
        assert (epochs == EPOCHS) == (run.data.tags["status"] == "completed"), label
        assert every_epoch <= run.data.metrics.keys()
        assert any(metric.startswith("gradient_angle/") for metric in run.data.metrics)
        for metric in run.data.metrics:
            steps = [step for step, _ in killed.tracked.points(run, metric)]
            every = 5 if "/" in metric and not metric.startswith("angle/") else 1  # what costs is measured more seldom
            expected = [epoch for epoch in range(1, epochs + 1) if epoch % every == 0]
            assert steps == ([0] if metric == "test_top1" else expected), (label, metric)


def test_optuna_holds_each_trial_once_with_every_epoch(killed: SimpleNamespace) -> None:
    folder = killed.folder / "results/mine"
    trials = told_by_label(folder)
    assert trials.keys() == LABELS - BASELINES
    assert [trial.user_attrs["label"] for trial in told(folder, "baselines")] == ["backprop", "feedback"]
    for label, trial in trials.items():
        run = killed.tracked.children[label]
        status, epochs = run.data.tags["status"], int(run.data.metrics["epoch"])
        assert trial.state == (TrialState.COMPLETE if status == "completed" else TrialState.PRUNED)
        assert list(trial.intermediate_values) == list(range(1, epochs + 1))
        values = [value for _, value in killed.tracked.points(run, "val_top1")]
        if status == "diverged":
            assert math.isnan(trial.intermediate_values[epochs])
        else:
            assert list(trial.intermediate_values.values()) == values
            assert trial.value == values[-1]
        assert json.loads(run.data.tags["point"]) == trial.user_attrs["point"] == trial.params


def test_a_suggestion_that_was_cut_off_is_no_trial(killed: SimpleNamespace) -> None:
    cut = [trial for trial in told(killed.folder / "results/mine") if "label" not in trial.user_attrs]
    assert all(trial.state == TrialState.FAIL and not trial.intermediate_values for trial in cut)
    assert len(cut) <= len(KILLS)


def test_every_epoch_is_that_of_an_undisturbed_training(killed: SimpleNamespace) -> None:
    """Killed processes, several checkpoints, different slots: the numbers are the same to the last bit."""
    with working_in(killed.folder), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(killed.folder)
        for label, run in killed.tracked.children.items():
            if run.data.tags["status"] == "diverged":
                continue
            content = yaml.safe_load(killed.tracked.text(label, "config.yaml"))
            epochs = int(run.data.metrics["epoch"])
            results = [result.metrics() for result, _ in zip(Job(parse_run(content)).train(), range(epochs))]  # noqa: B905
            for metric in ("val_loss", "val_top1", "train_loss"):
                undisturbed = [result[metric] for result in results]
                assert [value for _, value in killed.tracked.points(run, metric)] == undisturbed, (label, metric)


def test_best_yaml_is_the_best_trials(killed: SimpleNamespace) -> None:
    best = yaml.safe_load((killed.folder / "results/mine/best.yaml").read_text())
    gains = {label: run.data.params.get("rule.gain") for label, run in killed.tracked.children.items()}
    (label,) = [label for label, gain in gains.items() if gain == str(best["rule"]["gain"])]
    completed = [
        run for name, run in killed.tracked.children.items()
        if name not in BASELINES and run.data.tags["status"] == "completed"
    ]  # fmt: skip
    top1 = killed.tracked.children[label].data.metrics["val_top1"]
    assert top1 == max(run.data.metrics["val_top1"] for run in completed)


@pytest.mark.parametrize("which", ["SIGINT", "SIGTERM"])
def test_interrupting_leaves_nothing_running_and_says_how_to_go_on(killed: SimpleNamespace, which: str) -> None:
    stop = killed.stopped[which]
    end: Ended = stop.end
    assert end.returncode == 130, end.out
    assert "Go on with it by " in end.out
    assert "--resume mine" in end.out
    assert all(run.info.status != "RUNNING" for run in stop.runs)
    assert "interrupted" in stop.statuses.values()
    assert [run.info.status for run in stop.runs if run.data.tags["kind"] == "sweep"] == ["KILLED"]


def test_resuming_says_what_it_finds(killed: SimpleNamespace) -> None:
    assert "go on from their checkpoints." in killed.last.out
    assert "Code has changed" not in killed.last.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "run.epochs=9"],
            f"run.epochs: is 9, but the sweep began with {EPOCHS}; a sweep that is resumed may",
        ),
        (["--set", "sampler.seed=5"], "sampler.seed: is 5, but the sweep began with 0; a sweep that is resumed may"),
        (["other.yaml"], "other.yaml: differs from"),
    ],
)
def test_another_setting_is_refused(
    killed: SimpleNamespace, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (killed.folder / "other.yaml").write_text(SPACE.replace("1.0", "2.0"))
    with working_in(killed.folder), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(killed.folder)
        assert command.main([*arguments, *RESUME]) == 2
    assert message in capsys.readouterr().err


def test_a_sweep_that_another_process_has_is_refused(killed: SimpleNamespace) -> None:
    before = Tracked(killed.folder).everything()
    with SweepFolder(str(killed.folder / "results"), "mine").taken():
        second = sweep(killed.folder, *RESUME)
    assert second.returncode == 2
    assert "error: mine is running already: another process has " in second.out
    assert Tracked(killed.folder).everything() == before


@pytest.fixture(scope="module")
def resumed(killed: SimpleNamespace) -> SimpleNamespace:
    """The finished sweep, resumed."""
    end = sweep(killed.folder, *RESUME, environment=killed.there)
    assert end.returncode == 0, end.out
    return SimpleNamespace(folder=killed.folder, end=end, before=killed.tracked, there=killed.there)


def test_resuming_a_finished_sweep_changes_nothing(resumed: SimpleNamespace) -> None:
    assert f"{len(LABELS)} of its trainings have ended." in resumed.end.out
    assert Tracked(resumed.folder).everything() == resumed.before.everything()


@pytest.fixture(scope="module")
def extended(resumed: SimpleNamespace) -> SimpleNamespace:
    """The finished sweep, moved elsewhere, with a line cut short, another rule's file, and two trials more."""
    before = resumed.before.everything()
    moved = resumed.folder / "elsewhere/mine"
    moved.parent.mkdir()
    (resumed.folder / "results/mine").rename(moved)
    with (moved / "study.log").open("a") as log:
        log.write('{"op_code": 6, "worker_id": "cut sho')
    (resumed.folder / "my_lab.py").write_text(MY_LAB + "\n# as it was\n")
    arguments = [*RESUME, "--set", "storage=elsewhere", "--trials", str(TRIALS + 2)]
    end = sweep(resumed.folder, *arguments, environment=resumed.there)
    assert end.returncode == 0, end.out
    return SimpleNamespace(folder=resumed.folder, end=end, before=before, tracked=Tracked(resumed.folder))


def test_more_trials_are_added_to_a_finished_sweep_wherever_it_is_now(extended: SimpleNamespace) -> None:
    assert extended.tracked.children.keys() == LABELS | {"024", "025"}
    assert len(extended.tracked.runs) == len(LABELS) + 3
    assert set(extended.tracked.statuses().values()) <= {"completed", "stopped", "diverged"}
    assert not (extended.folder / "results/mine").exists()
    assert told_by_label(extended.folder / "elsewhere/mine").keys() == LABELS - BASELINES | {"024", "025"}


def test_what_was_finished_stays_as_it_was(extended: SimpleNamespace) -> None:
    now = extended.tracked.everything()
    for label in LABELS:
        run = extended.tracked.children[label]
        status, params, tags, metrics = extended.before[run.info.run_id]
        assert now[run.info.run_id][:3] == (status, params, tags)
        assert {**now[run.info.run_id][3], **metrics} == now[run.info.run_id][3]  # a new best is tested


def test_code_that_has_changed_is_named(extended: SimpleNamespace) -> None:
    assert "Code has changed since the sweep began: my_lab.py." in extended.end.out
    assert extended.tracked.parent.data.tags["code_changed"] == "my_lab.py"
