"""`TrainState`: what a training has reached, which saves and loads itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aln.errors import CheckpointError

CHECKPOINT = "checkpoint.pt"  # the file's name in the folder of a run or a trial
_FORMAT = 1


@dataclass
class TrainState:
    """A model, its optimizer, and how far they are. No generator is saved: `fit` seeds them anew in every step.

    Attributes:
        epoch: epochs done.
        step: steps done of the epoch that is under way.
        images: images seen in it.
        sums: the sum of their losses (nats) and the number of correct answers.
        description: plain data (the resolved configuration) that a checkpoint carries so that it explains itself.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    description: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    images: int = 0
    sums: tuple[float, float] = (0.0, 0.0)

    def begin_epoch(self, epoch: int) -> None:
        """Stands before the first step of the epoch that has `epoch` others before it."""
        self.epoch, self.step, self.images, self.sums = epoch, 0, 0, (0.0, 0.0)

    def save(self, path: Path) -> None:
        """Writes the checkpoint whole or not at all. Raises `CheckpointError` if it cannot be written."""
        content = {
            "format": _FORMAT,
            "epoch": self.epoch,
            "step": self.step,
            "images": self.images,
            "sums": self.sums,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "description": self.description,
        }
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
            with contextlib.suppress(OSError):
                partial.unlink()
            raise CheckpointError(f"{path}: the checkpoint cannot be written: {error}") from error

    def load(self, path: Path) -> None:
        """Takes over weights, optimizer and place in training. Raises `CheckpointError` if they do not fit."""
        self.take_over(read_checkpoint(path), str(path))

    def take_over(self, content: Mapping[str, Any], place: str) -> None:
        """Takes over the content of a checkpoint that was read from `place`; see `load`."""
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            _lay_out(self.optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{place}: the checkpoint is of another model or optimizer: {error}") from error
        self.begin_epoch(content["epoch"])
        # Checkpoints from before there were steps stand between epochs.
        self.step, self.images = content.get("step", 0), content.get("images", 0)
        self.sums = tuple(content.get("sums", self.sums))


@torch.no_grad()
def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Gives the optimizer's tensors the memory layout of their parameters, which may be another than at saving.

    Fused optimizers walk both by memory, not by index.
    """
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter).copy_(value)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, tensors on the CPU; runs no code from the file. Raises `CheckpointError`."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch.load raises whatever its unpickler or zip reader met first
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of aln, format {_FORMAT}")
    return content
