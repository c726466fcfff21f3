"""Accuracy, loss and alignment of a model."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from aln.alignment import LayerAlignment, measure_alignment
from aln.data import Batch, ImageSource
from aln.devices import cut, wide
from aln.engine.modes import autocast, train_mode
from aln.engine.results import Evaluation
from aln.engine.settings import FitSettings, Precision
from aln.errors import DataError
from aln.world import ALONE, World


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], precision: Precision = "float32", world: World = ALONE
) -> Evaluation:
    """Evaluates the model, in evaluation mode, on every example of all workers' `batches` (on the model's device)."""
    was_training = model.training
    model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    sums = torch.zeros(3, device=device, dtype=wide(device))
    examples = 0
    for images, labels in batches:
        with autocast(device, precision):
            logits = model(images)
        logits = logits.to(sums.dtype)
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss])
        examples += len(labels)
        cut(device)
    model.train(was_training)
    examples = int(world.sum(torch.tensor(examples, device=device)))
    if not examples:
        raise DataError("nothing to evaluate: the split holds no batch")
    top1, top5, loss_sum = (world.sum(sums) / examples).tolist()
    return Evaluation(top1=100 * top1, top5=100 * top5, loss=loss_sum, examples=examples)


def measure(model: nn.Module, source: ImageSource, settings: FitSettings) -> dict[str, LayerAlignment]:
    """The alignment of each layer on the first images of the validation split (on the model's device).

    Nothing if that is a single image, which has no batch statistics.
    """
    images, labels = next(iter(source.batches("validation", settings.alignment_images)))
    if len(labels) == 1:
        return {}
    loss = functools.partial(F.cross_entropy, label_smoothing=settings.label_smoothing)
    half = torch.bfloat16 if settings.precision == "bfloat16" else None
    mode = functools.partial(train_mode, frozen_bn=settings.frozen_bn)
    return measure_alignment(model, images, labels, loss=loss, autocast=half, train_mode=mode)
