"""What befalls single trials of a sweep, each in a process of its own: it ends as what it is, and the sweep goes on."""

from __future__ import annotations

import math
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from commands import Ended
from ray_head import started_head, started_node
from real_sweeps import DIGITS, TINY, SweepProcess, Tracked, sweep, told_by_label

# Start-ups of a dozen processes that die, on machines that may be busy.
pytestmark = pytest.mark.timeout(900)

EPOCHS, STALL = 6, 5
MY_LAB = f"""
import os
import re
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from aln.rules import LearningRule

HERE = Path(__file__).parent
EPOCH = 8  # calls of an epoch: four steps, two layers


def first(name):
    try:
        (HERE / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Fated(LearningRule):
    fate: str = "sound"

    def backward_grad(self, s):
        calls = vars(self).get("calls", 0) + 1
        object.__setattr__(self, "calls", calls)
        self.befall(calls)
        return s.B / 0 if self.fate == "diverges" else 0.1 * (s.B - s.W)

    def befall(self, calls):
        if self.fate == "silent":
            raise SystemExit
        if self.fate == "raises" and calls > 2 * EPOCH:
            raise ValueError("a rule with a bug")
        if self.fate == "hangs" and calls > 2 * EPOCH:
            time.sleep(1e6)
        if self.fate == "holds" and calls > 2 * EPOCH:
            re.match("(a+)+$", 60 * "a" + "b")
        if self.fate == "starved" and calls > EPOCH + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fate == "exits" and calls > 3 * EPOCH and first("exited"):
            os._exit(3)
        if self.fate == "shot" and calls > 3 * EPOCH and first("target"):
            (HERE / "target.new").write_text(str(os.getpid()))
            (HERE / "target.new").rename(HERE / "pid")
            time.sleep(60)
        if self.fate.startswith("late") and calls == {EPOCHS} * EPOCH:
            threading.Timer(0.1 * float(self.fate[4:]), os._exit, (1,)).start()
        if self.fate.startswith("slow") and not (HERE / "hurry").exists():
            time.sleep(0.1)
"""
# Each kills its process a moment after its last step. With others between them no trial meets more such processes than
# it has restarts.
AFTER = ["late0", "sound b", "late0.1", "sound c", "late0.4", "sound d", "late1", "sound again"]
FATES = ["sound", "starved", "raises", "hangs", "diverges", "exits", "silent", "shot", "holds", *AFTER]
SETTINGS = [*TINY, f"run.epochs={EPOCHS}", "run.checkpoint={every: 2}", "sampler=grid", "baselines=[]"]
SETTINGS += ["scheduler=none"]


def begin(folder: Path, fates: list[str]) -> list[str]:
    """Writes a rule with fates and a space that has each once, in this order; returns the command's arguments."""
    (folder / "my_lab.py").write_text(MY_LAB)
    values = ", ".join(fates)
    (folder / "space.yaml").write_text(f"rule: my_lab:Fated\nparameters:\n  rule.fate: {{values: [{values}]}}\n")
    arguments = ["space.yaml", "--sweep", str(DIGITS), "--trials", str(len(fates)), "--name", "fated"]
    return [*arguments, "--set", *SETTINGS]


def by_fate(folder: Path) -> dict[str, SimpleNamespace]:
    """What MLflow and Optuna hold of each trial, by its fate."""
    tracked, told = Tracked(folder), told_by_label(folder / "results/fated")
    return {
        run.data.params["rule.fate"]: SimpleNamespace(
            label=label,
            run=run,
            state=told[label].state,
            status=run.data.tags.get("status"),
            error=tracked.text(label, "error.txt") if run.info.status == "FAILED" else "",
            losses=tracked.points(run, "val_loss"),
        )
        for label, run in tracked.children.items()
    }


@pytest.fixture(scope="module")
def fated(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> SimpleNamespace:
    """A sweep in which everything happens once, and one process is killed from outside."""
    folder = tmp_path_factory.mktemp("fated")
    shutil.copy(empty_store, folder / "mlflow.db")
    process = SweepProcess(folder, *begin(folder, FATES), f"stall_timeout={STALL}", "restarts=3")
    assert process.wait_until((folder / "pid").exists), process.out
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    end = process.wait()
    assert end.returncode == 0, end.out
    return SimpleNamespace(folder=folder, end=end, trials=by_fate(folder), tracked=Tracked(folder))


def test_every_trial_has_ended_and_the_sweep_too(fated: SimpleNamespace) -> None:
    assert fated.trials.keys() == set(FATES)
    assert fated.tracked.parent.data.tags["status"] == "completed"
    assert all(run.info.status != "RUNNING" for run in fated.tracked.runs)
    assert f"[{len(FATES)}/{len(FATES)}]" in fated.end.out


SAID = {
    "raises": ("failed", ["ValueError: a rule with a bug", "my_lab.py"]),
    "hangs": ("timed out", [f"no step for {STALL} s", "time.sleep(1e6)", "my_lab.py"]),
    "holds": ("timed out", ["most recent call first", "my_lab.py", "no thread got a turn"]),
    "starved": ("failed", ["its process died 4 times, the last time so:"]),
    "silent": ("failed", ["SystemExit", "my_lab.py"]),
}


@pytest.mark.parametrize("fate", SAID)
def test_a_trial_that_ends_badly_says_why(fated: SimpleNamespace, fate: str) -> None:
    trial, (status, texts) = fated.trials[fate], SAID[fate]
    assert trial.status == status
    assert trial.run.info.status == "FAILED"
    for text in texts:
        assert text in trial.error
    assert trial.state == TrialState.FAIL
    assert f"{trial.label}  {status:<9}" in fated.end.out


def test_a_trial_that_diverges_is_no_failure_but_bad(fated: SimpleNamespace) -> None:
    trial = fated.trials["diverges"]
    assert (trial.status, trial.run.info.status, trial.state) == ("diverged", "FINISHED", TrialState.PRUNED)


@pytest.mark.parametrize("fate", ["raises", "hangs", "holds"])
def test_what_was_trained_before_is_kept(fated: SimpleNamespace, fate: str) -> None:
    assert fated.trials[fate].losses == fated.trials["sound"].losses[:2]


@pytest.mark.parametrize("fate", ["exits", "shot"])
def test_a_process_that_dies_is_replaced_and_its_training_goes_on(fated: SimpleNamespace, fate: str) -> None:
    trial = fated.trials[fate]
    assert (trial.status, trial.state) == ("completed", TrialState.COMPLETE)
    assert trial.run.data.tags["restarts"] == "1"
    assert [epoch for epoch, _ in trial.losses] == list(range(1, EPOCHS + 1))
    assert trial.losses == fated.trials["sound"].losses


@pytest.mark.parametrize("fate", ["sound", *AFTER])
def test_what_befalls_a_process_between_two_trials_harms_neither(fated: SimpleNamespace, fate: str) -> None:
    """Each of these comes before or after one whose process died, some in the moment of passing on."""
    trial = fated.trials[fate]
    assert (trial.status, trial.state) == ("completed", TrialState.COMPLETE)
    assert math.isfinite(trial.losses[-1][1])
    assert trial.losses == fated.trials["sound"].losses


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, ray_head: str) -> SimpleNamespace:
    """A sweep that ends after two failures, goes on until a target is reached, and goes on to its end."""
    folder = tmp_path_factory.mktemp("ended")
    shutil.copy(empty_store, folder / "mlflow.db")
    fates = ["sound", "raises", "slow", "raises again", "late0", "late1"]
    arguments = begin(folder, fates)
    (folder / "my_lab.py").write_text(MY_LAB.replace('self.fate == "raises"', 'self.fate.startswith("raises")'))
    steps = []
    for given in ([*arguments, "max_failures=1"], ["max_failures=9", "budget.target=1"], ["budget.target=100"]):
        command = given if not steps else ["--resume", "fated", "--set", *given]
        end = sweep(folder, *command, environment={"RAY_ADDRESS": ray_head})
        steps.append(SimpleNamespace(end=end, trials=by_fate(folder), tracked=Tracked(folder)))
        (folder / "hurry").touch()
    return SimpleNamespace(failures=steps[0], target=steps[1], last=steps[2])


def test_too_many_failures_end_the_sweep_in_good_order(ended: SimpleNamespace) -> None:
    end: Ended = ended.failures.end
    assert end.returncode == 0, end.out
    assert "The sweep ended before its last trial: 2 trials failed, more than max_failures = 1." in end.out
    assert "Go on with it by " in end.out
    statuses = {fate: trial.status for fate, trial in ended.failures.trials.items()}
    assert statuses["slow"] == "interrupted"
    assert ended.failures.trials["slow"].run.info.status == "KILLED"
    assert {statuses["raises"], statuses["raises again"]} == {"failed"}
    assert all(run.info.status != "RUNNING" for run in ended.failures.tracked.runs)


def test_a_target_that_is_reached_ends_the_sweep_in_good_order(ended: SimpleNamespace) -> None:
    end: Ended = ended.target.end
    assert end.returncode == 0, end.out
    assert "The sweep ended before its last trial: val_top1 1 is reached by trial 000." in end.out
    assert ended.target.trials["slow"].status == "interrupted"
    assert all(run.info.status != "RUNNING" for run in ended.target.tracked.runs)


def test_with_more_to_spend_it_goes_on_to_its_end(ended: SimpleNamespace) -> None:
    end: Ended = ended.last.end
    assert end.returncode == 0, end.out
    assert {fate: trial.status for fate, trial in ended.last.trials.items()} == {
        "sound": "completed",
        "raises": "failed",
        "slow": "completed",
        "raises again": "failed",
        "late0": "completed",
        "late1": "completed",
    }
    assert ended.last.trials["slow"].losses == ended.last.trials["sound"].losses
    assert ended.last.tracked.parent.info.status == "FINISHED"


def test_a_trial_whose_machine_dies_goes_on_elsewhere(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    arguments, study = begin(tmp_path, ["slow", "slower", "sound"]), tmp_path / "results/fated/study.log"
    with started_head(tmp_path, cpus=1) as address, started_node(tmp_path, address, cpus=1) as kill:
        process = SweepProcess(tmp_path, *arguments, environment={"RAY_ADDRESS": address})
        # Both have a checkpoint, one on each machine.
        third = '"epoch":3.0'
        assert process.wait_until(lambda: study.exists() and study.read_text().count(third) >= 2), process.out
        kill()
        (tmp_path / "hurry").touch()
        end = process.wait()
    assert end.returncode == 0, end.out
    assert f"Running on the Ray cluster at {address} with 2 CPU cores and 0 GPUs: 2 trials at once." in end.out
    trials = by_fate(tmp_path)
    assert {trial.status for trial in trials.values()} == {"completed"}
    assert sorted(trial.run.data.tags.get("restarts", "0") for trial in trials.values()) == ["0", "0", "1"]
    for trial in trials.values():
        assert trial.losses == trials["sound"].losses
        assert len(trial.losses) == EPOCHS
