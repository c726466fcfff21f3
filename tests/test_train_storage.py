"""`python -m aln.train` as real processes whose runs are in an object store, or on a disk that is full."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aln import train, validate
from aln.checkpoint_folder import CheckpointFolder
from aln.config import dump
from commands import Command, Ended
from logged_trainings import logged
from small_disk import fill, small_disk
from stores import Store, enter, started_store

EPOCHS = 6
# A rule of the user's own, in the folder where training starts, that waits before the gradient whose number is in the
# file `wait`, until there is a file called `go`: so that what befalls the training befalls it there.
MY_LAB = """
import time
from dataclasses import dataclass
from pathlib import Path
from aln.rules import LearningRule

gradients = 0

@dataclass(frozen=True, kw_only=True)
class Towards(LearningRule):
    rate: float = 0.1

    def backward_grad(self, s):
        global gradients
        gradients += 1
        if Path("wait").exists() and gradients == int(Path("wait").read_text()):
            print("\\nwaiting", flush=True)
            while not Path("go").exists():
                time.sleep(0.01)
        return self.rate * (s.B - s.W)
"""
RUN: dict[str, Any] = {
    "rule": "my_lab:Towards",
    "model": {"name": "mlp", "width": 16, "depth": 1},  # two gradients a step
    "data": {"name": "synthetic", "train": 320, "validation": 50, "test": 50, "image_size": 4, "channels": 1},
    "optimizer": {"name": "sgd", "lr": 0.05},
    "epochs": EPOCHS,
    "batch_size": 64,  # five steps, ten gradients an epoch
    "checkpoint": {"every": 1, "steps": 3},
}
IN_EPOCH_4 = 39  # gradients: the last step but one of the fourth epoch, after its checkpoint at step 3


class Workplace:
    """A folder in which runs called `mine` train, with their MLflow store."""

    def __init__(self, folder: Path, database: Path, storage: str) -> None:
        self.folder, self.storage = folder, storage
        shutil.copy(database, folder / "mlflow.db")
        (folder / "my_lab.py").write_text(MY_LAB)
        (folder / "run.yaml").write_text(dump(RUN))
        self.checkpoints = CheckpointFolder(f"{storage}/mine/checkpoints")

    def begin(self, *arguments: str) -> Command:
        return Command(self.folder, "aln.train", *arguments, "--name", "mine", "--storage", self.storage)

    def train(self, *arguments: str) -> Ended:
        return self.begin(*arguments).wait()

    def refused(self, *arguments: str, name: str = "mine") -> str:
        """What the command says that ends before anything starts; in this process, which has imported all it needs."""
        err = io.StringIO()
        with pytest.MonkeyPatch.context() as here, contextlib.redirect_stderr(err):
            here.chdir(self.folder)
            here.syspath_prepend(self.folder)
            assert train.main([*arguments, "--name", name, "--storage", self.storage]) == 2
        return err.getvalue()

    def begin_and_wait(self, gradient: int) -> Command:
        """A training that stands before a gradient; `go` lets it go on."""
        (self.folder / "wait").write_text(str(gradient))
        process = self.begin("run.yaml")
        assert process.wait_until(lambda: "waiting\n" in process.out), process.out
        return process

    def go(self, process: Command) -> Ended:
        """Lets it go on, to its end."""
        (self.folder / "go").touch()
        return process.wait()

    def newest(self) -> tuple[int, int] | None:
        loaded = self.checkpoints.newest()
        assert loaded is None or loaded.damaged == ()
        return None if loaded is None else (loaded.saved.epoch, loaded.saved.step)

    def resume(self) -> Ended:
        (self.folder / "wait").unlink(missing_ok=True)
        return self.train("--resume")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> dict[str, Any]:
    """What a training logs whom nothing befalls, on a disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    place = Workplace(folder, empty_store, str(folder / "runs"))
    done = place.train("run.yaml")
    assert done.returncode == 0, done.out
    found = logged(place.folder)
    assert [epoch for epoch, _ in found["val_loss"]] == list(range(1, EPOCHS + 1))
    return found


@pytest.fixture
def remote(s3: Store, tmp_path: Path, empty_store: Path) -> Workplace:
    return Workplace(tmp_path, empty_store, f"{s3.url}/runs")


def test_a_killed_run_in_a_store_is_resumed_to_the_metrics_of_an_undisturbed_one(
    remote: Workplace, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = remote.begin_and_wait(IN_EPOCH_4)
    assert process.signal(signal.SIGKILL).returncode == -signal.SIGKILL
    assert remote.newest() == (3, 3)
    done = remote.resume()
    assert (done.returncode, done.err) == (0, "")
    assert f"checkpoints    {remote.storage}/mine/checkpoints" in done.out
    assert logged(remote.folder) == undisturbed
    assert remote.newest() == (EPOCHS, 0)
    assert not list((remote.folder / "results").rglob("*.pt"))

    monkeypatch.chdir(remote.folder)
    monkeypatch.syspath_prepend(remote.folder)
    capsys.readouterr()
    assert validate.main([f"{remote.storage}/mine", "--split", "test", "--no-log"]) == 0
    found = f"top-1 {undisturbed['test_top1']:.2f} %, top-5 .* %, loss {undisturbed['test_loss']:.4f}, 50 examples"
    assert re.search(found, capsys.readouterr().out)
    assert remote.refused("run.yaml").startswith(f"error: --name: is 'mine', but {remote.storage}/mine exists")


def test_a_store_that_goes_away_ends_training_with_its_name_and_is_resumed(
    remote: Workplace, s3: Store, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    process = remote.begin_and_wait(IN_EPOCH_4)
    s3.line.order("cut")
    done = remote.go(process)
    assert done.returncode == 2
    lost = rf"error: {remote.storage}/mine/checkpoints/epoch00004-step0000000-score\S+\.pt: the checkpoint cannot be"
    assert re.fullmatch(rf"{lost} written: {s3.endpoint} does not answer: .*\n", done.err)
    again = f"python -m aln.train --resume --name mine --storage {remote.storage}"
    assert f"continue it with {again}" in done.out.replace(f"{Path(sys.executable).parent}/", "")
    # The epoch that was not saved is told all the same.
    assert [epoch for epoch, _ in logged(remote.folder)["val_loss"]] == [1, 2, 3, 4]
    assert logged(remote.folder)["status"] == "failed"
    refused = remote.refused("--resume")
    assert re.fullmatch(rf"error: {remote.storage}/mine\S* cannot be read: {s3.endpoint} does not .*\n", refused)
    s3.line.order("mend")
    assert remote.newest() == (3, 3)
    assert remote.resume().returncode == 0
    assert logged(remote.folder) == undisturbed


def test_a_killed_server_is_named_by_the_training_and_before_it(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with started_store("s3", tmp_path) as store:
        enter(store, monkeypatch)
        place = Workplace(tmp_path, empty_store, f"{store.url}/runs")
        process = place.begin_and_wait(5)
        store.server.kill()
        done = place.go(process)
        assert done.returncode == 2
        assert re.search(rf"error: {place.storage}/mine/checkpoints/epoch\S+\.pt: the checkpoint cannot be", done.err)
        assert f"{store.endpoint} does not answer" in done.err
        (tmp_path / "mlflow.db").unlink()
        refused = place.refused("run.yaml")
        assert re.match(rf"error: {place.storage}/mine cannot be .*{store.endpoint} does not answer", refused)
        assert not (tmp_path / "mlflow.db").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk", "1m"):
        yield tmp_path / "disk"


def test_a_full_disk_ends_training_with_its_name_and_is_resumed_when_there_is_room(
    tmp_path: Path, empty_store: Path, disk: Path, undisturbed: dict[str, Any]
) -> None:
    place = Workplace(tmp_path, empty_store, str(disk))
    process = place.begin_and_wait(IN_EPOCH_4)
    other = disk / "others"
    fill(other)
    done = place.go(process)
    assert done.returncode == 2
    # Whichever comes first: what MLflow is to hear of the epoch, or its checkpoint.
    lost = rf"{disk}/mine/(mlflow\.spool|checkpoints/epoch00004-step0000000-score\S+\.pt: the checkpoint)"
    assert re.fullmatch(rf"error: {lost} cannot be written: (database or disk is full|No space.*)\n", done.err), (
        done.err
    )
    assert "continue it with" in done.out
    assert place.newest() == (3, 3)
    assert not [path for path in (disk / "mine" / "checkpoints").iterdir() if path.suffix != ".pt"]
    message = f"error: {disk}/another cannot be made for the results: No space left on device\n"
    assert place.refused("run.yaml", name="another") == message
    other.unlink()
    assert [path.name for path in disk.iterdir()] == ["mine"]
    assert place.resume().returncode == 0
    assert logged(place.folder) == undisturbed
