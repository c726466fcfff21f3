"""Local folders, shared ones among them: a file appears under its name when it is complete and on the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from aln.errors import StorageError
from aln.storage.interface import Storage, StoredFile
from aln.storage.whole import PARTIAL, local_failure, write_whole


class LocalFolder(Storage):
    """A folder of this machine, or one that several machines mount."""

    def folder(self, name: str) -> LocalFolder:
        return LocalFolder(self.address(name))

    def create(self) -> None:
        with self._telling(None, "cannot be made") as address:
            Path(address).mkdir(parents=True)

    def _failure(self, address: str, failed: str, error: OSError) -> StorageError:
        return local_failure(address, failed, error)

    def _write(self, address: str, content: bytes | memoryview) -> None:
        write_whole(Path(address), [content])

    def _open(self, address: str) -> tuple[int, Callable[[int, int], bytes], Callable[[], None]]:
        file = Path(address).open("rb", buffering=0)  # noqa: SIM115 - the reader closes it

        def read_at(length: int, start: int) -> bytes:
            parts = []
            while length and (part := os.pread(file.fileno(), length, start)):  # takes two GiB at most
                parts.append(part)
                length, start = length - len(part), start + len(part)
            return b"".join(parts)

        return os.fstat(file.fileno()).st_size, read_at, file.close

    def _list(self, address: str) -> tuple[list[StoredFile], list[str]]:
        files, folders = [], []
        with contextlib.suppress(FileNotFoundError), os.scandir(address) as entries:
            for entry in entries:
                # A file may go between being found and being looked at.
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.is_file() and not PARTIAL.fullmatch(entry.name):
                        status = entry.stat()
                        files.append(StoredFile(entry.name, status.st_size, status.st_mtime_ns))
        return files, folders

    def _exists(self, address: str) -> bool:
        return Path(address).is_file()

    def _delete(self, address: str) -> None:
        Path(address).unlink(missing_ok=True)

    def _delete_folder(self, address: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(address)
