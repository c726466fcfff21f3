"""ImageNet, and data sets that lie like it: read from class folders, TFRecords or WebDataset's tar files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from aln.data.cache import stored
from aln.data.encoded import DecodeWhere, Encoded
from aln.data.holdout import held_out
from aln.data.kept import kept_in
from aln.data.layouts import Layout, open_images
from aln.data.pictures import Decoded, Part, Pictures
from aln.data.preparation import PREPARATIONS
from aln.data.records import Records
from aln.errors import DataError


def imagenet(
    *,
    root: str,
    layout: Layout | None = None,
    preparation: Literal["resnet", "inception"] = "resnet",
    size: int | None = None,
    final_size: int | None = None,
    holdout: int = 0,
    cache: bool | str = False,
    loaders: int | None = None,
    prefetch: int = 4,
    decode: DecodeWhere = "loaders",
    image_key: str = "images",
    label_key: str = "labels",
    first_label: int = 0,
) -> Encoded:
    """Images under `root`, in whichever layout (`aln.data.layouts`), prepared as ResNets or Inception take them.

    The test split is the published validation images (ImageNet's test labels are secret). Validation during training is
    on `holdout` training images, drawn in a fixed way and the same share of each class; without any it is on the
    published ones too, as in arXiv 2003.01513.

    Args:
        root: folder, `~` being the home folder; or `s3://bucket/folder` or `gs://bucket/folder`, of which each machine
            keeps a copy under `ALN_CACHE`, default `~/.cache/aln` (`aln.data.mirror`).
        layout: `folders`, `tfrecords` or `webdataset`; found out if None.
        preparation: `resnet` or `inception`, see `aln.data.preparation`.
        size: side of the square crop, in pixels; the preparation's own (224, 299) if None.
        final_size: side to which the crop is resized at last.
        cache: folder in which the images are stored once, decoded and resized, for all processes of this machine; true
            for one under `ALN_CACHE`.
        loaders, prefetch: see `Encoded.make`.
        decode: `loaders`, or `device`: JPEG in batches on the GPU (`aln.data.device_decoding`).
        image_key, label_key: where TFRecords hold image and class.
        first_label: the number of the first class in TFRecords and tar files.

    Raises `DataError` with a line for each thing that is wrong.
    """
    if preparation not in PREPARATIONS:
        raise DataError(f"preparation = {preparation!r}: expected {' or '.join(PREPARATIONS)}")
    if decode == "device" and cache:
        raise DataError(f"decode = 'device': nothing is left to decode with cache = {cache}, expected one or the other")
    sides = {} if size is None else {"size": size}
    prepared = PREPARATIONS[preparation](**sides, final_size=final_size)
    images = open_images(root, layout=layout, image_key=image_key, label_key=label_key, first_label=first_label)
    stay, out = held_out(images.train.labels, holdout)

    def pictures(records: Records) -> Pictures:
        if cache is False:
            return Decoded(records)
        folder = kept_in("images") if cache is True else Path(cache).expanduser()
        return stored(records, folder, prepared.stored_side, loaders or os.cpu_count() or 1)

    train, published = pictures(images.train), pictures(images.validation)
    everything = np.arange(len(published))
    parts = {
        "train": Part(train, stay),
        "validation": Part(train, out) if holdout else Part(published, everything),
        "test": Part(published, everything),
    }
    return Encoded.make(
        parts,  # type: ignore[arg-type]
        prepared,
        images.num_classes,
        loaders=loaders,
        prefetch=prefetch,
        decode=decode,
    )
