"""Image files in one folder a class; the classes are numbered in the order of the folders' names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from aln.data.records import Records
from aln.errors import DataError

IMAGE_KINDS = frozenset({"jpeg", "jpg", "png", "webp", "bmp"})
_THREADS = 16  # folders listed at once: over a network most of the time is waiting


def is_image(name: str) -> bool:
    """Whether a file of this name is an image that counts; hidden files do not."""
    return name[0] != "." and name.rpartition(".")[2].lower() in IMAGE_KINDS


class ClassFolders(Records):
    """The images in `root/CLASS/`, sorted by class and name.

    Args:
        files: the names of each class's images.
    """

    def __init__(self, root: Path, classes: Sequence[str], files: Sequence[Sequence[bytes]]) -> None:
        self._root, self._classes = root, tuple(classes)
        counts = [len(names) for names in files]
        self.labels: np.ndarray = np.repeat(np.arange(len(counts)), counts)
        # One piece of memory: a million objects would be copied into every process that is forked off.
        self._names = b"".join(name for names in files for name in names)
        lengths = np.fromiter((len(name) for names in files for name in names), np.int64, sum(counts))
        self._ends = lengths.cumsum()

    @classmethod
    def scan(cls, root: Path) -> ClassFolders:
        """Lists the folders. Raises `DataError` with a line for each without images, or if there are none."""
        try:
            with os.scandir(root) as entries:
                classes = sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
            with ThreadPoolExecutor(_THREADS) as pool:
                files = list(pool.map(_images, (root / name for name in classes)))
        except OSError as error:
            raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error
        if not classes:
            raise DataError(f"{root} holds no folders, expected one for each class")
        if empty := [name for name, names in zip(classes, files, strict=True) if not names]:
            raise DataError("\n".join(f"{root / name} holds no images" for name in empty))
        return cls(root, classes, files)

    @property
    def classes(self) -> tuple[str, ...]:
        """The folders' names."""
        return self._classes

    def read(self, index: int) -> bytes:
        path = self.name(index)
        try:
            file = os.open(path, os.O_RDONLY)  # a third of the time of a Path and its file object
            try:
                data = os.read(file, os.fstat(file).st_size)
            finally:
                os.close(file)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if not data:
            raise DataError(f"{path} is empty")
        return data

    def name(self, index: int) -> str:
        start, end = int(self._ends[index - 1]) if index else 0, int(self._ends[index])
        name = os.fsdecode(self._names[start:end])
        return f"{self._root}{os.sep}{self._classes[int(self.labels[index])]}{os.sep}{name}"

    def fingerprint(self) -> str:
        written = [(self._root / name).stat().st_mtime_ns for name in self._classes]
        content = repr((str(self._root), self._classes, written, self._ends.tolist())).encode() + self._names
        return hashlib.sha256(content).hexdigest()


def _images(folder: Path) -> list[bytes]:
    """The names of the images in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(os.fsencode(entry.name) for entry in entries if is_image(entry.name))
