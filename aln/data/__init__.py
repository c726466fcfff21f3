"""Data sets by name. A data set is a function (*, options…) -> ImageSource."""

from __future__ import annotations

from collections.abc import Callable

from aln.data.digits import digits
from aln.data.imagenet import imagenet
from aln.data.published import cifar10, cifar100, mnist
from aln.data.source import WHOLE, Batch, ImageSource, InMemory, Share, Split, SplitName
from aln.data.synthetic import synthetic
from aln.registry import Registry

DATA: Registry[Callable[..., ImageSource]] = Registry("data set")
DATA.register("digits")(digits)
DATA.register("imagenet")(imagenet)
DATA.register("cifar10")(cifar10)
DATA.register("cifar100")(cifar100)
DATA.register("mnist")(mnist)
DATA.register("synthetic")(synthetic)

__all__ = [
    "DATA",
    "WHOLE",
    "Batch",
    "ImageSource",
    "InMemory",
    "Share",
    "Split",
    "SplitName",
    "cifar10",
    "cifar100",
    "digits",
    "imagenet",
    "mnist",
    "synthetic",
]
