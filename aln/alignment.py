"""What a network's errors and gradients have to do with backprop's: measured on demand, layer by layer, on one batch.

| metric, per layer | between |
|---|---|
| `angle`, `feedback_norm_ratio` | the feedback weight, and W |
| `projection_angle`, `projection_norm_ratio` | project(x, feedback weight), and project(x, W) |
| `error_angle`, `error_norm_ratio` | the dx that the layer sends down, and what backprop sends down from the same dy |
| `gradient_angle`, `gradient_norm_ratio` | the task's gradient of W, and that of backprop in the whole network |
| `end_to_end_error_angle`, `end_to_end_error_norm_ratio` | dx, and that of backprop in the whole network |

Angles are in degrees, ratios are norm of the first over norm of the second. The first three angles are those that the
code of arXiv 2003.01513 records. Trackers see them as `gradient_angle/LAYER`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from aln.devices import lent_generators, seed_generators, wide
from aln.layers import AlignedLayer, aligned_layers
from aln.rules import LearningRule
from aln.signals import Signals

# Products are summed over so many entries at a time: a float64 copy of a whole layer's activations would not fit.
_CHUNK = 2**20


@dataclass(frozen=True, kw_only=True)
class LayerAlignment:
    """One layer's alignment; see the module's table. Angles in degrees, ratios without unit, nan where undefined:

    all that compares feedback weights, in layers that use W itself or the error at the network's output; all that
    compares dx, in layers whose input wants no gradient (the first, as a rule); gradients, where W is frozen; and
    angles to a zero vector.
    """

    angle: float = math.nan
    feedback_norm_ratio: float = math.nan
    projection_angle: float = math.nan
    projection_norm_ratio: float = math.nan
    error_angle: float = math.nan
    error_norm_ratio: float = math.nan
    gradient_angle: float = math.nan
    gradient_norm_ratio: float = math.nan
    end_to_end_error_angle: float = math.nan
    end_to_end_error_norm_ratio: float = math.nan


METRICS = tuple(entry.name for entry in dataclasses.fields(LayerAlignment))


def flat_metrics(alignment: Mapping[str, LayerAlignment]) -> dict[str, float]:
    """Every number under `METRIC/LAYER`, for trackers."""
    return {f"{metric}/{name}": getattr(layer, metric) for name, layer in alignment.items() for metric in METRICS}


def measure_alignment(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    autocast: torch.dtype | None = None,
    train_mode: Callable[[nn.Module], object] = nn.Module.train,
) -> dict[str, LayerAlignment]:
    """Measures every aligned layer of a network on one batch, in one forward pass and two backward passes.

    The network computes as in training: batch norms normalise by the batch's own statistics, dropout drops (always the
    same, as every random draw here is seeded). It is left as it was, bit by bit: parameters and their `.grad`, running
    statistics and other buffers, modes, step counters, and the global random generators. A feedback weight that is
    drawn anew in each pass is drawn once for the weights and projections, and once for the errors and gradients.

    `update_forward`'s push on W is no part of the gradient; only the task's is compared.

    Args:
        images: [N, C, H, W], or whatever the model takes; on its device.
        labels: [N], what `loss` takes. Batch norms need N of at least 2.
        loss: a scalar of (logits, labels); logits of half precision are given as float32.
        autocast: type of the kernels, as in training; None for the model's own.
        train_mode: puts the model into the mode of training, if that is not plainly `train()`.

    Returns:
        The layers by name. A layer that stands in several places is measured over all of them together.
    """
    probes: dict[str, _Probe] = {}
    course = _Course()
    with _undisturbed(model, images.device, train_mode), torch.enable_grad(), ExitStack() as restored:
        for name, layer in aligned_layers(model).items():
            probes[name] = _Probe(rule=layer.rule, weights=_weights(layer), course=course)
            restored.enter_context(_probed(layer, probes[name]))
        trained = {name: probe.weights.W for name, probe in probes.items() if probe.weights.W.requires_grad}
        # Batch norms update copies of their running statistics.
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            logits = functional_call(model, buffers, (images,))
        value = loss(logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, labels)
        if trained:
            gradients = _gradients(value, trained, keep=True)
            course.through_W = True
            for name, truth in _gradients(value, trained, keep=False).items():
                probes[name].compare("gradient", gradients[name], truth)
    return _read(probes)


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """A layer's W, and the feedback weight if it is another in W's shape."""

    W: Tensor
    feedback: Tensor | None


@dataclass
class _Course:
    """Which way errors take at present: through the rules' feedback, or through every W."""

    through_W: bool = False


@dataclass(frozen=True, kw_only=True)
class _Probe(LearningRule):
    """Stands in for a layer's rule: sends down the same error, or backprop's, and looks at it. B learns nothing.

    Attributes:
        sums: of each comparison, what `_products` gives, summed over the places where the layer stands.
        sent: the errors that the rule sent down, until backprop's come by.
    """

    learns_backward_weight: ClassVar[bool] = False
    uses_output_error: ClassVar[bool] = True  # so that the layer asks for its error here
    rule: LearningRule
    weights: _Weights
    course: _Course
    sums: dict[str, Tensor] = field(default_factory=dict)
    sent: list[Tensor] = field(default_factory=list)

    def compare(self, what: str, ours: Tensor | None, truth: Tensor | None) -> None:
        """Adds to a comparison; nothing if either is missing."""
        if ours is not None and truth is not None:
            products = _products(ours, truth)
            self.sums[what] = self.sums[what] + products if what in self.sums else products

    def error_below(self, s: Signals) -> Tensor:
        truth = s.reconstruct(s.dy, s.W)  # type: ignore[arg-type]
        if self.course.through_W:
            self.compare("end_to_end_error", self.sent.pop(0), truth)
            return truth
        if self.rule.uses_output_error:
            error = self.rule.error_below(s)
        else:
            feedback = self.rule.feedback(s)
            error = truth if feedback is s.W else s.reconstruct(s.dy, feedback)  # type: ignore[arg-type]
        self.compare("error", error, truth)
        self.sent.append(error)
        return error

    def aligns(self, step: int, carries_error: bool) -> bool:
        return False

    @torch.no_grad()
    def project(self, layer: AlignedLayer, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
        """A forward hook: compares what the layer's weights make of its input."""
        (x,) = (*args, *kwargs.values())
        if self.weights.feedback is None or x.dim() < layer.weight.dim():  # comes again, with a batch dimension
            return
        y = output if layer.bias is None else layer.linear_map.project(x, layer.weight)
        self.compare("projection", layer.linear_map.project(x, self.weights.feedback), y)


def _weights(layer: AlignedLayer) -> _Weights:
    feedback = layer.feedback_weight()
    return _Weights(W=layer.weight, feedback=None if feedback is layer.weight else feedback)


@contextmanager
def _probed(layer: AlignedLayer, probe: _Probe) -> Iterator[None]:
    """The layer with a probe in its rule's place."""
    rule, error, aligned, trains_task = layer.rule, layer.output_error, layer.aligned, layer.trains_task
    heard = None if error is None else error.value
    hook = layer.register_forward_hook(probe.project, with_kwargs=True, prepend=True)
    layer.rule, layer.trains_task = probe, True
    try:
        yield
    finally:
        layer.rule, layer.aligned, layer.trains_task = rule, aligned, trains_task
        hook.remove()
        if error is not None:
            error.value = heard


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device, train_mode: Callable[[nn.Module], object]) -> Iterator[None]:
    """Training mode and seeded generators, both as they were afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    with lent_generators(device):
        seed_generators(device, 0)
        train_mode(model)
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _gradients(loss: Tensor, weights: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor | None]:
    """Gradients by name; None for what the loss does not depend on. `keep`: for another backward pass."""
    found = torch.autograd.grad(loss, list(weights.values()), retain_graph=keep, allow_unused=True)
    return dict(zip(weights, found, strict=True))


@torch.no_grad()
def _products(u: Tensor, v: Tensor) -> Tensor:
    """<u, v>, <u, u> and <v, v> in the device's widest type."""
    if u.dim() == 4 and not u.is_contiguous():  # channels_last: as it lies in memory
        u, v = u.permute(0, 2, 3, 1), v.permute(0, 2, 3, 1)
    rows = max(1, _CHUNK // max(1, u[0].numel()))
    sums = []
    for some_u, some_v in zip(u.detach().split(rows), v.detach().split(rows), strict=True):
        a, b = (some.to(wide(u.device)).flatten() for some in (some_u, some_v))
        sums += [a @ b, a @ a, b @ b]
    return torch.stack(sums) if len(sums) == 3 else torch.stack(sums).view(-1, 3).sum(0)


@torch.no_grad()
def _read(probes: Mapping[str, _Probe]) -> dict[str, LayerAlignment]:
    """The numbers, in one wait for the device."""
    for probe in probes.values():
        probe.compare("feedback", probe.weights.feedback, probe.weights.W)
    keys = [(name, what) for name, probe in probes.items() for what in probe.sums]
    found: dict[str, dict[str, float]] = {name: {} for name in probes}
    if keys:
        products = torch.stack([probes[name].sums[what] for name, what in keys])
        for (name, what), (uv, uu, vv) in zip(keys, products.tolist(), strict=True):
            turned, ratio = _angle_and_ratio(uv, uu, vv)
            found[name] |= {"angle" if what == "feedback" else f"{what}_angle": turned, f"{what}_norm_ratio": ratio}
    return {name: LayerAlignment(**metrics) for name, metrics in found.items()}


def _angle_and_ratio(uv: float, uu: float, vv: float) -> tuple[float, float]:
    """Degrees between u and v, and ‖u‖ / ‖v‖, of their products; nan if either vector is zero."""
    if not uu * vv > 0:
        return math.nan, math.nan
    # Identical vectors give exactly 0; else this keeps angles down to 1e-6 degrees (float32 products: 0.02).
    return math.degrees(math.atan2(math.sqrt(max(uu * vv - uv * uv, 0.0)), uv)), math.sqrt(uu / vv)
