"""Small data sets in the published formats, written by the tests themselves."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850")
COUNTS = {"train": 30, "val": 9}


def jpeg(seed: int, size: tuple[int, int] = (40, 32), mode: str = "RGB") -> bytes:
    """A smooth picture that no other seed gives, whose mean brightness tells its class (seed mod 3) from others."""
    rng = np.random.RandomState(seed)
    low = rng.randint(0, 64, (4, 4, 3)) + 90 * (seed % 3)
    image = Image.fromarray(low.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def examples(split: str) -> list[tuple[bytes, int]]:
    """Images and labels of a split, class by class."""
    first = {"train": 0, "val": 1000}[split]
    numbers = sorted(range(first, first + COUNTS[split]), key=lambda seed: seed % 3)
    return [(jpeg(seed), seed % 3) for seed in numbers]


def write_folders(root: Path) -> Path:
    """`train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`."""
    for split in COUNTS:
        for number, (image, label) in enumerate(examples(split)):
            path = root / split / CLASSES[label] / f"{CLASSES[label]}_{number:04}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    return root


def write_tars(root: Path) -> Path:
    """Two tar files a split, in WebDataset's naming."""
    root.mkdir()
    for split in COUNTS:
        for shard in range(2):
            with tarfile.open(root / f"{split}-{shard:06}.tar", "w") as archive:
                for number, (image, label) in list(enumerate(examples(split)))[shard::2]:
                    for kind, content in (("jpg", image), ("cls", str(label).encode())):
                        member = tarfile.TarInfo(f"{number:05}.{kind}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    return root


_WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
import tensorflow as tf
from image_files import COUNTS, examples
for split, name in (("train", "train"), ("val", "validation")):
    for shard in range(2):
        with tf.io.TFRecordWriter(f"{sys.argv[1]}/{name}-{shard:05}-of-00002") as writer:
            for image, label in examples(split)[shard::2]:
                feature = {
                    "images": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                    "labels": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                    "weight": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
"""


def write_tfrecords(root: Path) -> Path:
    """Two files a split, by TensorFlow's own writer, in a process of its own."""
    root.mkdir()
    command = [sys.executable, "-c", _WRITER, str(root), str(Path(__file__).parent)]
    subprocess.run(command, check=True, capture_output=True)
    return root
