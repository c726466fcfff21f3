"""From encoded bytes to pixels: JPEG by torchvision's decoder, whatever else Pillow reads by Pillow."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from aln.errors import DataError

_JPEG = b"\xff\xd8"
_RGB = 3  # torchvision.io.ImageReadMode.RGB


@functools.cache
def _decoder() -> Callable[[Tensor, int, bool], Tensor] | None:
    """torchvision's operator that decodes JPEG, imported where the first is decoded; None where it is gone.

    The operator itself, since from torchvision 0.29 on the function around it warns at every call that it will go.
    (TorchCodec, which replaces it, turns images as their EXIF data say; the field, and so every published accuracy,
    does not.)
    """
    import torchvision  # noqa: F401 (brings the operator)

    found: Callable[[Tensor, int, bool], Tensor] | None = getattr(torch.ops.image, "decode_jpeg", None)
    return found


def decode(data: bytes) -> Tensor:
    """The image as [3, H, W] uint8 in RGB: grey is repeated, alpha dropped, 16 bits cut to 8, EXIF's turns ignored.

    In memory its pixels lie one after the other (channels last). Raises `DataError` if the bytes are no whole image.
    """
    if data.startswith(_JPEG) and (decoder := _decoder()) is not None:
        try:
            return decoder(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, False)
        except RuntimeError:
            pass  # Pillow reads some rare kinds more, and says what is wrong
    return _decode_with_pillow(data)


def device_decoder(device: torch.device) -> Callable[[Sequence[Tensor]], list[Tensor]] | None:
    """What decodes several JPEG at once, each given as bytes [n] (uint8, on the CPU), to [3, H, W] on the device.

    By nvJPEG on CUDA; elsewhere it is the CPU's decoder, one after the other. None where torchvision offers none. It
    raises `RuntimeError` for all of them if it refuses one.
    """
    one_by_one = _decoder()
    if device.type == "cuda":
        nvjpeg = getattr(torch.ops.image, "decode_jpegs_cuda", None)
        return nvjpeg and (lambda encoded: nvjpeg(list(encoded), _RGB, device))
    return one_by_one and (lambda encoded: [one_by_one(image, _RGB, False) for image in encoded])


def is_jpeg(data: Tensor) -> bool:
    """Whether the bytes [n] begin as JPEG do."""
    return bytes(data[:2].tolist()) == _JPEG


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
