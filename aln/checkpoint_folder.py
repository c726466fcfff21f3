"""`CheckpointFolder`: where a run keeps its last and its best checkpoints, on a disk or in an object store."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aln.checkpoint import TrainState, parse_checkpoint
from aln.errors import CheckpointError, MissingFileError, StorageError
from aln.storage import open_storage

CHECKPOINTS = "checkpoints"  # the folder's name in that of a run or a trial


@dataclass(frozen=True, order=True)
class SavedCheckpoint:
    """A checkpoint of a `CheckpointFolder`, as its name tells of it; ordered by how far training was.

    Attributes:
        epoch: epochs done.
        step: steps done of the epoch that was under way.
        score: what best checkpoints are chosen by; `None` for one that was not evaluated.
    """

    epoch: int
    step: int
    name: str
    score: float | None = field(default=None, compare=False)

    @classmethod
    def of(cls, state: TrainState, score: float | None = None) -> SavedCheckpoint:
        """What `state` will be saved as."""
        # Nine digits: a float32 in full.
        suffix = "" if score is None else f"-score{score:+.9g}"
        return cls(state.epoch, state.step, f"epoch{state.epoch:05}-step{state.step:07}{suffix}.pt", score)

    @classmethod
    def named(cls, name: str) -> SavedCheckpoint | None:
        """What a file's name says; `None` if it is not the name of a checkpoint."""
        match = re.fullmatch(r"epoch(\d+)-step(\d+)(?:-score([+-][\d.]+(?:e[+-]\d+)?))?\.pt", name)
        if match is None:
            return None
        return cls(int(match[1]), int(match[2]), name, None if match[3] is None else float(match[3]))


@dataclass(frozen=True)
class WrittenCheckpoint:
    """Where a checkpoint was written, and what else is to be told of it: why older ones could not be removed."""

    address: str
    complaint: str = ""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint's content and address, and a line for each that should have been taken first, but is damaged."""

    saved: SavedCheckpoint
    address: str
    content: dict[str, Any]
    damaged: tuple[str, ...] = ()


class CheckpointFolder:
    """The checkpoints of one run, in a folder or under a URL: the best ones and the last ones.

    What there is says the listing alone, since epoch, step and score stand in the names: nothing can be out of step
    with the files. Two writers (a worker thought dead, and its successor) do each other no harm: names that collide
    are of the same place in the same run, each file appears whole, and what was just written stays.

    Args:
        root: a folder, or `s3://bucket/folder`, which need not be there yet.
        keep_last: how many places in training to keep, the last ones.
        keep_best: how many of the best scores to keep besides; of equal ones the earliest.
        mode: whether the best score is the highest or the lowest.
    """

    def __init__(
        self, root: str | Path, *, keep_last: int = 2, keep_best: int = 1, mode: Literal["max", "min"] = "max"
    ) -> None:
        if keep_last < 1 or keep_best < 0:
            raise CheckpointError(f"keep_last={keep_last}, keep_best={keep_best}: expected at least 1 and 0")
        self.storage = open_storage(root)
        self.keep_last, self.keep_best, self.mode = keep_last, keep_best, mode

    def saved(self) -> list[SavedCheckpoint]:
        """All there are, the newest last. Raises `StorageError` if the folder cannot be listed."""
        return sorted(found for file in self.storage.files() if (found := SavedCheckpoint.named(file.name)))

    def save(self, state: TrainState, score: float | None = None) -> WrittenCheckpoint:
        """Writes a checkpoint whole or not at all, then removes those that need not be kept.

        A score that is not finite counts as none. Raises `CheckpointError` if it cannot be written; those before are
        there then.
        """
        new = SavedCheckpoint.of(state, score if score is not None and math.isfinite(score) else None)
        address = self.storage.address(new.name)
        try:
            self.storage.write(new.name, state.content())
        except StorageError as error:
            raise CheckpointError(f"{address}: the checkpoint cannot be written: {error.reason}") from error
        try:
            self._remove_all_but(new)
        except StorageError as error:  # the next save tries again; there is no need for training to end
            return WrittenCheckpoint(address, f"older checkpoints are still there: {error}")
        return WrittenCheckpoint(address)

    def newest(self) -> LoadedCheckpoint | None:
        """The newest checkpoint that can be read; `None` if there is none at all.

        Raises `CheckpointError` naming each if all are damaged, `StorageError` if the store does not answer.
        """
        return self._first_readable(lambda saved: saved[::-1])

    def best(self) -> LoadedCheckpoint | None:
        """The readable checkpoint of the best score; otherwise as `newest`."""
        return self._first_readable(self._best_first)

    def resume(self, state: TrainState) -> LoadedCheckpoint | None:
        """Sets `state` to the newest readable checkpoint and returns it; otherwise as `newest`.

        Raises `CheckpointError` if it does not fit the state.
        """
        if (loaded := self.newest()) is not None:
            state.take_over(loaded.content, loaded.address)
        return loaded

    def forget_after(self, epoch: int) -> None:
        """Removes what was saved after so many epochs were done: of a training that nobody has heard of further."""
        for entry in self.saved():
            if (entry.epoch, entry.step) > (epoch, 0):
                self.storage.delete(entry.name)

    def _best_first(self, saved: list[SavedCheckpoint]) -> list[SavedCheckpoint]:
        """Those with a score, the best first, of equal ones the earliest."""
        sign = -1 if self.mode == "max" else 1
        scored = [(sign * entry.score, entry) for entry in saved if entry.score is not None]
        return [entry for _, entry in sorted(scored)]

    def _remove_all_but(self, new: SavedCheckpoint) -> None:
        """Removes what is neither new nor among the last nor the best."""
        saved = self.saved()
        # Places, not files: after damage there may be two files of one place.
        last = sorted({(entry.epoch, entry.step) for entry in saved})[-self.keep_last :]
        best = self._best_first(saved)[: self.keep_best]
        for entry in saved:
            if entry != new and entry not in best and (entry.epoch, entry.step) not in last:
                self.storage.delete(entry.name)

    def _first_readable(
        self, ranked: Callable[[list[SavedCheckpoint]], list[SavedCheckpoint]]
    ) -> LoadedCheckpoint | None:
        """The first that can be read of what is there, which another writer may be changing."""
        damaged: list[str] = []
        tried: set[SavedCheckpoint] = set()
        while left := [entry for entry in ranked(self.saved()) if entry not in tried]:
            entry = left[0]
            tried.add(entry)
            address = self.storage.address(entry.name)
            try:
                return LoadedCheckpoint(entry, address, self._read(entry, address), tuple(damaged))
            except MissingFileError:  # another writer has removed it, having written a newer one
                continue
            except CheckpointError as error:
                damaged.append(str(error))
        if damaged:
            raise CheckpointError("\n".join([f"{self.storage.root}: no checkpoint can be read", *damaged]))
        return None

    def _read(self, entry: SavedCheckpoint, address: str) -> dict[str, Any]:
        try:
            return parse_checkpoint(self.storage.read(entry.name), address)
        except StorageError as error:
            # A sector that the disk cannot read is damage to this file; a store that does not answer is none.
            if getattr(error.__cause__, "errno", None) != errno.EIO:
                raise
            raise CheckpointError(f"{address}: not a readable checkpoint: {error.reason}") from error
