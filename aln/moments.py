"""Local gradients of pointwise layers (1×1 convolutions, linear layers) by second moments, where those cost less.

A pointwise map is one matrix, W [K, C], at each of P positions. Then, with G = Σ x xᵀ [C, C] and H = Σ y yᵀ [K, K],

    correlate(x, project(x, K))     = K G
    correlate(x, y)                 = W G
    correlate(reconstruct(y, B), y) = W G Wᵀ B = H B

and products of matrices as small as kernels take the place of passes over the positions. In multiply-adds a pass costs
K·C·P, G costs C²·P, H costs K²·P: a convolution that widens 4 times has its information gradient for an eighth of two
passes, one that narrows 4 times for five eighths. Biases are not provided for. Below float32 a moment would be rounded
before W cancels most of it, so there the passes stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aln.signals import Signals

_PRECISE = (torch.float32, torch.float64)


def correlate_projection(s: Signals, kernel: Tensor) -> Tensor:
    """correlate(x, project(x, kernel)), in the cheaper of its two forms."""
    if (x := _samples(s)) is not None:
        outputs, inputs, positions = _sizes(s, x)
        if inputs * (positions + outputs) < 2 * outputs * positions:
            return (kernel.flatten(1) @ s.map.moment(x)).view_as(s.W)
    return s.correlate(s.x, s.project(s.x, kernel))


def null_and_amp(null: float, amp: float, s: Signals) -> Tensor | None:
    """correlate((2ν reconstruct(y, B) − αx) / N, y) for y without bias; None where passes are cheaper."""
    x = _samples(s)
    if x is None:
        return None
    outputs, inputs, positions = _sizes(s, x)
    project, reconstruct, amplify = s.output is None, null != 0, amp != 0
    passes = outputs * inputs * positions * (project + reconstruct + 1)
    by_x = inputs * inputs * (positions + outputs * (1 + 2 * reconstruct))
    by_y = outputs * positions * (outputs + inputs * (project + amplify)) + outputs * outputs * inputs
    if passes <= min(by_x, by_y):
        return None
    W, B = s.W.flatten(1), s.B.flatten(1)
    if by_x <= by_y:
        correlation = W @ s.map.moment(x)
        grad = correlation * (-amp / s.batch)
        if null:
            # XLA's addmm takes no factor; here it costs one pass over a small matrix.
            grad.addmm_(correlation, (W.T @ B).mul_(2 * null / s.batch))
        return grad.view_as(s.W)
    y = s.y(False)
    grad = (s.map.moment(y) @ (B * (2 * null / s.batch))).view_as(s.W)
    return grad.sub_(s.correlate(s.x, y), alpha=amp / s.batch) if amp else grad


def _samples(s: Signals) -> Tensor | None:
    return s.map.samples(s.x, s.W) if s.x.dtype in _PRECISE else None


def _sizes(s: Signals, x: Tensor) -> tuple[int, int, int]:
    """Outputs K, inputs C and positions P (examples counted in)."""
    outputs, inputs = s.W.shape[:2]
    return outputs, inputs, x.numel() // inputs
