"""Data sets in an object store: moto's S3 server on loopback."""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aln import train
from aln.data import cifar10, imagenet
from aln.data.layouts import LabelledImages, open_images
from aln.data.mirror import Mirror, open_root
from aln.errors import DataError
from aln.storage import StoredFile, open_storage
from stores import Store
from written_images import as_members, images, write_folders, write_tar

CLASSES = ["n01440764", "n01443537", "n01484850"]
EXAMPLES = {"train": images(24, num_classes=3), "val": images(6, num_classes=3, seed=999)}
Upload = Callable[[Path], str]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for split, examples in EXAMPLES.items():
        for shard in range(2):
            write_tar(tmp_path / "tars" / f"{split}-{shard:06}.tar", as_members(examples[shard::2]))
    return tmp_path / "tars"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split, examples in EXAMPLES.items():
        write_folders(tmp_path / "folders" / split, examples, CLASSES)
    return tmp_path / "folders"


def content(found: LabelledImages) -> dict[str, list[tuple[bytes, int]]]:
    parts = {"train": found.train, "val": found.validation}
    return {
        name: sorted((records.read(k), int(records.labels[k])) for k in range(len(records)))
        for name, records in parts.items()
    }


def files(root: Mirror) -> list[StoredFile]:
    """What lies directly in the root."""
    return root.listing().files


def opened(url: str) -> Mirror:
    root = open_root(url)
    assert isinstance(root, Mirror)
    return root


@pytest.mark.parametrize("layout", ["folders", "tars"])
def test_a_store_gives_the_images_that_were_put_there_each_fetched_once(
    layout: str, upload: Upload, s3: Store, request: pytest.FixtureRequest
) -> None:
    url = upload(request.getfixturevalue(layout))
    expected = {name: sorted(examples) for name, examples in EXAMPLES.items()}
    found = open_images(url)
    assert content(found) == expected
    assert content(pickle.loads(pickle.dumps(found))) == expected
    assert content(open_images(url)) == expected
    assert s3.gets_under(url) == [1] * (4 if layout == "tars" else 30)
    assert found.train.name(0).startswith(f"{url}/train")
    assert found.train.fingerprint() == open_images(url).train.fingerprint()


_READER = """
import sys
from aln.data import imagenet
if __name__ == "__main__":
    source = imagenet(root=sys.argv[1], size=16, loaders=1)
    print(sum(len(labels) for _, labels in source.batches("test", 4)), sum(1 for _ in source.train_batches(4, 0)))
"""


@pytest.mark.parametrize("layout", ["folders", "tars"])
def test_processes_that_read_at_once_fetch_each_file_once(
    layout: str, upload: Upload, s3: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = upload(request.getfixturevalue(layout))
    (tmp_path / "reader.py").write_text(_READER)
    command = [sys.executable, str(tmp_path / "reader.py"), url]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [reader.communicate() for reader in readers]
    assert [out for out, _ in told] == ["6 6\n"] * 2, told
    assert s3.gets_under(url) == [1] * (4 if layout == "tars" else 30)


_FETCHER = """
import sys
from aln.data.mirror import open_root
root = open_root(sys.argv[1])
root.local(root.listing().files[0])
"""


def test_what_a_killed_process_was_fetching_is_not_taken_for_whole(upload: Upload, tmp_path: Path) -> None:
    whole = np.random.RandomState(0).bytes(80 << 20)
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "train-000000.tar").write_bytes(whole)
    root = opened(upload(tmp_path / "big"))
    with subprocess.Popen([sys.executable, "-c", _FETCHER, root.address]) as fetcher:
        # Once it has taken the first of the pieces in which it asks for the file.
        while not any(path.stat().st_size for path in root.home.glob(".*.partial")):
            assert fetcher.poll() is None
            time.sleep(0.001)
        fetcher.send_signal(signal.SIGKILL)
    left = [path for path in root.home.iterdir() if path.is_file()]
    assert [path.name.endswith(".partial") for path in left] == [True]
    assert root.read(files(root)[0]) == whole


def test_a_copy_that_was_cut_off_and_a_file_that_was_written_anew_are_fetched_again(upload: Upload, tars: Path) -> None:
    root = opened(upload(tars))
    file = files(root)[0]
    copy = root.local(file)
    os.truncate(copy, file.size // 2)
    assert root.read(file) == (tars / file.name).read_bytes()
    os.utime(copy)  # of the right size, and never completed
    copy.write_bytes(bytes(file.size))
    assert root.read(file) == (tars / file.name).read_bytes()
    open_storage(root.address).write(file.name, b"another")
    with pytest.raises(
        DataError, match=rf"{root.address}/{file.name} has changed .*: it had {file.size} bytes and has 7"
    ):
        opened(root.address).local(StoredFile(file.name, file.size, file.written + 1))
    assert root.read(files(root)[0]) == b"another"


def test_a_file_that_is_gone_is_named_by_its_url(upload: Upload, folders: Path) -> None:
    found = open_images(upload(folders))
    name = found.train.name(3)
    store, _, file = name.rpartition("/")
    open_storage(store).delete(file)
    with pytest.raises(DataError, match=rf"^{re.escape(name)} cannot be read"):
        found.train.read(3)
    assert found.train.read(2)


def test_what_was_indexed_is_fetched_a_file_at_a_time_when_it_is_read(upload: Upload, tars: Path, s3: Store) -> None:
    url = upload(tars)
    mirror = opened(url)
    open_images(url)
    for path in mirror.home.glob("*.tar"):
        path.unlink()
    before = s3.gets()
    found = open_images(url)
    assert found.validation.labels.tolist() == [label for _, label in [*EXAMPLES["val"][::2], *EXAMPLES["val"][1::2]]]
    assert s3.gets() == before
    assert found.validation.read(0) == EXAMPLES["val"][0][0]
    assert [path.name for path in mirror.home.glob("*.tar")] == ["val-000000.tar"]


def test_a_corrupt_image_is_counted_named_and_left_out(
    upload: Upload, folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = sorted((folders / "train" / CLASSES[1]).iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:200])
    url = upload(folders)
    source = imagenet(root=url, size=16, loaders=0)
    with caplog.at_level(logging.WARNING):
        assert [len(labels) for _, labels in source.train_batches(8, 0)] == [8, 8, 8]
    assert source.skipped == 1
    (told,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert f"{url}/train/{CLASSES[1]}/{broken.name}" in told


def test_more_than_the_disk_can_take_is_refused_and_what_it_takes_is_said(
    upload: Upload, tars: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = opened(upload(tars))
    with pytest.raises(
        DataError, match=rf"fetching 2 files from {root.address} takes about 1073741824\.\d GiB, but .* free"
    ):
        root.expect([StoredFile("a", 1 << 60, 1), StoredFile("b", 1, 1)])
    with caplog.at_level(logging.WARNING):
        root.expect([StoredFile("a", 3 << 20, 1), StoredFile("b", 2 << 20, 1)])
        root.expect(files(root))
    (told,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(rf"fetching 2 files from {root.address} takes about 5\.0 MiB in .*, which has .* free", told)


def test_the_cache_may_lie_beside_the_mirror(upload: Upload, folders: Path, kept: Path) -> None:
    url = upload(folders)
    plain = imagenet(root=url, size=16, loaders=0)
    cached = imagenet(root=url, size=16, loaders=0, cache=True)
    for (a, _), (b, _) in zip(plain.batches("test", 6), cached.batches("test", 6), strict=True):
        assert torch.equal(a, b)
    assert len(list((kept / "images").glob("*/index.npz"))) == 2


def test_published_files_are_read_from_a_store(upload: Upload, tmp_path: Path, s3: Store) -> None:
    folder = tmp_path / "cifar" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        pixels = np.random.RandomState(len(name)).randint(0, 256, (10, 3072))
        rows = np.concatenate([np.arange(10)[:, None], pixels], 1).astype(np.uint8)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    url = upload(tmp_path / "cifar")
    for _ in range(2):
        remote, local = cifar10(root=url, holdout=10), cifar10(root=str(folder), holdout=10)
        assert torch.equal(remote.train.images, local.train.images)
    assert s3.gets_under(url) == [1] * 6
    open_storage(url).delete("cifar-10-batches-bin/data_batch_2.bin")
    open_storage(url).write("cifar-10-batches-bin/data_batch_4.bin", b"short")
    with pytest.raises(DataError) as error:
        cifar10(root=url)
    assert str(error.value).splitlines() == [
        f"{url}/cifar-10-batches-bin/data_batch_2.bin is missing",
        f"{url}/cifar-10-batches-bin/data_batch_4.bin has 5 bytes, expected records of 3073: it is cut off, or another "
        "file",
    ]


def test_a_run_trains_from_tar_files_in_a_store(
    upload: Upload, tars: Path, workplace: Path, client: Any, s3: Store
) -> None:
    url = upload(tars)
    settings = ["data=imagenet", f"data.root={url}", "data.size=16", "data.holdout=6", "data.loaders=1"]
    sizes = ["recipe=null", "model={name: resnet8, width: 4}", "epochs=2", "batch_size=6", "optimizer.lr=0.05"]
    assert train.main(["information", "--name", "remote", "--set", *settings, *sizes]) == 0
    (run,) = client.search_runs([client.get_experiment_by_name("imagenet").experiment_id])
    assert run.data.tags["status"] == "completed"
    assert len(client.get_metric_history(run.info.run_id, "val_top1")) == 2
    assert s3.gets_under(url) == [1] * 4


@pytest.mark.parametrize("what", ["no bucket", "no folder", "no server"])
def test_a_store_that_cannot_be_used_is_refused_before_training(
    what: str, upload: Upload, tars: Path, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    url = upload(tars)
    if what == "no server":
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    root = {"no bucket": "s3://nowhere/tars", "no folder": f"{url}-of-others", "no server": url}[what]
    assert train.main(["backprop", "--name", "no", "--set", "data=imagenet", f"data.root={root}", "model=resnet8"]) == 2
    expected = {
        "no bucket": rf"{root} .*has no bucket 'nowhere'",
        "no folder": rf"root = {root}: there is nothing",
        "no server": rf"{root} cannot be listed: http://127.0.0.1:\d+ does not answer",
    }
    assert re.search(expected[what], capsys.readouterr().err)
    assert not (workplace / "results").exists()


_TRAINER = """
import sys
from aln.data import imagenet
from aln.errors import AlnError
if __name__ == "__main__":
    source = imagenet(root=sys.argv[1], size=16, loaders=int(sys.argv[2]))
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        list(source.train_batches(8, 0))
    except AlnError as error:
        print(error)
"""


@pytest.mark.parametrize("loaders", [0, 1])
def test_a_store_that_goes_away_ends_the_epoch_at_once_and_is_named(
    s3: Store, upload: Upload, folders: Path, tmp_path: Path, monkeypatch: Any, loaders: int
) -> None:
    url = upload(folders)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (tmp_path / "trainer.py").write_text(_TRAINER)
    command = [sys.executable, str(tmp_path / "trainer.py"), url, str(loaders)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "ready\n"
        s3.line.order("cut")
        out, err = trainer.communicate("\n")
    assert trainer.returncode == 0, err
    assert re.fullmatch(rf".*{url}/train/\S+ cannot be read: {s3.endpoint} does not answer.*\n", out), out


def test_an_index_that_cannot_be_kept_is_done_without(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALN_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert content(open_images(tars)) == {name: sorted(examples) for name, examples in EXAMPLES.items()}
    assert any("an index is not kept: " in record.getMessage() for record in caplog.records)


def test_a_listing_holds_files_with_their_times_and_folders(upload: Upload, folders: Path) -> None:
    for store in (open_storage(upload(folders)), open_storage(folders)):
        store.write("notes.txt", b"12345")
        listing = store.listing()
        assert [(file.name, file.size) for file in listing.files] == [("notes.txt", 5)]
        assert abs(listing.files[0].written / 1e9 - time.time()) < 3600
        assert listing.folders == ["train", "val"]
        assert store.listing("train").folders == CLASSES
        assert len(store.listing(f"train/{CLASSES[0]}").files) == 8
        assert store.listing("nowhere").files == store.listing("nowhere").folders == []
