"""An object store on loopback, and a cache folder of the tests' own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aln.storage import open_storage

_SERVER = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"


@pytest.fixture(autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mirrors and indexes go."""
    folder = tmp_path_factory.mktemp("kept")
    monkeypatch.setenv("ALN_CACHE", str(folder))
    return folder


class Server:
    """moto's S3 server, and what was asked of it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=file, stderr=file)
        while not (found := re.search(r"Running on (http://\S+)", log.read_text())):
            assert self.process.poll() is None, log.read_text()
        self.endpoint = found[1]

    def gets(self) -> dict[str, int]:
        """How often the content of each object was asked for, by its path."""
        asked: dict[str, int] = {}
        for path in re.findall(r"GET (/[^/? ]+/[^? ]+) HTTP", self._log.read_text()):
            asked[path] = asked.get(path, 0) + 1
        return asked

    def gets_under(self, url: str) -> list[int]:
        """How often the content of each object under a URL was asked for, of those that were."""
        return [count for path, count in self.gets().items() if path.startswith(f"{url.removeprefix('s3:/')}/")]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("moto") / "log")
    yield server
    server.kill()


@pytest.fixture
def server_to_kill(tmp_path: Path) -> Iterator[Server]:
    """One that `upload` uses instead of the one that all tests share, if it is asked for."""
    server = Server(tmp_path / "moto.log")
    yield server
    server.kill()


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Puts a folder into a new bucket; returns its URL."""
    import boto3

    own = "server_to_kill" in request.fixturenames
    server = request.getfixturevalue("server_to_kill" if own else "server")
    keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_REGION": "us-east-1"}
    for key, value in {**keys, "AWS_ENDPOINT_URL": server.endpoint}.items():
        monkeypatch.setenv(key, value)
    bucket = f"bucket-{re.sub('[^a-z0-9]+', '-', request.node.name.lower())[-40:].strip('-')}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=bucket)

    def put(folder: Path) -> str:
        url = f"s3://{bucket}/{folder.name}"
        store = open_storage(url)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                store.write(str(path.relative_to(folder)), path.read_bytes())
        return url

    return put
