"""A rule by which something befalls the workers that train with it, and what there is of them on a Ray cluster."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from torch import Tensor

from aln.rules import LearningRule
from aln.signals import Signals

FOLDER = "ALN_TEST_WORKER_GROUP"  # where the processes of a test write and read
gradients = itertools.count(1)  # that this process has computed


class UnportableError(Exception):
    """An error that pickle writes and cannot read."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fate() -> None:
    """A worker leaves a file with its process's number. A file `plan…` says which worker (* for every one) does what,
    after how many gradients.
    """
    computed = next(gradients)
    folder = Path(os.environ[FOLDER])
    rank = dist.get_rank() if dist.is_initialized() else 0
    (folder / f"process-{os.getpid()}-{rank}").touch()
    for plan in sorted(folder.glob("plan*")):
        done = folder / f"done-{plan.name}-{rank}"
        who, when, deed = plan.read_text().split()
        if done.exists() or who not in ("*", str(rank)):
            continue
        if computed >= int(when):
            if deed != "always-die":
                done.touch()
            if deed in ("die", "always-die"):
                os.kill(os.getpid(), signal.SIGKILL)
            elif deed == "fail":
                raise ValueError("a rule with a bug")
            elif deed == "puzzle":
                raise UnportableError("a", "puzzle")
        return


@dataclass(frozen=True, kw_only=True)
class Fated(LearningRule):
    rate: float = 0.1

    def backward_grad(self, s: Signals) -> Tensor:
        if FOLDER in os.environ and dist.is_initialized():
            fate()
        return self.rate * (s.B - s.W)


def processes(folder: Path) -> dict[int, int]:
    """The workers that have computed gradients: their processes' numbers, and their own."""
    found = [path.name.split("-")[1:] for path in folder.glob("process-*")]
    return {int(process): int(rank) for process, rank in found}


def runs(process: int) -> bool:
    try:
        return "ray::" in Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return False


def left(folder: Path) -> dict[str, Any]:
    """What is left on the cluster."""
    actors = ray._private.state.actors().values()
    return {
        "placement groups": [g for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"],
        "actors": [actor["ActorClassName"] for actor in actors if actor["State"] != "DEAD"],
        "processes": [process for process in processes(folder) if runs(process)],
    }


NOTHING: dict[str, Any] = {"placement groups": [], "actors": [], "processes": []}


def settles(look: Callable[[], Any], expected: Any) -> Any:
    """What `look` returns when that is as expected, or after half a minute: Ray ends things in its own time."""
    deadline = time.monotonic() + 30
    while (seen := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen
