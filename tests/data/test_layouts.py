"""Which layout a data set is in, and whether all of it is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aln.data.layouts import open_images
from aln.errors import DataError
from written_images import as_members, images, jpeg, needs_tensorflow, write_folders, write_tar, write_tfrecords

CLASSES = ["n01440764", "n01443537", "n01484850"]
TRAIN, VALIDATION = images(9, num_classes=3), images(5, num_classes=3, seed=100)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    write_folders(tmp_path / "train", TRAIN, CLASSES)
    write_folders(tmp_path / "val", VALIDATION, CLASSES)
    return tmp_path


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for number in range(3):
        write_tar(tmp_path / f"train-{number:06}.tar", as_members(TRAIN[3 * number : 3 * number + 3]))
    write_tar(tmp_path / "val-000000.tar", as_members(VALIDATION))
    return tmp_path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tfrecords")
    train = [{"images": image, "labels": label} for image, label in TRAIN]
    validation = [{"images": image, "labels": label} for image, label in VALIDATION]
    standard = [{"image/encoded": image, "image/class/label": label + 1} for image, label in TRAIN]
    for folder in ("originals", "standard/train", "standard/validation"):
        (root / folder).mkdir(parents=True)
    parts = {f"originals/train-{k:05}-of-00003": train[3 * k : 3 * k + 3] for k in range(3)}
    parts["originals/validation-00000-of-00001"] = validation
    parts["standard/train/train-00000-of-00001"] = parts["standard/validation/validation-00000-of-00001"] = standard
    write_tfrecords({root / name: records for name, records in parts.items()})
    return root


@pytest.fixture
def tfrecords(written: Path, tmp_path: Path) -> Path:
    """The original's layout, to be changed."""
    return Path(shutil.copytree(written / "originals", tmp_path / "tfrecords"))


def content(records):
    return [(records.read(k), int(records.labels[k])) for k in range(len(records))]


@pytest.mark.parametrize("layout", ["folders", "tars", pytest.param("tfrecords", marks=needs_tensorflow)])
def test_every_layout_gives_the_same_images(layout: str, request: pytest.FixtureRequest) -> None:
    found = open_images(request.getfixturevalue(layout))
    assert sorted(content(found.train)) == sorted(TRAIN)
    assert sorted(content(found.validation)) == sorted(VALIDATION)
    assert found.num_classes == 3


def test_the_second_split_may_be_called_validation(folders: Path, tmp_path: Path) -> None:
    (folders / "val").rename(folders / "validation")
    assert len(open_images(folders).validation) == 5


def test_tar_files_may_lie_in_folders_and_have_a_name_in_front(tars: Path) -> None:
    for path in list(tars.iterdir()):
        split = path.name.partition("-")[0]
        (tars / split).mkdir(exist_ok=True)
        path.rename(tars / split / f"imagenet1k-{path.name}")
    assert content(open_images(tars).train) == TRAIN


@needs_tensorflow
def test_other_keys_and_a_first_class_of_1_are_told(written: Path) -> None:
    keys = {"image_key": "image/encoded", "label_key": "image/class/label"}
    assert content(open_images(written / "standard", **keys, first_label=1).train) == TRAIN
    with pytest.raises(DataError, match=r"set image_key: image/encoded, .*\n.*validation-00000-of-00001, record 0"):
        open_images(written / "standard")
    with pytest.raises(
        DataError,
        match=r"3 train images have a class outside 0 to 2 .*; where classes count from 1, set first_label: 1; "
        r"the first: class 3, .*train-00000-of-00001, record 2, image at byte",
    ):
        open_images(written / "standard", **keys)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no such folder"),
        ("file", "is no folder"),
        ("empty", "holds nothing: expected folders train and val with a folder for each class, or TFRecords"),
        ("strange", r"holds ILSVRC2012_img_train\.tar: expected folders"),
    ],
)
def test_a_root_without_a_data_set_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "ILSVRC2012_img_train.tar").touch()
    with pytest.raises(DataError, match=rf"{tmp_path / name}:? {message}"):
        open_images(tmp_path / name)


def test_two_layouts_in_one_root_must_be_told_apart(folders: Path, tars: Path) -> None:
    assert folders == tars
    with pytest.raises(DataError, match="holds folders and webdataset: say which, with layout"):
        open_images(folders)
    assert content(open_images(tars, layout="webdataset").train) == TRAIN
    assert sorted(content(open_images(tars, layout="folders").train)) == sorted(TRAIN)


def test_classes_that_differ_and_ones_without_images_are_told_at_once(folders: Path) -> None:
    shutil.rmtree(folders / "val" / CLASSES[1])
    (folders / "val" / "n09999999").mkdir()
    (folders / "val" / "n09999999" / "0.jpg").write_bytes(jpeg(0))
    with pytest.raises(DataError) as error:
        open_images(folders)
    assert str(error.value).splitlines() == [
        f"{folders}: no folder among the validation images for 1 classes: n01443537",
        f"{folders}: no folder among the training images for 1 classes: n09999999",
    ]
    shutil.rmtree(folders / "val")
    (folders / "train" / "n0").mkdir()
    with pytest.raises(DataError) as error:
        open_images(folders)
    assert str(error.value).splitlines() == [
        f"{folders}/train/n0 holds no images",
        f"{folders} holds no folder val or validation, expected one for validation",
    ]


def test_validation_images_that_are_not_in_class_folders_are_refused(folders: Path) -> None:
    shutil.rmtree(folders / "val")
    (folders / "val").mkdir()
    (folders / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(jpeg(0))
    with pytest.raises(DataError, match=r"val holds no folders, expected one for each class"):
        open_images(folders)


def test_files_that_are_missing_or_empty_are_told_at_once(tars: Path) -> None:
    (tars / "train-000001.tar").unlink()
    (tars / "train-000002.tar").write_bytes(b"")
    (tars / "val-000000.tar").unlink()
    with pytest.raises(DataError) as error:
        open_images(tars)
    assert str(error.value).splitlines() == [
        f"{tars}/train-000002.tar is empty",
        f"{tars}: 1 of 3 train files are missing: train-000001.tar",
        f"{tars} holds no validation files, expected val- or validation- and a number",
    ]


def test_the_number_of_files_that_the_names_tell_must_be_there(tmp_path: Path) -> None:
    for number in (0, 7):
        (tmp_path / f"train-{number:05}-of-01024").write_bytes(b"x")
    for name in ("validation-00000-of-00001", "validation-00001-of-00001"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError) as error:
        open_images(tmp_path)
    names = ", ".join(f"train-{number:05}-of-01024" for number in range(1, 6))
    assert str(error.value).splitlines() == [
        f"{tmp_path}: 1022 of 1024 train files are missing: {names}, …",
        f"{tmp_path}/validation-00001-of-00001: its number is not below 1, the number of files",
    ]


def test_several_series_of_files_are_refused(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "train-00000-of-00002", "val-0", "validation-0"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError) as error:
        open_images(tmp_path)
    assert str(error.value).splitlines() == [
        f"{tmp_path} holds several series of train files, expected one: train-*-of-00001, train-*-of-00002",
        f"{tmp_path} holds several series of validation files, expected one: val-*, validation-*",
    ]


def test_numbers_may_begin_at_1(tars: Path) -> None:
    for number in (3, 2, 1):
        (tars / f"train-{number - 1:06}.tar").rename(tars / f"train-{number:06}.tar")
    assert content(open_images(tars).train) == TRAIN


def test_damage_in_several_files_is_told_at_once(tars: Path) -> None:
    (tars / "train-000001.tar").write_bytes(b"x" * 2000)
    write_tar(tars / "train-000002.tar", {"0.jpg": b"x"})
    write_tar(tars / "val-000000.tar", {"readme.txt": b"x"})
    with pytest.raises(DataError) as error:
        open_images(tars)
    assert str(error.value).splitlines() == [
        f"{tars}/train-000001.tar is no whole tar file: invalid header",
        f"{tars}/train-000002.tar: no class (.cls) for '0', one of 1 such keys",
        f"{tars}/val-000000.tar holds no images",
    ]


def test_a_class_that_no_training_image_has_is_out_of_range(tars: Path) -> None:
    write_tar(tars / "val-000000.tar", as_members([(jpeg(0), 2), (jpeg(1), 7), (jpeg(2), -1)]))
    with pytest.raises(DataError) as error:
        open_images(tars)
    [line] = str(error.value).splitlines()
    assert line.startswith(
        "2 validation images have a class outside 0 to 2 (the training images are of 3 classes); "
        f"the first: class 7, {tars}/val-000000.tar, record 1, image at byte "
    )


@needs_tensorflow
def test_a_damaged_record_is_left_out(tfrecords: Path) -> None:
    path = tfrecords / "train-00001-of-00003"
    content_ = bytearray(path.read_bytes())
    content_[300] ^= 1
    path.write_bytes(content_)
    assert content(open_images(tfrecords).train) == TRAIN[:3] + TRAIN[4:]
