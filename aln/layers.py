"""Layers whose errors travel down through B."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from aln.autograd import AlignedFunction, OutputError, Pass
from aln.maps import Conv2dMap, DenseMap, LinearMap
from aln.rules import LearningRule, NewLayer
from aln.signals import Activation, Signals, Synapses

# Standard deviation of a unit normal that is cut at ±2 (the original's initializer divides by it).
TRUNCATED_STDDEV = 0.87962566103423978


class AlignedLayer(nn.Module):
    """What aligned layers share: the rule, the backward weight B, and the way through `AlignedFunction`.

    `backward_weight` is an ordinary parameter with an ordinary gradient: optimizers update it, DDP averages
    it, checkpoints hold it. It is absent (None) under backprop and frozen under feedback alignment. The buffer
    `fixed_feedback` holds the rule's R, where it has one.

    Attributes:
        activation: the activation that the layer's output goes through, if it is known; some options read it.
        steps: forward passes in training, by which rules with `align_every` find their turn.
        aligned: whether B learns in the backward pass of the last forward pass.
        trains_task: whether backward passes train the task; if not, they carry no error down and give W and the bias
            nothing, but for what the rule itself gives W.
        alignment_rate: factor on what the rule itself gives B (and W); 0 leaves B to the task's gradient, if it has it.
        outputs: number of the network's outputs.
        output_error: the error at the network's output, under rules that use it; `is_output` marks who leaves it there.
    """

    weight: Tensor
    bias: Tensor | None
    backward_weight: nn.Parameter | None
    fixed_feedback: Tensor | None
    linear_map: LinearMap
    rule: LearningRule
    activation: Activation | None = None
    steps: int = 0
    aligned: bool
    trains_task: bool
    alignment_rate: float
    outputs: int = 0
    output_error: OutputError | None = None
    is_output: bool = False

    def adopt(self, layer: nn.Module, rule: LearningRule, linear_map: LinearMap) -> Self:
        """Takes over `layer`'s own W, bias and what it says of its activation."""
        self.weight, self.bias = layer.weight, layer.bias  # type: ignore[assignment]
        self.rule = rule
        self.linear_map = linear_map
        self.activation = getattr(layer, "activation", None)
        self.aligned, self.trains_task, self.alignment_rate = True, True, 1.0
        self.register_parameter("backward_weight", None)
        self.register_buffer("fixed_feedback", None)
        self.train(layer.training)
        return self

    @torch.no_grad()
    def reset_backward_weight(self) -> None:
        """Draws B (and R) anew, as the rule has it."""
        if not self.rule.has_backward_weight:
            return
        B, R = self.rule.initial_backward(self.new_layer())
        self.backward_weight = nn.Parameter(B, requires_grad=self.rule.learns_backward_weight)
        self.fixed_feedback = R

    def new_layer(self) -> NewLayer:
        """What the rule is told of this layer when it makes B."""
        W = self.weight.detach()
        inputs = W.shape[1] * self.linear_map.groups
        return NewLayer(W=W, inputs=inputs, outputs=self.outputs, draw=self._draw)

    def _draw(self, *shape: int) -> Tensor:
        """Weights independent of W but with W's standard deviation (1/√fan_in where W is constant).

        Convolutions draw from a normal cut at two deviations, linear layers from a whole one, as the original does.
        """
        W = self.weight.detach()
        stddev = float(W.std(correction=0))
        if stddev <= 1e-6 * float(W.abs().max()):
            stddev = 1 / math.sqrt(W[0].numel())
        drawn = torch.empty_like(W) if shape == W.shape else W.new_empty(shape)
        if W.dim() == 4:
            sigma = stddev / TRUNCATED_STDDEV
            return nn.init.trunc_normal_(drawn, std=sigma, a=-2 * sigma, b=2 * sigma)
        return nn.init.normal_(drawn, std=stddev)

    @torch.no_grad()
    def feedback_weight(self) -> Tensor | None:
        """The weight that carries the error down, in the shape of W; None if the layer sends another error down."""
        if self.rule.uses_output_error:
            return None
        B: Any = self.backward_weight
        return self.rule.feedback(Synapses(map=self.linear_map, W=self.weight, B=B, R=self.fixed_feedback))

    def alignment_loss(self, x: Tensor) -> Tensor | None:
        """The rule's written-out regularizer for an input x: a scalar that reaches B, and W with `update_forward`.

        None without a regularizer.
        """
        if self.backward_weight is None:
            return None
        W, bias = self.weight, None if self.bias is None else self.bias.detach()
        return self.rule.loss(
            Signals(
                map=self.linear_map,
                x=x.detach(),
                W=W if self.rule.moves_forward_weight else W.detach(),
                B=self.backward_weight,
                R=self.fixed_feedback,
                bias=bias,
                activation=self.activation,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        W, B, R, bias = self.weight, self.backward_weight, self.fixed_feedback, self.bias
        if x.dim() == W.dim() - 1:  # one example without a batch dimension, as torch's layers take it
            alone: Tensor = self(x[None])[0]
            return alone
        if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
            # Cast here rather than inside the function: its backward pass runs outside autocast and must see one type.
            dtype = torch.get_autocast_dtype(x.device.type)
            x, W = x.to(dtype), W.to(dtype)
            B, R, bias = (None if tensor is None else tensor.to(dtype) for tensor in (B, R, bias))  # type: ignore[assignment]
        output: Tensor = AlignedFunction.apply(x, W, B, R, bias, self._pass(x))
        return output

    def _pass(self, x: Tensor) -> Pass:
        """How this pass goes; counts it if the rule lets steps out."""
        aligns = self.rule.aligns(self.steps, carries_error=x.requires_grad)
        if not self.alignment_rate and not self.rule.shares_task_gradient:
            aligns = False
        if self.aligned is not aligns:  # compiled networks are compiled anew for what is assigned
            self.aligned = aligns
        if self.rule.skips_steps and self.training and torch.is_grad_enabled():
            self.steps += 1
        if self.is_output and self.output_error is not None:
            self.output_error.value = None  # what the pass before left there must not be taken for this one's
        return Pass(
            linear=self.linear_map,
            rule=self.rule,
            aligns=aligns,
            trains_task=self.trains_task,
            rate=self.alignment_rate,
            activation=self.activation,
            publishes=self.output_error if self.is_output else None,
            hears=self.output_error,
        )


class AlignedConv2d(AlignedLayer, nn.Conv2d):
    """`torch.nn.Conv2d` (zero padding) under a learning rule."""

    @classmethod
    def convert(cls, layer: nn.Conv2d, rule: LearningRule) -> AlignedConv2d:
        """The aligned twin of `layer`, which shares its weight and bias."""
        stride, dilation, kernel = _pair(layer.stride), _pair(layer.dilation), _pair(layer.kernel_size)
        if layer.padding == "same":
            padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
        else:
            padding = (0, 0) if isinstance(layer.padding, str) else _pair(layer.padding)
        twin = cls(
            layer.in_channels, layer.out_channels, kernel, stride, padding, dilation, layer.groups,
            bias=layer.bias is not None, device="meta",
        )  # fmt: skip
        return twin.adopt(layer, rule, Conv2dMap(stride, padding, dilation, layer.groups))

    @staticmethod
    def obstacle(layer: nn.Conv2d) -> str:
        """Why `Conv2dMap` cannot express `layer`; nothing if it can."""
        if layer.padding_mode != "zeros":
            return f"{layer.padding_mode} padding"
        extents = [d * (k - 1) for d, k in zip(_pair(layer.dilation), _pair(layer.kernel_size), strict=True)]
        # One zero more on one side than on the other.
        return "uneven padding" if layer.padding == "same" and any(extent % 2 for extent in extents) else ""


class AlignedLinear(AlignedLayer, nn.Linear):  # type: ignore[misc]
    """`torch.nn.Linear` under a learning rule."""

    @classmethod
    def convert(cls, layer: nn.Linear, rule: LearningRule) -> AlignedLinear:
        """The aligned twin of `layer`, which shares its weight and bias."""
        twin = cls(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        return twin.adopt(layer, rule, DenseMap())


def aligned_layers(module: nn.Module) -> dict[str, AlignedLayer]:
    """The aligned layers of a network by their dotted names, in forward order of definition."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, AlignedLayer)}


def _pair(value: tuple[int, ...] | str) -> tuple[int, int]:
    assert not isinstance(value, str)
    height, width = value
    return height, width
