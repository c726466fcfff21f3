"""The checkpoints of one run in a folder. Stands in until the storage branch's class is merged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aln.checkpoint import CHECKPOINT, TrainState, read_checkpoint


@dataclass(frozen=True)
class WrittenCheckpoint:
    """Where a checkpoint was written, and what else is to be told of it."""

    address: str
    complaint: str = ""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint's content and address, and a line for each that should have been taken first, but is damaged."""

    address: str
    content: dict[str, Any]
    damaged: tuple[str, ...] = ()


class CheckpointFolder:
    """Saves states under one root and finds the newest one that can be read."""

    def __init__(self, root: str | Path, *, keep_last: int = 2, keep_best: int = 1) -> None:
        self.root = Path(root)

    def save(self, state: TrainState, score: float | None = None) -> WrittenCheckpoint:
        """Writes the state whole or not at all."""
        state.save(self.root / CHECKPOINT)
        return WrittenCheckpoint(str(self.root / CHECKPOINT))

    def newest(self) -> LoadedCheckpoint | None:
        """The newest checkpoint that can be read; None if there is none."""
        path = self.root / CHECKPOINT
        return LoadedCheckpoint(str(path), read_checkpoint(path)) if path.exists() else None
