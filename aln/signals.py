"""What one layer knows in one backward pass: all that a learning rule may look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from aln.maps import LinearMap

Distribution = Literal["normal", "uniform"]
Activation = Literal["relu", "sigmoid", "tanh"]


@dataclass(frozen=True, kw_only=True)
class Synapses:
    """The weights of one layer, constants to the rule.

    Attributes:
        W: forward weight, [out, in] or [K, C / groups, kh, kw].
        B: backward weight, in the shape of W unless the rule makes it otherwise; None under rules without one.
        R: fixed random feedback weights beside B, of rules that have such.
        map: the layer's linear map.
    """

    map: LinearMap
    W: Tensor
    B: Tensor
    R: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Signals(Synapses):
    """The local signals of a layer. All tensors are constants to the rule; see `aln.maps` for the shapes.

    Attributes:
        x: input of the layer, or what stands in its place (noise).
        dy: the error that arrived at the layer's output (the task's gradient); None outside a backward pass.
        dW: the task's gradient of W, for rules with `shares_task_gradient`.
        bias: the layer's bias or None.
        output: the layer's output with its bias if it was kept from the forward pass, else None.
        activation: the activation that the layer's output goes through, if it is known.
        error: gradient at the network's output [N, outputs], for rules with `uses_output_error`.
        rate: factor on the rule's own part of B's gradient, for rules with `shares_task_gradient`; of all others the
            layer multiplies the whole gradient.
    """

    x: Tensor
    dy: Tensor | None = None
    dW: Tensor | None = None
    bias: Tensor | None = None
    output: Tensor | None = None
    activation: Activation | None = None
    error: Tensor | None = None
    rate: float = 1.0

    @property
    def batch(self) -> int:
        """N, the number of examples over which regularizers take their mean."""
        return self.x.shape[0]

    def project(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Image of x under a kernel in the shape of W, without bias."""
        return self.map.project(x, kernel)

    def reconstruct(self, y: Tensor, kernel: Tensor) -> Tensor:
        """Transpose of `project`, in the shape of x."""
        return self.map.reconstruct(y, kernel, self.x)

    def correlate(self, a: Tensor, g: Tensor) -> Tensor:
        """Gradient of <project(a, K), g> for K, in the shape of W."""
        return self.map.correlate(a, g, self.W)

    def y(self, use_bias: bool) -> Tensor:
        """project(x, W), plus the bias if `use_bias`; taken from the forward pass where it was kept."""
        offset = 0.0 if self.bias is None else self.map.spread_bias(self.bias)
        if self.output is None:
            y = self.project(self.x, self.W)
            return y + offset if use_bias and self.bias is not None else y
        return self.output if use_bias or self.bias is None else self.output - offset

    def first(self, examples: int) -> Signals:
        """The same layer seeing only so many of the batch's examples."""
        output = None if self.output is None else self.output[:examples]
        return replace(self, x=self.x[:examples], dy=None if self.dy is None else self.dy[:examples], output=output)

    def on_noise(self, distribution: Distribution, stddev: float) -> Signals:
        """The same layer seeing noise of the given standard deviation in place of its input."""
        noise = standard_noise_like(self.x, distribution).mul_(stddev)
        return replace(self, x=noise, output=None)


def standard_noise_like(x: Tensor, distribution: Distribution) -> Tensor:
    """Noise of mean 0 and variance 1 with x's shape, type and memory layout: normal, or uniform on ±√12/2."""
    # On the CPU drawing into a channels_last tensor is 6-8 times slower than into a contiguous one of the same storage.
    permuted = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    shape = x.permute(0, 2, 3, 1).shape if permuted else x.shape
    noise = torch.empty(shape, dtype=x.dtype, device=x.device)
    if distribution == "normal":
        noise.normal_()
    else:
        noise.uniform_(-math.sqrt(3.0), math.sqrt(3.0))
    return noise.permute(0, 3, 1, 2) if permuted else noise
