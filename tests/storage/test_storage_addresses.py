"""Which texts are places for files, and what is said of the others."""

from __future__ import annotations

import pytest

from aln.errors import StorageError
from aln.storage import open_storage, split_address
from aln.storage.local import LocalFolder
from aln.storage.object_store import ObjectStore


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("results", LocalFolder),
        ("/tmp/a:b", LocalFolder),
        ("C:/results", LocalFolder),
        ("s3://bucket", ObjectStore),
        ("s3://bucket/folder/", ObjectStore),
        ("gs://my.bucket-1/a/b", ObjectStore),
    ],
)
def test_an_address_says_what_kind_of_store_it_is(text: str, kind: type) -> None:
    storage = open_storage(text)
    assert type(storage) is kind
    assert storage.address("x") == f"{text.rstrip('/')}/x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/folder", r"ftp://… is no place for files: expected a folder, s3://bucket/folder or gs://"),
        ("s3:/bucket/folder", "a slash is missing after the colon; expected a folder, s3://bucket/folder"),
        ("S3://bucket/folder", "is no place for files"),
        ("s3://", "s3:// is no place for files: expected s3://bucket/folder"),
        ("s3:///folder", "is no place for files: expected s3://bucket/folder"),
        ("s3://bucket//folder", "is no place for files: expected s3://bucket/folder"),
        ("s3://bucket/../other", "is no place for files: expected s3://bucket/folder"),
        ("gs://buc ket/folder", "is no place for files: expected gs://bucket/folder"),
        ("s3://bucket/folder?region=x", r"s3://… is no place for files: credentials, endpoint and settings belong"),
    ],
)
def test_what_is_no_place_is_refused(text: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        open_storage(text)


@pytest.mark.parametrize("text", ["s3://key:secret@bucket/folder", "ftp://key:secret@host/folder"])
def test_secrets_in_an_address_are_not_repeated(text: str) -> None:
    with pytest.raises(StorageError) as raised:
        open_storage(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "root", "name"),
    [("a.pt", ".", "a.pt"), ("/a.pt", "/", "a.pt"), ("x/a.pt", "x", "a.pt"), ("s3://b/x/a.pt", "s3://b/x", "a.pt")],
)
def test_a_file_is_a_store_and_a_name(path: str, root: str, name: str) -> None:
    storage, found = split_address(path)
    assert (storage.root, found) == (root, name)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_ENDPOINT_URL": "localhost:9000"}, r"its endpoint is 'localhost:9000'; expected http\(s\)://host:port"),
        ({"AWS_ENDPOINT_URL": "http://user:secret@"}, r"its endpoint is ''; expected http"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "0"}, "AWS_MAX_ATTEMPTS is '0'; expected a"),
    ],
)
def test_a_wrong_environment_is_named(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=f"s3://bucket/folder cannot be used: {message}"):
        open_storage("s3://bucket/folder").files()
