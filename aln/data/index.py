"""Where the images of a data set of a few large files lie: found by one pass over the files, and kept.

What was found in a file is kept under `ALN_CACHE` (`aln.data.kept`), not beside the data, for as long as the file has
the same size and time of writing: the next process of this machine need not read it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aln.data.kept import kept_in, lock_for, only_one
from aln.data.packed import ENTRY, PackedRecords
from aln.data.roots import Root
from aln.errors import DataError, StorageError
from aln.storage import StoredFile
from aln.storage.whole import write_whole

_FORMAT = 1
_THREADS = 8  # files read at once: enough to keep a disk or a network busy

_log = logging.getLogger(__name__)


@dataclass
class Scan:
    """The images of one file in their order, and a line for each record that is damaged and left out."""

    rows: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def add(self, number: int, start: int, length: int, label: int, checksum: int = -1) -> None:
        """Notes an image, by the columns of `ENTRY`."""
        self.rows.append((0, number, start, length, label, checksum))

    def entries(self, file: int) -> np.ndarray:
        """[N] of `ENTRY`, as those of a data set's `file`-th file."""
        entries = np.array(self.rows, ENTRY)
        entries["file"] = file
        return entries


@dataclass(frozen=True)
class Scanner:
    """What finds the images of a file.

    Attributes:
        kind: names the format, its version and its settings: what another one found does not count.
        scan: takes a local path, and how messages call the file; raises `DataError`.
    """

    kind: str
    scan: Callable[[Path, str], Scan]


def indexed(root: Root, files: Sequence[StoredFile], scanner: Scanner) -> PackedRecords:
    """The images of the files under `root`, in order.

    Raises `DataError` with a line for each file that cannot be read.
    """
    found, problems = [], []
    for number, scan in enumerate(_scanned(root, files, scanner)):
        if isinstance(scan, DataError):
            problems.append(str(scan))
            continue
        for line in scan.damaged:
            _log.warning("left out: %s", line)
        found.append(scan.entries(number))
    if problems:
        raise DataError("\n".join(problems))
    return PackedRecords(root, tuple(files), np.concatenate(found))


def _scanned(root: Root, files: Sequence[StoredFile], scanner: Scanner) -> Iterator[Scan | DataError]:
    """What was found in each file, or what is wrong with it."""

    def attempt(file: StoredFile) -> Scan | DataError:
        try:
            return _known_or_found(root, file, scanner)
        except DataError as error:
            return error

    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from pool.map(attempt, files)
    finally:
        pool.shutdown(cancel_futures=True)  # where a store does not answer, the other files need not be tried


def _known_or_found(root: Root, file: StoredFile, scanner: Scanner) -> Scan:
    """What is in a file, as it was found before, or by reading it: one process of the machine does, others wait."""
    key = json.dumps([_FORMAT, scanner.kind, root.identity, file.name, file.size, file.written])
    path = kept_in("indexes") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if (known := _known(path)) is not None:
        return known
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no lock, no file: this process finds out for itself
            stack.enter_context(only_one(lock_for(path.parent, path.name)))
        known = _known(path)
        return known if known is not None else _kept(path, _found(root, file, scanner))


def _found(root: Root, file: StoredFile, scanner: Scanner) -> Scan:
    told = root.told(file.name)
    try:
        found = scanner.scan(root.local(file), told)
    except OSError as error:
        raise DataError(f"{told} cannot be read: {error.strerror or error}") from error
    if not found.rows and not found.damaged:
        raise DataError(f"{told} holds no images")
    return found


def _known(path: Path) -> Scan | None:
    """What was kept in an index; None if there is none that can be read."""
    try:
        with np.load(path) as index:
            return Scan(list(map(tuple, index["rows"].tolist())), json.loads(str(index["damaged"])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _kept(path: Path, scan: Scan) -> Scan:
    """Keeps what was found, if the disk lets it: without, each process reads the files itself."""
    content = io.BytesIO()
    np.savez(content, rows=np.array(scan.rows, np.int64), damaged=json.dumps(scan.damaged))
    try:
        write_whole(path, [content.getbuffer()])
    except StorageError as error:
        _log.warning("an index is not kept: %s", error)
    return scan
