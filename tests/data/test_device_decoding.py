"""Loader processes hand bytes over, the training process decodes them on its device: here the CPU, where it is the same
to the bit; and on CUDA where there is one."""

from __future__ import annotations

import io
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aln.build import build
from aln.config import parse_run
from aln.data import Share, imagenet
from aln.data.device_decoding import decoded
from aln.engine import fit
from aln.errors import DataError
from written_images import Labelled, as_members, jpeg, write_folders, write_tar

CLASSES = ["n01440764", "n01443537", "n01484850"]
COUNTS = {"train": 30, "val": 9}


def examples(split: str) -> list[Labelled]:
    """Images and labels of a split, class by class."""
    first = {"train": 0, "val": 1000}[split]
    return [(jpeg(seed), seed % 3) for seed in sorted(range(first, first + COUNTS[split]), key=lambda seed: seed % 3)]


def write_as_folders(root: Path) -> Path:
    for split in COUNTS:
        write_folders(root / split, examples(split), CLASSES)
    return root


def write_as_tars(root: Path) -> Path:
    for split in COUNTS:
        for shard in range(2):
            write_tar(root / f"{split}-{shard:06}.tar", as_members(examples(split)[shard::2]))
    return root


Batches = list[tuple[torch.Tensor, torch.Tensor]]
WRITERS = {"folders": write_as_folders, "webdataset": write_as_tars}
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.fixture
def odd(layouts: dict[str, Path], tmp_path: Path) -> Path:
    """Class folders with files that a batched decoder refuses: CMYK, PNG, damaged, empty, gone."""
    root = Path(shutil.copytree(layouts["folders"], tmp_path / "odd"))
    train = [sorted((root / "train" / name).iterdir()) for name in CLASSES]
    train[0][0].write_bytes(jpeg(501, mode="CMYK"))
    train[0][1].write_bytes(png())
    train[1][0].write_bytes(train[1][0].read_bytes()[:200])
    train[1][1].write_bytes(b"")
    train[2][0].write_bytes(b"not an image")
    return root


def png() -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(502))).save(file, "PNG")
    return file.getvalue()


def batches(source: Any, **options: Any) -> Batches:
    return [*source.train_batches(6, 5, **options), *source.batches("test", 4)]


def assert_same(found: Batches, expected: Batches) -> None:
    assert len(found) == len(expected)
    for (a, b), (c, d) in zip(found, expected, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("preparation", ["resnet", "inception"])
def test_batches_are_those_of_loaders_that_decode(layouts: dict[str, Path], layout: str, preparation: Any) -> None:
    options: dict[str, Any] = {"root": str(layouts[layout]), "preparation": preparation, "size": 16}
    expected = batches(imagenet(**options, loaders=0))
    assert len(expected) == 5 + -(-COUNTS["val"] // 4)
    assert_same(batches(imagenet(**options, decode="device", loaders=0)), expected)
    helped = imagenet(**options, decode="device", loaders=2)
    assert_same(batches(helped), expected)
    assert_same(batches(helped, start=3), expected[3:])
    share = Share(1, 2)
    assert_same(list(helped.train_batches(6, 5, share=share)), [(a[3:], b[3:]) for a, b in expected[:5]])


@pytest.mark.parametrize("loaders", [0, 1])
def test_what_the_decoder_refuses_is_decoded_or_counted_as_always(
    odd: Path, loaders: int, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"root": str(odd), "size": 16}
    plain, here = imagenet(**options, loaders=0), imagenet(**options, decode="device", loaders=loaders)
    expected = batches(plain)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert_same(batches(here), expected)
    assert plain.skipped == here.skipped == 3
    assert sum("left out" in record.getMessage() for record in caplog.records) == 3


def test_too_many_unreadable_images_are_an_error(odd: Path) -> None:
    for path in (odd / "val" / CLASSES[0]).iterdir():
        path.unlink()
        path.with_suffix(".png").write_bytes(b"")
    (sorted((odd / "val" / CLASSES[1]).iterdir())[0]).write_bytes(b"\xff\xd8 gone")
    source = imagenet(root=str(odd), size=16, decode="device", loaders=0)
    with pytest.raises(DataError, match=r"4 of the 9 images of the test split cannot be read.*\.png is empty"):
        list(source.batches("test", 9))


def test_one_that_is_refused_costs_the_others_nothing() -> None:
    good = [jpeg(seed) for seed in range(3)]
    encoded = [torch.tensor(list(data), dtype=torch.uint8) for data in (good[0], b"", png(), good[1][:99], good[2])]
    images = decoded(encoded, torch.device("cpu"))
    assert [image is None for image in images] == [False, True, True, True, False]
    assert images[0] is not None
    assert images[0].shape == (3, 32, 40)
    assert decoded([], torch.device("cpu")) == []


def test_a_run_says_where_it_decodes_and_learns(layouts: dict[str, Path]) -> None:
    losses = []
    for where in ("loaders", "device"):
        data = {"name": "imagenet", "root": str(layouts["folders"]), "size": 16, "loaders": 0, "decode": where}
        run = build(parse_run({"recipe": None, "model": "mlp", "data": data, "epochs": 2, "batch_size": 6}))
        losses.append([result.train_loss for result in fit(run.state, run.source, run.settings)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": "gpu"}, r"decode = 'gpu': expected loaders or device"),
        ({"decode": "device", "cache": "/somewhere"}, r"decode = 'device': nothing is left to decode with cache = /so"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(layouts: dict[str, Path], options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        imagenet(root=str(layouts["folders"]), size=16, **options)


@cuda
def test_nvjpeg_gives_nearly_the_same_batches_on_the_device(odd: Path) -> None:
    options: dict[str, Any] = {"root": str(odd), "size": 16}
    there = imagenet(**options, decode="device", loaders=1).to(torch.device("cuda"))
    for (a, b), (c, d) in zip(batches(there), batches(imagenet(**options, loaders=0)), strict=True):
        assert a.device.type == "cuda"
        assert torch.equal(b.cpu(), d)
        assert np.abs((a.cpu() - c).numpy()).mean() < 0.05  # in standard deviations; a byte's step is 0.017
    assert there.skipped == 3
