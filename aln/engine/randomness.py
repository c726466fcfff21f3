"""Kernels whose results are a function of seed, epoch, step and worker alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from aln.devices import lent_generators


@contextmanager
def reproducible(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Lends out the global generators, and kernels that add up in the same order every time if `deterministic`.

    Of a kernel that CUDA has in no such form torch warns, once.
    """
    with lent_generators(device), _kernels(deterministic and device.type == "cuda"):
        yield


@contextmanager
def _kernels(deterministic: bool) -> Iterator[None]:
    """CUDA's deterministic kernels, or the fastest; which number types they take stays as it was."""
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic  # of which stubs know nothing
    before = (
        (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        (cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory),
    )
    if deterministic:
        # Else torch refuses cuBLAS, which reads it when it starts: its results may differ where streams run at once.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False  # nothing here reads what it has not written
    cudnn.deterministic, cudnn.benchmark = deterministic, not deterministic
    try:
        yield
    finally:
        (enabled, warns), (cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory) = before
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
