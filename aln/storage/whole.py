"""A local file that is written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path

from aln.errors import MissingFileError, StorageError

# While it is written, a file has a name that no other writer chooses.
PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}\.partial")
_ABANDONED = 3600.0  # seconds after which nobody writes on at a partial file


def write_whole(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Writes a file whole or not at all, in the place of what had its name; makes its folder.

    The content is on the disk before the name is, and the name before this returns: a machine that loses its power
    leaves the file that was or the file that is. Raises `StorageError` naming the file if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                _remove_abandoned(path.parent, os.fstat(file.fileno()).st_mtime)  # first: they may fill the disk
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):  # what went wrong before is what counts
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise local_failure(str(path), "cannot be written", error) from error


def _sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems cannot, and have no need to
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remove_abandoned(folder: Path, now: float) -> None:
    """Removes partial files whose writers were killed. `now` is by the clock of the file system, as their ages are."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if PARTIAL.fullmatch(entry.name) and now - entry.stat().st_mtime > _ABANDONED:
                    Path(entry.path).unlink()


def local_failure(address: str, failed: str, error: OSError) -> StorageError:
    """What to say of a failure of the local file system."""
    kind = MissingFileError if isinstance(error, FileNotFoundError) else StorageError
    return kind(address, failed, error.strerror or str(error))
