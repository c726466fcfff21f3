"""Real worker processes for tests: gloo on this machine, found through a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from aln.world import World


def run_workers(function: Callable[..., Any], workers: int, folder: Path, *arguments: Any) -> list[Any]:
    """What `function(world, *arguments)` returns on each of so many processes; it must stand in a module."""
    folder.mkdir()
    mp.start_processes(_work, (function, workers, folder, arguments), nprocs=workers, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(workers)]


def _work(rank: int, function: Callable[..., Any], workers: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("error")
    # Of a kernel of 1x1: its strides have other numbers in channels_last, the memory is the same.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=workers)
    torch.save(function(World.current(), *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # torch's threads and the end of the interpreter race, and now and then one aborts
