"""Generators and kernels whose results are a function of seed, epoch, step and worker alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aln.seeds import derived_seed


@contextmanager
def reproducible(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Lends out the global generators, and kernels that add up in the same order every time if `deterministic`."""
    cudnn = torch.backends.cudnn
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        cudnn.flags(enabled=cudnn.enabled, benchmark=not deterministic, deterministic=deterministic),
    ):
        yield


def seed_generators(device: torch.device, *parts: int) -> None:
    """Seeds the generators that draw for a model on `device`."""
    seed = derived_seed(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
