"""On what a measurement was made: the machine, how busy others kept it, and the versions that decide the numbers."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine() -> str:
    """Processor and number of cores."""
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def load() -> float:
    """Processes that wanted a core in the last minute, our own among them."""
    return round(os.getloadavg()[0], 1)


def versions(*names: str) -> dict[str, str | None]:
    """Of Python and these packages; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def resident_mebibytes() -> float:
    """What this process holds of the machine's memory now. On Linux alone."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
