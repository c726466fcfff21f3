"""Images that lie one after the other in a few large files, read by their place there."""

from __future__ import annotations

import functools
import hashlib
import os

import google_crc32c
import numpy as np

from aln.data.records import Records
from aln.data.roots import Root
from aln.errors import DataError
from aln.storage import StoredFile

# An image: its file, its number among the file's records, where it starts there and how long it is (bytes), its class,
# and its CRC-32C, −1 where the format has no checksum.
ENTRY = np.dtype(
    [("file", "<i4"), ("number", "<i4"), ("start", "<i8"), ("length", "<i8"), ("label", "<i8"), ("checksum", "<i8")]
)
_OPEN_FILES = 256  # well below what a process may have open, and above what it reads from in turn


class PackedRecords(Records):
    """Images in files under `root`.

    Args:
        files: as they were when they were indexed.
        entries: [N] of `ENTRY`, whose files are places in `files`.
    """

    def __init__(self, root: Root, files: tuple[StoredFile, ...], entries: np.ndarray) -> None:
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
        listed = self._files[entry["file"]]
        told = self._root.told(listed.name)
        try:
            file = _opened(str(self._root.local(listed)), told, listed.size, listed.written)
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
        file = self._root.told(self._files[entry["file"]].name)
        return f"{file}, record {entry['number']}, image at byte {entry['start']}"

    def fingerprint(self) -> str:
        content = repr((self._root.identity, self._files)).encode() + self._entries.tobytes()
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
def _opened(path: str, told: str, size: int, written: int) -> _OpenFile:
    """The file, open for reading. Raises `OSError`, and `DataError` if it is not the one that was indexed."""
    file = _OpenFile(path)
    status = os.fstat(file.descriptor)
    if (status.st_size, status.st_mtime_ns) != (size, written):
        raise DataError(f"{told} has changed since it was indexed; start anew")
    return file
