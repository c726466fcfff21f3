"""TFRecord files that TensorFlow itself wrote, whole and damaged."""

from __future__ import annotations

import functools
import os
import shutil
import struct
from pathlib import Path

import pytest

from aln.data.index import Scanner, indexed
from aln.data.roots import Disk
from aln.data.tfrecords import scan_tfrecords
from aln.errors import DataError
from written_images import images, jpeg, needs_tensorflow, write_tfrecords

pytestmark = needs_tensorflow
IMAGES = images(7, num_classes=3)
SCAN = functools.partial(scan_tfrecords, image_key="images", label_key="labels")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of TFRecord files."""
    root = tmp_path_factory.mktemp("tfrecords")
    records = [{"images": image, "labels": label} for image, label in IMAGES]
    standard = {"image/encoded": jpeg(0), "image/class/label": 1, "image/class/text": b"tench", "image/height": 16}
    write_tfrecords(
        {
            root / "first": records[:4],
            root / "second": records[4:],
            root / "standard": [{**standard, "image/object/bbox/xmin": 0.5}],
            root / "two_labels": [{"images": jpeg(0), "labels": [1, 2]}],
            root / "text_label": [{"images": jpeg(0), "labels": b"tench"}],
            root / "no_features": [{}],
            root / "no_examples": [b"not a message"],
            root / "packed.gz": records,
        }
    )
    return root


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """The first file, of four records, to be damaged."""
    return Path(shutil.copy(written / "first", tmp_path))


def starts(path: Path) -> list[int]:
    """Where each record of a whole file starts, and the file's end."""
    content, found = path.read_bytes(), [0]
    while found[-1] < len(content):
        found.append(found[-1] + 16 + struct.unpack_from("<Q", content, found[-1])[0])
    return found


def flip(path: Path, at: int) -> None:
    """Turns one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_every_image_is_read_as_it_was_written(written: Path) -> None:
    files = [file for file in Disk(written).listing().files if file.name in ("first", "second")]
    records = indexed(Disk(written), files, Scanner("tfrecords", SCAN))
    assert [(records.read(k), int(records.labels[k])) for k in range(len(records))] == IMAGES
    assert records.name(5) == f"{written / 'second'}, record 1, image at byte {records.name(5).rpartition(' ')[2]}"
    start = int(records.name(5).rpartition(" ")[2])
    assert (written / "second").read_bytes()[start:].startswith(IMAGES[5][0])


def test_the_keys_are_those_that_are_named(written: Path) -> None:
    scan = scan_tfrecords(written / "standard", image_key="image/encoded", label_key="image/class/label")
    assert [row[4] for row in scan.rows] == [1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "standard",
            r"standard, record 0 at byte 0: the Example has no feature 'images' \(its features: image/class/label, "
            r".*\); set image_key: image/encoded, label_key: image/class/label, first_label: 1",
        ),
        ("two_labels", r"record 0 at byte 0: feature 'labels' holds 2 values .* expected a whole number"),
        ("text_label", r"record 0 at byte 0: feature 'labels' holds 0 values .* expected a whole number"),
        ("no_features", r"record 0 at byte 0: the Example has no feature 'images' \(its features: none\)"),
        ("no_examples", r"record 0 at byte 0: not an Example message"),
        ("packed.gz", r"record 0 at byte 0: no TFRecord starts here.*: the file is compressed"),
    ],
)
def test_refuses_what_holds_no_such_examples(written: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SCAN(written / name)


@pytest.mark.parametrize("cut", [1, 4, 5, 200])
def test_a_file_that_is_cut_off_names_the_record_and_where_it_begins(copy: Path, cut: int) -> None:
    start = starts(copy)[3]
    os.truncate(copy, copy.stat().st_size - cut)
    with pytest.raises(
        DataError, match=rf"{copy}, record 3 at byte {start}: the file ends {cut} bytes before the record does"
    ):
        SCAN(copy)


def test_a_file_that_is_cut_off_in_a_header_names_the_record(copy: Path) -> None:
    start = starts(copy)[2]
    os.truncate(copy, start + 11)
    with pytest.raises(DataError, match=rf"record 2 at byte {start}: the file ends within the record's header"):
        SCAN(copy)


@pytest.mark.parametrize("offset", [0, 3, 7, 8, 11])
def test_a_damaged_length_names_the_record(copy: Path, offset: int) -> None:
    start = starts(copy)[1]
    flip(copy, start + offset)
    with pytest.raises(DataError, match=rf"record 1 at byte {start}: no TFRecord starts here, or its length is damag"):
        SCAN(copy)


@pytest.mark.parametrize("offset", [12, 300, -1])
def test_a_damaged_record_is_left_out_and_told(copy: Path, offset: int) -> None:
    begin, end = starts(copy)[1:3]
    flip(copy, begin + offset if offset > 0 else end + offset)
    scan = SCAN(copy)
    assert scan.damaged == [f"{copy}, record 1 at byte {begin}: the record is damaged, its checksum differs"]
    assert [(row[1], row[4]) for row in scan.rows] == [(0, 0), (2, 2), (3, 0)]
