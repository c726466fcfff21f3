"""A Ray cluster on this machine for tests, as `ray start` makes it.

`conftest.py` makes the fixture `ray_head` known to all tests: a cluster that spares them the seconds of its start.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two CPU cores."""
    with started_head(tmp_path_factory.mktemp("head")) as address:
        yield address


@contextmanager
def started_head(folder: Path, cpus: int = 2) -> Iterator[str]:
    """A cluster on loopback with so many CPU cores, and its address; its log goes to the folder."""
    temporary = tempfile.mkdtemp(prefix="ray")  # names of sockets must be short
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={temporary}"]
    try:
        with _started(folder / "ray.log", cpus, options):
            yield address
    finally:
        shutil.rmtree(temporary)


@contextmanager
def started_node(folder: Path, address: str, cpus: int) -> Iterator[Callable[[], None]]:
    """Another machine of the cluster, so to speak, and what takes its power away."""
    # A head takes this machine's token by itself if there is one, other nodes do not.
    mode = "token" if (Path.home() / ".ray/auth_token").exists() else "disabled"
    with _started(folder / "node.log", cpus, [f"--address={address}"], {"RAY_AUTH_MODE": mode}) as kill:
        yield kill


@contextmanager
def _started(
    log: Path, cpus: int, options: list[str], environment: Mapping[str, str] | None = None
) -> Iterator[Callable[[], None]]:
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--num-cpus={cpus}"]
    command += ["--node-ip-address=127.0.0.1", *options]
    with log.open("w") as file:
        variables = {**(environment or {}), **os.environ}
        node = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, env=variables)

    def kill() -> None:
        if node.poll() is None:  # it would wait half a minute for a cluster that ends with it
            for process in [node.pid, *_descendants(node.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            node.wait()

    try:
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield kill
    finally:
        kill()


def _descendants(process: int) -> list[int]:
    """Processes that it started, and those that they did: workers have sessions of their own and would live on."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    children = [int(child) for child in found.stdout.split()]
    return children + [descendant for child in children for descendant in _descendants(child)]
