"""A fixed part of the training images to validate on, so that a search never looks at the test images."""

from __future__ import annotations

import numpy as np

from aln.errors import DataError

# Drawn once and for all: accuracies are comparable only on the same images.
_SEED = 2003_01513


def held_out(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices that stay and the `count` that are held out, both ascending, each class giving its share.

    A function of the labels and of `count` alone. Where shares are no whole numbers, the classes with the largest
    remainders, among equals the first, give one more.

    Args:
        labels: the class of each training image, [N] int64.

    Raises `DataError` if that leaves no image to train on.
    """
    if not 0 <= count < len(labels):
        raise DataError(f"holdout = {count}: expected 0 to {len(labels) - 1} of the {len(labels)} training images")
    _, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / len(labels)
    takes = np.floor(exact).astype(np.int64)
    takes[np.argsort(takes - exact, kind="stable")[: count - takes.sum()]] += 1
    rng = np.random.RandomState(_SEED)
    out = np.zeros(len(labels), bool)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    for members, take in zip(by_class, takes, strict=True):
        out[rng.permutation(members)[:take]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)
