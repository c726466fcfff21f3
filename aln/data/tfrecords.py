"""TFRecord files of `tf.train.Example` messages, read without TensorFlow.

A record is its length (uint64), the checksum of these eight bytes, the message, and the message's checksum, all little
endian; checksums are CRC-32C, rotated and shifted by a constant
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
"""

from __future__ import annotations

import functools
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from aln.data.index import Scan
from aln.errors import DataError

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_GZIP = b"\x1f\x8b"


def scan_tfrecords(path: Path, told: str = "", *, image_key: str, label_key: str) -> Scan:
    """Where the images of a file lie. Reads it whole and verifies every checksum.

    Args:
        told: what messages call the file, its path if nothing.

    A message whose checksum differs is left out, and told; where the next record starts is still known. Raises
    `DataError` naming record and byte if the file ends within a record, if it does not hold records, or if they are
    no Examples with these features.
    """
    scan = Scan()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        number = start = 0
        while start < size:
            where = f"{told or path}, record {number} at byte {start}"
            message = _next_message(file, size - start, where)
            start += _HEADER.size
            if _masked(message) != _FOOTER.unpack(file.read(_FOOTER.size))[0]:
                scan.damaged.append(f"{where}: the record is damaged, its checksum differs")
            else:
                features = _features(message, where)
                image = _value(features, image_key, "bytes_list", "an encoded image", where)
                label = _value(features, label_key, "int64_list", "a whole number", where)
                scan.add(number, start + message.index(image), len(image), label, google_crc32c.value(image))
            start += len(message) + _FOOTER.size
            number += 1
    return scan


def _next_message(file: BinaryIO, left: int, where: str) -> bytes:
    """The message of the record that begins here, `left` bytes before the file's end."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise DataError(f"{where}: the file ends within the record's header")
    length, checksum = _HEADER.unpack(header)
    if _masked(header[:8]) != checksum:
        hint = ": the file is compressed, expected plain TFRecords" if header.startswith(_GZIP) else ""
        raise DataError(f"{where}: no TFRecord starts here, or its length is damaged{hint}")
    if (missing := _HEADER.size + length + _FOOTER.size - left) > 0:
        raise DataError(f"{where}: the file ends {missing} bytes before the record does")
    return file.read(length)


def _masked(content: bytes) -> int:
    """The checksum as TFRecords hold it."""
    checksum: int = google_crc32c.value(content)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _features(message: bytes, where: str) -> Any:
    """An Example's features by name."""
    from google.protobuf.message import DecodeError

    try:
        return _example_type().FromString(message).features.feature
    except DecodeError as error:
        raise DataError(f"{where}: not an Example message: {error}") from error


def _value(features: Any, key: str, kind: str, expected: str, where: str) -> Any:
    """The one value of a feature."""
    if key not in features:
        standard = {"image/encoded", "image/class/label"} <= set(features)
        advice = "; set image_key: image/encoded, label_key: image/class/label, first_label: 1" if standard else ""
        found = ", ".join(sorted(features)) or "none"
        raise DataError(f"{where}: the Example has no feature '{key}' (its features: {found}){advice}")
    values = getattr(features[key], kind).value
    if len(values) != 1:
        raise DataError(f"{where}: feature '{key}' holds {len(values)} values of its kind, expected {expected}")
    return values[0]


@functools.cache
def _example_type() -> Any:
    """The message type `tensorflow.Example` (tensorflow/core/example/example.proto), in a pool of our own.

    Its floats are left out: fields that a type does not name are skipped.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.json_format import ParseDict

    def message(name: str, *fields: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"name": name, "field": fields, **more}

    def field(name: str, number: int, kind: str, *, many: bool = False) -> dict[str, Any]:
        known = {"bytes": "TYPE_BYTES", "int64": "TYPE_INT64", "string": "TYPE_STRING"}
        what = {"type": known[kind]} if kind in known else {"type": "TYPE_MESSAGE", "typeName": f".tensorflow.{kind}"}
        return {"name": name, "number": number, "label": "LABEL_REPEATED" if many else "LABEL_OPTIONAL", **what}

    pair = message("FeatureEntry", field("key", 1, "string"), field("value", 2, "Feature"), options={"mapEntry": True})
    content = {
        "name": "example.proto",
        "package": "tensorflow",
        "syntax": "proto3",
        "messageType": [
            message("BytesList", field("value", 1, "bytes", many=True)),
            message("Int64List", field("value", 1, "int64", many=True)),
            message("Feature", field("bytes_list", 1, "BytesList"), field("int64_list", 3, "Int64List")),
            message("Features", field("feature", 1, "Features.FeatureEntry", many=True), nestedType=[pair]),
            message("Example", field("features", 1, "Features")),
        ],
    }
    pool = descriptor_pool.DescriptorPool()
    pool.Add(ParseDict(content, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
