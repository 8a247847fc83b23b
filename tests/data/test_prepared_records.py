"""Records with the manifest of prepared data."""

import json
import os

import pytest

from tests.data.kinds import read
from tests.data.records import write_greys, write_manifest
from tests.data.test_record_source import config, open_train
from tf_simclr.config import UserError
from tf_simclr.data import (
    available_splits,
)
from tf_simclr.preparation.record_writer import PreparedFiles

BAD_NAMES = ("../other", "/etc/passwd", "a/b", "..", "")


# ---- The manifest of prepared data


@pytest.fixture
def prepared(tmp_path):
    write_greys(tmp_path, range(12), num_files=2)
    write_greys(tmp_path, range(12, 16), num_files=1, split="test")
    (tmp_path / "train-00009-of-00002.tfrecord").write_bytes(b"left over")
    splits = {split: sorted(tmp_path.glob(f"{split}-0000[01]*")) for split in ("train", "test")}
    write_manifest(tmp_path, ["cat", "dog"], **splits)
    return tmp_path


def test_manifest_says_counts_and_class_names(prepared, monkeypatch):
    monkeypatch.setattr("tf_simclr.data.record_source.count_records", None)
    source = open_train(prepared)
    assert (source.num_examples, source.class_names) == (12, ("cat", "dog"))
    assert available_splits(config(prepared)) == ("train", "test")
    assert sorted(read(source)[0]) == list(range(12))
    assert open_train(f"{prepared}/{{split}}-0000[01]*").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [("tfrecord_num_classes", 3, "names 2 classes"), ("tfrecord_first_label", 1, "says what the labels mean")],
)
def test_flags_about_labels_that_contradict_the_manifest_are_refused(prepared, flag, value, message):
    with pytest.raises(UserError, match=rf"^--{flag}={value}: the manifest.json {message}; leave it out"):
        open_train(prepared, **{flag: value})


@pytest.mark.parametrize("beside", ["no manifest", '{"files": []}', "[]", '{"format": 3}'])
def test_unfinished_files_are_refused(tmp_path, beside):
    files = PreparedFiles(str(tmp_path), overwrite=False)
    files.begin({"seed": 0}, ["cat", "dog"], {"train": (12, 3)})
    write_greys(tmp_path, range(8), num_files=2)
    if beside != "no manifest":
        (tmp_path / "manifest.json").write_text(beside)
    for where in (tmp_path, f"{tmp_path}/*", f"{tmp_path}/train-00000-of-00002.tfrecord"):
        with pytest.raises(UserError, match=rf"^{tmp_path}: is not finished; start the same --mode=prepare again"):
            open_train(where)


@pytest.mark.parametrize("content", ['{"files": []}', "[]", '{"format": 3}', '{"format": "webdataset-1"}'])
def test_manifest_of_another_program_is_left_alone(tmp_path, content):
    write_greys(tmp_path, range(6), num_files=1)
    (tmp_path / "manifest.json").write_text(content)
    for where in (tmp_path, f"{tmp_path}/*"):
        assert (open_train(where).num_examples, open_train(where).class_names) == (6, ("0", "1"))


def test_manifest_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    folder = write_greys(tmp_path, range(3))
    stat = os.stat

    def refuse(path, *arguments, **options):
        if str(path).endswith("manifest.json"):
            raise PermissionError(13, "no right to list")
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)
    for where in (folder, f"{folder}/train-*"):
        with pytest.raises(UserError, match=r"manifest\.json: damaged or unreadable \(no right to list\);"):
            open_train(where)


@pytest.mark.parametrize(
    ("other", "differing"), [(["bus", "cat"], "bus, dog"), (["dog", "cat"], "dog, cat"), (None, "cat, dog")]
)
def test_files_of_other_classes_are_not_joined(tmp_path, other, differing):
    for name, classes in (("a", ["cat", "dog"]), ("b", other)):
        write_greys(tmp_path / name, range(6), num_files=1, labels=classes is not None)
        write_manifest(tmp_path / name, classes, train=sorted((tmp_path / name).iterdir()))
    message = rf"the classes in {tmp_path}/b are not those in {tmp_path}/a \({differing}\); name one of them"
    with pytest.raises(UserError, match=message):
        open_train(f"{tmp_path}/*/train-*")
    source = open_train(f"{tmp_path}/*/train-*", tfrecord_label_key="")
    assert (source.num_examples, source.class_names) == (12, None)


def test_manifest_without_classes_is_of_images_without_labels(tmp_path):
    write_greys(tmp_path, range(6), num_files=1, labels=False)
    write_manifest(tmp_path, None, train=sorted(tmp_path.iterdir()))
    assert open_train(tmp_path).class_names is None


def test_files_that_differ_from_the_manifest_are_refused(prepared):
    path = prepared / "train-00001-of-00002.tfrecord"
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    size = len(content)
    message = rf"{path.name}: has {size - 5} bytes instead of {size}, by the manifest\.json beside it; copy or prep"
    with pytest.raises(UserError, match=message):
        open_train(prepared)
    path.unlink()
    with pytest.raises(UserError, match=r"-of-00002\.tfrecord: is not there, by the manifest\.json beside it"):
        open_train(prepared)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"manifest\.json: damaged or unreadable \(Expecting"),
        ('{"format": "tf_simclr-prepared-1"}', r"manifest\.json: damaged .*\(class_names is missing\)"),
        ('{"format": "tf_simclr-prepared-9"}', r"manifest\.json: is of the format tf_simclr-prepared-9, which"),
    ],
)
def test_manifest_that_cannot_be_used_is_refused(prepared, content, message):
    (prepared / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_train(prepared)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("name", name, r"files\[0\]\.name is '.*', not a name without a directory\); prepare") for name in BAD_NAMES]
    + [("num_examples", 10**9, r"cannot hold 1000000000 records, the number in the manifest\.json beside it")],
)
def test_manifest_with_impossible_values_is_refused(prepared, key, value, message):
    content = json.loads((prepared / "manifest.json").read_text())
    content["splits"]["train"]["files"][0][key] = value
    (prepared / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_train(prepared)
