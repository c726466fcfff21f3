"""JPEG decoded in batches on the device that trains: loader processes only read.

A chunk's bytes travel to the training process, which has nvJPEG decode them together and crops and resizes on the
device. What nvJPEG refuses (odd colour spaces, other formats, damaged files) is read again and decoded by the CPU, as
every image is with `decode: loaders`; so what cannot be read is counted and stood in for in the same way.

nvJPEG and the CPU's decoder round differently, and so do their resizing kernels: pixels differ by a step or so, and a
network should be evaluated as it was trained. On a CPU the path is the same with the CPU's decoder, to the bit; that
is how it is tested. It HAS NOT BEEN RUN on CUDA hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from aln.data.decoding import device_decoder, is_jpeg
from aln.data.loading import CHUNK, Bytes, Chunk, Preparer, Request
from aln.data.pictures import Decoded
from aln.errors import DataError

_IMAGE_BYTES = 2**17  # of an encoded image, about, and on the generous side


class DeviceDecoding(Preparer):
    """Loader processes read the images' bytes, the process that needs the batch has them decoded on its device."""

    @property
    def chunk_bytes(self) -> int:
        return CHUNK * _IMAGE_BYTES

    def require(self, device: torch.device) -> None:
        if device_decoder(device) is None:
            raise DataError(f"decode = 'device': torchvision decodes no JPEG on {device}, expected 'loaders'")

    def load(self, request: Request, out: Tensor) -> Chunk:
        part = self.parts[request.split]
        assert isinstance(part.pictures, Decoded)
        contents = []
        for index in part.members[request.places].tolist():
            try:
                contents.append(part.pictures.records.read(index))
            except DataError:
                contents.append(b"")  # `landed` meets the same error, and says so
        content = torch.frombuffer(bytearray(b"".join((*contents, b"\0"))), dtype=torch.uint8)  # which may not be empty
        encoded = Bytes(request, content, [len(image) for image in contents])
        nothing = torch.empty(0, dtype=torch.int64)
        return Chunk(out[:0], nothing, nothing, [], encoded)

    def landed(self, chunk: Chunk, device: torch.device) -> Chunk:
        assert chunk.encoded is not None
        if device.type != "cuda":
            device = torch.device("cpu")
        request, content, lengths = chunk.encoded
        images = content.split([*lengths, 1])[:-1]
        out = torch.empty(super().chunk_shape, dtype=torch.uint8, device=device)
        return self.prepare(request, out, decoded(images, device))

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        return (0,)


def decoded(encoded: Sequence[Tensor], device: torch.device) -> list[Tensor | None]:
    """The images [3, H, W] on the device; None for each that its decoder refuses.

    Args:
        encoded: bytes of each, [n] uint8 on the CPU.
    """
    decoder = device_decoder(device)
    assert decoder is not None
    images: list[Tensor | None] = [None] * len(encoded)
    places = [place for place, image in enumerate(encoded) if is_jpeg(image)]
    for place, image in zip(places, _accepted(decoder, [encoded[place] for place in places]), strict=True):
        images[place] = image
    return images


def _accepted(decoder: Callable[[Sequence[Tensor]], list[Tensor]], encoded: list[Tensor]) -> Sequence[Tensor | None]:
    """All at once; where one is refused, which refuses all, each by itself."""
    try:
        return decoder(encoded) if encoded else []
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return [None] if len(encoded) == 1 else [_accepted(decoder, [image])[0] for image in encoded]
