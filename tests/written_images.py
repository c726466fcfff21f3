"""Writes data sets of a few small JPEG images in the formats in which ImageNet is handed round."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow, the extra `tensorflow`, is not installed"
)

# An image and its class.
Labelled = tuple[bytes, int]


def jpeg(seed: int, size: tuple[int, int] = (40, 32), mode: str = "RGB") -> bytes:
    """A smooth picture that no other seed gives, whose mean brightness tells its class (seed mod 3) from others."""
    rng = np.random.RandomState(seed)
    low = rng.randint(0, 64, (4, 4, 3)) + 90 * (seed % 3)
    image = Image.fromarray(low.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def images(count: int, num_classes: int, seed: int = 0) -> list[Labelled]:
    """So many different images, of each class in turn; of three, a network can tell them if `seed` is a multiple."""
    return [(jpeg(seed + k), k % num_classes) for k in range(count)]


TENSORFLOW_WRITER = """
import base64, json, sys
import tensorflow as tf

def feature(value):
    if isinstance(value, str):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[base64.b64decode(value)]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value if isinstance(value, list) else [value]))

for path, records in json.load(sys.stdin).items():
    with tf.io.TFRecordWriter(path, options="GZIP" if path.endswith("gz") else None) as writer:
        for record in records:
            if isinstance(record, str):
                writer.write(base64.b64decode(record))
                continue
            features = tf.train.Features(feature={key: feature(value) for key, value in record.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())
"""


def write_tfrecords(files: Mapping[Path, Sequence[bytes | dict[str, object]]]) -> None:
    """Lets TensorFlow write records: bytes, or Examples of bytes, fractions, whole numbers or lists of them."""

    def encoded(value: object) -> object:
        if isinstance(value, dict):
            return {key: encoded(feature) for key, feature in value.items()}
        return base64.b64encode(value).decode() if isinstance(value, bytes) else value

    content = {str(path): [encoded(record) for record in records] for path, records in files.items()}
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", TENSORFLOW_WRITER]
    done = subprocess.run(
        command, input=json.dumps(content), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def as_members(labelled: list[Labelled]) -> dict[str, bytes]:
    """Images in WebDataset's naming."""
    return {
        name: content
        for k, (image, label) in enumerate(labelled)
        for name, content in ((f"{k:06}.jpg", image), (f"{k:06}.cls", str(label).encode()))
    }


def write_folders(root: Path, labelled: list[Labelled], classes: list[str]) -> None:
    """Images in a folder for each class."""
    for k, (image, label) in enumerate(labelled):
        path = root / classes[label] / f"{classes[label]}_{k}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
