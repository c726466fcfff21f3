"""CIFAR-10, CIFAR-100 and MNIST from their published files, held in memory as bytes.

CIFAR is read in its binary version: the Python version is pickles, which run whatever code is in them. A root is a
folder, or `s3://bucket/folder` or `gs://bucket/folder`, of which a copy is made (`aln.data.mirror`). What is wrong with
the files is a `DataError` with a line for each.
"""

from __future__ import annotations

import functools
import gzip
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from aln.data.holdout import held_out
from aln.data.mirror import open_root
from aln.data.roots import Root
from aln.data.source import InMemory, Split
from aln.errors import DataError
from aln.storage import StoredFile

_CIFAR_SHAPE = (3, 32, 32)
_IDX_BYTES = 0x08  # the type of the numbers in MNIST's files: unsigned bytes


def cifar10(*, root: str, holdout: int = 5000, shift: int = 4, flip: bool = True) -> InMemory:
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 colour images of 32×32 pixels in 10 classes.

    Args:
        root: folder with `data_batch_1.bin` … `data_batch_5.bin` and `test_batch.bin`, or the folder that holds
            `cifar-10-batches-bin`.
        holdout: training images to validate on, see `aln.data.holdout`.
        shift, flip: augmentation, see `InMemory`; these defaults are the usual recipe.
    """
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    folder = _Folder.find(root, "cifar-10-batches-bin", names)
    *train, test = _all(functools.partial(_cifar, folder, name, labels=1, classes=10) for name in names)
    return _held_in_memory(train, test, 10, holdout, shift, flip)


def cifar100(*, root: str, holdout: int = 5000, shift: int = 4, flip: bool = True) -> InMemory:
    """CIFAR-100 (Krizhevsky 2009): as CIFAR-10, with 100 fine classes.

    Args:
        root: folder with `train.bin` and `test.bin`, or the folder that holds `cifar-100-binary`.
    """
    names = ["train.bin", "test.bin"]
    folder = _Folder.find(root, "cifar-100-binary", names)
    train, test = _all(functools.partial(_cifar, folder, name, labels=2, classes=100) for name in names)
    return _held_in_memory([train], test, 100, holdout, shift, flip)


def mnist(*, root: str, holdout: int = 10000, shift: int = 0) -> InMemory:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 grey images of 28×28 pixels in 10 classes.

    Args:
        root: folder with `train-images-idx3-ubyte` and its three companions, as they are or with `.gz` behind.
    """
    names = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    folder = _Folder.find(root, "MNIST/raw", names)
    arrays = _all(functools.partial(_idx, folder, name, dimensions=3 if "images" in name else 1) for name in names)
    parts = [("train", arrays[0], arrays[1]), ("t10k", arrays[2], arrays[3])]
    train, test = _all(functools.partial(_mnist, folder, *part) for part in parts)
    return _held_in_memory([train], test, 10, holdout, shift, flip=False)


_Part = tuple[np.ndarray, np.ndarray]
"""Images [N, C, H, W] (uint8) and their labels [N]."""


def _held_in_memory(
    train: Sequence[_Part], test: _Part, num_classes: int, holdout: int, shift: int, flip: bool
) -> InMemory:
    """The parts, some training images held out, standardised by the mean and deviation of those that stay."""
    images, labels = (np.concatenate(part) for part in zip(*train, strict=True))
    if not 0 <= shift < images.shape[-1]:
        raise DataError(f"shift = {shift}: expected 0 to {images.shape[-1] - 1} pixels")
    if holdout == 0:
        raise DataError(f"holdout = 0: expected 1 to {len(labels) - 1} images, which training is validated on")
    stay, out = held_out(labels, holdout)
    pixels = torch.from_numpy(images[stay]).double()
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)

    def split(some_images: np.ndarray, some_labels: np.ndarray) -> Split:
        return Split(torch.from_numpy(np.array(some_images)), torch.from_numpy(some_labels.astype(np.int64)))

    standard: tuple[Tensor, Tensor] = (mean.float(), deviation.clamp_min(1e-6).float())
    return InMemory(
        split(images[stay], labels[stay]),
        split(images[out], labels[out]),
        split(*test),
        num_classes=num_classes,
        shift=shift,
        flip=flip,
        standard=standard,
    )


_T = TypeVar("_T")


def _all(attempts: Iterable[Callable[[], _T]]) -> list[_T]:
    """What all of them return. Raises `DataError` with the lines of each that fails."""
    done, problems = [], []
    for attempt in attempts:
        try:
            done.append(attempt())
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return done


@dataclass(frozen=True)
class _Folder:
    """Published files, some of which may be packed: `.gz` is behind their names."""

    root: Root
    inside: str
    files: dict[str, StoredFile]

    @classmethod
    def find(cls, root: str, inner: str, names: Sequence[str]) -> _Folder:
        """The folder in which any of the named files is: the root, or `inner` in it. Raises `DataError` otherwise."""
        place = open_root(root)
        for inside in ("", f"{inner}/"):
            listed = {file.name.removeprefix(inside): file for file in place.listing(inside.rstrip("/")).files}
            if files := {name: file for name, file in listed.items() if name.removesuffix(".gz") in names}:
                place.expect(files.values())
                return cls(place, inside, files)
        there = {"cifar-10-batches-py", "cifar-100-python"} & set(place.listing().folders)
        advice = "; the Python version is pickles, take the binary version" if there else ""
        raise DataError(f"root = {place.address}: expected {names[-1]} in it, or in {inner}/{advice}")

    def told(self, name: str) -> str:
        return self.root.told(f"{self.inside}{name}")

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise DataError(f"{self.told(name)} is missing")
        return self.root.read(self.files[name])

    def unpacked(self, name: str) -> bytes:
        """The file's content, if need be that of its packed companion."""
        packed = f"{name}.gz"
        if name in self.files or packed not in self.files:
            return self.read(name)
        try:
            return gzip.decompress(self.read(packed))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.told(packed)} cannot be unpacked: {error}") from error


def _cifar(folder: _Folder, name: str, labels: int, classes: int) -> _Part:
    """A file of records: `labels` bytes, the last of which counts, and the pixels, channel by channel."""
    raw, told = np.frombuffer(folder.read(name), np.uint8), folder.told(name)
    length = labels + int(np.prod(_CIFAR_SHAPE))
    if not len(raw) or len(raw) % length:
        raise DataError(f"{told} has {len(raw)} bytes, expected records of {length}: it is cut off, or another file")
    records = raw.reshape(-1, length)
    _require_labels(records[:, labels - 1], classes, told)
    return records[:, labels:].reshape(-1, *_CIFAR_SHAPE), records[:, labels - 1]


def _mnist(folder: _Folder, part: str, images: np.ndarray, labels: np.ndarray) -> _Part:
    if len(images) != len(labels):
        told = folder.told(part)
        raise DataError(f"{told}-…: {len(images)} images and {len(labels)} labels, expected as many")
    _require_labels(labels, 10, folder.told(f"{part}-labels-idx1-ubyte"))
    return images[:, None], labels


def _idx(folder: _Folder, name: str, dimensions: int) -> np.ndarray:
    """An array of bytes in MNIST's format."""
    raw, told = folder.unpacked(name), folder.told(name)
    head = 4 + 4 * dimensions
    if len(raw) < head or raw[:4] != bytes([0, 0, _IDX_BYTES, dimensions]):
        raise DataError(f"{told}: expected a file of bytes in {dimensions} dimensions, it begins with {raw[:4]!r}")
    shape = struct.unpack(f">{dimensions}I", raw[4:head])
    if len(raw) - head != np.prod(shape):
        raise DataError(f"{told} holds {len(raw) - head} bytes, expected {np.prod(shape)}: it is cut off, or too long")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def _require_labels(labels: np.ndarray, classes: int, where: str) -> None:
    if len(labels) and (worst := int(labels.max())) >= classes:
        record = int(labels.argmax())
        raise DataError(f"{where}, record {record}: the label is {worst}, expected 0 to {classes - 1}")
