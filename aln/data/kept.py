"""Where what can be made again is kept on this machine: copies of remote files, indexes, decoded images.

`ALN_CACHE` names the folder, which is `~/.cache/aln` otherwise. It may be deleted whenever nothing runs.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aln.errors import DataError

_LOCKS = 256  # lock files in a folder, however many things in it are locked: two that share one wait for each other

_log = logging.getLogger(__name__)


def kept_in(part: str) -> Path:
    """The folder for one sort of thing, which need not be there yet."""
    return Path(os.environ.get("ALN_CACHE") or "~/.cache/aln").expanduser().absolute() / part


def told(size: float) -> str:
    """A number of bytes, for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def require_room(plan: str, size: float, folder: Path) -> None:
    """Logs what is going to be stored in a folder. Raises `DataError` if its disk has not so many bytes free.

    Args:
        plan: what is done, in words that go before "takes about 1.0 GiB".
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise DataError(f"{plan} takes about {told(size)}, but {folder} has {told(free)} free")
    _log.warning("%s takes about %s in %s, which has %s free", plan, told(size), folder, told(free))


@contextmanager
def only_one(lock: Path, doing: str = "") -> Iterator[None]:
    """Waits until no other process or thread of this machine holds the lock file; it ends with who holds it.

    Args:
        doing: what the other one does, logged if this one has to wait for it.

    Raises `OSError` if there can be no such file.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        if doing:
            _log.warning("waiting for another process, which %s", doing)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def lock_for(folder: Path, name: str) -> Path:
    """The lock file of one of many things in a folder."""
    return folder / ".locks" / f"{zlib.crc32(os.fsencode(name)) % _LOCKS:03}"
