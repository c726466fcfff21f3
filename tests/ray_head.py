"""A Ray cluster of one machine for tests, as `ray start` makes it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started_head(folder: Path) -> Iterator[str]:
    """A cluster on loopback with two CPU cores, and its address; its log goes to the folder."""
    temporary = tempfile.mkdtemp(prefix="ray")  # names of sockets must be short
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={address.rpartition(':')[2]}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    command += [f"--temp-dir={temporary}"]
    with (folder / "ray.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in (folder / "ray.log").read_text():
            assert head.poll() is None, (folder / "ray.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(head.pid, signal.SIGKILL)  # it would wait half a minute for a cluster that ends with it
        head.wait()
        shutil.rmtree(temporary)
