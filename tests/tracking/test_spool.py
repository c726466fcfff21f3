"""The queue between training and MLflow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aln.errors import StorageError
from aln.tracking.spool import Spool
from small_disk import small_disk


def test_entries_come_out_in_their_order_until_they_are_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.name("a", {"tags": {"x": "1"}})
    spool.name("a", {"tags": {"x": "2"}})
    for number in range(5):
        spool.add("a", "metrics", {"values": {"loss": number / 3}})
    assert spool.identity("a") == {"tags": {"x": "1"}}
    head = spool.head(3)
    assert [entry.content["values"]["loss"] for entry in head] == [0, 1 / 3, 2 / 3]
    spool.remove(head)
    again = Spool(tmp_path / "spool")
    assert [entry.content["values"]["loss"] for entry in again.head(9)] == [1.0, 4 / 3]
    assert len(again) == len(spool) == 2


def test_what_is_laid_aside_keeps_its_reason(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add("a", "tags", {"x": "1"})
    spool.add("a", "tags", {"x": "2"})
    spool.refuse(spool.head(1), "too long")
    assert spool.refused() == ["too long"]
    assert [entry.content for entry in spool.head(9)] == [{"x": "2"}]


def test_an_entry_that_was_added_survives_the_death_of_its_process(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from aln.tracking.spool import Spool
spool = Spool(Path({str(tmp_path / "spool")!r}))
for number in range(10**6):
    spool.add("a", "tags", number)
    print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = -1
        for line in process.stdout:
            said = int(line)
            if said == 50:
                process.kill()
    numbers = [entry.content for entry in Spool(tmp_path / "spool").head(10**6)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > said >= 50


def fill(spool: Spool) -> None:
    """Adds as long as it can."""
    while True:
        spool.add("a", "tags", "x" * 10_000)


def test_a_full_disk_is_named_and_leaves_what_was_added(tmp_path: Path) -> None:
    with small_disk(tmp_path, "1m"):
        spool, full = Spool(tmp_path / "spool"), f"{tmp_path}/spool cannot be written: database or disk is full"
        spool.add("a", "tags", 0)
        with pytest.raises(StorageError, match=full):
            fill(spool)
        added = len(spool)
        for change in (
            lambda: spool.add("a", "tags", "x" * 100_000),
            lambda: spool.refuse(spool.head(99), "y" * 10_000),
        ):
            with pytest.raises(StorageError, match=full):  # again and again: no transaction is left open
                change()
        assert len(spool) == added > 10
        spool.close()
        again = Spool(tmp_path / "spool")
        assert [entry.content for entry in again.head(2)] == [0, "x" * 10_000]
        assert (len(again), again.refused()) == (added, [])
        again.close()


def test_a_spool_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"{tmp_path}/none/spool cannot be opened: unable to open database file"):
        Spool(tmp_path / "none" / "spool")
