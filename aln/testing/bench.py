"""One layer under a rule, with all that it sees: what the contract's checks look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast
from unittest.mock import patch

import torch
from torch import Tensor, nn

from aln import signals
from aln.conversion import align
from aln.layers import AlignedLayer, aligned_layers
from aln.rules import LearningRule
from aln.signals import Distribution, Signals

BATCH, OUTPUTS = 4, 3
# The layer, and the shape of its input.
LAYERS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (BATCH, 7)),
    "linear on sequences": (lambda: nn.Linear(7, 5, bias=False), (BATCH, 3, 7)),
    "conv": (lambda: nn.Conv2d(4, 6, 3), (BATCH, 4, 5, 6)),
    "strided conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (BATCH, 4, 8, 7)),
    "grouped conv": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (BATCH, 4, 5, 6)),
    "dilated conv": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(2, 1), dilation=2), (BATCH, 4, 5, 6)),
}


class Bench:
    """A layer of a small network, an input x, the error dy at its output and the one at the network's output."""

    def __init__(self, rule: LearningRule, kind: str, dtype: torch.dtype = torch.float64) -> None:
        make, shape = LAYERS[kind]
        torch.default_generator.manual_seed(0)
        plain, x = make().double(), torch.randn(shape, dtype=torch.float64)
        dy = torch.randn_like(plain(x)) / BATCH
        head = nn.Linear(dy[0].numel(), OUTPUTS).double()
        # A ReLU follows, so that the options that read the activation have one.
        network = align(nn.Sequential(plain, nn.ReLU(), nn.Flatten(), head), rule).to(dtype)
        self.rule, self.kind = rule, kind
        self.layer = cast(AlignedLayer, network[0])  # type: ignore[index]
        self.x, self.dy = x.to(dtype), dy.to(dtype)
        self.error = (torch.randn(BATCH, OUTPUTS, dtype=torch.float64) / BATCH).to(dtype)
        self.step = first_turn(rule)

    def to(self, dtype: torch.dtype) -> Bench:
        """The same bench, with the same values, in another type."""
        return Bench(self.rule, self.kind, dtype)

    def run(self, seed: int = 1, *, autocast: bool = False, x_learns: bool = True) -> tuple[Tensor, Tensor]:
        """One forward and backward pass, in which the rule may draw from torch's generator: output and input."""
        x = self.x.detach().requires_grad_(x_learns)
        self.layer.steps = self.step
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = cast(Tensor, self.layer(x))
        if self.layer.output_error is not None:
            self.layer.output_error.value = self.error.to(y.dtype)
        torch.default_generator.manual_seed(seed)
        y.backward(self.dy.to(y.dtype))
        return y, x

    @torch.no_grad()
    def signals(self, rows: Sequence[int] = range(BATCH), scale: float = 1.0, rate: float = 1.0) -> Signals:
        """What the layer sees when its batch holds these examples, and their errors are scaled."""
        layer, rule, index = self.layer, self.rule, list(rows)
        x, dy = self.x[index], self.dy[index] * scale
        return Signals(
            map=layer.linear_map,
            x=x,
            W=layer.weight,
            B=layer.backward_weight,  # type: ignore[arg-type]
            R=layer.fixed_feedback,
            dy=dy,
            dW=layer.linear_map.correlate(x, dy, layer.weight) if rule.shares_task_gradient else None,
            bias=layer.bias,
            output=layer.linear_map.project(x, layer.weight, layer.bias) if rule.keeps_output else None,
            activation=layer.activation,
            error=self.error[index] * scale if rule.uses_output_error else None,
            rate=rate,
        )

    @torch.no_grad()
    def local_gradients(
        self, rows: Sequence[int] = range(BATCH), scale: float = 1.0, seed: int = 1, rate: float = 1.0
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the rule itself gives for B and adds for W, on these examples."""
        s = self.signals(rows, scale, rate)
        torch.default_generator.manual_seed(seed)
        return self.rule.local_gradients(s)

    def tensors(self) -> dict[str, Tensor]:
        """All that the rule is shown, by the names of `Signals`."""
        layer = self.layer
        shown = {"x": self.x, "dy": self.dy, "error": self.error, "W": layer.weight, "bias": layer.bias}
        shown |= {"B": layer.backward_weight, "R": layer.fixed_feedback}
        return {name: tensor.detach() for name, tensor in shown.items() if tensor is not None}

    def gradients(self) -> dict[str, Tensor]:
        """The gradients that the layer's parameters hold."""
        return {name: p.grad for name, p in self.layer.named_parameters() if p.grad is not None}

    def is_random(self) -> bool:
        """Whether B's gradient depends on torch's generator though `aln`'s own noise stands still."""
        with fixed_noise():
            first, second = (self.local_gradients(seed=seed)[0] for seed in (1, 2))
        return first is not None and second is not None and not torch.equal(first, second)


def first_turn(rule: LearningRule, after: int = -1) -> int:
    """The first step after `after` in which B learns. Raises `StopIteration` if there is none in ten thousand."""
    return next(step for step in range(after + 1, after + 10_001) if rule.aligns(step, carries_error=True))


@contextmanager
def fixed_noise(rows: Sequence[int] = range(BATCH)) -> Iterator[None]:
    """Every draw of noise for an input gives the rows of one and the same tensor, in all types."""

    def draw(x: Tensor, distribution: Distribution) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        noise = torch.empty(BATCH, *x.shape[1:], dtype=torch.float64)
        noise = noise.normal_(generator=generator) if distribution == "normal" else noise.uniform_(generator=generator)
        noise = noise if distribution == "normal" else (2 * noise - 1) * 3**0.5
        return noise[list(rows)[: len(x)]].to(x.dtype)

    with patch.object(signals, "standard_noise_like", draw):
        yield


def network(rule: LearningRule, seed: int = 0) -> nn.Module:
    """A network of one convolution and three linear layers for inputs [N, 2, 4, 4]."""
    torch.default_generator.manual_seed(seed)
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 6), nn.Tanh()]
    return cast(nn.Module, align(nn.Sequential(*layers, nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, OUTPUTS)), rule))


def network_gradients(net: nn.Module) -> dict[str, Tensor]:
    """The gradients of a network's parameters on a fixed batch, by name."""
    torch.default_generator.manual_seed(5)
    x, dy = torch.randn(BATCH, 2, 4, 4), torch.randn(BATCH, OUTPUTS)
    net.zero_grad()
    for layer in aligned_layers(net).values():
        layer.steps = first_turn(layer.rule)
    net(x).backward(dy)
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def isolated_gradients(net: nn.Sequential) -> list[list[Tensor | None]]:
    """For each aligned layer: the gradients of W, B and its input, every layer being given one input and one error.

    Two passes, from the output to the input, of which the second counts: a rule that remembers shows it.
    """
    layers = list(aligned_layers(net).values())
    found: list[list[Tensor | None]] = []
    for _ in range(2):
        torch.default_generator.manual_seed(5)
        x, found = torch.randn(BATCH, 2, 4, 4), []
        ends: list[tuple[AlignedLayer, Tensor, Tensor]] = []
        for module in net:
            x = x.detach().requires_grad_()
            if isinstance(module, AlignedLayer):
                module.zero_grad()
                module.steps = first_turn(module.rule)
                ends.append((module, x, module(x)))
                x = ends[-1][2]
            else:
                x = module(x)
        for number, (layer, start, y) in reversed(list(enumerate(ends))):
            torch.default_generator.manual_seed(number)
            y.backward(torch.randn_like(y))
            B = layer.backward_weight
            found.append([layer.weight.grad, None if B is None else B.grad, start.grad])
    assert len(found) == len(layers)
    return found[::-1]
