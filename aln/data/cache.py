"""Data sets stored once, decoded and resized, in files that all processes of a machine map into memory.

Every image is stored whole, its shortest side resized (a smaller image as it is), so that random crops of any area and
aspect remain possible, and evaluation sees exactly what it would without a cache. A cache belongs to what it was made
from: file names, sizes and times, side and format are in the name of its folder. One process fills it while others
wait; images are written a file at a time, each whole or not at all, so that an interrupted one goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from aln.data.decoding import dimensions
from aln.data.kept import only_one, require_room
from aln.data.loading import clean_processes, end_with_parent
from aln.data.pictures import Decoded, Pictures, require_few
from aln.data.preparation import resized, with_shortest_side
from aln.data.records import Records
from aln.errors import DataError

_FORMAT = 1
_PER_FILE = 4096  # images; a file is about a GiB, and few enough are open at a time
_SAMPLE = 256  # images whose headers are read to tell the size
_MARGIN = 1.05
_INDEX = "index.npz"


class Stored(Pictures):
    """The images of a complete cache. Pages that one process has read are there for all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with np.load(folder / _INDEX) as index:
            self.labels = index["labels"]
            self._shapes, self._offsets = index["shapes"], index["offsets"]
            self._per_file = int(index["per_file"])
            self._complaints: dict[int, str] = dict(json.loads(str(index["complaints"])))
        self._maps: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # each process maps the files itself

    def picture(self, index: int) -> Tensor:
        height, width = self._shapes[index].tolist()
        if not height:
            raise DataError(self._complaints[index])
        number, offset = index // self._per_file, int(self._offsets[index])
        if number not in self._maps:
            # Copy on write: torch warns of memory that cannot be written. Nothing writes.
            self._maps[number] = np.memmap(_pixels(self._folder, number), np.uint8, "c").view(np.ndarray)
        pixels = self._maps[number][offset : offset + height * width * 3].reshape(height, width, 3)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def stored(records: Records, folder: Path, side: int, processes: int) -> Stored:
    """The records' images, shortest side at most `side`, from a cache in `folder`, which is filled first if need be.

    Args:
        processes: how many fill it.

    Raises `DataError` if the disk has not the room, or too many images are unreadable.
    """
    key = json.dumps([_FORMAT, _PER_FILE, side, len(records), records.fingerprint()])
    home = folder / f"{side}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not (home / _INDEX).exists():
        _made(home)
        with only_one(home.with_suffix(".lock"), f"stores images in {home}"):
            if not (home / _INDEX).exists():
                _Builder(records, home, side, _PER_FILE).build(processes)
    return Stored(home)


def expected_bytes(records: Records, side: int) -> int:
    """About how large the records' images are when stored, from a sample of their headers; those of few all count."""
    sizes = []
    for index in np.unique(np.linspace(0, len(records) - 1, _SAMPLE).astype(int)).tolist():
        try:
            height, width = dimensions(records.read(index))
        except DataError:
            continue  # is stored as nothing
        sizes.append(3 * int(np.prod(_stored_shape(height, width, side))))
    return int(np.mean(sizes) * len(records)) if sizes else 0


@dataclass(frozen=True)
class _Builder:
    """Fills the cache in `home`, a file of so many images at a time."""

    records: Records
    home: Path
    side: int
    per_file: int

    def build(self, processes: int) -> None:
        numbers = range(-(-len(self.records) // self.per_file))
        for leftover in self.home.glob("*.partial"):
            leftover.unlink(missing_ok=True)
        missing = [number for number in numbers if not _record(self.home, number).exists()]
        self._require_room(len(missing) / max(1, len(numbers)))
        complaints: dict[int, str] = {}
        for number in self._filled(missing, processes):
            with np.load(_record(self.home, number)) as record:
                complaints |= json.loads(str(record["complaints"]))
            require_few(list(complaints.values()), len(self.records), str(self.home))
        self._finish(numbers)

    def _require_room(self, share: float) -> None:
        """Says how much is going to be stored. Raises `DataError` if the disk has not that much room."""
        size = _MARGIN * share * expected_bytes(self.records, self.side)
        require_room(f"storing {len(self.records)} images, shortest side {self.side},", size, self.home)

    def _filled(self, missing: list[int], processes: int) -> Iterator[int]:
        """The numbers of the missing files, each as it is there."""
        if processes == 0:
            for number in missing:
                self.fill(number)
                yield number
            return
        pool = ProcessPoolExecutor(
            min(processes, max(1, len(missing))),
            mp_context=clean_processes(),
            initializer=_begin,
            initargs=(self,),  # once for each process: the names of a million files are much to send
        )
        try:
            futures = {pool.submit(_fill, number): number for number in missing}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenExecutor as error:
            raise DataError(f"{self.home}: a process that stores images has ended: {error}") from error
        finally:
            pool.shutdown(cancel_futures=True)

    def fill(self, number: int) -> None:
        """Writes one file of pixels, and then the record of what is in it, by which it counts as there."""
        pictures, side = Decoded(self.records), self.side
        first = number * self.per_file
        shapes = np.zeros((min(self.per_file, len(self.records) - first), 2), np.int32)
        complaints: list[tuple[int, str]] = []
        with _whole(_pixels(self.home, number)) as file:
            for place in range(len(shapes)):
                try:
                    image = pictures.picture(first + place)
                except DataError as error:
                    complaints.append((first + place, str(error)))
                    continue
                image = resized(image, *_stored_shape(image.shape[1], image.shape[2], side))
                shapes[place] = image.shape[1:]
                file.write(image.permute(1, 2, 0).contiguous().numpy().data)
        with _whole(_record(self.home, number)) as file:
            np.savez(file, shapes=shapes, complaints=json.dumps(complaints))

    def _finish(self, numbers: range) -> None:
        """Writes the index of all files, by which the cache counts as complete."""
        shapes, complaints, offsets = [], [], []
        for number in numbers:
            with np.load(_record(self.home, number)) as record:
                shapes.append(record["shapes"])
                complaints += json.loads(str(record["complaints"]))
            sizes = 3 * shapes[-1].astype(np.int64).prod(1)
            offsets.append(sizes.cumsum() - sizes)
        with _whole(self.home / _INDEX) as file:
            np.savez(
                file,
                labels=self.records.labels,
                shapes=np.concatenate(shapes),
                offsets=np.concatenate(offsets),
                per_file=self.per_file,
                complaints=json.dumps(complaints),
            )


_builder: _Builder | None = None  # of a process that fills a cache


def _begin(builder: _Builder) -> None:
    global _builder  # noqa: PLW0603
    end_with_parent()
    torch.set_num_threads(1)
    _builder = builder


def _fill(number: int) -> None:
    assert _builder is not None
    _builder.fill(number)


def _pixels(home: Path, number: int) -> Path:
    return home / f"pixels-{number:05}.u8"


def _record(home: Path, number: int) -> Path:
    return home / f"pixels-{number:05}.npz"


def _stored_shape(height: int, width: int, side: int) -> tuple[int, int]:
    return with_shortest_side(height, width, side) if min(height, width) > side else (height, width)


def _made(home: Path) -> None:
    """Makes the cache's folder. Raises `DataError` if it cannot."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{home} cannot be made for the cache: {error.strerror or error}") from error


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that is there once all has been written. Raises `DataError` if it cannot be."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written for the cache: {error.strerror or error}") from error
