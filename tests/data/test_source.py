"""Data in memory: order, completeness and augmentation of batches."""

import pytest
import torch

from aln.data import WHOLE, ImageSource, InMemory, Share, Split
from aln.data.source import _moved, _offsets
from aln.errors import DataError


def split(count: int, size: int = 3, channels: int = 1) -> Split:
    """Images without two equal pixels, labelled by their index."""
    images = torch.arange(1.0, count * channels * size * size + 1).reshape(count, channels, size, size)
    return Split(images, torch.arange(count))


def make(train: int = 10, shift: int = 0, size: int = 3, channels: int = 1) -> InMemory:
    parts = [split(count, size, channels) for count in (train, 5, 4)]
    return InMemory(*parts, num_classes=10, shift=shift)


def test_a_source_says_how_many_examples_its_splits_have() -> None:
    assert [make().examples(name) for name in ("train", "validation", "test")] == [10, 5, 4]


def test_a_source_of_somebody_else_need_not_say_it() -> None:
    assert ImageSource.examples(make(), "validation") is None


def order(source: InMemory, seed: int, batch_size: int = 3) -> list[int]:
    return [label for _, labels in source.train_batches(batch_size, seed) for label in labels.tolist()]


def test_the_interface_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        ImageSource()


def test_the_order_depends_on_the_seed_alone():
    source = make(50)
    first = order(source, 7)
    torch.manual_seed(123)
    order(source, 8)
    assert order(source, 7) == first == order(make(50), 7)
    assert order(source, 8) != first


def test_an_epoch_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(make(shift=1).train_batches(3, 0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 10), (3, 3), (5, 2), (10, 1)])
def test_every_training_example_at_most_once_and_no_partial_batch(batch_size, steps):
    source = make(10)
    batches = list(source.train_batches(batch_size, 0))
    assert len(batches) == steps == source.steps_per_epoch(batch_size)
    assert all(len(labels) == len(images) == batch_size for images, labels in batches)
    labels = order(source, 0, batch_size)
    assert len(set(labels)) == len(labels) == steps * batch_size


def test_a_batch_larger_than_the_split_is_the_whole_split():
    assert make(10).steps_per_epoch(64) == 1
    assert sorted(order(make(10), 0, 64)) == list(range(10))


def test_the_example_left_out_changes_with_the_seed():
    left_out = {next(iter(set(range(10)) - set(order(make(10), seed)))) for seed in range(20)}
    assert len(left_out) > 3


def test_images_keep_their_labels():
    source = make(10)
    for images, labels in source.train_batches(3, 0):
        assert torch.equal(images, source.train.images[labels])


@pytest.mark.parametrize("name", ["train", "validation", "test"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_cover_every_example_once_in_order(name, batch_size):
    source = make(10, shift=1)
    images, labels = (torch.cat(part) for part in zip(*source.batches(name, batch_size), strict=True))
    assert torch.equal(images, getattr(source, name).images)
    assert torch.equal(labels, getattr(source, name).labels)


def shifts(image: torch.Tensor, reach: int) -> list[torch.Tensor]:
    """All (2·reach + 1)² shifts of an image [C, H, W], zeros coming in."""
    _, height, width = image.shape
    moved = []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            out = torch.zeros_like(image)
            for i in range(height):
                for j in range(width):
                    if 0 <= i - down < height and 0 <= j - right < width:
                        out[:, i, j] = image[:, i - down, j - right]
            moved.append(out)
    return moved


@pytest.mark.parametrize("reach", [1, 2])
def test_a_shifted_image_is_one_of_the_shifts(reach):
    source = make(40, shift=reach, size=4, channels=2)
    seen = set()
    for seed in range(8):
        for images, labels in source.train_batches(10, seed):
            for image, label in zip(images, labels, strict=True):
                matches = [torch.equal(image, other) for other in shifts(source.train.images[label], reach)]
                assert sum(matches) == 1
                seen.add(matches.index(True))
    assert len(seen) == (2 * reach + 1) ** 2


def test_shifts_depend_on_the_seed_alone():
    batches = [torch.cat([images for images, _ in make(shift=1).train_batches(3, seed)]) for seed in (0, 0)]
    assert torch.equal(*batches)


def test_a_shift_moves_each_image_on_its_own_and_leaves_the_original():
    images = split(30, size=4).images
    before = images.clone()
    moved = _moved(images, _offsets(30, 1, seed=0), 1)
    assert len({int((image == 0).sum()) for image in moved}) > 1
    assert torch.equal(images, before)
    assert moved.is_contiguous()


def epoch(source: InMemory, batch_size: int, start: int = 0, share: Share = WHOLE) -> list[tuple]:
    return list(source.train_batches(batch_size, 5, start=start, share=share))


def test_an_epoch_goes_on_at_any_step_as_if_it_had_not_been_interrupted():
    source = make(30, shift=1)
    whole, rest = epoch(source, 6), epoch(source, 6, start=2)
    assert len(rest) == 3
    for (images, labels), (later_images, later_labels) in zip(whole[2:], rest, strict=True):
        assert torch.equal(images, later_images)
        assert torch.equal(labels, later_labels)


@pytest.mark.parametrize("workers", [2, 3])
def test_shares_of_an_epoch_put_together_are_the_batches_of_one_worker(workers):
    source = make(30, shift=1)
    shares = [epoch(source, 6, share=Share(rank, workers)) for rank in range(workers)]
    for (images, labels), *parts in zip(epoch(source, 6), *shares, strict=True):
        assert all(len(part_labels) == 6 // workers for _, part_labels in parts)
        assert torch.equal(images, torch.cat([part for part, _ in parts]))
        assert torch.equal(labels, torch.cat([part for _, part in parts]))


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_shares_of_a_split_hold_every_example_once(workers):
    source = make(10)  # whose validation split has 5 images
    labels = [
        labels.tolist()
        for rank in range(workers)
        for _, labels in source.batches("validation", 4, share=Share(rank, workers))
    ]
    assert [label for part in labels for label in part] == list(range(5))


def test_a_batch_that_cannot_be_shared_out_equally_is_refused():
    with pytest.raises(DataError, match="a batch of 10 images cannot be shared out equally to 3 workers"):
        next(make(30).train_batches(10, 0, share=Share(0, 3)))


def test_a_share_beyond_the_last_is_refused():
    with pytest.raises(DataError, match="worker 2 of 2: expected a number from 0 to 1"):
        Share(2, 2)


@pytest.mark.parametrize("shift", [0, 1])
def test_to_moves_every_batch(shift):
    device = torch.device("meta")
    source = make(shift=shift).to(device)
    assert source.shift == shift
    assert source.num_classes == 10
    for images, labels in [*source.train_batches(3, 0), *source.batches("test", 3), *source.batches("validation", 3)]:
        assert images.device == labels.device == device


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_an_empty_split_is_refused(name):
    parts = {"train": split(2), "validation": split(2), "test": split(2), name: split(0)}
    with pytest.raises(DataError, match=f"the {name} split holds no images"):
        InMemory(**parts, num_classes=2)
