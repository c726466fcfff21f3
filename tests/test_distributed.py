"""`python -m aln.train --workers 2` on a real Ray cluster: it trains as one process does, and nothing is lost."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aln.config import dump
from commands import Command, Ended, run_command
from logged_trainings import logged

EPOCHS = 8
# A rule of the user's own, in the folder where training starts. Files there say what befalls the workers, and when: a
# line is the worker (* for every one), the number of gradients that it has computed since it began, and the deed.
MY_LAB = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
import torch.distributed as dist
from aln.rules import LearningRule

gradients = 0

def suffer():
    global gradients
    gradients += 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    for plan in sorted(Path.cwd().glob("plan*")):
        done = Path(f"done-{plan.name}-{rank}")
        who, when, deed = plan.read_text().split()
        if done.exists() or who not in ("*", str(rank)):
            continue
        if gradients == int(when):
            done.touch()
            if deed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif deed == "fail":
                raise ValueError("a rule with a bug")
            while deed == "wait" and not Path("go").exists():
                time.sleep(0.05)
        return

@dataclass(frozen=True, kw_only=True)
class Towards(LearningRule):
    rate: float = 0.1

    def backward_grad(self, s):
        suffer()
        return self.rate * (s.B - s.W)
"""
RUN: dict[str, Any] = {
    "rule": "my_lab:Towards",
    "model": {"name": "mlp", "width": 16, "depth": 1},  # two gradients a step
    "data": {"name": "synthetic", "train": 320, "validation": 50, "test": 50, "image_size": 4, "channels": 1},
    "optimizer": {"name": "sgd", "lr": 0.05},
    "epochs": EPOCHS,
    "batch_size": 64,  # five steps an epoch
    "checkpoint": {"every": 2, "steps": 3},
}


def prepare(folder: Path, store: Path, plans: Mapping[str, str] | None = None) -> Path:
    """A working folder with the run's description, the rule, an empty MLflow store, and what befalls the workers."""
    shutil.copy(store, folder / "mlflow.db")
    (folder / "my_lab.py").write_text(MY_LAB)
    (folder / "run.yaml").write_text(dump(RUN))
    for name, plan in (plans or {}).items():
        (folder / name).write_text(plan)
    return folder


def train(folder: Path, *arguments: str, ray: str | None = None) -> Ended:
    """Runs the command in the folder, on the cluster or on one of its own."""
    return run_command(folder, "aln.train", *arguments, environment={} if ray is None else {"RAY_ADDRESS": ray})


BEGIN = ["run.yaml", "--workers", "2", "--name", "mine"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, ray_head: str) -> SimpleNamespace:
    """A training by two workers whom nothing befalls."""
    folder = prepare(tmp_path_factory.mktemp("undisturbed"), empty_store)
    done = train(folder, *BEGIN, ray=ray_head)
    assert done.returncode == 0, done.out
    return SimpleNamespace(folder=folder, out=done.out, err=done.err, logged=logged(folder), ray=ray_head)


def test_two_workers_train_what_one_does(undisturbed: SimpleNamespace, tmp_path: Path, empty_store: Path) -> None:
    alone = prepare(tmp_path, empty_store)
    assert train(alone, "run.yaml", "--name", "mine").returncode == 0
    expected = logged(alone)
    assert undisturbed.logged["status"] == "completed"
    assert [epoch for epoch, _ in expected["val_loss"]] == list(range(1, EPOCHS + 1))
    for name, values in expected.items():
        found = undisturbed.logged[name]
        if isinstance(values, list):
            assert [epoch for epoch, _ in found] == [epoch for epoch, _ in values]
            assert [value for _, value in found] == pytest.approx([value for _, value in values], rel=1e-4)
        else:
            assert found == (values if isinstance(values, str) else pytest.approx(values, rel=1e-4))


def test_the_screen_says_where_it_runs_and_each_epoch_once(undisturbed: SimpleNamespace) -> None:
    assert f"Running on the Ray cluster at {undisturbed.ray} with 2 CPU cores and 0 GPUs: 2 workers." in undisturbed.out
    assert re.findall(r"^epoch +(\d+)/8", undisturbed.out, re.MULTILINE) == [str(e) for e in range(1, EPOCHS + 1)]
    assert f"Test top-1 {undisturbed.logged['test_top1']:.2f} %" in undisturbed.out
    assert undisturbed.err == ""


def test_lost_workers_begin_anew_to_the_metrics_of_an_undisturbed_training(
    undisturbed: SimpleNamespace, tmp_path: Path, empty_store: Path
) -> None:
    """One is killed in the third epoch, all of them later, in the midst of an epoch."""
    folder = prepare(tmp_path, empty_store, {"plan1": "1 24 die", "plan2": "* 30 die"})
    done = train(folder, *BEGIN, ray=undisturbed.ray)
    assert done.returncode == 0, done.out
    assert {path.name for path in folder.glob("done-*")} == {"done-plan1-1", "done-plan2-0", "done-plan2-1"}
    said = re.findall(r"^.*go on from epoch.*$", done.out, re.MULTILINE)
    assert len(said) == 2
    assert re.fullmatch(
        r"(Worker \d died|A worker was lost): all go on from epoch 3, step 1 \(restart 1 of 3\)\.", said[0]
    )
    assert done.err == ""
    assert logged(folder) == undisturbed.logged


def test_a_killed_driver_leaves_nothing_behind_and_its_run_is_resumed(
    undisturbed: SimpleNamespace, tmp_path: Path, empty_store: Path
) -> None:
    folder = prepare(tmp_path, empty_store, {"plan1": "* 45 wait"})
    process = Command(folder, "aln.train", *BEGIN, environment={"RAY_ADDRESS": undisturbed.ray})
    assert process.wait_until(lambda: re.search(r"epoch +4/", process.out) is not None), process.out
    assert process.signal(signal.SIGKILL).returncode == -signal.SIGKILL
    # The cluster holds two workers, so these begin when those of the killed training are gone.
    done = train(folder, "--resume", "--name", "mine", ray=undisturbed.ray)
    assert done.returncode == 0, done.out
    assert logged(folder) == undisturbed.logged


def test_a_bug_is_shown_with_its_traceback_and_not_tried_again(
    undisturbed: SimpleNamespace, tmp_path: Path, empty_store: Path
) -> None:
    folder = prepare(tmp_path, empty_store, {"plan1": "1 24 fail"})
    done = train(folder, *BEGIN, ray=undisturbed.ray)
    assert done.returncode == 1
    assert "ValueError: a rule with a bug" in done.err
    assert "On worker 1:" in done.err
    assert "my_lab.py" in done.err
    assert "go on from" not in done.out
    found = logged(folder)
    assert found["status"] == "failed"
    assert [epoch for epoch, _ in found["val_loss"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "3", "--set", "batch_size=60"], r"workers is 3, but the Ray cluster at .* holds 2 workers of 1"),
        (["--workers", "2", "--set", "resources.gpus=1"], r"holds 0 workers of 1 CPU cores and 1 GPUs"),
        (["--workers", "3"], r"batch_size: is 64, expected a multiple of resources.workers, 3"),
        (["--workers", "0"], r"resources.workers: is 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, empty_store: Path, ray_head: str, arguments: list[str], message: str
) -> None:
    folder = prepare(tmp_path, empty_store)
    done = train(folder, "run.yaml", *arguments, ray=ray_head)
    assert done.returncode == 2
    assert re.search(message, done.err)
    assert not (folder / "results").exists()
