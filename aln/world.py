"""The workers that train one model together, each on its share of every batch. Knows torch.distributed alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from aln.data import Share
from aln.errors import AlnError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Worker number `rank` of so many. With one worker nothing is communicated.

    All workers must make the same calls in the same order.
    """

    rank: int = 0
    workers: int = 1

    @classmethod
    def current(cls) -> World:
        """The world of this process: torch.distributed's default group where there is one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else cls()

    @property
    def share(self) -> Share:
        """This worker's part of every batch."""
        return Share(self.rank, self.workers)

    def lead(self, action: Callable[[], T]) -> T:
        """What worker 0's `action` returns, on every worker; nobody else calls it. Pickled on the way.

        An `AlnError` that it raises is raised on every worker, so that all of them end.
        """
        if self.workers == 1:
            return action()
        outcome: list[Any] = [None, None]  # what it returned, what it raised
        if self.rank == 0:
            try:
                outcome[0] = action()
            except AlnError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return cast(T, outcome[0])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all workers' tensors, in place and on every worker."""
        if self.workers > 1:
            dist.all_reduce(tensor)
        return tensor

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass leaves on every worker the mean of all workers' gradients.

        Its weights become those of worker 0. A weight that got no gradient (B in a step that does not align) gets
        zeros; `aln.engine` takes them away again.
        """
        if self.workers == 1:
            return model
        # Batch statistics stay each worker's own; torch has two names for that.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {name: False, "gradient_as_bucket_view": True}
        device = next(model.parameters()).device
        if device.type == "cuda":
            options["device_ids"] = [device]
        return DistributedDataParallel(model, **options)

    @torch.no_grad()
    def average_statistics(self, model: nn.Module) -> None:
        """Gives every worker the mean of all workers' running averages of batch norms."""
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
        running = [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
        if self.workers == 1 or not running:
            return
        mean = self.sum(torch.cat([t.flatten() for t in running])) / self.workers
        for tensor, part in zip(running, mean.split([t.numel() for t in running]), strict=True):
            tensor.copy_(part.view_as(tensor))


ALONE = World()
