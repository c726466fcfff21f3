"""Object stores on loopback for tests: real servers in processes of their own, each behind a line that can be cut.

`conftest.py` makes the fixtures known to all tests: `s3` and `gs` are an empty bucket each, to which the environment
leads. Files keep what was in them while the line is cut; `Store.server.kill()` is for servers that a test started.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

_PROGRAM = Path(__file__).with_name("store_server.py")


@dataclass(frozen=True)
class Started:
    """A process of `store_server.py`, and its port on loopback."""

    process: subprocess.Popen[str]
    port: int

    def order(self, order: str) -> None:
        """Tells a line what to do, which is done when this returns: a method of `store_server.Line`, its argument."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(order, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        """What a server kept in memory is lost."""
        self.process.kill()
        self.process.wait()

    def ask(self, method: str, path: str, content: object = None) -> bytes:
        """Sends a request to a server. Raises `HTTPError` if it refuses."""
        body = None if content is None else json.dumps(content).encode()
        address = f"http://127.0.0.1:{self.port}{path}"
        request = Request(address, body, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=10) as answer:
            return bytes(answer.read())


@dataclass(frozen=True)
class Store:
    """A bucket, and how it is reached.

    Attributes:
        url: of the bucket: s3://… or gs://…
        endpoint: what messages call the server.
        environment: the variables that lead there.
        folder: what the server keeps.
    """

    url: str
    server: Started
    line: Started
    endpoint: str
    environment: Mapping[str, str]
    folder: Path

    def gets(self) -> dict[str, int]:
        """How often the content of each object of an S3 store was asked for, by bucket and name."""
        asked = re.findall(r"GET /([^/? ]+/[^? ]+) HTTP", (self.folder / "requests.log").read_text())
        return dict(Counter(asked))

    def gets_under(self, url: str) -> list[int]:
        """The same of the objects under a URL, of those that were asked for."""
        return [count for name, count in self.gets().items() if name.startswith(f"{url.removeprefix('s3://')}/")]


@contextmanager
def started(what: str, argument: str | int, environment: Mapping[str, str] | None = None) -> Iterator[Started]:
    """A process of `store_server.py`, killed in the end; `environment` in the place of this one's."""
    command = [sys.executable, str(_PROGRAM), what, str(argument)]
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            yield Started(process, int(process.stdout.readline()))
        finally:
            process.kill()


@contextmanager
def started_store(kind: str, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Store]:
    """A server of the kind `s3` or `gs` with one bucket, and a line to it. The folder is for what it keeps."""
    with started(kind, folder, environment) as server, started("line", server.port) as line:
        yield bucket_on(kind, server, line, folder)


def bucket_on(kind: str, server: Started, line: Started, folder: Path) -> Store:
    """A new bucket on a server."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    place = f"127.0.0.1:{line.port}"
    if kind == "s3":
        server.ask("PUT", f"/{name}")
        endpoint = f"http://{place}"
        environment = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    else:
        server.ask("POST", "/storage/v1/b", {"name": name})
        endpoint, environment = place, {"STORAGE_EMULATOR_HOST": place}
    return Store(f"{kind}://{name}", server, line, endpoint, environment, folder)


def _shared(kind: str, folders: pytest.TempPathFactory) -> Iterator[Store]:
    with started_store(kind, folders.mktemp(kind)) as store:
        yield store


def _bucket(shared: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = bucket_on(shared.url.partition(":")[0], shared.server, shared.line, shared.folder)
    enter(store, monkeypatch)
    yield store
    store.line.order("mend")


def enter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the environment so that the store is found, and nothing of the machine's own."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    yield from _shared("s3", tmp_path_factory)


@pytest.fixture(scope="session")
def gs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    yield from _shared("gs", tmp_path_factory)


@pytest.fixture
def s3(s3_server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty bucket in an S3 store."""
    yield from _bucket(s3_server, monkeypatch)


@pytest.fixture
def gs(gs_server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty bucket in Google Cloud Storage."""
    yield from _bucket(gs_server, monkeypatch)
