"""CIFAR-10, CIFAR-100 and MNIST from their published files, held in memory as bytes.

CIFAR is read in its binary version: the Python version is pickles, which run whatever code is in them.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aln.data.holdout import held_out
from aln.data.source import InMemory, Split
from aln.errors import DataError

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
    folder = _folder(root, "cifar-10-batches-bin", "test_batch.bin")
    train = [_cifar(folder / f"data_batch_{number}.bin", labels=1, classes=10) for number in range(1, 6)]
    return _held_in_memory(train, _cifar(folder / "test_batch.bin", labels=1, classes=10), 10, holdout, shift, flip)


def cifar100(*, root: str, holdout: int = 5000, shift: int = 4, flip: bool = True) -> InMemory:
    """CIFAR-100 (Krizhevsky 2009): as CIFAR-10, with 100 fine classes.

    Args:
        root: folder with `train.bin` and `test.bin`, or the folder that holds `cifar-100-binary`.
    """
    folder = _folder(root, "cifar-100-binary", "test.bin")
    train = [_cifar(folder / "train.bin", labels=2, classes=100)]
    return _held_in_memory(train, _cifar(folder / "test.bin", labels=2, classes=100), 100, holdout, shift, flip)


def mnist(*, root: str, holdout: int = 10000, shift: int = 0) -> InMemory:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 grey images of 28×28 pixels in 10 classes.

    Args:
        root: folder with `train-images-idx3-ubyte` and its three companions, as they are or with `.gz` behind.
    """
    folder = _folder(root, "MNIST/raw", "t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz")
    parts = []
    for name in ("train", "t10k"):
        images = _idx(folder / f"{name}-images-idx3-ubyte", dimensions=3)
        labels = _idx(folder / f"{name}-labels-idx1-ubyte", dimensions=1)
        if len(images) != len(labels):
            raise DataError(f"{folder}: {len(images)} {name} images and {len(labels)} labels, expected as many")
        _require_labels(labels, 10, str(folder / f"{name}-labels-idx1-ubyte"))
        parts.append((images[:, None], labels))
    return _held_in_memory(parts[:1], parts[1], 10, holdout, shift, flip=False)


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


def _folder(root: str, inner: str, *marks: str) -> Path:
    """The folder in which one of the files `marks` is: the root, or `inner` in it. Raises `DataError` otherwise."""
    base = Path(root).expanduser()
    for folder in (base, base / inner):
        if any((folder / mark).is_file() for mark in marks):
            return folder
    pickled = sorted(base.glob("**/test_batch")) + sorted(base.glob("cifar-100-python/test"))
    advice = "; the Python version is pickles, take the binary version" if pickled else ""
    raise DataError(f"root = {root}: expected {marks[0]} in it, or in {inner}/{advice}")


def _cifar(path: Path, labels: int, classes: int) -> _Part:
    """A file of records: `labels` bytes, the last of which counts, and the pixels, channel by channel."""
    raw = np.frombuffer(_content(path), np.uint8)
    length = labels + int(np.prod(_CIFAR_SHAPE))
    if not len(raw) or len(raw) % length:
        raise DataError(f"{path} has {len(raw)} bytes, expected records of {length}: it is cut off, or another file")
    records = raw.reshape(-1, length)
    _require_labels(records[:, labels - 1], classes, str(path))
    return records[:, labels:].reshape(-1, *_CIFAR_SHAPE), records[:, labels - 1]


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """An array of bytes in MNIST's format, `.gz` behind its name or not."""
    packed = path.with_name(f"{path.name}.gz")
    source = path if path.is_file() or not packed.is_file() else packed
    raw = _content(source)
    if source is packed:
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{packed} cannot be unpacked: {error}") from error
    head = 4 + 4 * dimensions
    if len(raw) < head or raw[:4] != bytes([0, 0, _IDX_BYTES, dimensions]):
        raise DataError(f"{source}: expected a file of bytes in {dimensions} dimensions, it begins with {raw[:4]!r}")
    shape = struct.unpack(f">{dimensions}I", raw[4:head])
    if len(raw) - head != np.prod(shape):
        raise DataError(
            f"{source} holds {len(raw) - head} bytes, expected {np.prod(shape)}: it is cut off, or too long"
        )
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _require_labels(labels: np.ndarray, classes: int, where: str) -> None:
    if len(labels) and (worst := int(labels.max())) >= classes:
        record = int(labels.argmax())
        raise DataError(f"{where}, record {record}: the label is {worst}, expected 0 to {classes - 1}")
