"""The ways in which ImageNet, and any data set like it, lies on a disk, told apart by what is there.

- `folders`: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`.
- `tfrecords`: `train-00000-of-01024`, …, `validation-00000-of-00128`, …: Examples with an image and its class.
- `webdataset`: `train-000000.tar`, …, `val-000000.tar`, …: tar files in WebDataset's naming.

The evaluation split may be called `val` or `validation` in each; files lie in the root, or in folders of the splits'
names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from aln.data.class_folders import ClassFolders
from aln.data.index import Scan, indexed
from aln.data.records import Records
from aln.data.shards import WORDS, complete, find_shards
from aln.data.tar_shards import scan_tar
from aln.data.tfrecords import ExampleKeys, scan_tfrecords
from aln.errors import DataError

Layout = Literal["folders", "tfrecords", "webdataset"]
_SUFFIXES: dict[Layout, str] = {"tfrecords": r"(?:\.tfrecords?)?", "webdataset": r"\.tar"}
_EXPECTED = (
    "expected class folders in train/ and val/, TFRecords train-00000-of-01024 and validation-00000-of-00128, or tar "
    "files train-000000.tar and val-000000.tar"
)


@dataclass(frozen=True)
class LabelledImages:
    """The two parts in which a data set is published, of the same classes, numbered from 0."""

    train: Records
    validation: Records
    num_classes: int


def open_images(root: Path, *, layout: Layout | None = None, keys: ExampleKeys | None = None) -> LabelledImages:
    """The data set under `root`, in whichever layout it is, or the one that is named.

    Args:
        keys: where TFRecords hold image and class.

    Raises `DataError` with a line for each thing that is wrong: a split, a class or a file that is missing, a file that
    is empty, cut off or damaged, classes that differ between the splits.
    """
    if not root.is_dir():
        raise DataError(f"root = {root}: {'is no folder' if root.exists() else 'there is no such folder'}")
    found = [layout] if layout else recognised(root)
    if len(found) != 1:
        there = " and ".join(found) or ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
        raise DataError(f"{root} holds {there}: {'say which, with layout' if found else _EXPECTED}")
    if found[0] == "folders":
        return _class_folders(root)
    scan = scan_tar if found[0] == "webdataset" else functools.partial(scan_tfrecords, keys=keys or ExampleKeys())
    return _packed(root, found[0], scan)


def recognised(root: Path) -> list[Layout]:
    """The layouts of which something is under `root`."""
    words = [word for words in WORDS.values() for word in words]
    found: list[Layout] = ["folders"] if any(_folders(root / word) for word in words) else []
    return found + [layout for layout, suffix in _SUFFIXES.items() if find_shards(root, suffix)]


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, hidden ones aside."""
    return [entry for entry in path.glob("[!.]*") if entry.is_dir()]


def _class_folders(root: Path) -> LabelledImages:
    """The data set in class folders. Raises `DataError` with a line for each thing that is wrong."""
    parts: dict[str, ClassFolders] = {}
    problems = []
    for split, words in WORDS.items():
        places = [root / word for word in words if _folders(root / word)]
        try:
            if len(places) != 1:
                found = " and ".join(map(str, places)) or f"{root} without {' or '.join(words)}/"
                raise DataError(f"{found}: expected one folder of class folders for the {split} images")
            parts[split] = ClassFolders.scan(places[0])
        except DataError as error:
            problems.append(str(error))
    if not problems and parts["train"].classes != parts["validation"].classes:
        theirs = [set(part.classes) for part in parts.values()]
        apart = sorted(theirs[0] ^ theirs[1])
        shown = ", ".join(apart[:5]) + (", …" if len(apart) > 5 else "")
        problems.append(f"{root}: {len(apart)} classes are in one of the splits alone: {shown}")
    if problems:
        raise DataError("\n".join(problems))
    return LabelledImages(parts["train"], parts["validation"], len(parts["train"].classes))


def _packed(root: Path, layout: Layout, scan: Callable[[Path], Scan]) -> LabelledImages:
    """The data set in numbered files. Raises `DataError` with a line for each thing that is wrong."""
    series = find_shards(root, _SUFFIXES[layout])
    names: dict[str, list[str]] = {}
    problems = []
    for split in WORDS:
        names[split], wrong = complete(root, split, series.get(split, {}))
        problems += wrong
    if problems:
        raise DataError("\n".join(problems))
    parts = {split: indexed(root, files, scan) for split, files in names.items()}
    labels = {split: np.unique(part.labels) for split, part in parts.items()}
    classes = int(labels["train"].max()) + 1
    if (lowest := int(labels["train"].min())) < 0:
        problems.append(f"{root}: a train label is {lowest}, expected 0 and more (first_label says where they begin)")
    if strange := sorted(set(labels["validation"].tolist()) - set(labels["train"].tolist())):
        shown = ", ".join(map(str, strange[:5]))
        problems.append(f"{root}: the labels {shown} are among the validation images, and none of the train images")
    if problems:
        raise DataError("\n".join(problems))
    return LabelledImages(parts["train"], parts["validation"], classes)
