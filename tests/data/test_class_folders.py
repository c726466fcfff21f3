"""Images in a folder for each class."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from aln.data.class_folders import ClassFolders
from aln.data.roots import Disk
from aln.errors import DataError
from written_images import images, write_folders

CLASSES = ["n01440764", "n01443537", "n01484850"]
IMAGES = images(7, num_classes=3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folders(tmp_path / "train", IMAGES, CLASSES)
    return tmp_path / "train"


def test_images_are_sorted_by_class_and_name(root: Path) -> None:
    records = ClassFolders.scan(Disk(root))
    expected = sorted(IMAGES, key=lambda pair: pair[1])
    assert records.classes == tuple(CLASSES)
    assert records.labels.dtype == np.int64
    assert [(records.read(k), int(records.labels[k])) for k in range(len(records))] == expected
    assert records.name(3) == str(root / "n01443537" / "n01443537_1.JPEG")


def test_other_files_hidden_ones_and_loose_ones_are_passed_over(root: Path) -> None:
    before = len(ClassFolders.scan(Disk(root)))
    for name in ("README.txt", "n01440764/Thumbs.db", "n01440764/._x.jpg", "n01440764/a.jpg.part", ".trash/x.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "n01440764" / "UPPER.PNG").write_bytes(b"x")
    records = ClassFolders.scan(Disk(root))
    assert len(records) == before + 1
    assert [name for name in map(records.name, range(before + 1)) if name.endswith("UPPER.PNG")]


def test_names_of_any_kind_are_found_again(tmp_path: Path) -> None:
    names = ["ünï cödé.jpg", "a" * 200 + ".jpg", os.fsdecode(b"\xff.jpg"), "ab.jpg", "a.jpg"]
    (tmp_path / "class").mkdir()
    for name in names:
        (tmp_path / "class" / name).write_bytes(os.fsencode(name))
    records = pickle.loads(pickle.dumps(ClassFolders.scan(Disk(tmp_path))))
    assert sorted(os.fsdecode(records.read(k)) for k in range(5)) == sorted(names)
    assert all(os.fsencode(records.name(k)).endswith(records.read(k)) for k in range(5))


def test_all_classes_without_images_are_named_at_once(root: Path) -> None:
    (root / "n9").mkdir()
    (root / "n8").mkdir()
    with pytest.raises(DataError, match=rf"^{root}/n8 holds no images\n{root}/n9 holds no images$"):
        ClassFolders.scan(Disk(root))


def test_a_folder_of_loose_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"x")
    with pytest.raises(DataError, match=rf"{tmp_path} holds no folders, expected one for each class"):
        ClassFolders.scan(Disk(tmp_path))


def test_images_that_are_empty_or_gone_are_named(root: Path) -> None:
    records = ClassFolders.scan(Disk(root))
    os.truncate(records.name(2), 0)
    Path(records.name(4)).unlink()
    with pytest.raises(DataError, match=rf"^{records.name(2)} is empty$"):
        records.read(2)
    with pytest.raises(DataError, match=rf"^{records.name(4)} cannot be read: No such file"):
        records.read(4)


def test_the_fingerprint_follows_names_and_times_of_folders(root: Path) -> None:
    first = ClassFolders.scan(Disk(root)).fingerprint()
    assert ClassFolders.scan(Disk(root)).fingerprint() == first
    image = root / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    image.rename(image.with_name("x.jpg"))
    second = ClassFolders.scan(Disk(root)).fingerprint()
    os.utime(root / CLASSES[1], ns=(1, 1))
    assert len({first, second, ClassFolders.scan(Disk(root)).fingerprint()}) == 3
