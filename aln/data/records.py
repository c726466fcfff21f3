"""Encoded images with their labels, by number: what every layout of a large data set is read as."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Records(ABC):
    """Encoded images (JPEG, PNG, …) and their labels, each reachable by its number from 0 to len − 1.

    Records are cheap to open and can be pickled for loader processes. Threads may read at once, and so may processes
    that were forked off.

    Attributes:
        labels: the class of each record, [N] int64.
    """

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded image. Raises `DataError` that names the file and the record."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Where the record lies, for messages: a path, or "FILE, record K, image at byte B"."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Text that is another if files are added, removed or written anew: what is made of the records keeps it."""
