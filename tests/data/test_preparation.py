"""Cropping, resizing and colours, against torchvision's; random numbers by position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from aln.data.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, distort_colours
from aln.data.preparation import (
    PREPARATIONS,
    Inception,
    Resnet,
    random_box,
    random_numbers,
    resized,
    with_shortest_side,
)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Noise [3, H, W], channels last in memory, as decoders give it."""
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_numbers_depend_on_seed_and_position_alone() -> None:
    epoch = random_numbers(7, 0, 200)
    assert random_numbers(7, 0, 64) + random_numbers(7, 64, 1) + random_numbers(7, 65, 135) == epoch
    assert len({number for numbers in epoch for number in numbers}) == 200 * len(epoch[0])
    assert random_numbers(8, 0, 1)[0] != epoch[0]
    assert 0.48 < np.mean(epoch) < 0.52
    assert random_numbers(2**63 - 1, 10**9, 1)


# Taller and wider, larger and smaller than the stored side, equal to it or to the square, and long strips.
SIDES = [(375, 500), (500, 375), (256, 256), (256, 300), (224, 224), (253, 455), (455, 253), (120, 90), (240, 256)]
SIDES += [(100, 1000), (1001, 224), (257, 256), (2000, 1501)]


@pytest.mark.parametrize(("height", "width"), SIDES)
@pytest.mark.parametrize("size", [224, 96])
def test_evaluation_of_resnet_is_torchvisions_to_the_bit(height: int, width: int, size: int) -> None:
    preparation, image = Resnet(size=size), picture(height, width)
    whole = reference.resize(image, [preparation.stored_side], antialias=True)
    assert whole.shape[1:] == with_shortest_side(height, width, preparation.stored_side)
    assert torch.equal(preparation.evaluate(image), reference.center_crop(whole, [size, size]))


def test_evaluation_of_resnet_is_torchvisions_at_sides_drawn_at_random() -> None:
    sides = np.random.RandomState(3).randint(40, 400, (150, 2)).tolist()
    preparation = Resnet(size=112)
    for height, width in sides:
        image = picture(height, width)
        expected = reference.center_crop(reference.resize(image, [128], antialias=True), [112, 112])
        assert torch.equal(preparation.evaluate(image), expected), (height, width)


@pytest.mark.parametrize("name", PREPARATIONS)
def test_training_crops_are_torchvisions_to_the_bit(name: str) -> None:
    preparation, image = PREPARATIONS[name](), picture(375, 500)
    flips = 0
    for numbers in random_numbers(1, 0, 20):
        box = random_box(375, 500, numbers)
        expected = reference.resized_crop(image, *box, [preparation.size] * 2, antialias=True)
        found = preparation.train(image, numbers)
        flips += not torch.equal(found, expected)
        assert torch.equal(found, expected) or torch.equal(found, expected.flip(-1))
    assert 4 <= flips <= 16


@pytest.mark.parametrize("name", PREPARATIONS)
@pytest.mark.parametrize("final_size", [None, 20])
@pytest.mark.parametrize("sides", [(90, 70), (48, 48), (30, 41)], ids=str)
def test_pictures_written_into_given_memory_are_the_same(
    name: str, final_size: int | None, sides: tuple[int, int]
) -> None:
    preparation, image = PREPARATIONS[name](size=48, final_size=final_size), picture(*sides)
    memory = torch.zeros(2, preparation.side, preparation.side, 3, dtype=torch.uint8)
    out = memory[1].permute(2, 0, 1)
    for numbers in random_numbers(1, 0, 8):
        assert preparation.train(image, numbers, out).data_ptr() == memory[1].data_ptr()
        assert torch.equal(out, preparation.train(image, numbers))
    assert preparation.evaluate(image, out).data_ptr() == memory[1].data_ptr()
    assert torch.equal(out, preparation.evaluate(image))
    assert not memory[0].any()


def test_a_box_of_the_images_own_size_is_left_as_it_is() -> None:
    image = picture(30, 20)
    assert torch.equal(resized(image, 30, 20), image)


@pytest.mark.parametrize("name", PREPARATIONS)
def test_a_batch_is_finished_as_each_image_would_be(name: str) -> None:
    preparation = PREPARATIONS[name](size=32)
    images = torch.stack([picture(32, 32, seed) for seed in range(11)])
    colours = torch.tensor([preparation.colours(numbers) for numbers in random_numbers(1, 0, 11)])
    for some in (colours, None):
        batch = torch.empty(11, 3, 32, 32)
        preparation.finish(images, some, batch)
        for place in range(11):
            alone = torch.empty(1, 3, 32, 32)
            preparation.finish(images[place, None], None if some is None else some[place, None], alone)
            assert torch.equal(batch[place], alone[0])


def test_resnet_is_standardised_and_inception_within_one() -> None:
    images, out = picture(32, 32)[None], torch.empty(1, 3, 32, 32)
    Resnet(size=32).finish(images, None, out)
    expected = reference.normalize(images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(out, expected, atol=1e-5)
    Inception(size=32).finish(images, None, out)
    assert torch.allclose(out, images.float() / 127.5 - 1, atol=1e-6)


def test_colours_are_distorted_as_torchvision_does_with_each_images_own_factors() -> None:
    images = torch.stack([picture(24, 20, seed) for seed in range(8)]).float() / 255
    images[0, :, :4] = images[0, :1, :4]  # greys, which have no hue
    images[1, 0, :4] = images[1, 1, :4]  # two channels that are the highest, or the lowest
    numbers = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    found = images.clone()
    distort_colours(found, numbers)
    for image, distorted, (brightness, saturation, hue, contrast) in zip(
        images, found, (2 * numbers - 1).tolist(), strict=True
    ):
        expected = reference.adjust_brightness(image, 1 + BRIGHTNESS * brightness)
        expected = reference.adjust_saturation(expected, 1 + SATURATION * saturation)
        expected = reference.adjust_hue(expected, HUE * hue)
        expected = reference.adjust_contrast(expected, 1 + CONTRAST * contrast)
        assert torch.allclose(distorted, expected, atol=1e-4)
