"""Where the images of a data set of a few large files lie: found by one pass over the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aln.data.packed import ENTRY, PackedRecords, Stamp
from aln.errors import DataError

_THREADS = 8  # files read at once: enough to keep a disk or a network busy


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


def indexed(root: Path, names: Sequence[str], scan: Callable[[Path], Scan]) -> PackedRecords:
    """The images of the named files under `root`, in order.

    Args:
        scan: notes where a file's images lie, or raises `DataError`.

    Raises `DataError` with a line for each file that cannot be read.
    """
    stamps = [Stamp.of(root, name) for name in names]
    scans, problems = [], []
    for found in _scanned([root / name for name in names], scan):
        if isinstance(found, DataError):
            problems.append(str(found))
        else:
            scans.append(found)
    if problems:
        raise DataError("\n".join(problems))
    entries = [found.entries(number) for number, found in enumerate(scans)]
    return PackedRecords(root, tuple(stamps), np.concatenate(entries))


def _scanned(paths: Sequence[Path], scan: Callable[[Path], Scan]) -> Iterator[Scan | DataError]:
    """What was found in each file, or what is wrong with it."""

    def attempt(path: Path) -> Scan | DataError:
        try:
            found = scan(path)
        except DataError as error:
            return error
        except OSError as error:
            return DataError(f"{path} cannot be read: {error.strerror or error}")
        return found if found.rows or found.damaged else DataError(f"{path} holds no images")

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(attempt, paths)
