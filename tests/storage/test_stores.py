"""What every store does, whatever it is made of: local folders, S3, Google Cloud Storage."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aln.errors import MissingFileError, StorageError
from aln.preflight import make_folder
from aln.storage import Storage, StoredFile, open_storage, split_address

NAMES = ["a.pt", "epoch00001-step0000000-score+51.5.pt", "a b+c=ü%20#?&.pt", "deep/er/x"]


@pytest.fixture(params=["local", "s3", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> SimpleNamespace:
    """A store that holds nothing yet, at its address, and one that there is not."""
    if request.param == "local":
        return SimpleNamespace(kind="local", root=str(tmp_path / "folder"))
    store: Any = request.getfixturevalue(request.param)
    return SimpleNamespace(kind=request.param, root=f"{store.url}/folder", store=store)


@pytest.fixture
def storage(place: SimpleNamespace) -> Storage:
    return open_storage(place.root)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_reads_as_it_was_written(storage: Storage, name: str) -> None:
    storage.write(name, b"before")
    storage.write(name, b"after, and longer")
    assert storage.read(name) == b"after, and longer"
    assert storage.exists(name)
    found, last = split_address(storage.address(name))
    assert found.read(last) == b"after, and longer"


def test_a_large_file_is_read_in_parts_and_downloaded(storage: Storage, tmp_path: Path) -> None:
    content = os.urandom((12 << 20) + 3)  # three parts of an upload
    storage.write("large", memoryview(content))
    assert storage.read("large") == content
    with storage.open("large") as file:
        assert file.size == len(content)
        assert file.address == storage.address("large")
        assert file.read(10 << 20, 100) == content[10 << 20 : (10 << 20) + 100]
        assert file.read(0, 0) == b""
        with pytest.raises(StorageError, match=r"folder/large cannot be read: 3 bytes instead of 4 came from byte"):
            file.read(len(content) - 3, 4)
    storage.download("large", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == content
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]


def test_an_empty_file_is_a_file(storage: Storage, tmp_path: Path) -> None:
    storage.write("empty", b"")
    assert storage.read("empty") == b""
    assert storage.files() == [StoredFile("empty", 0)]
    storage.download("empty", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


def test_files_are_listed_by_name_without_those_of_other_folders(storage: Storage) -> None:
    assert storage.files() == []
    for name in ("b", "a", "deep/c"):
        storage.write(name, name.encode())
    storage.folder("deep").write("d", b"")
    assert storage.files() == [StoredFile("a", 1), StoredFile("b", 1)]
    assert storage.folder("deep").files() == [StoredFile("c", 6), StoredFile("d", 0)]
    assert storage.folder("deep").root == storage.address("deep")
    assert storage.folder("none").files() == []


def test_many_files_are_listed_in_full(place: SimpleNamespace, storage: Storage) -> None:
    """More than an object store tells of in one answer."""
    names = [f"{number:04}" for number in range(1003)]
    if place.kind == "s3":  # written past the line, which is quicker
        for name in names:
            place.store.server.ask("PUT", f"/{place.store.url.partition('://')[2]}/folder/{name}")
    else:
        names = names[:20]
        for name in names:
            storage.write(name, b"")
    assert [file.name for file in storage.files()] == names


def test_deleting_leaves_the_others(storage: Storage) -> None:
    storage.write("a", b"1")
    storage.write("ab", b"2")
    storage.delete("a")
    storage.delete("a")  # it is no error if it is not there
    storage.delete("none/at/all")
    assert not storage.exists("a")
    assert storage.files() == [StoredFile("ab", 1)]


def test_a_folder_is_deleted_with_all_that_is_in_it(storage: Storage) -> None:
    for name in ("deep/a", "deep/er/b", "deeper", "kept/c"):
        storage.write(name, b"1")
    storage.delete_folder("deep")
    storage.delete_folder("deep")  # it is no error if it is not there
    assert storage.folder("deep").files() == storage.folder("deep/er").files() == []
    assert storage.read("kept/c") == b"1"
    assert storage.files() == [StoredFile("deeper", 1)]


def test_a_missing_file_is_named(storage: Storage, tmp_path: Path) -> None:
    storage.write("there", b"")
    for ask in (storage.read, storage.open, lambda name: storage.download(name, tmp_path / "copy")):
        with pytest.raises(MissingFileError, match=r"folder/deep/gone\.pt cannot be read: ") as raised:
            ask("deep/gone.pt")
        assert raised.value.address == f"{storage.root}/deep/gone.pt"
    assert not storage.exists("deep/gone.pt")
    assert not (tmp_path / "copy").exists()


def test_a_folder_is_no_file(storage: Storage) -> None:
    storage.write("deep/file", b"1")
    assert not storage.exists("deep")
    with pytest.raises(StorageError, match="folder/deep cannot be read"):
        storage.read("deep")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "..", "../out", "a/../../out", "a//b", "a/", "./a", "a\0b"])
def test_no_name_leads_out_of_the_root(storage: Storage, name: str) -> None:
    for ask in (storage.read, storage.exists, storage.delete, storage.delete_folder, storage.folder):
        with pytest.raises(StorageError, match=r"has no file named .*: expected a (relative )?path"):
            ask(name)
    with pytest.raises(StorageError, match="has no file named"):
        storage.write(name, b"")


def test_a_place_is_made_once(place: SimpleNamespace) -> None:
    make_folder(place.root)
    assert open_storage(place.root).files() == []  # what was tried out has gone
    open_storage(place.root).write("a", b"")
    with pytest.raises(StorageError, match=r"folder cannot be made: (File exists|it holds files already)"):
        open_storage(place.root).create()
