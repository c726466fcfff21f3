"""From a decoded image to what a network takes: random and central crops, colour distortion, normalisation.

Images are cropped and resized as uint8 on the CPU, one by one (`train`, `evaluate`); what is the same arithmetic for
all of them happens once a batch, where the network is (`finish`). Resizing is bilinear with antialiasing, throughout.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from aln.data.colour import distort_colours, of_channels
from aln.errors import DataError

# Part of the area, and width over height, of random crops (Szegedy et al. 2015, arXiv 1409.4842, section 6).
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
_TRIES = 10
_NUMBERS = 4 * _TRIES + 1 + 4  # boxes, flip, colours
_COUNTS = -(-_NUMBERS // 4)  # Philox gives four numbers a count
# So many images are finished at a time on a CPU: what is made on the way stays in its cache, leaves the loaders theirs,
# and needs no fresh memory, whose pages cost more than the arithmetic.
_AT_ONCE = 2


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_numbers(seed: int, first: int, examples: int) -> list[list[float]]:
    """What the augmentation of examples in a row is drawn from: for each, numbers uniform on [0, 1).

    They are a function of the seed and of the example's position in the epoch (`first` and on): the generator counts
    (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), and every position has counts of its own.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=first * _COUNTS))
    numbers: list[list[float]] = generator.random((examples, 4 * _COUNTS))[:, :_NUMBERS].tolist()
    return numbers


def random_box(height: int, width: int, numbers: Sequence[float]) -> Box:
    """A box of random area and aspect, uniform in place: the first of ten draws that fits into the image.

    If none fits, the largest central box whose aspect is within bounds. The distribution is that of torchvision's
    `RandomResizedCrop`.
    """
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for k in range(0, 4 * _TRIES, 4):
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * numbers[k])
        aspect = math.exp(low + (high - low) * numbers[k + 1])
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return Box(int(numbers[k + 2] * (height - h + 1)), int(numbers[k + 3] * (width - w + 1)), h, w)
    h = min(height, max(1, round(width / ASPECT[0]))) if width < ASPECT[0] * height else height
    w = min(width, max(1, round(height * ASPECT[1]))) if width > ASPECT[1] * height else width
    return Box((height - h) // 2, (width - w) // 2, h, w)


def resized(image: Tensor, height: int, width: int, box: Box | None = None, out: Tensor | None = None) -> Tensor:
    """The image [C, H, W], or a box of it, resized; in `out`, where it is given.

    Gives torchvision's `resized_crop` to the bit. Its fast kernel takes only images that lie in memory pixel by pixel,
    without gaps; a copy of the box costs a tenth of what the other kernel does.
    """
    if box is not None:
        image = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
    if tuple(image.shape[1:]) == (height, width):
        return _into(image, out)
    packed = image[None].contiguous(memory_format=torch.channels_last)
    if packed.device.type != "cpu":
        if packed.dtype == torch.uint8:  # only the CPU resizes bytes
            packed = packed.float()
        scaled = interpolate(packed, (height, width), mode="bilinear", antialias=True)[0]
        return _into(scaled.round().to(image.dtype) if image.dtype == torch.uint8 else scaled, out)
    if out is None or out.device.type != "cpu":
        return _into(interpolate(packed, (height, width), mode="bilinear", antialias=True)[0], out)
    torch.ops.aten._upsample_bilinear2d_aa.out(packed, (height, width), False, out=out[None])
    return out


def _into(image: Tensor, out: Tensor | None) -> Tensor:
    return image if out is None or image is out else out.copy_(image)


def resized_centre(image: Tensor, height: int, width: int, size: int) -> Tensor:
    """The central square of side `size` of the image [C, H, W] once it is resized to [height, width].

    The same to the bit as resizing the whole, which it does but for what lies to the right of the square and below:
    that costs about 40 % less. (What is above and to the left has to stay, pixels' places count from that corner.)
    """
    top, left = (round((side - size) / 2) for side in (height, width))
    bottom, right = top + size, left + size
    rows, columns = _reach(image.shape[1], height, bottom), _reach(image.shape[2], width, right)
    if image.device.type != "cpu" or rows == bottom or columns == right:  # the kernel passes over equal sides
        return resized(image, height, width)[:, top:bottom, left:right]
    packed = image[None, :, :rows, :columns].contiguous(memory_format=torch.channels_last)
    scales = height / image.shape[1], width / image.shape[2]
    part: Tensor = torch.ops.aten._upsample_bilinear2d_aa(packed, (bottom, right), False, *scales)
    return part[0, :, top:, left:]


def _reach(pixels: int, resized_pixels: int, end: int) -> int:
    """How many of the first pixels along a side have a part in those before `end` once it is resized."""
    scale = pixels / resized_pixels
    return min(pixels, math.ceil((end - 0.5) * scale + max(scale, 1)) + 1)


def with_shortest_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of such an image once its shortest side is so long and its aspect kept (torchvision's)."""
    return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


@dataclass(frozen=True, kw_only=True)
class Preparation(ABC):
    """How images are prepared.

    Attributes:
        size: side of the square crop, in pixels.
        final_size: side to which the prepared square is resized; None leaves it.
    """

    size: int = 224
    final_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("size", "final_size"):
            value = getattr(self, name)
            if value is not None and not 8 <= value <= 4096:
                raise DataError(f"{name} = {value}: expected 8 to 4096 pixels")

    @property
    def side(self) -> int:
        """Side of the prepared square, in pixels."""
        return self.final_size or self.size

    @property
    @abstractmethod
    def stored_side(self) -> int:
        """The shortest side at which an image, stored, shows evaluation as many pixels as it looks at."""

    def train(self, image: Tensor, numbers: Sequence[float], out: Tensor | None = None) -> Tensor:
        """A random crop of the image [3, H, W], perhaps flipped; all uint8. In `out` [3, S, S], where it is given."""
        box, flipped = random_box(image.shape[1], image.shape[2], numbers), numbers[4 * _TRIES] < 0.5
        crop = resized(image, self.size, self.size, box, None if flipped or self.final_size else out)
        if self.final_size:
            crop = resized(crop, self.final_size, self.final_size)
        return _into(crop.flip(-1) if flipped else crop, out)

    def evaluate(self, image: Tensor, out: Tensor | None = None) -> Tensor:
        """The centre of the image [3, H, W]; all uint8. In `out` [3, S, S], where it is given."""
        if self.final_size:
            return resized(self._central(image, None), self.final_size, self.final_size, out=out)
        return _into(self._central(image, out), out)

    @abstractmethod
    def _central(self, image: Tensor, out: Tensor | None) -> Tensor:
        """The central square; in `out` if that is given and costs no copy."""

    def colours(self, numbers: Sequence[float]) -> list[float]:
        """What `finish` needs to distort a training image's colours, drawn from its random numbers."""
        return []

    def finish(self, images: Tensor, colours: Tensor | None, out: Tensor) -> None:
        """Writes the batch [N, 3, H, W], uint8, into `out` (float) as the network takes it.

        Args:
            colours: [N, …] of training images, see `colours`; None in evaluation.
        """
        step = _AT_ONCE if out.device.type == "cpu" else max(1, len(images))
        for first in range(0, len(images), step):
            some = slice(first, first + step)
            self._finish(images[some], None if colours is None else colours[some], out[some])

    @abstractmethod
    def _finish(self, images: Tensor, colours: Tensor | None, out: Tensor) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Resnet(Preparation):
    """`resnet`: standardised by ImageNet's mean and deviation; evaluation on the central square of an image whose
    shortest side is 256/224 times the square's (He et al. 2016, arXiv 1512.03385, section 3.4).
    """

    size: int = 224

    @property
    def stored_side(self) -> int:
        return round(self.size * 256 / 224)

    def _central(self, image: Tensor, out: Tensor | None) -> Tensor:
        height, width = with_shortest_side(image.shape[1], image.shape[2], self.stored_side)
        return resized_centre(image, height, width, self.size)

    def _finish(self, images: Tensor, colours: Tensor | None, out: Tensor) -> None:
        mean = of_channels((0.485, 0.456, 0.406), out.dtype, out.device)
        deviation = of_channels((0.229, 0.224, 0.225), out.dtype, out.device)
        out.copy_(images, non_blocking=True).mul_(1 / (255 * deviation)).sub_(mean / deviation)


@dataclass(frozen=True, kw_only=True)
class Inception(Preparation):
    """`inception`: colours of training images distorted, values scaled to [−1, 1]; evaluation on the central 87.5 % of
    height and width, resized to the square without keeping the aspect (the preparation of TensorFlow's Inception).
    """

    size: int = 299

    _FRACTION = 0.875

    @property
    def stored_side(self) -> int:
        return round(self.size / self._FRACTION)

    def _central(self, image: Tensor, out: Tensor | None) -> Tensor:
        height, width = image.shape[1:]
        top, left = (int(side * (1 - self._FRACTION) / 2) for side in (height, width))
        return resized(image, self.size, self.size, Box(top, left, height - 2 * top, width - 2 * left), out)

    def colours(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers[-4:])

    def _finish(self, images: Tensor, colours: Tensor | None, out: Tensor) -> None:
        out.copy_(images, non_blocking=True).div_(255)
        if colours is not None:
            distort_colours(out, colours)
        out.mul_(2).sub_(1)


PREPARATIONS: dict[str, type[Preparation]] = {"resnet": Resnet, "inception": Inception}
