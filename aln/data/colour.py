"""Colour distortion of a whole batch at once, each image by factors of its own.

The four operations are torchvision's `adjust_brightness`, `adjust_saturation`, `adjust_hue` and `adjust_contrast` on
float images, which take one factor for all images of a batch.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# Reach of the factors, and their order, as in the preparation of TensorFlow's Inception.
BRIGHTNESS, SATURATION, HUE, CONTRAST = 32 / 255, 0.5, 0.2, 0.5
_GREY = (0.2989, 0.587, 0.114)


def distort_colours(images: Tensor, numbers: Tensor) -> None:
    """Changes brightness, saturation, hue and contrast of images [N, 3, H, W], values in [0, 1], in place.

    Args:
        numbers: [N, 4], uniform on [0, 1), from which the four factors of each image are made.
    """
    signed = (2 * numbers.to(images.device, images.dtype) - 1)[:, :, None, None, None]
    brightness, saturation, hue, contrast = signed.unbind(1)
    images.mul_(1 + BRIGHTNESS * brightness).clamp_(0, 1)
    _blend(images, _grey(images), 1 + SATURATION * saturation)
    _turn_hue(images, HUE * hue)
    _blend(images, _grey(images).mean((2, 3), keepdim=True), 1 + CONTRAST * contrast)


@functools.lru_cache(maxsize=64)
def of_channels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number for each channel, [C, 1, 1]; kept, since a GPU would have to be waited for to get it."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


def _grey(images: Tensor) -> Tensor:
    return (images * of_channels(_GREY, images.dtype, images.device)).sum(1, keepdim=True)


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> None:
    """factor · images + (1 − factor) · others, in place, within [0, 1]."""
    images.mul_(factor).add_((1 - factor) * others).clamp_(0, 1)


def _turn_hue(images: Tensor, turns: Tensor) -> None:
    """Turns the hue in HSV space, value and saturation kept; one turn is the whole circle.

    A channel is the value less the chroma times a trapezoid of the hue, for each channel at another place.
    """
    value = images.amax(1, keepdim=True)
    # Not argmax over channels, which takes eight times all else.
    is_red, is_green = images[:, :1] == value, images[:, 1:2] == value
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = (channel[:, None] / chroma.clamp_min(1e-12) for channel in images.unbind(1))
    sixths = torch.where(is_red, green - blue, torch.where(is_green, blue - red + 2, red - green + 4))
    sixths += 6 * turns
    for channel, offset in enumerate((5, 3, 1)):
        place = (sixths + offset).remainder(6)
        part = torch.minimum(place, 4 - place).clamp_(0, 1)
        images[:, channel : channel + 1] = value - chroma * part
