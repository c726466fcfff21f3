"""Memory: what a process has taken, what the machine has, and how many fit."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

GIB = 2**30
# What a process holds of a GPU besides torch's allocations: CUDA's own context, kernels and libraries.
CONTEXT = GIB // 2
# More trials on one GPU than this take each other's time, whatever memory they need.
_MOST_ON_A_GPU = 16


def peak_resident() -> int:
    """Bytes of the machine's memory that this process held at its peak, pages shared with others included; 0 where the
    system does not say.
    """
    status = Path("/proc/self/status")
    if status.exists():
        # Not `getrusage`, which begins at what the parent held.
        lines = status.read_text(encoding="ascii").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def of_machine() -> int:
    """Bytes of memory that this machine, or this container, has; 0 where the system does not say."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.exists() and (text := limit.read_text(encoding="ascii").strip()).isdecimal():
            return min(physical, int(text))
    return physical


def share_of_gpu(each: int, whole: int) -> float:
    """The part of a GPU of `whole` bytes that a process takes whose tensors take `each`, as 1 over how many fit.

    Rounded so that as many still fit; 0 if not one does.
    """
    fit = min(_MOST_ON_A_GPU, whole // (each + CONTEXT))
    return math.floor(1000 / fit) / 1000 if fit else 0.0


def in_words(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / GIB:.2g} GiB" if size < 10 * GIB else f"{size / GIB:.0f} GiB"
