"""Images read from large files: by threads, by processes forked off or begun anew, and from files that change."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from aln.data import packed
from aln.data.index import Scan, Scanner, indexed
from aln.data.packed import PackedRecords
from aln.data.roots import Disk
from aln.errors import DataError

SIZE = 10_000


def content(file: int, number: int) -> bytes:
    return np.random.RandomState([file, number]).bytes(SIZE)


def scan(path: Path, told: str) -> Scan:
    found = Scan()
    for number in range(path.stat().st_size // SIZE):
        found.add(number, number * SIZE, SIZE, number)
    return found


def index(root: Path, names: str = "0123") -> PackedRecords:
    disk = Disk(root)
    return indexed(disk, [file for file in disk.listing().files if file.name in names], Scanner("blocks", scan))


@pytest.fixture
def records(tmp_path: Path) -> PackedRecords:
    for file in range(4):
        (tmp_path / str(file)).write_bytes(b"".join(content(file, number) for number in range(5)))
    return index(tmp_path)


def right(records: PackedRecords, index: int) -> bool:
    return records.read(index) == content(*divmod(index, 5))


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_files_follow_each_other(records: PackedRecords) -> None:
    assert len(records) == 20
    assert records.labels.dtype == np.int64
    assert records.labels.tolist() == [0, 1, 2, 3, 4] * 4
    assert all(right(records, index) for index in range(20))


def test_threads_read_at_once_more_files_than_stay_open(
    records: PackedRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_opened", functools.lru_cache(maxsize=1)(packed._opened.__wrapped__))
    order = np.random.RandomState(0).randint(0, 20, 2000).tolist()
    before = open_descriptors()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda index: right(records, index), order))
    assert open_descriptors() <= before + 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_what_another_has_open(records: PackedRecords, method: str) -> None:
    assert right(records, 7)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert all(pool.starmap(right, [(records, index) for index in range(20)]))
    assert right(records, 7)


def test_a_pickle_reads_the_same(records: PackedRecords) -> None:
    again = pickle.loads(pickle.dumps(records))
    assert right(again, 13)
    assert (again.name(13), again.fingerprint()) == (records.name(13), records.fingerprint())


def test_a_file_that_was_written_anew_is_not_read(records: PackedRecords, tmp_path: Path) -> None:
    (tmp_path / "2").write_bytes(b"".join(content(9, number) for number in range(6)))
    with pytest.raises(DataError, match=rf"{tmp_path / '2'} has changed since it was indexed"):
        records.read(12)
    assert right(records, 7)


def test_a_file_that_is_cut_off_while_open_names_the_record(records: PackedRecords, tmp_path: Path) -> None:
    assert right(records, 10)
    os.truncate(tmp_path / "2", 3 * SIZE + 5)
    with pytest.raises(DataError, match=rf"2, record 3, image at byte {3 * SIZE}: the file ends after 5 of {SIZE}"):
        records.read(13)


def test_a_file_that_is_gone_names_the_record(records: PackedRecords, tmp_path: Path) -> None:
    (tmp_path / "3").unlink()
    with pytest.raises(DataError, match=rf"3, record 1, image at byte {SIZE} cannot be read: No such file"):
        records.read(16)


def test_an_image_whose_checksum_differs_is_not_handed_out(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(content(0, 0))

    def wrong(path: Path, told: str) -> Scan:
        found = Scan()
        found.add(0, 0, SIZE, 0, checksum=12345)
        return found

    with pytest.raises(DataError, match=r"record 0, image at byte 0: the image is damaged, its checksum differs"):
        indexed(Disk(tmp_path), Disk(tmp_path).listing().files, Scanner("wrong", wrong)).read(0)


def test_the_fingerprint_follows_the_files_and_what_they_hold(records: PackedRecords, tmp_path: Path) -> None:
    assert index(tmp_path).fingerprint() == records.fingerprint()
    assert index(tmp_path, "012").fingerprint() != records.fingerprint()
    os.utime(tmp_path / "1", ns=(1, 1))
    assert index(tmp_path).fingerprint() != records.fingerprint()
    assert records.counted_from(1).fingerprint() != records.fingerprint()
