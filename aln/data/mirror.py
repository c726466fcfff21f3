"""Data sets in object stores: every file that is read is fetched once for all processes of a machine.

Copies lie under `ALN_CACHE` (`aln.data.kept`), in folders that are named after store, bucket and path. A copy counts if
it has the size and the time of writing of the store's file: both are given to it at last, when it is complete, and a
file that is written anew is fetched anew. Who wants a file that another process is fetching waits for that one.

Tar files and TFRecords are fetched when they are indexed, a few at a time; what has been indexed before, and images in
class folders, when they are first read. A store is slow to answer and quick to send: prefer the large files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aln.data.kept import kept_in, lock_for, only_one, require_room
from aln.data.roots import Disk, Root
from aln.errors import DataError, MissingFileError, StorageError
from aln.hints import hint_of_path
from aln.storage import Listing, Storage, StoredFile, open_storage
from aln.storage.object_store import ObjectStore

_ANNOUNCED = 1 << 20  # bytes: for what is smaller nobody waits long enough to be told


def open_root(root: str | Path) -> Root:
    """The place at a path or URL. Raises `DataError` if nothing is there, `StorageError` if a store cannot be used."""
    store = open_storage(root)
    if isinstance(store, ObjectStore):
        mirror = Mirror(store)
        listing = mirror.listing()
        if not (listing.files or listing.folders):
            raise DataError(f"root = {mirror.address}: there is nothing")
        return mirror
    folder = Path(root).expanduser()
    if not folder.is_dir():
        problem = "is no folder" if folder.exists() else f"there is no such folder{hint_of_path(folder)}"
        raise DataError(f"root = {folder}: {problem}")
    return Disk(folder)


class Mirror(Root):
    """A folder in an object store, `s3://bucket/path` or `gs://bucket/path`, and its copy on this machine."""

    def __init__(self, store: ObjectStore) -> None:
        # The same bucket of another server is another one.
        server = re.sub(r"[^\w.]+", "-", f"{store.scheme}-{store.endpoint}")
        self.home = kept_in("mirror") / server / store.root.partition("://")[2]
        super().__init__(store.root, str(self.home))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_stores"}

    @property
    def _store(self) -> Storage:
        """The store, opened by this process: connections are not to be shared with one that was forked off."""
        stores: dict[int, Storage] = self.__dict__.setdefault("_stores", {})
        return stores.setdefault(os.getpid(), open_storage(self.address))

    def listing(self, folder: str = "", *, looked_at: bool = True) -> Listing:
        found = self._store.listing(folder)
        inside = f"{folder}/" if folder else ""
        return Listing([StoredFile(inside + file.name, file.size, file.written) for file in found.files], found.folders)

    def changed(self, folder: str) -> int:
        return 0

    def expect(self, files: Iterable[StoredFile]) -> None:
        missing = [file.size for file in files if not _is(self.home / file.name, file)]
        if (size := sum(missing)) > _ANNOUNCED:
            require_room(f"fetching {len(missing)} files from {self.address}", size, self.home)

    def local(self, file: StoredFile) -> Path:
        path = self.home / file.name
        if not _is(path, file):
            self._fetch(file, path)
        return path

    def _fetch(self, file: StoredFile, path: Path) -> None:
        doing = f"fetches {self.told(file.name)}" if file.size > _ANNOUNCED else ""
        try:
            with only_one(lock_for(self.home, file.name), doing):
                if _is(path, file):
                    return
                self._store.download(file.name, path)
                found = path.stat().st_size
                if found == file.size:
                    os.utime(path, ns=(file.written, file.written))
                    return
                path.unlink()
        except MissingFileError as error:
            raise DataError(str(error)) from error
        except OSError as error:
            raise StorageError(str(path), "cannot be written", error.strerror or str(error)) from error
        raise DataError(
            f"{self.told(file.name)} has changed since it was listed: it had {file.size} bytes and has {found}"
        )


def _is(path: Path, file: StoredFile) -> bool:
    """Whether there is a complete copy of the file."""
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.size, file.written)
