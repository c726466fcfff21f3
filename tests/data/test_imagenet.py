"""ImageNet's loaders, on small files in the published layouts."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from aln.build import build
from aln.config import parse_run
from aln.data import Share, imagenet
from aln.data.layouts import open_images
from aln.engine import fit
from aln.errors import ConfigError, DataError
from written_images import as_members, images, jpeg, needs_tensorflow, write_folders, write_tar, write_tfrecords

CLASSES = ["n01440764", "n01443537", "n01484850"]
EXAMPLES = {"train": images(30, num_classes=3), "val": images(9, num_classes=3, seed=999)}


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in class folders, and in two tar files a split."""
    folder = tmp_path_factory.mktemp("imagenet")
    for split, examples in EXAMPLES.items():
        write_folders(folder / "folders" / split, examples, CLASSES)
        for shard in range(2):
            write_tar(folder / "webdataset" / f"{split}-{shard:06}.tar", as_members(examples[shard::2]))
    return {name: folder / name for name in ("folders", "webdataset")}


@pytest.fixture(scope="session")
def tfrecords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in two TFRecords a split."""
    root = tmp_path_factory.mktemp("tfrecords")
    records = {
        name: [{"images": image, "labels": label, "weight": 0.5} for image, label in EXAMPLES[split]]
        for split, name in (("train", "train"), ("val", "validation"))
    }
    parts = {f"{name}-{shard:05}-of-00002": rows[shard::2] for name, rows in records.items() for shard in range(2)}
    write_tfrecords({root / name: rows for name, rows in parts.items()})
    return root


@pytest.fixture
def folders(layouts: dict[str, Path], tmp_path: Path) -> Path:
    """Class folders that a test may spoil."""
    return Path(shutil.copytree(layouts["folders"], tmp_path / "images"))


def whole(source: Any, split: str = "test", size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*source.batches(split, size), strict=True)
    return torch.cat(images), torch.cat(labels)


def epoch(source: Any, seed: int = 5, **options: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(source.train_batches(6, seed, **options))


def test_what_is_held_out_is_a_share_of_each_class_and_never_trained_on(layouts: dict[str, Path]) -> None:
    source = imagenet(root=str(layouts["folders"]), size=16, holdout=6, loaders=0)
    _, labels = whole(source, "validation")
    assert torch.bincount(labels).tolist() == [2, 2, 2]
    assert source.examples("validation") == 6
    assert source.steps_per_epoch(6) == (len(EXAMPLES["train"]) - 6) // 6
    assert len(whole(source, "test")[1]) == len(EXAMPLES["val"])
    both = imagenet(root=str(layouts["folders"]), size=16, loaders=0)
    assert torch.equal(whole(both, "validation")[0], whole(both, "test")[0])


@pytest.mark.parametrize("preparation", ["resnet", "inception"])
def test_an_epoch_is_the_same_whatever_the_number_of_loaders_workers_and_the_start(
    layouts: dict[str, Path], preparation: Any
) -> None:
    alone = imagenet(root=str(layouts["folders"]), preparation=preparation, size=16, loaders=0)
    helped = imagenet(root=str(layouts["folders"]), preparation=preparation, size=16, loaders=2)
    expected = epoch(alone)
    assert len(expected) == 5
    for found in (epoch(helped), epoch(helped)):
        for (a, b), (c, d) in zip(expected, found, strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)
    for a, b in zip(expected[3:], epoch(helped, start=3), strict=True):
        assert torch.equal(a[0], b[0])
    halves = [epoch(alone, share=Share(rank, 2)) for rank in range(2)]
    for a, first, second in zip(expected, *halves, strict=True):
        assert torch.equal(a[0], torch.cat([first[0], second[0]]))
    assert not torch.equal(expected[0][0], epoch(alone, seed=6)[0][0])


def test_the_cache_gives_evaluation_the_same_pixels_and_is_filled_once(
    layouts: dict[str, Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"root": str(layouts["folders"]), "size": 16, "loaders": 0}
    plain, cached = imagenet(**options), imagenet(**options, cache=str(tmp_path / "cache"))
    assert torch.equal(whole(plain)[0], whole(cached)[0])
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    again = imagenet(**options, cache=str(tmp_path / "cache"))
    assert torch.equal(epoch(cached)[0][0], epoch(again)[0][0])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()} == files


def test_a_changed_source_is_never_served_from_an_old_cache(folders: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"root": str(folders), "size": 16, "loaders": 0, "cache": str(tmp_path / "cache")}
    before = whole(imagenet(**options))[0]
    victim = next((folders / "val" / CLASSES[0]).iterdir())
    victim.unlink()
    (victim.parent / "another.JPEG").write_bytes(jpeg(7003))
    assert not torch.equal(whole(imagenet(**options))[0], before)


def test_processes_that_fill_a_cache_at_once_do_not_clash(layouts: dict[str, Path], tmp_path: Path) -> None:
    script = (
        "import sys; from aln.data import imagenet; imagenet(root=sys.argv[1], size=16, cache=sys.argv[2], loaders=0)"
    )
    command = [sys.executable, "-c", script, str(layouts["folders"]), str(tmp_path / "cache")]
    fillers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate()[1] for process in fillers]
    assert [process.returncode for process in fillers] == [0, 0, 0], told
    assert sum("storing" in text for text in told) == 1
    options: dict[str, Any] = {"root": str(layouts["folders"]), "size": 16, "loaders": 0}
    assert torch.equal(whole(imagenet(**options))[0], whole(imagenet(**options, cache=str(tmp_path / "cache")))[0])


@pytest.mark.parametrize("cached", [False, True])
def test_an_image_that_cannot_be_read_is_counted_and_named_and_ends_nothing(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, cached: bool
) -> None:
    broken = sorted((folders / "train" / CLASSES[1]).iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:200])
    (sorted((folders / "val" / CLASSES[1]).iterdir())[0]).write_bytes(b"not an image")
    cache = {"cache": str(tmp_path / "cache")} if cached else {}
    source = imagenet(root=str(folders), size=16, loaders=0, **cache)
    with caplog.at_level(logging.WARNING):
        assert all(len(labels) == 6 for _, labels in epoch(source))
        assert len(whole(source)[1]) == len(EXAMPLES["val"]) - 1
        epoch(source, seed=9)
    assert source.skipped == 2
    named = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(named) == 2
    assert any(str(broken) in message for message in named)


def test_too_many_unreadable_images_are_an_error_that_names_the_first(folders: Path) -> None:
    for path in (folders / "train" / CLASSES[0]).iterdir():
        path.write_bytes(b"\xff\xd8 gone")
    with pytest.raises(DataError, match=rf"of the 30 images of the train split cannot be read, .*{CLASSES[0]}"):
        epoch(imagenet(root=str(folders), size=16, loaders=0))


@needs_tensorflow
def test_a_damaged_record_is_named_with_its_place(tfrecords: Path, tmp_path: Path) -> None:
    records = Path(shutil.copytree(tfrecords, tmp_path / "records"))
    found = open_images(records)
    path = records / "train-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk that forgets would
    complaints = []
    for index in range(len(found.train)):
        try:
            found.train.read(index)
        except DataError as error:
            complaints.append(str(error))
    (complaint,) = complaints
    assert str(path) in complaint
    assert "the image is damaged, its checksum differs" in complaint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "/nowhere/at/all"}, "root = /nowhere/at/all: there is no such folder"),
        ({"size": 3}, "size = 3: expected 8 to 4096 pixels"),
        ({"holdout": 30}, "holdout = 30: expected 0 to 29 of the 30 training images"),
        ({"loaders": -1}, "loaders = -1: expected 0 to 1024 processes"),
    ],
)
def test_options_out_of_bounds_are_refused(layouts: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        imagenet(**{"root": str(layouts["folders"]), **options})


def test_a_network_learns_from_image_files(layouts: dict[str, Path]) -> None:
    data = {"name": "imagenet", "root": str(layouts["folders"]), "size": 16, "holdout": 6, "loaders": 1}
    content = {"recipe": None, "rule": "information", "model": {"name": "resnet8", "width": 4}, "data": data}
    run = build(parse_run({**content, "epochs": 12, "batch_size": 6, "optimizer": {"lr": 0.05}}))
    results = list(fit(run.state, run.source, run.settings))
    # One epoch of four batches says little: over seeds the twelfth's loss is from 0.15 to 0.76 of the first's.
    assert sum(result.train_loss for result in results[-3:]) / 3 < 0.7 * results[0].train_loss
    assert results[-1].validation is not None
    assert results[-1].validation.examples == 6
    assert "skipped_images" not in results[-1].metrics()


def test_skipped_images_are_a_metric_of_the_epoch(folders: Path) -> None:
    broken = sorted((folders / "train" / CLASSES[1]).iterdir())[0]
    broken.write_bytes(b"not an image")
    data = {"name": "imagenet", "root": str(folders), "size": 16, "loaders": 0}
    run = build(parse_run({"recipe": None, "model": "mlp", "data": data, "epochs": 1, "batch_size": 30}))
    (result,) = fit(run.state, run.source, run.settings)
    assert result.metrics()["skipped_images"] == 1


def test_the_recipe_of_the_paper_lies_under_a_run_on_imagenet(layouts: dict[str, Path]) -> None:
    config = parse_run({"rule": "symmetric", "data": {"root": str(layouts["folders"])}, "model": "resnet101v2"})
    assert (config.data.name, config.epochs, config.batch_size) == ("imagenet", 90, 256)
    with pytest.raises(ConfigError, match=r"data\.root: is required"):
        parse_run({"data": "imagenet"})


_TRAINER = """
import sys
from aln.data import imagenet
if __name__ == "__main__":
    source = imagenet(root=sys.argv[1], size=16, loaders=2)
    for seed in range(10**6):
        for _ in source.train_batches(6, seed):
            print(flush=True)
"""


def in_session(leader: int) -> list[str]:
    """The processes that a session leader has started, itself included."""
    listed = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(leader)], capture_output=True, text=True, check=False)
    return [line.split()[0] for line in listed.stdout.splitlines() if not line.split()[1].startswith("Z")]


def test_loaders_end_with_the_process_that_was_killed(layouts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(_TRAINER)
    command = [sys.executable, str(tmp_path / "trainer.py"), str(layouts["folders"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(in_session(process.pid)) >= 3
        process.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not (left := in_session(process.pid)):
            return
        time.sleep(0.1)
    pytest.fail(f"still running: {left}")
