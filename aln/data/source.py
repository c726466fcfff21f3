"""Where batches come from: the interface that the engine reads, and data that stay in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from aln.devices import sent
from aln.errors import DataError
from aln.seeds import derived_seed

SplitName = Literal["train", "validation", "test"]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Share:
    """Which part of every batch a worker takes: the `rank`-th of `workers` equal ones."""

    rank: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.workers:
            raise DataError(f"worker {self.rank} of {self.workers}: expected a number from 0 to {self.workers - 1}")

    def of(self, examples: int) -> slice:
        """The worker's part of so many examples in a row. All parts together are the whole; sizes differ by one."""
        return slice(examples * self.rank // self.workers, examples * (self.rank + 1) // self.workers)


WHOLE = Share()


class ImageSource(ABC):
    """Labelled images in three splits. A batch is (images [N, C, H, W] float, labels [N] int64).

    Batch sizes are those of all workers together. An epoch's order and the augmentation of each example depend on the
    seed alone, neither on the number of workers nor on the step at which an interrupted epoch goes on.
    """

    num_classes: int
    input_shape: tuple[int, int, int]

    @property
    def skipped(self) -> int:
        """How many images this process met so far that could not be read; others stood in for them, or none did."""
        return 0

    def examples(self, split: SplitName) -> int | None:
        """How many examples a split has; None if the source does not say."""
        return None

    @abstractmethod
    def train_batches(self, batch_size: int, seed: int, *, start: int = 0, share: Share = WHOLE) -> Iterator[Batch]:
        """The share's part of each batch of one epoch, from batch number `start` on; a last one that is not full is
        left out.

        A split smaller than one batch is one batch. Raises `DataError` if a batch cannot be shared out equally.
        """

    @abstractmethod
    def batches(self, split: SplitName, batch_size: int, *, share: Share = WHOLE) -> Iterator[Batch]:
        """The share's part of a split: of all shares together every example once, in a fixed order.

        A batch holds `batch_size / workers` examples, the last one perhaps fewer; a share may be empty.
        """

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches that `train_batches` yields from the start."""

    @abstractmethod
    def to(self, device: torch.device) -> ImageSource:
        """A source whose batches lie on `device`."""


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] (float) and their labels [N] (int64)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class InMemory(ImageSource):
    """Splits held as tensors: an epoch is one permutation, a batch one gather.

    Attributes:
        shift: training images are moved by up to so many pixels either way, zeros coming in at the border.
        flip: every other training image is mirrored left to right, at random.
        standard: mean and standard deviation of each channel, by which images held as bytes (uint8) are standardised
            in each batch.
        destination: where batches go, if not where the images lie.
    """

    train: Split
    validation: Split
    test: Split
    num_classes: int
    shift: int = 0
    flip: bool = False
    standard: tuple[Tensor, Tensor] | None = None
    destination: torch.device | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            if len(getattr(self, name)) == 0:
                raise DataError(f"the {name} split holds no images")

    @property
    def input_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def examples(self, split: SplitName) -> int:
        part: Split = getattr(self, split)
        return len(part)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, len(self.train) // batch_size)

    def train_batches(self, batch_size: int, seed: int, *, start: int = 0, share: Share = WHOLE) -> Iterator[Batch]:
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        order = order.to(self.train.labels.device)
        mine = equal_part(share, min(batch_size, len(self.train)))
        for step in range(start, self.steps_per_epoch(batch_size)):
            index = order[step * batch_size : (step + 1) * batch_size]
            images = self.train.images[index[mine]]
            if self.shift:
                images = _moved(images, _offsets(len(index), self.shift, derived_seed(seed, step))[:, mine], self.shift)
            if self.flip:
                images = _mirrored(images, _turns(len(index), derived_seed(seed, step, 1))[mine])
            yield self._finished(images, self.train.labels[index[mine]])

    def batches(self, split: SplitName, batch_size: int, *, share: Share = WHOLE) -> Iterator[Batch]:
        part: Split = getattr(self, split)
        mine, size = share.of(len(part)), max(1, batch_size // share.workers)
        if mine.start < mine.stop:
            for images, labels in zip(part.images[mine].split(size), part.labels[mine].split(size), strict=True):
                yield self._finished(images, labels)

    def _finished(self, images: Tensor, labels: Tensor) -> Batch:
        if self.destination is not None:
            images, labels = images.to(self.destination), labels.to(self.destination)
        if self.standard is None:
            return images, labels
        mean, deviation = (t[:, None, None] for t in self.standard)
        return images.to(mean.dtype).sub_(mean).div_(deviation), labels

    def to(self, device: torch.device) -> InMemory:
        standard = None if self.standard is None else (self.standard[0].to(device), self.standard[1].to(device))
        if device.type == "xla":  # which would compile a program for every place in an epoch that a batch is cut from
            return replace(self, standard=standard, destination=device)
        train, validation, test = (part.to(device) for part in (self.train, self.validation, self.test))
        return replace(self, train=train, validation=validation, test=test, standard=standard, destination=None)


def equal_part(share: Share, batch: int) -> slice:
    """The share's part of a batch, as large as every other's: gradients of workers are averaged without weights.

    Raises `DataError` if there is no such part.
    """
    if batch % share.workers:
        raise DataError(f"a batch of {batch} images cannot be shared out equally to {share.workers} workers")
    return share.of(batch)


def _turns(n: int, seed: int) -> Tensor:
    """Which of n images are mirrored, [n] bool."""
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.5


def _mirrored(images: Tensor, turns: Tensor) -> Tensor:
    """Some of the images [N, C, H, W] mirrored left to right."""
    return torch.where(sent(turns, images.device)[:, None, None, None], images.flip(-1), images)


def _offsets(n: int, shift: int, seed: int) -> Tensor:
    """How far down and right each of n images is moved, [2, n], in [−shift, shift]."""
    return torch.randint(-shift, shift + 1, (2, n), generator=torch.Generator().manual_seed(seed))


def _moved(images: Tensor, offsets: Tensor, shift: int) -> Tensor:
    """Every image moved by its own offset, zeros coming in, by one gather from the padded batch."""
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (shift,) * 4)
    starts = shift - sent(offsets, images.device)[:, :, None]
    rows = starts[0] + torch.arange(height, device=images.device)
    columns = starts[1] + torch.arange(width, device=images.device)
    example = torch.arange(n, device=images.device)
    moved = padded.permute(0, 2, 3, 1)[example[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()
