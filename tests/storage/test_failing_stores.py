"""Object stores that are not there, refuse, fall silent or are lost in the midst of something: what is said, and kept.

The line to a server is a process that carries bytes, and is told to cut or to keep them; the servers are real.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aln.errors import AlnError, StorageError
from aln.preflight import make_folder
from aln.storage import Storage, StoredFile, object_store, open_storage
from stores import Store, enter, started, started_store

ASKED: dict[str, tuple[Callable[[Storage], Any], str]] = {
    "write": (lambda storage: storage.write("a.pt", b"new"), "/a.pt cannot be written"),
    "read": (lambda storage: storage.read("a.pt"), "/a.pt cannot be read"),
    "list": (lambda storage: storage.files(), " cannot be listed"),
    "look for": (lambda storage: storage.exists("a.pt"), "/a.pt cannot be looked for"),
    "delete": (lambda storage: storage.delete("a.pt"), "/a.pt cannot be deleted"),
    "make": (lambda storage: storage.create(), " cannot be listed"),
}
BIG = os.urandom(12 << 20)  # goes in more than one part


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A bucket in either kind of store. Failed requests are not tried again for long."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(object_store, "_RETRY", timedelta(milliseconds=10))
    found: Store = request.getfixturevalue(request.param)
    return found


def refused(storage: Storage, name: str, reason: str) -> None:
    """Asks something of the store, which must fail with its address, the file's name and the reason."""
    ask, failed = ASKED[name]
    with pytest.raises(StorageError, match=re.escape(storage.root + failed) + f": .*{reason}"):
        ask(storage)


@pytest.mark.parametrize("name", ASKED)
def test_a_missing_bucket_is_named(store: Store, name: str) -> None:
    kind = store.url.partition(":")[0]
    ask, _ = ASKED[name]
    with pytest.raises(StorageError, match=f"{kind}://nobody-has-it/folder.* {store.endpoint} has no bucket 'nobody-"):
        ask(open_storage(f"{kind}://nobody-has-it/folder"))


@pytest.mark.parametrize(("store", "name"), [*(("s3", name) for name in ASKED), ("gs", "read")], indirect=["store"])
def test_a_store_that_is_gone_is_named(store: Store, name: str) -> None:
    storage = open_storage(f"{store.url}/folder")
    storage.write("a.pt", b"old")
    store.line.order("cut")
    refused(storage, name, f"{store.endpoint} does not answer")
    refused(open_storage(storage.root), name, f"{store.endpoint} does not answer")
    store.line.order("mend")
    assert storage.read("a.pt") == b"old"  # the client of before goes on


@pytest.mark.parametrize("name", ["list", "read"])
def test_a_store_that_falls_silent_is_given_up(s3: Store, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """S3 alone: what Google's client waits is two minutes, and nothing shortens it."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(object_store, "_SILENCE", 1.0)
    storage = open_storage(f"{s3.url}/folder")
    storage.write("a.pt", b"old")
    s3.line.order("silence")
    refused(storage, name, f"{s3.endpoint} does not answer")
    s3.line.order("mend")
    assert storage.read("a.pt") == b"old"


@pytest.mark.parametrize(("lost", "survives"), [(2, True), (3, False)])
def test_a_lost_request_is_sent_again_twice(s3: Store, lost: int, survives: bool) -> None:
    storage = open_storage(f"{s3.url}/folder")
    storage.write("a.pt", b"old")
    s3.line.order(f"doom {lost}")
    if survives:
        storage.write("a.pt", b"new")
    else:
        refused(storage, "write", f"{s3.endpoint} does not answer")
    assert storage.read("a.pt") == (b"new" if survives else b"old")


@pytest.mark.parametrize(
    ("store", "order", "sent"),
    [
        ("s3", "cut_after", 1),
        ("s3", "cut_after", 7 << 20),
        *(("s3", "break_after", sent) for sent in (1, 1 << 20, 7 << 20, 11 << 20, len(BIG))),
        ("gs", "break_after", 1),
    ],
    indirect=["store"],
    ids=lambda value: f"{value / 2**20:.0f}MiB" if isinstance(value, int) else value,
)
def test_an_upload_that_is_cut_short_leaves_what_was_there(store: Store, order: str, sent: int) -> None:
    """Whether the line stays cut, or comes back at once and lets the upload be completed without what was lost."""
    storage = open_storage(f"{store.url}/folder")
    storage.write("a.pt", b"old")
    store.line.order(f"{order} {sent}")
    with pytest.raises(StorageError, match=r"folder/a\.pt cannot be written: .* does not answer"):
        storage.write("a.pt", BIG)
    store.line.order("mend")
    assert storage.read("a.pt") == b"old"
    assert storage.files() == [StoredFile("a.pt", 3)]
    storage.write("a.pt", BIG)
    assert storage.read("a.pt") == BIG


@pytest.mark.parametrize("size", [1, object_store._ONE_REQUEST, object_store._ONE_REQUEST + 1])
def test_an_upload_that_cannot_begin_leaves_what_was_there(
    s3: Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """And of those that fit, each goes in one request, so that there is nothing to be left half done."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage = open_storage(f"{s3.url}/folder")
    storage.write("a.pt", b"old")
    s3.line.order("doom 1")
    with pytest.raises(StorageError, match=r"folder/a\.pt cannot be written: .* does not answer"):
        storage.write("a.pt", BIG[:size])
    assert storage.read("a.pt") == b"old"
    storage.write("a.pt", BIG[:size])
    assert storage.read("a.pt") == BIG[:size]


def test_a_file_is_lost_between_being_opened_and_being_read(store: Store, tmp_path: Path) -> None:
    storage = open_storage(f"{store.url}/folder")
    storage.write("a.pt", BIG)
    with storage.open("a.pt") as file:
        store.line.order("cut")
        with pytest.raises(StorageError, match=rf"folder/a\.pt cannot be read: {store.endpoint} does not answer"):
            file.read(10 << 20, 10)
        store.line.order("mend")
        assert file.read(10 << 20, 10) == BIG[10 << 20 : (10 << 20) + 10]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with started_store("s3", tmp_path) as store:
        enter(store, monkeypatch)
        storage = open_storage(f"{store.url}/folder")
        storage.write("a.pt", b"old")
        store.line.order("silence_after 1000000")  # the server is killed while it waits for the rest
        reasons: list[StorageError] = []

        def write() -> None:
            try:
                storage.write("a.pt", BIG)
            except StorageError as error:
                reasons.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        store.server.kill()
        writer.join()
        assert [str(reason).startswith(f"{storage.root}/a.pt cannot be written: ") for reason in reasons] == [True]
        assert "does not answer" in str(reasons[0])


def test_an_unreachable_endpoint_is_refused_before_anything_starts(s3: Store) -> None:
    s3.line.order("cut")
    message = f"{s3.url}/run cannot be made for the results: {s3.endpoint} does not answer"
    with pytest.raises(AlnError, match=message):
        make_folder(f"{s3.url}/run")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, dict[str, str]]]:
    """A server that checks signatures, and the credentials that it knows."""
    import boto3

    setting_up = 4  # requests that it takes from anybody
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(setting_up)}
    folder = tmp_path_factory.mktemp("s3")
    with started("s3", folder, environment) as server:
        endpoint = f"http://127.0.0.1:{server.port}"
        iam = boto3.client(
            "iam", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        iam.create_user(UserName="writer")
        everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
        iam.put_user_policy(UserName="writer", PolicyName="all", PolicyDocument=policy)
        key = iam.create_access_key(UserName="writer")["AccessKey"]
        server.ask("PUT", "/bucket")
        known = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        store = Store("s3://bucket", server, server, endpoint, {"AWS_ENDPOINT_URL": endpoint, **known}, folder)
        open_storage_in(store.environment, "check_writable")
        yield store, known


def open_storage_in(environment: Any, ask: str) -> None:
    """Asks a process of its own, whose environment is another, for what must succeed there."""
    script = f"from aln.storage import open_storage; open_storage('s3://bucket/folder').{ask}()"
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **environment}, check=True)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("AWS_ACCESS_KEY_ID", "INVALID_ACCESS_KEY_ID|ACCESS_DENIED"),
        ("AWS_SECRET_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH|ACCESS_DENIED"),
    ],
    ids=["key", "secret"],
)
def test_wrong_credentials_are_refused(
    guarded: tuple[Store, dict[str, str]], monkeypatch: pytest.MonkeyPatch, variable: str, reason: str, name: str
) -> None:
    store, known = guarded
    enter(store, monkeypatch)
    monkeypatch.setenv(variable, "wrong-one")
    with pytest.raises(StorageError, match=f"folder.*: {store.endpoint} says ({reason})") as raised:
        ASKED[name][0](open_storage("s3://bucket/folder"))
    assert not any(secret in str(raised.value) for secret in (known["AWS_SECRET_ACCESS_KEY"], "wrong-one"))


def test_an_error_travels_between_processes(s3: Store) -> None:
    with pytest.raises(StorageError, match="no such file") as raised:
        open_storage(s3.url).read("gone")
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), str(again)) == (type(raised.value), str(raised.value))
