"""What one trial takes, measured before any begins: the time of an epoch and the memory of its process."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

import aln.search.trial  # noqa: F401 - what a trial's process has imported counts
from aln.build import load_data
from aln.config import RunConfig
from aln.errors import SweepError
from aln.memory import peak_resident
from aln.timing import time_epoch


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one worker of a trial.

    Attributes:
        seconds: of an epoch.
        start: seconds from asking for a process until it has the data.
        memory: bytes of the machine's memory at the peak; 0 where the system does not say.
        gpu_memory: bytes that torch held of a GPU at the peak; 0 off CUDA.
        gpu_has: bytes that this GPU has.
    """

    seconds: float
    memory: int
    start: float = 0.0
    gpu_memory: int = 0
    gpu_has: int = 0


def cost_of(config: RunConfig) -> Cost:
    """Trains a little in a process of its own, as a trial has. Raises what the training raises, or `SweepError` if its
    process dies.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measured, config, time.time()).result()
        except BrokenProcessPool as error:
            raise SweepError(
                "one trial was tried, and its process died: is the memory of this machine enough?"
            ) from error


def _measured(config: RunConfig, asked: float) -> Cost:
    """What the process costs that was asked for at that time (s since 1970, which all processes share)."""
    load_data(config.data)
    start = time.time() - asked
    seconds = time_epoch(config)
    if not torch.cuda.is_available() or config.compute.device == "cpu":
        return Cost(seconds=seconds, memory=peak_resident(), start=start)
    return Cost(
        seconds=seconds,
        start=start,
        memory=peak_resident(),
        gpu_memory=torch.cuda.max_memory_reserved(),
        gpu_has=torch.cuda.get_device_properties(0).total_memory,
    )
