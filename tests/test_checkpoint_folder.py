"""The checkpoints of a run: which are kept, which is taken, and that whatever befalls a writer, a good one is left."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aln.checkpoint import TrainState
from aln.checkpoint_folder import CheckpointFolder, LoadedCheckpoint
from aln.errors import CheckpointError, StorageError
from small_disk import small_disk
from stores import Store


def state_at(epoch: int, step: int = 0, size: int = 1) -> TrainState:
    """A state whose weights tell the place in training."""
    model = nn.Linear(size, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1000 * epoch + step)
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1), description={"place": [epoch, step]})
    state.begin_epoch(epoch)
    state.step = step
    return state


def place_of(loaded: LoadedCheckpoint | None) -> tuple[int, int] | None:
    """Where a checkpoint stands; its weights must be of the same place."""
    if loaded is None:
        return None
    place = (int(loaded.content["epoch"]), int(loaded.content["step"]))
    assert loaded.content["model"]["weight"].unique().tolist() == [1000.0 * place[0] + place[1]]
    assert loaded.content["description"] == {"place": list(place)}
    assert (loaded.saved.epoch, loaded.saved.step) == place
    return place


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where checkpoints go: a folder that is not there yet, or a URL."""
    if request.param == "local":
        return str(tmp_path / "run" / "checkpoints")
    store: Store = request.getfixturevalue("s3")
    return f"{store.url}/run/checkpoints"


def places(folder: CheckpointFolder) -> list[tuple[int, int]]:
    return [(entry.epoch, entry.step) for entry in folder.saved()]


def damage(folder: CheckpointFolder, index: int, how: str = "cut") -> str:
    """Damages one of the checkpoints; returns its address."""
    name = folder.saved()[index].name
    content = bytearray(folder.storage.read(name))
    if how == "bit":
        epoch = folder.saved()[index].epoch
        content[content.index(struct.pack("<f", 1000.0 * epoch))] ^= 1  # of the weight
    folder.storage.write(name, {"bit": bytes(content), "empty": b"", "cut": bytes(content[:-100])}[how])
    return folder.storage.address(name)


@pytest.mark.parametrize(
    ("keep", "scores", "kept"),
    [
        ({"keep_last": 1, "keep_best": 0}, [5, 9, 1, 2], [4]),
        ({"keep_last": 2, "keep_best": 1}, [5, 9, 1, 2], [2, 3, 4]),
        ({"keep_last": 2, "keep_best": 1}, [5, 1, 2, 9], [3, 4]),
        ({"keep_last": 1, "keep_best": 2}, [5, 9, 1, 2], [1, 2, 4]),
        ({"keep_last": 1, "keep_best": 1, "mode": "min"}, [5, 9, 1, 2], [3, 4]),
        ({"keep_last": 1, "keep_best": 1}, [9, 9, 9, 9], [1, 4]),  # of equal ones the earliest
        ({"keep_last": 1, "keep_best": 2}, [1, 9, 9, 9], [2, 3, 4]),
        ({"keep_last": 1, "keep_best": 1}, [-3, -1e-9, -2, -5e10], [2, 4]),
        ({"keep_last": 1, "keep_best": 1}, [7, None, float("nan"), float("inf")], [1, 4]),
        ({"keep_last": 9, "keep_best": 9}, [1, 2, 3, 4], [1, 2, 3, 4]),
    ],
    ids=[
        "last",
        "last and best",
        "best is last",
        "two best",
        "lowest",
        "ties",
        "two of ties",
        "negative",
        "none",
        "all",
    ],
)
def test_the_last_and_the_best_are_kept(
    root: str, keep: dict[str, Any], scores: list[float | None], kept: list[int]
) -> None:
    folder = CheckpointFolder(root, **keep)
    for epoch, score in enumerate(scores, 1):
        written = folder.save(state_at(epoch), score)
        assert written.complaint == ""
        assert place_of(folder.newest()) == (epoch, 0)
    assert [epoch for epoch, _ in places(folder)] == kept


def test_the_best_is_loaded_by_its_score(root: str) -> None:
    for mode, best in (("max", 2), ("min", 3)):
        folder = CheckpointFolder(f"{root}/{mode}", keep_last=9, mode=mode)  # type: ignore[arg-type]
        for epoch, score in enumerate([50, 99.999992, -1, 99.99999], 1):
            folder.save(state_at(epoch), score)
        folder.save(state_at(9))  # not evaluated
        assert place_of(folder.best()) == (best, 0)
        assert place_of(folder.newest()) == (9, 0)


def test_without_scores_there_is_no_best(root: str) -> None:
    folder = CheckpointFolder(root)
    assert folder.newest() is None
    assert folder.best() is None
    folder.save(state_at(1))
    assert folder.best() is None


def test_places_are_ordered_as_training_passes_them(root: str) -> None:
    """Not as texts are: the hundred-thousandth epoch has a digit more."""
    folder = CheckpointFolder(root, keep_last=9)
    order = [(1, 0), (1, 7), (2, 0), (99_999, 0), (99_999, 9_999_999), (99_999, 10_000_000), (100_000, 0)]
    for epoch, step in reversed(order):
        folder.save(state_at(epoch, step))
    assert places(folder) == order
    assert place_of(folder.newest()) == (100_000, 0)


def test_what_else_lies_there_is_left_alone(root: str) -> None:
    folder = CheckpointFolder(root, keep_last=1, keep_best=0)
    others = ["notes.txt", "epoch1.pt", "epoch00001-step0000000.pt.old", "epoch00001-step0000000-scorex.pt"]
    for name in others:
        folder.storage.write(name, b"mine")
    for epoch in (1, 2):
        folder.save(state_at(epoch))
    assert places(folder) == [(2, 0)]
    assert {file.name for file in folder.storage.files()} == {*others, "epoch00002-step0000000.pt"}


@pytest.mark.parametrize("how", ["cut", "bit", "empty"])
def test_a_damaged_newest_falls_back_and_says_so(root: str, how: str) -> None:
    folder = CheckpointFolder(root, keep_last=3)
    for epoch in (1, 2, 3):
        folder.save(state_at(epoch), score=epoch)
    address = damage(folder, -1, how)
    for loaded in (folder.newest(), folder.best()):
        assert place_of(loaded) == (2, 0)
        assert loaded is not None
        assert len(loaded.damaged) == 1
        assert loaded.damaged[0].startswith(f"{address}: not a readable checkpoint: ")
    resumed = state_at(0)
    found = folder.resume(resumed)
    assert found is not None
    assert (resumed.epoch, resumed.model.state_dict()["weight"].item()) == (2, 2000.0)
    # The place is trained and saved anew, the damaged file makes way.
    folder.save(state_at(3), score=3)
    again = folder.newest()
    assert place_of(again) == (3, 0)
    assert again is not None
    assert again.damaged == ()


def test_a_damaged_one_of_another_score_takes_no_good_ones_place(root: str) -> None:
    """A place that was trained anew with another score is another file: both count as one place."""
    folder = CheckpointFolder(root, keep_last=2, keep_best=0)
    folder.save(state_at(1), score=1)
    folder.save(state_at(2), score=2)
    damage(folder, -1)
    folder.save(state_at(2), score=2.5)
    assert places(folder) == [(1, 0), (2, 0), (2, 0)]
    folder.save(state_at(3), score=3)
    assert place_of(folder.newest()) == (3, 0)
    assert set(places(folder)) == {(2, 0), (3, 0)}


def test_all_damaged_are_all_named(root: str) -> None:
    folder = CheckpointFolder(root)
    for epoch in (1, 2):
        folder.save(state_at(epoch))
    addresses = [damage(folder, index) for index in (0, 1)]
    with pytest.raises(CheckpointError, match="no checkpoint can be read") as raised:
        folder.newest()
    first, *lines = str(raised.value).splitlines()
    assert first.startswith(root)
    assert [line.partition(": ")[0] for line in lines] == addresses[::-1]


def test_code_in_the_newest_is_not_run(root: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    folder = CheckpointFolder(root)
    folder.save(state_at(1))
    torch.save({"format": 1, "epoch": 2, "step": 0, "model": Trap()}, tmp_path / "trap.pt")
    folder.storage.write("epoch00002-step0000000.pt", (tmp_path / "trap.pt").read_bytes())
    loaded = folder.newest()
    assert place_of(loaded) == (1, 0)
    assert loaded is not None
    assert "it holds more than plain data (GLOBAL " in loaded.damaged[0]
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "trap.pt", weights_only=False)  # the trap would have sprung
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("keep", [{"keep_last": 0}, {"keep_best": -1}])
def test_at_least_the_last_is_kept(tmp_path: Path, keep: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match=r"keep_last=\d, keep_best=-?\d: expected at least 1 and 0"):
        CheckpointFolder(tmp_path, **keep)  # type: ignore[arg-type]


def test_another_writer_does_no_harm(root: str) -> None:
    """A worker thought dead writes and removes on, behind its successor and among its files."""
    old, new = CheckpointFolder(root, keep_last=2), CheckpointFolder(root, keep_last=2)
    for epoch in (1, 2, 3):
        new.save(state_at(epoch))
    written = old.save(state_at(1))  # what was just written stays, however old
    assert places(old) == [(1, 0), (2, 0), (3, 0)]
    assert old.storage.exists(written.address.rpartition("/")[2])
    new.save(state_at(4))
    assert places(new) == [(3, 0), (4, 0)]
    old.save(state_at(4))
    assert place_of(new.newest()) == (4, 0)


def test_a_store_that_does_not_answer_is_no_damage(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    folder = CheckpointFolder(f"{s3.url}/run", keep_last=1)
    folder.save(state_at(1), 1.0)
    s3.line.order("cut")
    with pytest.raises(StorageError, match=f"{s3.url}/run cannot be listed: {s3.endpoint} does not answer"):
        folder.newest()
    address = f"{s3.url}/run/epoch00002-step0000000-score\\+2.pt"
    with pytest.raises(CheckpointError, match=f"{address}: the checkpoint cannot be written: {s3.endpoint} does not"):
        folder.save(state_at(2), 2.0)
    s3.line.order("mend")
    assert places(folder) == [(1, 0)]
    assert place_of(folder.newest()) == (1, 0)
    # The new one is there, what it would replace cannot be removed: training goes on, and hears of it.
    s3.line.order("cut_before DELETE")
    written = folder.save(state_at(2), 2.0)
    assert re.match(f"older checkpoints are still there: {s3.url}/run.* does not answer", written.complaint)
    s3.line.order("mend")
    assert places(folder) == [(1, 0), (2, 0)]
    assert folder.save(state_at(3), 3.0).complaint == ""
    assert places(folder) == [(3, 0)]


# A process whose children save on and on, and say so before and after each; told where, and from which epoch on.
# Children, since importing torch takes longer than all they do.
SAVERS = """
import os, sys
from aln.checkpoint_folder import CheckpointFolder
from test_checkpoint_folder import SIZE, state_at

state_at(0)  # imports what torch imports late
for line in sys.stdin:
    root, epoch = line.split()
    child = os.fork()
    while not child:
        state = state_at(int(epoch), size=SIZE)
        print("begin", os.getpid(), flush=True)
        CheckpointFolder(root).save(state, 1.0)
        print("saved", epoch, flush=True)
        epoch = int(epoch) + 1
    os.waitpid(child, 0)
    print("gone", child, flush=True)
"""
SIZE = 1_500_000  # floats: 6 MB, to S3 in more than one request
KILLS = 8


@pytest.fixture(scope="module")
def savers(s3_server: Store) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", SAVERS]
    environment = {**os.environ, **s3_server.environment, "PYTHONPATH": path}
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as process:
        yield process
        process.kill()


def save_until_killed(savers: subprocess.Popen[str], root: str, first: int, moment: float) -> int:
    """Lets a process save from an epoch on, and kills it in its second save after that part of what the first took.

    Returns the last epoch of which it said that it was saved.
    """
    assert savers.stdin is not None
    assert savers.stdout is not None
    print(root, first, file=savers.stdin, flush=True)
    saved, began, taken, killed = first - 1, 0.0, 0.0, False
    for line in savers.stdout:
        what, number = line.split()
        if what == "begin" and saved == first and not killed:
            time.sleep(taken * moment)
            os.kill(int(number), signal.SIGKILL)
            killed = True
        elif what == "begin":
            began = time.perf_counter()
        elif what == "saved":
            taken, saved = time.perf_counter() - began, int(number)
        else:
            break
    return saved


def test_a_writer_killed_at_any_moment_leaves_a_good_newest(root: str, savers: subprocess.Popen[str]) -> None:
    folder, epoch = CheckpointFolder(root), 0
    for kill in range(KILLS):
        saved = save_until_killed(savers, root, epoch + 1, (kill + 0.5) / KILLS)
        assert saved >= epoch + 1
        loaded = folder.newest()
        place = place_of(loaded)
        assert loaded is not None
        assert place is not None
        assert loaded.damaged == ()
        assert saved <= place[0] <= saved + 1
        epoch = place[0]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "disk" / "checkpoints", keep_last=2)
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk", "5m"):
        folder.save(state_at(1, size=500_000))
        folder.save(state_at(2, size=500_000))
        address = f"{tmp_path}/disk/checkpoints/epoch00003-step0000000.pt"
        for _ in range(2):
            with pytest.raises(CheckpointError, match=f"{address}: the checkpoint cannot be written: No space left on"):
                folder.save(state_at(3, size=500_000))
            assert places(folder) == [(1, 0), (2, 0)]
            assert place_of(folder.newest()) == (2, 0)
        assert [path.name[0] for path in (tmp_path / "disk" / "checkpoints").iterdir()] == ["e", "e"]
        (tmp_path / "disk" / "checkpoints" / folder.saved()[0].name).unlink()  # room is made
        folder.save(state_at(3, size=500_000))
        assert place_of(folder.newest()) == (3, 0)


def test_what_killed_writers_left_makes_way_when_it_is_old(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    left = {"old": 7200.0, "new": 60.0}  # seconds ago
    for (name, age), number in zip(left.items(), "ab", strict=True):
        path = tmp_path / f".{name}.{number * 32}.partial"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
    assert folder.newest() is None
    folder.save(state_at(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".new.{'b' * 32}.partial", "epoch00001-step0000000.pt"]
