"""Photograph-like JPEG made on the spot, in the three layouts that `aln.data` reads."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import google_crc32c
import numpy as np
from PIL import Image

CLASSES = 8
# How fine the noise is (cells across the image) and how strong: about as much detail, and as many bytes a pixel, as
# ImageNet's photographs have.
_LAYERS = ((4, 60), (16, 40), (64, 28), (160, 24), (400, 26))


def jpeg(seed: int) -> bytes:
    """An image of 350 to 375 by 400 to 500 pixels, about 100 kB, quality 92, colours at half the resolution."""
    random = np.random.RandomState(seed)
    width, height = int(random.randint(400, 501)), int(random.randint(350, 376))
    pixels = np.full((height, width, 3), 128, np.float32)
    for cells, strength in _LAYERS:
        noise = random.randint(0, 256, (max(2, cells * height // width), cells, 3)).astype(np.uint8)
        smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        pixels += strength * (np.asarray(smooth, np.float32) / 127.5 - 1)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92, subsampling="4:2:0")
    return file.getvalue()


def write(root: Path, images: list[bytes]) -> dict[str, Path]:
    """The same images as both splits, in each layout; the folder of each."""
    for split in ("train", "val"):
        for number, image in enumerate(images):
            path = root / "folders" / split / f"class{number % CLASSES}" / f"{number:05}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        _write_tar(root / "webdataset" / f"{split}-000000.tar", images)
    for name in ("train", "validation"):
        _write_records(root / "tfrecords" / f"{name}-00000-of-00001", images)
    return {name: root / name for name in ("folders", "webdataset", "tfrecords")}


def _write_tar(path: Path, images: list[bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, image in enumerate(images):
            for kind, content in (("jpg", image), ("cls", str(number % CLASSES).encode())):
                member = tarfile.TarInfo(f"{number:05}.{kind}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _write_records(path: Path, images: list[bytes]) -> None:
    """TFRecords of Examples with `images` and `labels`, by the formats' definitions (see `aln.data.tfrecords`)."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for number, image in enumerate(images):
            features = {
                "images": _field(1, _field(1, image)),
                "labels": _field(3, _field(1, bytes([number % CLASSES]))),
            }
            entries = (_field(1, name.encode()) + _field(2, value) for name, value in features.items())
            message = _field(1, b"".join(_field(1, entry) for entry in entries))
            length = struct.pack("<Q", len(message))
            file.write(length + _checksum(length) + message + _checksum(message))


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds so many bytes."""
    size, length = len(content), []
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


def _checksum(content: bytes) -> bytes:
    value = google_crc32c.value(content)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
