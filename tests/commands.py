"""Commands of `aln` in processes of their own, to be killed: what they print, and what is left of them.

The processes are forked from one that has imported what takes seconds to import, and done nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from pathlib import Path

from forked import run_module

REPOSITORY = Path(__file__).parent.parent
# They run in folders of their own, but what is tested is this checkout.
_PATH = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A process that has ended.

    Attributes:
        out: all that it printed; `err` is what of it went to standard error.
    """

    returncode: int
    out: str
    err: str


_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    ["aln.sweep_summary", "aln.study.running", "aln.study.answer", "aln.report.page", "torch._dynamo"]
)
_AT_START = tuple(os.environ)
ensure_running()  # now, with an environment that no test has changed


class Command:
    """A running `python -m MODULE` in a folder, in a session and a process group of its own; what it prints goes to
    files of the folder.
    """

    def __init__(
        self, folder: Path, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        name = f"{module}-{time.monotonic_ns()}"
        self._logs = [folder / f"{name}.log", folder / f"{name}.err.log"]
        for log in self._logs:
            log.touch()
        variables = {**os.environ, "PYTHONPATH": _PATH, **(environment or {})}
        gone = [name for name in _AT_START if name not in variables]
        given = (module, arguments, folder, self._logs, variables, gone)
        self._process = _FORKING.Process(target=run_module, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return "".join(log.read_text() for log in self._logs)

    def wait_for(self, path: Path, lines: int = 0) -> bool:
        """Waits until the file is there and has so many more lines than now; False if the process ended before."""
        before = count_lines(path)
        return self.wait_until(lambda: path.exists() and count_lines(path) - before >= lines)

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Waits until something is so; False if the process ended before."""
        try:
            while self._process.exitcode is None:
                if condition():
                    return True
                time.sleep(0.005)
        except BaseException:  # a test that is given up leaves nothing behind
            self._process.kill()
            self._process.join()
            raise
        return False

    def send(self, which: signal.Signals, *, group: bool = False) -> None:
        """Sends a signal to it, or to the whole process group."""
        (os.killpg if group else os.kill)(self.pid, which)

    def signal(self, which: signal.Signals) -> Ended:
        """Sends it a signal and waits for its end."""
        self.send(which)
        return self.wait()

    def left_behind(self) -> list[str]:
        """Command lines of the session's processes; those that have ended and that nobody asks for are none."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    found.append(stat.with_name("cmdline").read_text().replace("\0", " "))
        return found

    def wait(self) -> Ended:
        """Waits for its end."""
        self.wait_until(lambda: False)
        assert self._process.exitcode is not None
        return Ended(returncode=self._process.exitcode, out=self.out, err=self._logs[1].read_text())


def run_command(folder: Path, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs a command to its end."""
    return Command(folder, module, *arguments, environment=environment).wait()


def command_lines() -> set[str]:
    """Those of all processes of the machine that can be read."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return found


def count_lines(path: Path) -> int:
    """Lines of a file; none if it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0
