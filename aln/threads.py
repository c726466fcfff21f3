"""How many threads a training computes with."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits


def compute_with(cores: int) -> None:
    """Has torch, OpenMP and the BLAS of NumPy and SciPy compute with so many threads from now on, in this process.

    Variables of the environment (`OMP_NUM_THREADS`) say so too late for libraries that are loaded, and a process that
    trained before keeps the number of that training.
    """
    threadpool_limits(cores)
    torch.set_num_threads(cores)
