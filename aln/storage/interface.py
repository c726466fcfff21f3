"""What every store can do, whatever it is made of, and how its failures are told."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aln.errors import StorageError
from aln.storage.whole import write_whole

_CHUNK = 32 << 20  # bytes at a time of a file that is downloaded


@dataclass(frozen=True, order=True)
class StoredFile:
    """A file in a folder: its name there, its size in bytes, and when it was last written (ns since 1970)."""

    name: str
    size: int
    written: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Listing:
    """What lies directly in a folder, each sorted by name."""

    files: list[StoredFile]
    folders: list[str]


class RangeReader:
    """A file that is open for reading parts of it, from any number of threads.

    Attributes:
        address: its path or URL.
        size: in bytes.
    """

    def __init__(
        self,
        address: str,
        size: int,
        read_at: Callable[[int, int], bytes],
        close: Callable[[], None],
        failure: Callable[[str, str, OSError], StorageError],
    ) -> None:
        self.address, self.size = address, size
        self._read_at, self._close, self._failure = read_at, close, failure

    def read(self, start: int, length: int) -> bytes:
        """So many bytes from `start` on. Raises `StorageError` if they cannot be read, or are not all there."""
        try:
            content = self._read_at(length, start)
        except OSError as error:
            raise self._failure(self.address, "cannot be read", error) from error
        if len(content) != length:
            found = f"{len(content)} bytes instead of {length} came from byte {start} on"
            raise StorageError(self.address, "cannot be read", found)
        return content

    def close(self) -> None:
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Storage(ABC):
    """Files under one root, a local folder or a URL. A file is written whole or not at all, and read as it was written.

    Names are relative to the root, with `/` between folders; none leads out of it. Folders come and go with their
    files. Every method raises `StorageError` naming the file's address and the reason, and `MissingFileError` for a
    file that is not there; a store that does not answer fails within a minute or two.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def address(self, name: str) -> str:
        """The full path or URL of a file."""
        problem = "" if name and not name.startswith("/") else "expected a relative path"
        if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
            problem = problem or "expected a path below the root, without '.' and '..'"
        if problem:
            raise StorageError(self.root, f"has no file named {name!r}", problem)
        return f"{self.root.rstrip('/')}/{name}"

    @abstractmethod
    def folder(self, name: str) -> Storage:
        """The store whose root is a folder in this one, which need not be there."""

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Writes a file, in the place of what had its name. What fails or is killed leaves what was there before."""
        with self._telling(name, "cannot be written") as address:
            self._write(address, content)

    def read(self, name: str) -> bytes:
        """The whole content of a file."""
        with self.open(name) as file:
            return file.read(0, file.size)

    def open(self, name: str) -> RangeReader:
        """A file to read parts of; to be closed, or used in a `with`."""
        with self._telling(name, "cannot be read") as address:
            size, read_at, close = self._open(address)
        return RangeReader(address, size, read_at, close, self._failure)

    def download(self, name: str, path: Path) -> None:
        """Copies a file to a local path, whole or not at all."""
        with self.open(name) as file:
            write_whole(
                path, (file.read(start, min(_CHUNK, file.size - start)) for start in range(0, file.size, _CHUNK))
            )

    def files(self) -> list[StoredFile]:
        """The files directly under the root, sorted by name; none if the root is not there."""
        return self.listing().files

    def listing(self, name: str = "") -> Listing:
        """What lies directly in a folder, in the root if none is named; nothing if the folder is not there."""
        with self._telling(name or None, "cannot be listed") as address:
            files, folders = self._list(address)
        return Listing(sorted(files, key=lambda file: file.name), sorted(folders))

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        with self._telling(name, "cannot be looked for") as address:
            return self._exists(address)

    def delete(self, name: str) -> None:
        """Removes a file; it is no error if it is not there."""
        with self._telling(name, "cannot be deleted") as address:
            self._delete(address)

    def delete_folder(self, name: str) -> None:
        """Removes a folder with all that is in it; it is no error if it is not there."""
        with self._telling(name, "cannot be deleted") as address:
            self._delete_folder(address)

    def check_writable(self) -> None:
        """Writes, lists, reads and deletes a small file: asked before anything starts."""
        name, content = f".writable-{uuid.uuid4().hex}", uuid.uuid4().bytes
        self.write(name, content)
        try:
            if name not in [file.name for file in self.files()] or self.read(name) != content:
                raise StorageError(self.root, "cannot be used", "a file just written reads otherwise")
        finally:
            self.delete(name)

    @abstractmethod
    def create(self) -> None:
        """Makes the root, which must not be there yet; in an object store, must hold nothing yet."""

    @contextmanager
    def _telling(self, name: str | None, failed: str) -> Iterator[str]:
        """Lends the address of a file, of the root if there is no name, and turns what fails into a `StorageError`."""
        address = self.root if name is None else self.address(name)
        try:
            yield address
        except OSError as error:
            raise self._failure(address, failed, error) from error

    @abstractmethod
    def _failure(self, address: str, failed: str, error: OSError) -> StorageError: ...

    @abstractmethod
    def _write(self, address: str, content: bytes | memoryview) -> None: ...

    @abstractmethod
    def _open(self, address: str) -> tuple[int, Callable[[int, int], bytes], Callable[[], None]]:
        """The size of a file in bytes, what reads a number of bytes at an offset, and what closes it."""

    @abstractmethod
    def _list(self, address: str) -> tuple[list[StoredFile], list[str]]:
        """The files directly in a folder, and the names of the folders in it."""

    @abstractmethod
    def _exists(self, address: str) -> bool: ...

    @abstractmethod
    def _delete(self, address: str) -> None: ...

    @abstractmethod
    def _delete_folder(self, address: str) -> None: ...
