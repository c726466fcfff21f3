"""Where a data set lies: a folder of this machine, or one in an object store."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from aln.errors import DataError
from aln.storage import Listing, StoredFile


class Root(ABC):
    """A folder with a data set in it. Can be pickled; threads may use it at once, and processes that were forked off.

    Attributes:
        address: path or URL, for messages.
        identity: text that no other place has.
    """

    def __init__(self, address: str, identity: str) -> None:
        self.address, self.identity = address, identity

    def told(self, name: str) -> str:
        """Path or URL of a file, for messages."""
        return f"{self.address.rstrip('/')}/{name}"

    @abstractmethod
    def listing(self, folder: str = "", *, looked_at: bool = True) -> Listing:
        """What lies directly in a folder; files are named from the root on. Nothing if the folder is not there.

        Args:
            looked_at: otherwise sizes and times may be 0: to look at each of a million files on a disk takes long.

        Raises `DataError` or `StorageError` naming the folder if it cannot be listed.
        """

    @abstractmethod
    def changed(self, folder: str) -> int:
        """When files of a folder were last added or removed (ns since 1970); 0 where files tell their own times."""

    @abstractmethod
    def expect(self, files: Iterable[StoredFile]) -> None:
        """Says which files are going to be read. Raises `DataError` if they need room that the disk has not."""

    @abstractmethod
    def local(self, file: StoredFile) -> Path:
        """Where a listed file lies on this machine. What is elsewhere is fetched first, once.

        Raises `DataError` if it is gone or another, and `StorageError` if its store cannot be used.
        """

    def read(self, file: StoredFile) -> bytes:
        """The whole content of a listed file. Raises as `local` does, and `DataError` if it cannot be read."""
        path = self.local(file)
        try:
            opened = os.open(path, os.O_RDONLY)  # a third of the time of a Path and its file object
            try:
                return os.read(opened, os.fstat(opened).st_size)
            finally:
                os.close(opened)
        except OSError as error:
            raise DataError(f"{self.told(file.name)} cannot be read: {error.strerror or error}") from error


class Disk(Root):
    """A folder of this machine: files are read in place."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), str(folder.absolute()))
        self._folder = folder

    def listing(self, folder: str = "", *, looked_at: bool = True) -> Listing:
        files, folders, inside = [], [], f"{folder}/" if folder else ""
        try:
            with os.scandir(self._folder / folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append(entry.name)
                    else:
                        file = self._look(inside + entry.name) if looked_at else StoredFile(inside + entry.name, 0)
                        files.append(file)
        except (FileNotFoundError, NotADirectoryError):
            return Listing([], [])
        except OSError as error:
            raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error
        return Listing(sorted(files, key=lambda file: file.name), sorted(folders))

    def _look(self, name: str) -> StoredFile:
        try:
            status = (self._folder / name).stat()
        except OSError as error:
            raise DataError(f"{self.told(name)} cannot be read: {error.strerror or error}") from error
        return StoredFile(name, status.st_size, status.st_mtime_ns)

    def changed(self, folder: str) -> int:
        return (self._folder / folder).stat().st_mtime_ns

    def expect(self, files: Iterable[StoredFile]) -> None:
        pass

    def local(self, file: StoredFile) -> Path:
        return self._folder / file.name
