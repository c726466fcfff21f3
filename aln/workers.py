"""What the workers of one training have in common, whoever starts them: Ray Train (`aln.distributed`) or a trial of a
sweep (`aln.worker_group`).
"""

from __future__ import annotations

import traceback

import torch.distributed as dist

from aln.config import Resources, RunConfig, parse_run
from aln.errors import AlnError


def bundle(resources: Resources) -> dict[str, float]:
    """What one worker takes, in Ray's words."""
    return {"CPU": resources.cpus, "GPU": resources.gpus}


def backend(resources: Resources) -> str:
    """What workers talk by, in torch.distributed's words. Those that share a GPU cannot talk by NCCL."""
    return "cpu:gloo,cuda:nccl" if resources.gpus >= 1 else "gloo"


def placed(config: RunConfig) -> RunConfig:
    """The configuration on the device that a worker gets, which `auto` would find otherwise on another machine."""
    if config.compute.device != "auto":
        return config
    compute = {**config.compute.model_dump(), "device": config.resources.device}
    return parse_run({**config.plain(), "compute": compute})


def is_loss(error: BaseException) -> bool:
    """Whether a worker failed of the loss of another, or of its own."""
    if isinstance(error, dist.DistError) or type(error).__module__.startswith("ray."):
        return True
    # Gloo raises nothing of its own kind.
    return isinstance(error, RuntimeError) and not isinstance(error, AlnError) and "gloo" in str(error).lower()


def who_died(errors: dict[int, BaseException]) -> str:
    """What is to be said of losses, by the workers' numbers: whose process is gone, if that is known."""
    died = [rank for rank, error in sorted(errors.items()) if type(error).__module__.startswith("ray.")]
    return f"Worker {', '.join(map(str, died))} died" if died else "A worker was lost"


def going_on(reason: str, epoch: int, step: int, restart: int, restarts: int) -> str:
    """What is to be said when workers train again after a loss, from so many epochs and steps on."""
    return f"{reason}: all go on from epoch {epoch + 1}, step {step + 1} (restart {restart} of {restarts})."


def too_many_losses(restarts: int, reason: str) -> str:
    """What is to be said when they do not train again."""
    return f"workers were lost more often than resources.restarts = {restarts} allows: {reason}"


def signed(error: Exception, rank: int) -> Exception:
    """The error being handled, with the worker's number and the traceback, which does not travel otherwise."""
    error.add_note(f"On worker {rank}:\n{traceback.format_exc()}")
    return error
