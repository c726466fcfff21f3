"""`TrainState`: what a training has reached, which saves and loads itself."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from aln.errors import CheckpointError, MissingFileError, StorageError
from aln.storage import split_address

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

    def save(self, path: str | Path) -> None:
        """Writes the checkpoint whole or not at all, to a file or a URL. Raises `CheckpointError` if it cannot be."""
        try:
            storage, name = split_address(path)
            storage.write(name, self.content())
        except StorageError as error:
            raise CheckpointError(f"{path}: the checkpoint cannot be written: {error.reason}") from error

    def content(self) -> memoryview:
        """The checkpoint's bytes."""
        file, own = io.BytesIO(), self.alignment_optimizer
        content = {
            "format": _FORMAT,
            "epoch": self.epoch,
            "step": self.step,
            "images": self.images,
            "sums": self.sums,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "alignment_optimizer": None if own is None else own.state_dict(),
            "description": self.description,
        }
        if next(self.model.parameters()).device.type == "xla":  # whose tensors nobody else can read
            content = tree_map_only(Tensor, Tensor.cpu, content)
        torch.save(content, file)
        return file.getbuffer()

    def load(self, path: str | Path) -> None:
        """Takes over weights, optimizers and place in training. Raises `CheckpointError` if they do not fit."""
        self.take_over(read_checkpoint(path), str(path))

    def take_over(self, content: Mapping[str, Any], address: str) -> None:
        """Takes over what `read_checkpoint` returned from there. Raises `CheckpointError` if it does not fit."""
        try:
            self.model.load_state_dict(content["model"])
            for optimizer, name in zip(self.optimizers, ("optimizer", "alignment_optimizer"), strict=False):
                optimizer.load_state_dict(_as_computed_here(optimizer, content[name]))
                _lay_out(optimizer)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{address}: the checkpoint is of another model or optimizer: {error}") from error
        self.begin_epoch(content["epoch"])
        # Checkpoints from before there were steps stand between epochs.
        self.step, self.images = content.get("step", 0), content.get("images", 0)
        self.sums = tuple(content.get("sums", self.sums))


def _as_computed_here(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The saved state, but for whether kernels are fused: that is for the device to say."""
    groups = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    return {
        **saved,
        "param_groups": [theirs | {k: ours[k] for k in ("fused",) if k in ours} for theirs, ours in groups],
    }


@torch.no_grad()
def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Gives the optimizer's tensors the memory layout of their parameters, which may be another than at saving.

    Fused optimizers walk both by memory, not by index.
    """
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter).copy_(value)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, a file or a URL, tensors on the CPU; runs no code from it.

    Raises `CheckpointError` if it is not there, damaged in a single bit, or no checkpoint.
    """
    try:
        storage, name = split_address(path)
        return parse_checkpoint(storage.read(name), str(path))
    except MissingFileError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except StorageError as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error.reason}") from error


def parse_checkpoint(raw: bytes, address: str) -> dict[str, Any]:
    """What the bytes of a checkpoint hold. Raises `CheckpointError` naming the address if they are damaged, or none."""
    try:
        # torch.load does not look at the checksums of its own files.
        with zipfile.ZipFile(io.BytesIO(raw)) as records:
            if (damaged := records.testzip()) is not None:
                raise CheckpointError(f"{address}: not a readable checkpoint: {damaged} has another checksum")
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except (CheckpointError, MemoryError):
        raise
    except pickle.UnpicklingError as error:  # its text advises to load it all the same
        name = re.search(r"GLOBAL [\w.]+", str(error))
        found = f" ({name[0]})" if name else ""
        raise CheckpointError(f"{address}: not a readable checkpoint: it holds more than plain data{found}") from error
    except Exception as error:  # zipfile and torch.load raise whatever they met first
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{address}: not a readable checkpoint: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{address}: not a checkpoint of aln, format {_FORMAT}")
    return content
