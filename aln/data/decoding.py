"""From encoded bytes to pixels: JPEG by torchvision's decoder, whatever else Pillow reads by Pillow."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
import torchvision  # noqa: F401  # brings torch.ops.image
from torch import Tensor

from aln.errors import DataError

_JPEG = b"\xff\xd8"
_RGB = 3  # torchvision.io.ImageReadMode.RGB

# The operators themselves: since torchvision 0.29 the functions around them warn at every call that they will go. Where
# they have gone, Pillow decodes. (TorchCodec, which replaces them, turns images as their EXIF data say; the field, and
# so every published accuracy, does not.)
_decode_jpeg = getattr(torch.ops.image, "decode_jpeg", None)
_decode_jpegs_cuda = getattr(torch.ops.image, "decode_jpegs_cuda", None)


def decode(data: bytes) -> Tensor:
    """The image as [3, H, W] uint8 in RGB: grey is repeated, alpha dropped, 16 bits cut to 8, EXIF's turns ignored.

    In memory its pixels lie one after the other (channels last). Raises `DataError` if the bytes are no whole image.
    """
    if _decode_jpeg is not None and data.startswith(_JPEG):
        try:
            image: Tensor = _decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, False)
            return image
        except RuntimeError:
            pass  # Pillow reads some rare kinds more, and says what is wrong
    return _decode_with_pillow(data)


def _decode_with_pillow(data: bytes) -> Tensor:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which nobody reads
            image = Image.open(io.BytesIO(data))
            pixels = np.array(image if image.mode.startswith("I") else image.convert("RGB"))
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise DataError(f"cannot be decoded: {error}") from error
    if pixels.ndim == 2:  # 16 bits, grey
        pixels = np.repeat((pixels >> 8).clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def dimensions(data: bytes) -> tuple[int, int]:
    """Height and width, from the header alone. Raises `DataError` if there is none."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            width, height = Image.open(io.BytesIO(data)).size
    except Exception as error:
        raise DataError(f"cannot be decoded: {error}") from error
    return height, width


def decodes_on(device: torch.device) -> bool:
    """Whether the device decodes JPEG itself (CUDA's nvJPEG, in a torchvision that was built with it)."""
    if device.type != "cuda" or _decode_jpegs_cuda is None:
        return False
    try:
        decode_on([_tiny_jpeg()], device)
    except DataError:
        return False
    return True


def decode_on(jpegs: list[Tensor], device: torch.device) -> list[Tensor]:
    """The images, [3, H, W] uint8 on the device, of JPEG files [bytes] on the CPU, decoded there all at once.

    Raises `DataError` if it cannot decode one of them, without saying which.
    """
    assert _decode_jpegs_cuda is not None
    try:
        images: list[Tensor] = _decode_jpegs_cuda(jpegs, _RGB, device)
    except RuntimeError as error:
        raise DataError(f"cannot be decoded on {device}: {error}") from error
    return images


def _tiny_jpeg() -> Tensor:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "jpeg")
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
