"""CIFAR and MNIST, on small files in their published formats."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aln.data import Share, cifar10, cifar100, mnist
from aln.errors import DataError


def pictures(n: int, seed: int, channels: int = 3, size: int = 32) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (n, channels, size, size)).astype(np.uint8)


def write_cifar10(root: Path) -> dict[str, np.ndarray]:
    """Five files of 10 images and a test file of 6; returns the images by file."""
    root.mkdir(parents=True)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    held = {}
    for seed, name in enumerate(names):
        images = pictures(6 if name == "test_batch" else 10, seed)
        labels = (np.arange(len(images)) % 10).astype(np.uint8)
        (root / f"{name}.bin").write_bytes(
            np.concatenate([labels[:, None], images.reshape(len(images), -1)], 1).tobytes()
        )
        held[name] = images
    return held


def write_mnist(root: Path, packed: bool) -> None:
    root.mkdir(parents=True)
    for seed, (name, n) in enumerate((("train", 40), ("t10k", 7))):
        images = pictures(n, seed, 1, 28)
        files = {
            f"{name}-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, n, 28, 28) + images.tobytes(),
            f"{name}-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(i % 10 for i in range(n)),
        }
        for file, content in files.items():
            path = root / (f"{file}.gz" if packed else file)
            path.write_bytes(gzip.compress(content) if packed else content)


def test_cifar10_is_read_whole_and_standardised_by_the_images_that_are_trained_on(tmp_path: Path) -> None:
    held = write_cifar10(tmp_path / "cifar-10-batches-bin")
    source = cifar10(root=str(tmp_path), holdout=10, shift=0, flip=False)
    assert source.input_shape == (3, 32, 32)
    ((images, labels),) = source.batches("test", 64)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    mean, deviation = source.standard  # type: ignore[misc]
    raw = images * deviation[:, None, None] + mean[:, None, None]
    torch.testing.assert_close(raw.round(), torch.from_numpy(held["test_batch"]).float())
    (whole,) = [images for images, _ in source.train_batches(40, 0)]
    torch.testing.assert_close(whole.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    _, held_out = next(source.batches("validation", 64))
    assert torch.bincount(held_out, minlength=10).tolist() == [1] * 10


def test_images_are_mirrored_and_moved_as_the_seed_says_whoever_holds_them(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "c")
    plain = cifar10(root=str(tmp_path / "c"), holdout=10, shift=0, flip=False)
    flipped = cifar10(root=str(tmp_path / "c"), holdout=10, shift=0, flip=True)
    (before,), (after,) = ([images for images, _ in source.train_batches(40, 3)] for source in (plain, flipped))
    turned = [bool(torch.equal(a, b.flip(-1))) for a, b in zip(before, after, strict=True)]
    kept = [bool(torch.equal(a, b)) for a, b in zip(before, after, strict=True)]
    assert all(a != b for a, b in zip(turned, kept, strict=True))
    assert 8 < sum(turned) < 32
    full = cifar10(root=str(tmp_path / "c"), holdout=10)
    (whole,) = [images for images, _ in full.train_batches(40, 3)]
    halves = [images for rank in range(2) for images, _ in full.train_batches(40, 3, share=Share(rank, 2))]
    assert torch.equal(whole, torch.cat(halves))


def test_cifar100_takes_the_fine_class(tmp_path: Path) -> None:
    for name, n in (("train", 200), ("test", 5)):
        labels = np.stack([np.full(n, 7), np.arange(n) % 100], 1).astype(np.uint8)
        (tmp_path / f"{name}.bin").write_bytes(np.concatenate([labels, pictures(n, 0).reshape(n, -1)], 1).tobytes())
    ((_, labels),) = cifar100(root=str(tmp_path), holdout=100).batches("test", 64)
    assert labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_as_it_is_or_packed(tmp_path: Path, packed: bool) -> None:
    write_mnist(tmp_path / "m", packed)
    source = mnist(root=str(tmp_path / "m"), holdout=10)
    assert source.input_shape == (1, 28, 28)
    assert source.steps_per_epoch(10) == 3
    ((images, labels),) = source.batches("test", 64)
    assert images.dtype == torch.float32
    assert labels.tolist() == list(range(7))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: cut(root / "data_batch_3.bin"), r"data_batch_3\.bin has 30727 bytes, expected records of 3073"),
        (lambda root: (root / "data_batch_2.bin").unlink(), r"data_batch_2\.bin is missing"),
        (
            lambda root: (root / "data_batch_1.bin").write_bytes(b"\x0b" + bytes(3072)),
            r"record 0: the label is 11, expect",
        ),
        (
            lambda root: root.rename(root.parent / "d") and root.mkdir(),
            "expected test_batch.bin in it, or in cifar-10-batch",
        ),
    ],
)
def test_files_that_are_missing_cut_off_or_others_are_named(tmp_path: Path, spoil: Any, message: str) -> None:
    write_cifar10(tmp_path / "c")
    spoil(tmp_path / "c")
    with pytest.raises(DataError, match=message):
        cifar10(root=str(tmp_path / "c"), holdout=10)


def test_damaged_mnist_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path / "m", packed=False)
    cut(tmp_path / "m/t10k-images-idx3-ubyte")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte holds 5485 bytes, expected 5488"):
        mnist(root=str(tmp_path / "m"), holdout=10)
    write_mnist(tmp_path / "z", packed=True)
    cut(tmp_path / "z/train-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz cannot be unpacked"):
        mnist(root=str(tmp_path / "z"), holdout=10)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match="the Python version is pickles, take the binary version"):
        cifar10(root=str(tmp_path))


@pytest.mark.parametrize("options", [{"holdout": 0}, {"holdout": 50}, {"holdout": 5, "shift": 32}])
def test_options_out_of_bounds_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    write_cifar10(tmp_path / "c")
    with pytest.raises(DataError, match=r"(holdout|shift) = .*expected"):
        cifar10(root=str(tmp_path / "c"), **options)
