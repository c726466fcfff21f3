"""Tar files in WebDataset's naming, whole and damaged."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import pytest

from aln.data.index import Scanner, indexed
from aln.data.packed import PackedRecords
from aln.data.roots import Disk
from aln.data.tar_shards import scan_tar
from aln.errors import DataError
from written_images import as_members, images, jpeg, write_tar

IMAGES = images(5, num_classes=3)


def index(path: Path) -> PackedRecords:
    files = [file for file in Disk(path.parent).listing().files if file.name == path.name]
    return indexed(Disk(path.parent), files, Scanner("tar", scan_tar))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    write_tar(tmp_path / "train-000000.tar", as_members(IMAGES))
    return tmp_path / "train-000000.tar"


def test_every_image_is_read_as_it_was_written(shard: Path) -> None:
    records = index(shard)
    assert [(records.read(k), int(records.labels[k])) for k in range(len(records))] == IMAGES
    start = int(records.name(3).removeprefix(f"{shard}, record 3, image at byte "))
    assert shard.read_bytes()[start:].startswith(IMAGES[3][0])


def test_keys_have_folders_and_members_any_order_and_other_kinds(tmp_path: Path) -> None:
    members = {
        "a.b/0.cls": b"1\n",
        "a.b/0.json": b"{}",
        "a.b/1.PNG": b"second",
        "a.b/0.jpg": b"first",
        "a.b/0.seg.png": b"no image",
        "a.b/1.cls": b" 0",
    }
    write_tar(tmp_path / "one.tar", members)
    records = index(tmp_path / "one.tar")
    assert [records.read(0), records.read(1)] == [b"second", b"first"]
    assert records.labels.tolist() == [0, 1]


def test_long_names_and_pax_headers_are_understood(tmp_path: Path) -> None:
    key = "folder/" * 40 + "ünter"
    write_tar(tmp_path / "one.tar", {f"{key}.jpg": jpeg(0), f"{key}.cls": b"2"})
    assert index(tmp_path / "one.tar").read(0) == jpeg(0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.jpg": b"x", "1.jpg": b"x", "1.cls": b"0"}, r"no class \(\.cls\) for '0', one of 1 such keys"),
        ({"0.jpg": b"x", "0.cls": b"0", "1.cls": b"0"}, r"no image \(\.bmp, .*\) for '1', one of 1 such keys"),
        ({"0.jpg": b"x", "0.jpeg": b"y"}, r"member 0\.jpeg at byte 1024: there was another of its kind for '0' before"),
        ({"0.jpg": b"x", "0.cls": b"tench"}, r"member 0\.cls at byte 1024 holds 'tench', expected a class"),
        ({"0.cls": b"1.5"}, r"holds '1\.5', expected a class as a whole number"),
        ({"0.cls": b""}, r"holds '', expected a class"),
    ],
)
def test_refuses_what_is_not_in_pairs(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    write_tar(tmp_path / "one.tar", members)
    with pytest.raises(DataError, match=message):
        scan_tar(tmp_path / "one.tar")


def offsets(path: Path) -> list[int]:
    """Where each member's header starts, and the end of the last."""
    with tarfile.open(path) as archive:
        return [*(member.offset for member in archive), archive.offset]


def test_a_file_that_is_cut_off_within_an_image_is_refused(shard: Path) -> None:
    os.truncate(shard, offsets(shard)[8] + 700)
    with pytest.raises(DataError, match=rf"{shard} is no whole tar file: unexpected end of data"):
        scan_tar(shard)


@pytest.mark.parametrize("beyond", [0, 100])
def test_a_file_that_is_cut_off_between_images_or_in_a_header_is_refused(shard: Path, beyond: int) -> None:
    at = offsets(shard)[6]
    os.truncate(shard, at + beyond)
    with pytest.raises(DataError, match=rf"{shard}.* byte {at}"):
        scan_tar(shard)


def test_a_damaged_header_is_refused(shard: Path) -> None:
    at = offsets(shard)[4]
    content = bytearray(shard.read_bytes())
    content[at + 130] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"{shard}: the header at byte {at} is damaged"):
        scan_tar(shard)


def test_refuses_what_is_no_tar(tmp_path: Path, shard: Path) -> None:
    (tmp_path / "packed.tar").write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(DataError, match=r"packed\.tar is no whole tar file"):
        scan_tar(tmp_path / "packed.tar")
