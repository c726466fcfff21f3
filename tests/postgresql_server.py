"""PostgreSQL on loopback for tests: a real server in a folder of its own, which asks for a password."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_server import free_port

USER = "aln"
# As it stands in addresses, where a slash and an at sign have other meanings, and as it is.
QUOTED, PASSWORD = "pw%2F7f3a9%40x", "pw/7f3a9@x"


class PostgreSQL:
    """A server that `start` starts and `kill` kills; what was committed is in its folder.

    Attributes:
        port: on loopback, the same each time.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self.port = free_port()
        # PostgreSQL refuses to run as root.
        self._as: dict[str, Any] = (
            {"user": "nobody", "group": "nogroup", "extra_groups": []} if not os.geteuid() else {}
        )
        if self._as:
            shutil.chown(folder, "nobody", "nogroup")
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        command = [programs / "initdb", "--pgdata", folder / "data", "--username", USER, "--no-sync"]
        command += ["--auth", "scram-sha-256", "--pwfile", secret, "--encoding", "UTF8", "--locale", "C"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, **self._as)

    def start(self) -> None:
        """Returns when it takes connections."""
        command = [self._programs / "postgres", "-D", self._folder / "data", "-h", "127.0.0.1", "-p", f"{self.port}"]
        command += ["-k", self._folder, "-F"]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, **self._as)
        deadline = time.monotonic() + 60
        ready = [self._programs / "pg_isready", "--quiet", "-h", "127.0.0.1", "-p", f"{self.port}"]
        while subprocess.run(ready, check=False).returncode:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def kill(self) -> None:
        """Ends it, and all its connections, at once: it looks after what it was doing when it starts again."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def url(self, database: str, password: str = QUOTED) -> str:
        """The address of one of its databases."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def dump(self, database: str) -> str:
        """All that a database holds, as text."""
        command = [self._programs / "pg_dump", "-h", "127.0.0.1", "-p", f"{self.port}", "-U", USER, database]
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    def create(self, database: str, template: str = "template1") -> str:
        """Makes a database as another one is, to which nothing may be connected; returns its address."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database} TEMPLATE {template}".encode())
        return self.url(database)


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs, of which Debian keeps one for each version, off PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda path: int(re.sub(r"\D", "", str(path))), default=None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server with a database `empty` that holds MLflow's tables: making them takes seconds, copying does not."""
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's initdb and postgres (Debian: postgresql)")
    with tempfile.TemporaryDirectory(prefix="aln-postgresql-", dir="/tmp") as name:  # names of sockets must be short
        server = PostgreSQL(programs, Path(name))
        server.start()
        try:
            _make_tables(server.create("empty"))
            yield server
        finally:
            server.kill()


def _make_tables(url: str) -> None:
    """In a process of its own, whose connections end with it."""
    program = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
    subprocess.run([sys.executable, "-c", program, url], check=True, capture_output=True)
