"""`TrainState`: what a training has reached, which saves and loads itself."""

from __future__ import annotations

import os
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
    """A model, its optimizers, and how far they are. No generator is saved: `fit` seeds them anew in every step.

    Attributes:
        epoch: epochs done.
        step: steps done of the epoch that is under way.
        images: images seen in it.
        sums: the sum of their losses (nats) and the number of correct answers.
        description: plain data (the resolved configuration) that a checkpoint carries so that it explains itself.
        alignment_optimizer: of the backward weights, if `optimizer` does not move them too.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    description: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    images: int = 0
    sums: tuple[float, float] = (0.0, 0.0)
    alignment_optimizer: torch.optim.Optimizer | None = None

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """All optimizers, the task's first."""
        return [self.optimizer] if self.alignment_optimizer is None else [self.optimizer, self.alignment_optimizer]

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
            "alignment_optimizer": None if self.alignment_optimizer is None else self.alignment_optimizer.state_dict(),
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
            partial.unlink(missing_ok=True)
            raise CheckpointError(f"{path}: the checkpoint cannot be written: {error}") from error

    def load(self, path: Path) -> None:
        """Takes over weights, optimizers and place in training. Raises `CheckpointError` if they do not fit."""
        content = read_checkpoint(path)
        try:
            self.model.load_state_dict(content["model"])
            for optimizer, name in zip(self.optimizers, ("optimizer", "alignment_optimizer"), strict=False):
                optimizer.load_state_dict(content[name])
                _lay_out(optimizer)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: the checkpoint is of another model or optimizer: {error}") from error
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
