"""Data sets by name. A data set is a function (*, options…) -> ImageSource."""

from __future__ import annotations

from collections.abc import Callable

from aln.data.digits import digits
from aln.data.source import WHOLE, Batch, ImageSource, InMemory, Share, Split, SplitName
from aln.data.synthetic import synthetic
from aln.registry import Registry

DATA: Registry[Callable[..., ImageSource]] = Registry("data set")
DATA.register("digits")(digits)
DATA.register("synthetic")(synthetic)

__all__ = ["DATA", "WHOLE", "Batch", "ImageSource", "InMemory", "Share", "Split", "SplitName", "digits", "synthetic"]
