"""The training images that are held out: fixed, of every class its share."""

import hashlib

import numpy as np
import pytest

from aln.data.holdout import held_out
from aln.errors import DataError

LABELS = np.random.RandomState(0).permutation(np.repeat(np.arange(10), 500))


def test_the_two_parts_are_disjoint_and_together_complete():
    kept, held = held_out(LABELS, 500)
    assert len(held) == 500
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(5000))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()


def test_every_class_gives_its_share():
    assert (np.bincount(LABELS[held_out(LABELS, 500)[1]]) == 50).all()
    uneven = np.repeat([0, 1, 2], [600, 300, 100])
    assert np.bincount(uneven[held_out(uneven, 100)[1]]).tolist() == [60, 30, 10]


def test_what_cannot_be_divided_goes_to_the_largest_remainders():
    uneven = np.repeat([0, 1, 2], [5, 3, 2])
    assert np.bincount(uneven[held_out(uneven, 4)[1]]).tolist() == [2, 1, 1]  # of 2.0, 1.2 and 0.8


def test_the_images_held_out_are_the_same_for_ever():
    digest = hashlib.sha256(held_out(LABELS, 500)[1].astype("<i8").tobytes()).hexdigest()
    assert digest == "70afd3360b552c652aad93abd3c7cef9b393d36467175f76213ebec498977612"


def test_none_may_be_held_out():
    kept, held = held_out(LABELS, 0)
    assert (len(kept), len(held)) == (5000, 0)


@pytest.mark.parametrize("count", [-1, 5000])
def test_refuses_to_leave_nothing_to_train_on(count):
    with pytest.raises(DataError, match=rf"holdout = {count}: expected 0 to 4999 of the 5000 training images"):
        held_out(LABELS, count)
