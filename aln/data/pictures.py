"""Decoded images by number, from wherever they lie, and how a data set puts up with the few that cannot be read."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from aln.data.decoding import decode
from aln.data.records import Records
from aln.errors import DataError

# How many of a split may be unreadable: one in so many, but always a few.
_ONE_IN, _ALWAYS = 1000, 3

_log = logging.getLogger(__name__)


def tolerated(images: int) -> int:
    """How many unreadable ones of so many are put up with."""
    return max(_ALWAYS, images // _ONE_IN)


class Pictures(ABC):
    """Images with labels, random access; can be pickled, and read by several processes and threads at once.

    Attributes:
        labels: [N] int64.
    """

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def picture(self, index: int) -> Tensor:
        """The image [3, H, W], uint8, channels last in memory. Raises `DataError` naming its file and record."""


@dataclass(frozen=True)
class Decoded(Pictures):
    """Encoded images that are decoded each time."""

    records: Records

    @property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        return self.records.labels

    def picture(self, index: int) -> Tensor:
        data = self.records.read(index)
        try:
            return decode(data)
        except DataError as error:
            raise DataError(f"{self.records.name(index)}: {error}") from error


def require_few(complaints: Sequence[str], images: int, where: str) -> None:
    """Raises `DataError` with the first few if they are more than are put up with."""
    if len(complaints) > tolerated(images):
        first = "; ".join(complaints[:3])
        raise DataError(
            f"{len(complaints)} of the {images} images of {where} cannot be read, expected at most "
            f"{tolerated(images)}: {first}; …"
        )


Complaint = tuple[int, str]
"""The number of an image that cannot be read, and why."""


@dataclass(frozen=True)
class Part:
    """A split: some of the pictures.

    Attributes:
        members: their numbers, [N] int64.
    """

    pictures: Pictures
    members: np.ndarray

    def __len__(self) -> int:
        return len(self.members)

    def label(self, place: int) -> int:
        return int(self.pictures.labels[self.members[place]])

    def example(self, place: int, complaints: list[Complaint], *, replace: bool) -> tuple[Tensor, int] | None:
        """Image and label of the member at `place`, or None where it cannot be read, which adds to `complaints`.

        With `replace` the next member that can be read stands in for it, whatever the number of processes; None only
        if there are more unreadable ones in a row than are put up with.
        """
        for step in range(tolerated(len(self)) + 1 if replace else 1):
            index = int(self.members[(place + step) % len(self)])
            try:
                return self.pictures.picture(index), int(self.pictures.labels[index])
            except DataError as error:
                complaints.append((index, str(error)))
        return None


class Unreadable:
    """The images that a process met and could not read: each is logged once, too many are an error."""

    def __init__(self) -> None:
        self._found: dict[str, dict[int, str]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def add(self, split: str, part: Part, complaints: Iterable[Complaint]) -> None:
        """Takes note of the complaints. Raises `DataError` if the split has too many."""
        found = self._found.setdefault(split, {})
        for index, why in complaints:
            if index not in found:
                found[index] = why
                _log.warning("left out: %s", why)
        require_few(list(found.values()), len(part), f"the {split} split")
