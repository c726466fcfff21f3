"""A sweep whose checkpoints lie in an object store: another machine goes on with it when the first is lost."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from aln import sweep as command
from aln.storage import open_storage
from aln.sweep_folder import STUDY
from commands import REPOSITORY, count_lines
from real_sweeps import DIGITS, TINY, SweepProcess, Tracked, sweep
from stores import Store

SPACE = str(REPOSITORY / "search_spaces/information.yaml")
EPOCHS, TRIALS = 12, 4
SETTINGS = [*TINY, f"run.epochs={EPOCHS}", "run.checkpoint={every: 1}", "scheduler=none", "baselines=[backprop]"]


@pytest.mark.timeout(900)
def test_another_machine_goes_on_from_what_the_store_has(tmp_path: Path, empty_store: Path, s3: Store) -> None:
    lost, other = tmp_path / "lost", tmp_path / "other"
    for machine in (lost, other):
        machine.mkdir()
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    environment = {**s3.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    storage = f"storage={s3.url}/sweeps"
    first = SweepProcess(
        lost, SPACE, "--sweep", str(DIGITS), "--trials", str(TRIALS), "--name", "far",
        "--set", *SETTINGS, storage, environment=environment,
    )  # fmt: skip
    study = lost / "results/far" / STUDY
    assert first.wait_until(lambda: study.exists() and count_lines(study) > 60), first.out
    assert first.signal(signal.SIGKILL).returncode == -signal.SIGKILL
    # The store's copy is of the beginning: checkpoints, and what MLflow has heard, are ahead of it.
    copied = open_storage(f"{s3.url}/sweeps/far").read(STUDY).count(b"\n")
    assert copied < count_lines(study)
    shutil.rmtree(lost)

    # A trial that began after the copy, and to whose number the resumed study gives another point.
    before = Tracked(tmp_path)
    parent = before.parent.info.run_id
    tags = {"kind": "searched", "trial": "003", "point_id": "another", "mlflow.parentRunId": parent}
    stray = before.client.create_run(before.parent.info.experiment_id, tags=tags).info.run_id

    ended = sweep(other, "--resume", "far", "--set", storage, environment=environment)
    assert ended.returncode == 0, ended.out
    assert f"checkpoints to {s3.url}/sweeps/far" in ended.out
    assert before.client.get_run(stray).info.status == "KILLED"
    assert before.client.get_run(stray).data.tags["status"] == "lost"
    before.client.delete_run(stray)
    tracked = Tracked(tmp_path)
    assert tracked.children.keys() == {"backprop", *(f"{number:03d}" for number in range(TRIALS))}
    for label, run in tracked.children.items():
        assert run.info.status == "FINISHED", label
        assert [step for step, _ in tracked.points(run, "train_loss")] == list(range(1, EPOCHS + 1)), label
    assert (other / "results/far/best.yaml").exists()


def test_a_name_that_the_store_has_is_taken_in_a_dry_run_too(
    tmp_path: Path, s3: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    open_storage(f"{s3.url}/sweeps/far").write("sweep.yaml", b"trials: 3")
    arguments = [SPACE, "--sweep", str(DIGITS), "--name", "far", "--dry-run", "--set", f"storage={s3.url}/sweeps"]
    assert command.main(arguments) == 2
    assert f"--name: is 'far', but {s3.url}/sweeps/far exists; choose another name" in capsys.readouterr().err


def test_a_sweep_that_the_store_does_not_have_is_refused(tmp_path: Path, s3: Store) -> None:
    arguments = ["--resume", "far", "--set", f"storage={s3.url}/sweeps"]
    ended = sweep(tmp_path, *arguments, environment=s3.environment)
    assert ended.returncode == 2
    assert "--resume: is 'far', but" in ended.out
    assert not (tmp_path / "results").exists()
