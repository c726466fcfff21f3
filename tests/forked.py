"""What a process does that was forked from one which has imported what takes seconds; nothing here does."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_module(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    logs: Sequence[Path],
    environment: Mapping[str, str],
    gone: Sequence[str],
) -> None:
    """`python -m MODULE` in the folder, as the leader of a session of its own, with these variables and without those.

    Variables that imports have set stay. What Python does at its own exit is not done: `atexit`.
    """
    os.setsid()
    for stream, log in enumerate(logs, 1):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(folder)
    os.environ.update(environment)
    for name in gone:
        os.environ.pop(name, None)
    sys.path.insert(0, str(folder))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
