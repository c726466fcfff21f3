"""Tar files in WebDataset's naming: `KEY.jpg`, the image, and `KEY.cls`, its class in digits.

A key is a member's name up to the first dot behind its folder (https://github.com/webdataset/webdataset). Members of
other kinds are passed over.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path

from aln.data.class_folders import IMAGE_KINDS
from aln.data.index import Scan
from aln.errors import DataError


def scan_tar(path: Path, told: str = "") -> Scan:
    """Where the images of a tar file lie. Reads its headers and the classes, not the images.

    Args:
        told: what messages call the file, its path if nothing.

    Raises `DataError` that names the file and the member or byte if it is cut off or damaged, if an image has no class
    or a class no image, or if a key occurs twice.
    """
    told = told or str(path)
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                key, kind = _key(member.name)
                if kind in IMAGE_KINDS:
                    _require_new(key, images, _where(told, member))
                    images[key] = (member.offset_data, member.size)
                elif kind == "cls":
                    _require_new(key, labels, _where(told, member))
                    labels[key] = _label(archive, member, _where(told, member))
            _require_end(archive, told)
    except tarfile.TarError as error:
        raise DataError(f"{told} is no whole tar file: {error}") from error
    for alone, partner in ((images, labels), (labels, images)):
        if lonely := [key for key in alone if key not in partner]:
            what = "class (.cls)" if alone is images else f"image (.{', .'.join(sorted(IMAGE_KINDS))})"
            raise DataError(f"{told}: no {what} for '{lonely[0]}', one of {len(lonely)} such keys")
    scan = Scan()
    for number, (key, (start, length)) in enumerate(images.items()):
        scan.add(number, start, length, labels[key])
    return scan


def _key(name: str) -> tuple[str, str]:
    """A member's key, and its kind in lower case."""
    folder, slash, base = name.rpartition("/")
    stem, _, kind = base.partition(".")
    return f"{folder}{slash}{stem}", kind.lower()


def _where(told: str, member: tarfile.TarInfo) -> str:
    return f"{told}, member {member.name} at byte {member.offset}"


def _require_new(key: str, known: Mapping[str, object], where: str) -> None:
    if key in known:
        raise DataError(f"{where}: there was another of its kind for '{key}' before")


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> int:
    file = archive.extractfile(member)
    assert file is not None
    text = file.read(32)
    try:
        return int(text)
    except ValueError:
        found = repr(text.decode(errors="replace"))
        raise DataError(f"{where} holds {found}, expected a class as a whole number") from None


def _require_end(archive: tarfile.TarFile, told: str) -> None:
    """Raises `DataError` unless the archive ends as one should.

    `tarfile` takes a damaged header, or the end of the file, for the end of the archive, and says nothing.
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    if any(block):
        raise DataError(f"{told}: the header at byte {archive.offset} is damaged")
    if len(block) < tarfile.BLOCKSIZE:
        raise DataError(f"{told} is cut off: at byte {archive.offset}, its end, the mark that closes a tar is missing")
