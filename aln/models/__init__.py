"""Models by name. A model is a function (input_shape, num_classes, *, options…) -> nn.Module.

`resnet18 … resnet200` are the original's ResNet v1, `resnet18v2 … resnet200v2` its v2 (pre-activation),
`resnet8 … resnet56` v1's CIFAR-sized relatives (6n + 2 layers),
`mlp` a fully connected net, `torchvision` any classification model of torchvision, untrained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from aln.errors import AlnError, DataError, RegistryError
from aln.hints import hint
from aln.models.mlp import mlp
from aln.models.resnet import ResNet
from aln.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
MODELS.register("mlp")(mlp)

_LARGE = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
    200: (True, (3, 24, 36, 3)),
}
_SMALL = (8, 20, 32, 56)


def _large(bottleneck: bool, blocks: Sequence[int], preactivation: bool) -> Callable[..., nn.Module]:
    widths = [width * (4 if bottleneck else 1) for width in (64, 128, 256, 512)]

    def resnet(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        return ResNet(
            input_shape, num_classes, widths=widths, blocks=blocks, bottleneck=bottleneck, preactivation=preactivation
        )

    return resnet


def _small(depth: int) -> Callable[..., nn.Module]:
    def resnet(input_shape: tuple[int, int, int], num_classes: int, *, width: int = 16) -> nn.Module:
        if width < 1:
            raise AlnError(f"width = {width}: expected at least 1")
        widths = (width, 2 * width, 4 * width)
        return ResNet(input_shape, num_classes, widths=widths, blocks=[(depth - 2) // 6] * 3, small_images=True)

    return resnet


for _depth, (_bottleneck, _blocks) in _LARGE.items():
    MODELS.register(f"resnet{_depth}")(_large(_bottleneck, _blocks, preactivation=False))
    MODELS.register(f"resnet{_depth}v2")(_large(_bottleneck, _blocks, preactivation=True))
for _depth in _SMALL:
    MODELS.register(f"resnet{_depth}")(_small(_depth))


@MODELS.register("torchvision")
def from_torchvision(input_shape: tuple[int, int, int], num_classes: int, *, builder: str) -> nn.Module:
    """torchvision's model `builder` (its `list_models` names them), with random weights. Takes RGB images alone."""
    if input_shape[0] != 3:
        raise DataError(f"torchvision's {builder} takes images of 3 channels, these have {input_shape[0]}")
    from torchvision.models import get_model, list_models

    known = list_models()
    if builder not in known:
        raise RegistryError(f"torchvision has no model '{builder}'{hint(builder, known)}")
    model: nn.Module = get_model(builder, weights=None, num_classes=num_classes)
    return model
