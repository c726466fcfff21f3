"""Processes that tests start beside their own: an object store, and a line to it that can be cut.

    python store_server.py s3|gs FOLDER     an object store on loopback; what it is asked goes to FOLDER/requests.log
    python store_server.py line PORT        carries bytes to the port; takes orders, a line each (`Line`)

Each prints the port that it listens on, and ends when its standard input is closed: with its parent at the latest,
even if that is killed. In processes of their own, since some of pyarrow's calls let no other thread run meanwhile.
"""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path


def serve_s3() -> int:
    """Starts moto's S3, which keeps everything in memory; returns its port."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    return server.get_host_and_port()[1]


class _ManyAtOnce(http.server.ThreadingHTTPServer):
    """What the emulator would serve one at a time; Google's client begins a second request during the first."""

    def handle_error(self, *_: object) -> None:
        """Says nothing of connections that tests cut."""


def serve_gs(folder: Path) -> int:
    """Starts an emulator of Google Cloud Storage, which keeps everything in the folder; returns its port."""
    http.server.HTTPServer = _ManyAtOnce  # type: ignore[misc]
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, data_dir=str(folder))
    server.start()
    return int(server._api._httpd.server_address[1])


class Line:
    """Carries bytes between its own port and another, until it is told otherwise; the orders are its methods."""

    def __init__(self, to: int) -> None:
        self._to, self._lock = to, threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
        """Lets through all that comes, on the port of before."""
        self._left, self._silent, self._doomed, self._method = float("inf"), False, 0, b""
        self._when_spent = self.cut
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self.port = self._listener.getsockname()[1]
            self._begin(self._accept, self._listener)

    def cut(self) -> None:
        """Ends all connections and refuses new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _end(listener)
        self._break()

    def cut_after(self, count: str) -> None:
        """Is cut when so many more bytes have gone to the server."""
        self._left, self._when_spent = int(count), self.cut

    def break_after(self, count: str) -> None:
        """Ends all connections, once, when so many more bytes have gone to the server; takes new ones."""
        self._left, self._when_spent = int(count), self._break

    def silence_after(self, count: str) -> None:
        """Falls silent when so many more bytes have gone to the server."""
        self._left, self._when_spent = int(count), self.silence

    def doom(self, count: str) -> None:
        """Ends all connections, and each of the next so many as soon as something comes."""
        self._doomed = int(count)
        self._break()

    def cut_before(self, method: str) -> None:
        """Is cut when a request of the method comes."""
        self._method = f"{method} /".encode()

    def silence(self) -> None:
        """Takes connections and bytes, and carries nothing from now on."""
        self._silent = True

    def obey(self, order: str) -> None:
        name, *arguments = order.split()
        getattr(self, name)(*arguments)

    def _break(self) -> None:
        self._left = float("inf")
        with self._lock:
            ended, self._connections = self._connections, set()
        for connection in ended:
            _end(connection)

    def _begin(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with listener, contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket()
                with self._lock:
                    self._connections |= {near, far}
                self._begin(self._carry, near, far)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        """Connects to the server, and carries what goes there."""
        with near, contextlib.suppress(OSError):
            far.connect(("127.0.0.1", self._to))
            self._begin(self._answer, far, near)
            while content := near.recv(1 << 16):
                if self._silent:
                    continue
                if self._method and content.startswith(self._method):
                    self.cut()
                    break
                if self._doomed:
                    self._doomed -= 1
                    break
                far.sendall(content[: int(min(self._left, len(content)))])
                self._left -= len(content)
                if self._left <= 0:
                    self._when_spent()
            far.shutdown(socket.SHUT_WR)

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        """Carries what comes back."""
        with far, contextlib.suppress(OSError):
            while content := far.recv(1 << 16):
                if not self._silent:
                    near.sendall(content)
            near.shutdown(socket.SHUT_WR)


def _end(one: socket.socket) -> None:
    """Wakes the thread that waits for it, which closes it."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def main(what: str, argument: str) -> None:
    if what == "line":
        line = Line(int(argument))
        print(line.port, flush=True)
        for order in sys.stdin:
            line.obey(order)
            print("done", flush=True)
    else:
        logging.basicConfig(filename=Path(argument) / "requests.log", level=logging.INFO)
        print(serve_s3() if what == "s3" else serve_gs(Path(argument)), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
