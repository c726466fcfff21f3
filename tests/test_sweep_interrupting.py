"""A sweep that somebody stops: Ctrl-C once and twice, and SIGTERM to all of its processes at once."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from real_sweeps import DIGITS, TINY, SweepProcess, Tracked, sweep, told

pytestmark = pytest.mark.timeout(600)

EPOCHS, TRIALS = 4, 3
# A training that no signal ends, until it is let go: its process has to be waited for, or left.
MY_LAB = f"""
import time
from dataclasses import dataclass
from pathlib import Path
from aln.rules import LearningRule

HERE = Path(__file__).parent

@dataclass(frozen=True, kw_only=True)
class Slow(LearningRule):
    gain: float = 0.1

    def backward_grad(self, s):
        calls = vars(self).get("calls", 0) + 1
        object.__setattr__(self, "calls", calls)
        while calls > {(EPOCHS - 1) * 8} and not (HERE / "hurry").exists():
            time.sleep(0.1)
        return self.gain * (s.B - s.W)
"""
SPACE = "rule: my_lab:Slow\nparameters:\n  rule.gain: {min: 1e-3, max: 1.0, log: true}\n"
SETTINGS = [*TINY, f"run.epochs={EPOCHS}", "run.checkpoint={every: 1}", "scheduler=none", "baselines=[]", "restarts=0"]
RESUME = ["--resume", "mine"]
ACKNOWLEDGED = "stopping: running trials are saved; "


def left_behind(process: SweepProcess) -> list[str]:
    """What is left of its session, and is a little later, too."""
    deadline = time.monotonic() + 30
    while process.left_behind() and time.monotonic() < deadline:
        time.sleep(0.1)
    return process.left_behind()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, ray_head: str) -> SimpleNamespace:
    """A sweep that Ctrl-C ended twice pressed, then SIGTERM to its group, and that was resumed to its end."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "my_lab.py").write_text(MY_LAB)
    (folder / "space.yaml").write_text(SPACE)
    study, waiting = folder / "results/mine/study.log", f'"epoch":{EPOCHS - 1}.0'
    arguments = ["space.yaml", "--sweep", str(DIGITS), "--trials", str(TRIALS), "--name", "mine", "--set", *SETTINGS]

    twice = SweepProcess(folder, *arguments)
    assert twice.wait_until(lambda: study.exists() and waiting in study.read_text()), twice.out
    twice.send(signal.SIGINT)
    assert twice.wait_until(lambda: ACKNOWLEDGED in twice.out), twice.out
    time.sleep(0.3)  # two signals within a moment are one
    ended_twice = twice.signal(signal.SIGINT)
    left = left_behind(twice)

    group = SweepProcess(folder, *RESUME)
    begun = study.read_text().count("training0")
    assert group.wait_until(lambda: study.read_text().count("training0") > begun), group.out
    group.send(signal.SIGTERM, group=True)
    ended_group = group.wait()
    left += left_behind(group)
    between = SimpleNamespace(told=told(study.parent), tracked=Tracked(folder))

    (folder / "hurry").touch()
    last = sweep(folder, *RESUME, environment={"RAY_ADDRESS": ray_head})
    return SimpleNamespace(
        twice=ended_twice, group=ended_group, left=left, between=between, last=last, tracked=Tracked(folder)
    )


def test_ctrl_c_is_acknowledged_and_says_how_to_go_on(stopped: SimpleNamespace) -> None:
    (line,) = [line for line in stopped.twice.out.splitlines() if ACKNOWLEDGED in line]
    assert "python -m aln.sweep --resume mine continues; Ctrl-C again ends at once" in line


def test_ctrl_c_again_ends_at_once(stopped: SimpleNamespace) -> None:
    assert stopped.twice.returncode == 130
    assert stopped.twice.out.splitlines()[-1].startswith("ended at once; ")
    assert "The sweep was interrupted." not in stopped.twice.out  # it did not wait for its own end


def test_sigterm_to_all_its_processes_ends_it_in_order(stopped: SimpleNamespace) -> None:
    assert stopped.group.returncode == 130, stopped.group.out
    assert ACKNOWLEDGED in stopped.group.out
    assert "Traceback" not in stopped.group.out
    assert {trial.state.name for trial in stopped.between.told} == {"RUNNING"}
    assert set(stopped.between.tracked.statuses().values()) == {"interrupted"}
    assert {run.info.status for run in stopped.between.tracked.runs} == {"KILLED"}


def test_no_process_is_left(stopped: SimpleNamespace) -> None:
    assert stopped.left == []


def test_nothing_is_lost(stopped: SimpleNamespace) -> None:
    assert stopped.last.returncode == 0, stopped.last.out
    assert stopped.tracked.statuses() == {f"{number:03d}": "completed" for number in range(TRIALS)}
    for run in stopped.tracked.children.values():
        assert [step for step, _ in stopped.tracked.points(run, "val_loss")] == list(range(1, EPOCHS + 1))
        assert "restarts" not in run.data.tags
