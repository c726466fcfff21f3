"""The ways in which ImageNet, and any data set like it, lies on a disk, told apart by what is there.

- `folders`: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`.
- `tfrecords`: `train-00000-of-01024`, …, `validation-00000-of-00128`, …: Examples with an image and its class.
- `webdataset`: `train-000000.tar`, …, `val-000000.tar`, …: tar files in WebDataset's naming.

The second split may be called `val` or `validation` in each; files lie in the root, or in folders of the splits' names.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from aln.data.class_folders import ClassFolders
from aln.data.index import Scanner, indexed
from aln.data.mirror import open_root
from aln.data.packed import PackedRecords
from aln.data.records import Records
from aln.data.roots import Root
from aln.data.shards import WORDS, find_shards, shard_problems
from aln.data.tar_shards import scan_tar
from aln.data.tfrecords import scan_tfrecords
from aln.errors import DataError

Layout = Literal["folders", "tfrecords", "webdataset"]
_SUFFIXES: dict[Layout, str] = {"tfrecords": r"(?:\.tfrecords?)?", "webdataset": r"\.tar"}
_EXPECTED = (
    "expected folders train and val with a folder for each class, or TFRecords train-00000-of-01024 and "
    "validation-00000-of-00128, or tar files train-000000.tar and val-000000.tar"
)


@dataclass(frozen=True)
class LabelledImages:
    """The two parts in which a data set is published, of the same classes, numbered from 0."""

    train: Records
    validation: Records
    num_classes: int


def open_images(
    root: str | Path,
    *,
    layout: Layout | None = None,
    image_key: str = "images",
    label_key: str = "labels",
    first_label: int = 0,
) -> LabelledImages:
    """The data set under `root`, in whichever layout it is, or the one that is named.

    Args:
        root: a folder, or s3://bucket/folder or gs://bucket/folder, of which a copy is made (`aln.data.mirror`).
        image_key, label_key: the features of TFRecords that hold image and class.
        first_label: from which number classes count in TFRecords and tar files.

    Raises `DataError` with a line for each thing that is wrong: a split, a class or a file that is missing, a file that
    is empty, cut off or damaged, classes that differ between the splits. `StorageError` if a store cannot be used.
    """
    place = open_root(root)
    found = [layout] if layout else recognised(place)
    if len(found) != 1:
        there = " and ".join(found) or _shown(place) or "nothing"
        raise DataError(f"{place.address} holds {there}: {'say which, with layout' if found else _EXPECTED}")
    if found[0] == "folders":
        return _class_folders(place)
    scanner = Scanner("tar 1", scan_tar)
    if found[0] == "tfrecords":
        scan = functools.partial(scan_tfrecords, image_key=image_key, label_key=label_key)
        scanner = Scanner(f"tfrecords 1 {image_key} {label_key}", scan)
    return _packed(place, _SUFFIXES[found[0]], scanner, first_label)


def recognised(root: Root) -> list[Layout]:
    """The layouts of which something is under `root`."""
    found: list[Layout] = []
    if any(_class_names(root, word) for words in WORDS.values() for word in words):
        found.append("folders")
    for layout, suffix in _SUFFIXES.items():
        if any(find_shards(root, split, suffix) for split in WORDS):
            found.append(layout)
    return found


def _class_names(root: Root, folder: str) -> list[str]:
    return [name for name in root.listing(folder, looked_at=False).folders if name[0] != "."]


def _shown(root: Root) -> str:
    """A few of the names in the root."""
    listing = root.listing(looked_at=False)
    return ", ".join(sorted([*listing.folders, *(file.name for file in listing.files)])[:5])


def _class_folders(root: Root) -> LabelledImages:
    problems: list[str] = []
    parts: dict[str, ClassFolders] = {}
    folders = root.listing(looked_at=False).folders
    for split, words in WORDS.items():
        there = [word for word in words if word in folders]
        if len(there) != 1:
            names = " or ".join(map(str, words))
            problems.append(
                f"{root.address} holds {' and '.join(there) or 'no folder ' + names}, expected one for {split}"
            )
            continue
        try:
            parts[split] = ClassFolders.scan(root, there[0])
        except DataError as error:
            problems.append(str(error))
    if len(parts) == len(WORDS):
        train, validation = (set(parts[split].classes) for split in WORDS)
        for missing, where in ((train - validation, "validation"), (validation - train, "training")):
            if missing:
                shown = ", ".join(sorted(missing)[:5]) + (", …" if len(missing) > 5 else "")
                problems.append(
                    f"{root.address}: no folder among the {where} images for {len(missing)} classes: {shown}"
                )
    if problems:
        raise DataError("\n".join(problems))
    root.expect([file for part in parts.values() for file in part.files()])
    return LabelledImages(parts["train"], parts["validation"], len(parts["train"].classes))


def _packed(root: Root, suffix: str, scanner: Scanner, first_label: int) -> LabelledImages:
    shards = {split: find_shards(root, split, suffix) for split in WORDS}
    problems = [problem for split, files in shards.items() for problem in shard_problems(root, split, files)]
    if problems:
        raise DataError("\n".join(problems))
    root.expect([shard.file for files in shards.values() for shard in files])
    parts: dict[str, PackedRecords] = {}
    for split, files in shards.items():
        try:
            parts[split] = indexed(root, [shard.file for shard in files], scanner).counted_from(first_label)
        except DataError as error:
            problems.append(str(error))
    if "train" in parts:
        # As many classes as there are different ones: if they count from 0 without a gap, all are below.
        num_classes = len(np.unique(parts["train"].labels))
        problems += [line for split, part in parts.items() for line in _label_problems(split, part, num_classes)]
    if problems:
        raise DataError("\n".join(problems))
    return LabelledImages(parts["train"], parts["validation"], num_classes)


def _label_problems(split: str, records: PackedRecords, num_classes: int) -> list[str]:
    wrong = np.flatnonzero((records.labels < 0) | (records.labels >= num_classes))
    if not len(wrong):
        return []
    label = records.labels[wrong[0]]
    advice = "; where classes count from 1, set first_label: 1" if label == num_classes else ""
    return [
        f"{len(wrong)} {split} images have a class outside 0 to {num_classes - 1} (the training images are of "
        f"{num_classes} classes){advice}; the first: class {label}, {records.name(int(wrong[0]))}"
    ]
