"""Images that lie one after the other in a few large files, read by their place there."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from aln.data.records import Records
from aln.errors import DataError

# An image: its file, its number among the file's records, where it starts there and how long it is (bytes), its class,
# and its CRC-32C, −1 where the format has no checksum.
ENTRY = np.dtype(
    [("file", "<i4"), ("number", "<i4"), ("start", "<i8"), ("length", "<i8"), ("label", "<i8"), ("checksum", "<i8")]
)
_OPEN_FILES = 256  # well below what a process may have open, and above what it reads from in turn


@dataclass(frozen=True)
class Stamp:
    """A file as it was when it was indexed: its size in bytes, and when it was last written (ns)."""

    name: str
    size: int
    written: int

    @classmethod
    def of(cls, root: Path, name: str) -> Stamp:
        """Raises `DataError` if the file cannot be looked at."""
        try:
            status = (root / name).stat()
        except OSError as error:
            raise DataError(f"{root / name} cannot be read: {error.strerror}") from error
        return cls(name, status.st_size, status.st_mtime_ns)


class PackedRecords(Records):
    """Images in files under `root`.

    Args:
        entries: [N] of `ENTRY`, whose files are places in `files`.
    """

    def __init__(self, root: Path, files: tuple[Stamp, ...], entries: np.ndarray) -> None:
        self._root, self._files, self._entries = root, files, entries
        self.labels = np.ascontiguousarray(entries["label"])

    def counted_from(self, first: int) -> PackedRecords:
        """The same images, the class that is `first` here being 0 there."""
        entries = self._entries.copy()
        entries["label"] -= first
        return PackedRecords(self._root, self._files, entries)

    def read(self, index: int) -> bytes:
        entry = self._entries[index]
        length, start = int(entry["length"]), int(entry["start"])
        stamp = self._files[entry["file"]]
        try:
            file = _opened(str(self._root / stamp.name), stamp.size, stamp.written)
            data = os.pread(file.descriptor, length, start)
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror or error}") from error
        if len(data) != length:
            raise DataError(f"{self.name(index)}: the file ends after {len(data)} of {length} bytes")
        if entry["checksum"] >= 0 and google_crc32c.value(data) != entry["checksum"]:
            raise DataError(f"{self.name(index)}: the image is damaged, its checksum differs")
        return data

    def name(self, index: int) -> str:
        entry = self._entries[index]
        return (
            f"{self._root / self._files[entry['file']].name}, record {entry['number']}, image at byte {entry['start']}"
        )

    def fingerprint(self) -> str:
        content = repr((str(self._root), self._files)).encode() + self._entries.tobytes()
        return hashlib.sha256(content).hexdigest()


class _OpenFile:
    """A file's descriptor, closed when nobody holds it any more: a thread may be reading as another lets it go."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


# Reads at an offset share no position: processes that are forked off may go on with what was open.
@functools.lru_cache(maxsize=_OPEN_FILES)
def _opened(path: str, size: int, written: int) -> _OpenFile:
    """The file, open for reading. Raises `OSError`, and `DataError` if it is not the one that was indexed."""
    file = _OpenFile(path)
    status = os.fstat(file.descriptor)
    if (status.st_size, status.st_mtime_ns) != (size, written):
        raise DataError(f"{path} has changed since it was indexed; start anew")
    return file
