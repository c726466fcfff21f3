"""Which parameters an optimizer moves, and which of them decay."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from aln.layers import AlignedLayer, aligned_layers

# All that is trained, all but the backward weights, or the backward weights alone.
Part = Literal["all", "forward", "backward"]


def backward_weights(model: nn.Module) -> list[nn.Parameter]:
    """The backward weights that learn."""
    found = dict.fromkeys(layer.backward_weight for layer in aligned_layers(model).values())
    return [B for B in found if B is not None and B.requires_grad]


def parameter_groups(model: nn.Module, weight_decay: float, part: Part = "all") -> list[dict[str, object]]:
    """Parameters with weight decay (forward kernels and the biases of linear layers), and all others without.

    Batch norm does not decay, nor does a backward weight unless its rule says so (`decays_with_forward_weight`).
    """
    decaying: dict[Tensor, None] = {}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            decaying[module.weight] = None
        if isinstance(module, AlignedLayer) and module.rule.decays_with_forward_weight:
            decaying[module.backward_weight] = None  # type: ignore[index]
        if isinstance(module, nn.Linear) and module.bias is not None:
            decaying[module.bias] = None
    backward = set(backward_weights(model))

    def chosen(parameter: Tensor) -> bool:
        return parameter.requires_grad and (part == "all" or (part == "backward") == (parameter in backward))

    others = [p for p in model.parameters() if p not in decaying]
    return [
        {"params": [p for p in decaying if chosen(p)], "weight_decay": weight_decay},
        {"params": [p for p in others if chosen(p)], "weight_decay": 0.0},
    ]
