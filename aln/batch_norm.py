"""Batch norm by the statistics of all workers' parts of a batch together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise(model: nn.Module) -> nn.Module:
    """Gives the model batch norms that see what all workers see; they share parameters and buffers with its own.

    On GPUs they are torch's `SyncBatchNorm`, which knows no other device; elsewhere `SharedBatchNorm`. All workers'
    parts of a batch must be equally large.
    """
    twins: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # `named_children` would show a shared norm only once
            if isinstance(child, _BatchNorm):
                twins[child] = twins.get(child) or _twin(child)
                setattr(parent, name, twins[child])
    return model


def _twin(norm: _BatchNorm) -> nn.Module:
    if any(tensor.is_cuda for tensor in norm.state_dict().values()):
        twin: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        return twin
    return SharedBatchNorm.convert(norm)


class SharedBatchNorm(_BatchNorm):
    """Batch norm of [N, C, ...] whose mean and variance in training are those of all workers together.

    Exact to rounding: the variance is the mean square of centred values, not a difference of large numbers.
    """

    @classmethod
    def convert(cls, norm: _BatchNorm) -> SharedBatchNorm:
        """The twin of `norm`, which shares its parameters and buffers."""
        twin = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(twin, name, getattr(norm, name))
        return twin.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected [N, C, ...], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            normalised: Tensor = super().forward(input)
            return normalised
        self._check_input_dim(input)
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        dims = [dim for dim in range(x.dim()) if dim != 1]
        count = dist.get_world_size() * x.numel() // x.shape[1]
        mean = _Sum.apply(x.sum(dims, keepdim=True)) / count
        centred = x - mean
        variance = _Sum.apply(centred.square().sum(dims, keepdim=True)) / count
        self._track(mean.detach().flatten(), variance.detach().flatten(), count)
        y: Tensor = centred * (variance + self.eps).rsqrt()
        if self.affine:
            shape = [-1] + [1] * (x.dim() - 2)
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running averages, of the unbiased variance, as `_BatchNorm` does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        step = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), step)
        self.running_var.lerp_(variance.to(self.running_var.dtype) * (count / (count - 1)), step)


class _Sum(torch.autograd.Function):
    """The sum over all workers; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004 (autograd's)
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
