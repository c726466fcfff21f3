"""In which types and modes a model computes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from aln.engine.settings import Precision


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The types in which kernels compute on a device."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def train_mode(model: nn.Module, frozen_bn: bool) -> None:
    """Puts the model into training mode, its batch norms in evaluation mode and fixed if they are frozen."""
    model.train()
    if frozen_bn:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval().requires_grad_(False)
