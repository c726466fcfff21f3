"""Image files in one folder a class; the classes are numbered in the order of the folders' names."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from aln.data.records import Records
from aln.data.roots import Root
from aln.errors import DataError
from aln.storage import StoredFile

IMAGE_KINDS = frozenset({"jpeg", "jpg", "png", "webp", "bmp"})
_THREADS = 16  # folders listed at once: over a network most of the time is waiting


def is_image(name: str) -> bool:
    """Whether a file of this name is an image that counts; hidden files do not."""
    return name[0] != "." and name.rpartition(".")[2].lower() in IMAGE_KINDS


class _Images(NamedTuple):
    """The images of a class: their names, and sizes and times of writing [N, 2]."""

    names: list[bytes]
    versions: np.ndarray


class ClassFolders(Records):
    """The images in a root's folders of classes, sorted by class and name.

    Args:
        inside: what stands before the classes' names, `train/` or nothing.
        files: each class's images.
    """

    def __init__(self, root: Root, inside: str, classes: Sequence[str], files: Sequence[_Images]) -> None:
        self._root, self._inside, self._classes = root, inside, tuple(classes)
        counts = [len(images.names) for images in files]
        self.labels: np.ndarray = np.repeat(np.arange(len(counts)), counts)
        # One piece of memory: a million objects would be copied into every process that is forked off.
        self._names = b"".join(name for images in files for name in images.names)
        lengths = np.fromiter((len(name) for images in files for name in images.names), np.int64, sum(counts))
        self._ends = lengths.cumsum()
        self._versions = np.concatenate([images.versions for images in files])

    @classmethod
    def scan(cls, root: Root, folder: str = "") -> ClassFolders:
        """Lists the folders. Raises `DataError` with a line for each without images, or if there are none."""
        inside = f"{folder}/" if folder else ""
        classes = [name for name in root.listing(folder, looked_at=False).folders if name[0] != "."]
        if not classes:
            raise DataError(
                f"{root.told(folder) if folder else root.address} holds no folders, expected one for each class"
            )
        with ThreadPoolExecutor(_THREADS) as pool:
            files = list(pool.map(functools.partial(_images, root), (inside + name for name in classes)))
        if empty := [name for name, images in zip(classes, files, strict=True) if not images.names]:
            raise DataError("\n".join(f"{root.told(inside + name)} holds no images" for name in empty))
        return cls(root, inside, classes, files)

    @property
    def classes(self) -> tuple[str, ...]:
        """The folders' names."""
        return self._classes

    def files(self) -> Iterator[StoredFile]:
        """All image files; their sizes and times are 0 on a disk."""
        return map(self._file, range(len(self)))

    def read(self, index: int) -> bytes:
        file = self._file(index)
        data = self._root.read(file)
        if not data:
            raise DataError(f"{self._root.told(file.name)} is empty")
        return data

    def name(self, index: int) -> str:
        return self._root.told(self._file(index).name)

    def fingerprint(self) -> str:
        changed = [self._root.changed(f"{self._inside}{name}") for name in self._classes]
        parts = repr((self._root.identity, self._inside, self._classes, changed, self._ends.tolist())).encode()
        return hashlib.sha256(parts + self._names + self._versions.tobytes()).hexdigest()

    def _file(self, index: int) -> StoredFile:
        start, end = int(self._ends[index - 1]) if index else 0, int(self._ends[index])
        path = f"{self._inside}{self._classes[int(self.labels[index])]}/{os.fsdecode(self._names[start:end])}"
        return StoredFile(path, *self._versions[index].tolist())


def _images(root: Root, folder: str) -> _Images:
    """The images directly in a folder, sorted by name."""
    files = [(file.name.rpartition("/")[2], file) for file in root.listing(folder, looked_at=False).files]
    found = sorted((os.fsencode(name), file.size, file.written) for name, file in files if is_image(name))
    versions = np.array([version for _, *version in found], np.int64).reshape(-1, 2)
    return _Images([name for name, *_ in found], versions)
