"""How far the weights that carry errors down have turned away from the forward weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aln.devices import wide
from aln.layers import aligned_layers


def angle(u: Tensor, v: Tensor) -> Tensor:
    """Angle in degrees between two tensors taken as vectors, in the device's widest type; nan if either is zero.

    2·atan2(‖û − v̂‖, ‖û + v̂‖) (Kahan) keeps its digits at small angles, where the arccosine loses half of them.
    """
    a, b = (t.detach().to(wide(t.device)).flatten() for t in (u, v))
    a, b = a / a.norm(), b / b.norm()
    return torch.rad2deg(2 * torch.atan2((a - b).norm(), (a + b).norm()))


def weight_angles(module: nn.Module) -> dict[str, float]:
    """Angle in degrees between W and the feedback weight, for each layer that sends its error down through another."""
    pairs = {name: (layer.weight, layer.feedback_weight()) for name, layer in aligned_layers(module).items()}
    apart = {name: (W, feedback) for name, (W, feedback) in pairs.items() if feedback is not None and feedback is not W}
    if not apart:
        return {}
    with torch.no_grad():
        angles = torch.stack([angle(W, feedback) for W, feedback in apart.values()])
    return dict(zip(apart, angles.tolist(), strict=True))
