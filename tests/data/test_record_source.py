"""`tfrecord:GLOB`: files, features, classes, manifests; the cost of damaged records."""

import hashlib
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.data.conftest import GREY_STEP
from tests.data.kinds import GreyView, order, plain_decoding, read
from tests.data.records import damage, example, png, write, write_greys
from tests.support.marks import usual
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    BatchPlan,
    available_splits,
    few_labels,
    load_source,
    load_training_source,
    record_source,
    train_dataset,
)
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.stream_source import StreamSource
from tf_simclr.preparation.record_writer import PreparedFiles


def config(where, **settings):
    return DataConfig(dataset=f"tfrecord:{where}", **settings)


def open_train(where, split="train", **settings):
    return load_source(config(where, **settings), split)


BAD_NAMES = ("../other", "/etc/passwd", "a/b", "..", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    write_greys(root, range(24))
    return write_greys(root, range(24, 30), num_files=1, split="test")


@pytest.mark.slow
def test_fingerprint_does_not_depend_on_memory(folder):
    stream, cached = (open_train(folder, cache_dataset=cache) for cache in (False, True))
    assert stream.fingerprint() == cached.fingerprint() != open_train(folder, "test").fingerprint()
    chosen = [source.subset(np.arange(5), "some").fingerprint() for source in (stream, cached)]
    assert chosen[0] == chosen[1] != stream.fingerprint()


def write_manifest(folder, class_names, **splits):
    """As `--mode=prepare` writes it."""

    def entry(path):
        content = path.read_bytes()
        count = sum(1 for _ in tf.data.TFRecordDataset(str(path)))
        digest = hashlib.sha256(content).hexdigest()
        return {"name": path.name, "num_examples": count, "bytes": len(content), "sha256": digest}

    files = {split: [entry(path) for path in paths] for split, paths in splits.items()}
    content = {
        "format": "tf_simclr-prepared-1",
        "class_names": class_names,
        "splits": {
            split: {"num_examples": sum(file["num_examples"] for file in named), "files": named}
            for split, named in files.items()
        },
    }
    (folder / "manifest.json").write_text(json.dumps(content))


# ---- Files


def test_split_of_a_folder_may_have_any_of_its_usual_names_but_one(tmp_path):
    names = ("train", "holdout", "dev", "unsupervised")
    for name in names:
        (tmp_path / f"{name}-0.tfrecord").touch()
    assert available_splits(config(tmp_path)) == names
    (tmp_path / "valid-0.tfrecord").touch()
    with pytest.raises(UserError, match=r"valid-0\.tfrecord and dev-0\.tfrecord are both the split validation;"):
        open_train(tmp_path)


@pytest.mark.slow
def test_folder_glob_and_single_file(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_train(f"~/{folder.name}").num_examples == 24
    for where in (folder, f"{folder}/{{split}}-*.tfrecord"):
        assert available_splits(config(where)) == ("train", "test")
        assert open_train(where).num_examples == 24
        assert load_source(config(where), "test", flag="eval_split").num_examples == 6
    assert available_splits(config(f"{folder}/*.tfrecord")) == ("train",)
    assert open_train(f"{folder}/*.tfrecord").num_examples == 30
    assert open_train(f"{folder}/train-00001-of-00003.tfrecord").num_examples == 8


def test_name_of_a_directory_is_no_pattern(tmp_path):
    def files(where):
        return [
            os.path.relpath(path, tmp_path) for paths in record_source._paths(config(where)).values() for path in paths
        ]

    for name in ("run [a]", "run a", "run*", "{split}"):
        (tmp_path / name / "part [1]").mkdir(parents=True)
        (tmp_path / name / "part [1]" / "train-0").touch()
        (tmp_path / name / "part [1]" / "train-0.tfrecord").touch()
        where = f"{tmp_path}/{name}/part [1]"
        assert files(where) == [f"{name}/part [1]/train-0.tfrecord"]
        if name != "{split}":
            for pattern in ("{split}-*d", "t[r]ain-*d"):
                assert files(f"{where}/{pattern}") == [f"{name}/part [1]/train-0.tfrecord"]
    for pattern in ("run [ab]", "run [^b]"):
        assert files(f"{tmp_path}/{pattern}/part*/train-0") == ["run a/part [1]/train-0"]


def test_split_of_any_name(folder, tmp_path):
    write_greys(tmp_path, range(4), split="more")
    where = f"{tmp_path}/{{split}}-*"
    assert open_train(where, "more").num_examples == 4
    with pytest.raises(UserError, match=r"there is no file .*/\{split\}-\*; name files, such as tfrecord:data/"):
        open_train(where)


def test_files_beside_the_records_are_left_out(tmp_path):
    write_greys(tmp_path, range(6), num_files=1)
    write_manifest(tmp_path, ["cat", "dog"], train=sorted(tmp_path.iterdir()))
    for name in ("train-00001-of-00002.tfrecord.1234.tmp", "unreadable.txt"):
        (tmp_path / name).write_text("no record")
    for where in (tmp_path, f"{tmp_path}/*", f"{tmp_path}/train-*"):
        assert (open_train(where).num_examples, open_train(where).class_names) == (6, ("cat", "dog"))


@pytest.mark.parametrize("cache", [False, True])
def test_examples_come_in_the_order_of_the_files_with_their_labels(tmp_path, cache):
    source = open_train(write_greys(tmp_path, range(24)), cache_dataset=cache)
    assert isinstance(source, EncodedImages if cache else StreamSource)
    assert (source.bytes_in_memory > 0, source.class_names) == (cache, ("0", "1"))
    assert source.example_name(9) == "train-00001-of-00003.tfrecord record 1"
    second = open_train(tmp_path, "train[40%:]")
    assert [second.example_name(key) for key in (0, 13)] == [source.example_name(key) for key in (10, 23)]
    if cache:
        for path in tmp_path.iterdir():
            path.unlink()
    expected = [*range(0, 24, 3), *range(1, 24, 3), *range(2, 24, 3)]
    assert read(source) == (expected, [n % 2 for n in expected], 0)


# ---- Order


@pytest.mark.slow
@pytest.mark.parametrize("compression", usual("GZIP", also=["", "ZLIB"]))
def test_order_is_that_of_one_run_resumed_and_on_any_workers(tmp_path, compression):
    write_greys(tmp_path, range(24), compression=compression)
    source = open_train(tmp_path)
    numbers, labels = order(source, 72)
    assert labels == [number % 2 for number in numbers]
    epochs = np.reshape(numbers, [3, 24])
    np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(24)] * 3)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    # Opened again, as by another process.
    assert order(open_train(tmp_path), 18, first_step=5)[0] == numbers[30:48]
    two_replicas = BatchPlan(global_batch_size=6, num_replicas=2, total_replicas=2)
    assert order(source, 24, plan=two_replicas)[0] == numbers[:24]
    plans = [BatchPlan(global_batch_size=6, first_replica=worker, total_replicas=2) for worker in (0, 1)]
    shares = [order(source, 12, plan=plan)[0] for plan in plans]
    by_file = [*range(0, 24, 3), *range(1, 24, 3), *range(2, 24, 3)]
    assert [sorted(share) for share in shares] == [sorted(by_file[:12]), sorted(by_file[12:])]
    assert order(source, 6, plan=plans[1], first_step=2)[0] == shares[1][6:]


# ---- Features


@pytest.mark.parametrize(
    ("keys", "flags", "num_classes"),
    [
        ({}, {}, 2),
        ({"image_key": "image/encoded", "label_key": "image/class/label"}, {}, 2),
        ({"image_key": "jpeg", "label_key": "sort"}, {}, None),
        ({"image_key": "jpeg", "label_key": "sort"}, {"tfrecord_label_key": "sort"}, 2),
        ({"image_key": "picture"}, {"tfrecord_image_key": "picture"}, 2),
        ({}, {"tfrecord_label_key": ""}, None),
    ],
    ids=str,
)
def test_features_are_found_or_named(tmp_path, keys, flags, num_classes):
    write(tmp_path / "train-0.tfrecord", [example(png(n), n % 2, **keys, file_name=b"x") for n in range(6)])
    source = open_train(tmp_path, **flags)
    assert source.num_classes == num_classes
    images = source.in_memory()
    assert images.bytes_in_memory == sum(len(png(number)) for number in range(6))
    assert num_classes is None or images.read_labels().tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("record", "flags", "message"),
    [
        (example(b"", 1, image_key="picture"), {}, "--tfrecord_image_key: not given, and the records of "),
        (example(b"", 1), {"tfrecord_image_key": "img"}, "--tfrecord_image_key=img: the records of "),
        (example(b"", 1), {"tfrecord_image_key": "label"}, "--tfrecord_image_key=label: the records of "),
        (example(b"", 1), {"tfrecord_label_key": "class"}, "--tfrecord_label_key=class: the records of "),
        (example(b"", text=b"cat"), {"tfrecord_label_key": "text"}, "--tfrecord_label_key=text: the records of "),
        (b"\xff\xff no example", {}, "--dataset=tfrecord:"),
        (example(b"", 10**6), {}, "--tfrecord_num_classes=0: the largest label of 1 records is 1000000; name"),
    ],
    ids=["none", "image", "no image", "label", "text", "other", "large"],
)
def test_other_features_are_refused(tmp_path, record, flags, message):
    write(tmp_path / "train-0.tfrecord", [record])
    with pytest.raises(UserError) as error:
        open_train(tmp_path, **flags)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_refusal_names_the_features(folder):
    message = r"have the features image \(bytes\), label \(int64\); name one that is an encoded image\.$"
    with pytest.raises(UserError, match=message):
        open_train(folder, tfrecord_image_key="img")


# ---- Classes


@pytest.mark.slow
def test_classes_are_counted_over_all_splits_once(tmp_path, log):
    write(tmp_path / "train-0.tfrecord", [example(png(n), n) for n in range(5)])
    write(tmp_path / "test-0.tfrecord", [example(png(n), 0) for n in range(3)])
    for split in ("train", "test", "train"):
        assert load_source(config(tmp_path), split).num_classes == 5
    said = [message for message in log.messages if message.startswith("Reading the labels of ")]
    assert len(said) == 2 and "--tfrecord_num_classes spares it" in said[0]


def test_given_number_of_classes_spares_reading_the_labels(tmp_path, log):
    write(tmp_path / "train-0.tfrecord", [example(png(n), n) for n in range(6)])
    source = open_train(tmp_path, tfrecord_num_classes=4)
    assert source.num_classes == 4 and not log.messages
    assert read(source) == ([0, 1, 2, 3], [0, 1, 2, 3], 2)


@pytest.mark.parametrize("label_key", [None, "sort"])
def test_classes_are_counted_if_another_split_has_no_labels(tmp_path, label_key):
    key = {"label_key": label_key} if label_key else {}
    write(tmp_path / "train-0.tfrecord", [example(png(n), n, **key) for n in range(3)])
    write(tmp_path / "unlabelled-0.tfrecord", [example(png(n)) for n in range(3)])
    assert open_train(tmp_path, tfrecord_label_key=label_key).num_classes == 3
    assert load_source(config(tmp_path), "unlabelled").num_classes is None


@pytest.mark.slow
def test_labels_that_are_counted_from_1(tmp_path):
    write(tmp_path / "train-0.tfrecord", [example(png(n), 1 + n % 2) for n in range(6)])
    few = {"labels_per_class": 2}
    with pytest.raises(UserError, match=r"its smallest class, 0; use --tfrecord_first_label=1 if the labels"):
        few_labels(open_train(tmp_path), config(tmp_path, **few))
    first = {"tfrecord_first_label": 1}
    for more in ({}, {"tfrecord_num_classes": 2}):
        source = open_train(tmp_path, **first, **more)
        assert (source.num_classes, source.read_labels().tolist()) == (2, [0, 1] * 3)
    assert read(few_labels(source, config(tmp_path, **first, **few)))[1].count(1) == 2


# ---- Images without a label


@pytest.fixture
def partly(tmp_path):
    """The labels 0 and 1 of 24 images, of which the first of every three has none, in three files."""
    numbers = np.arange(24)
    for index in range(3):
        records = [example(png(n), -1 if n % 3 == 0 else n % 2) for n in numbers[8 * index : 8 * index + 8]]
        write(tmp_path / f"train-{index}.tfrecord", records)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", usual(0, 2))
def test_negative_labels_are_none(partly, log, num_classes):
    data = config(partly, tfrecord_num_classes=num_classes)
    source = load_source(data, "train")
    assert (source.num_classes, source.num_unlabelled) == (2, 8)
    assert read(source) == (list(range(24)), [-1 if number % 3 == 0 else number % 2 for number in range(24)], 0)
    assert load_source(data, "train[:25%]").num_unlabelled == 2
    assert sum("Reading the labels of 24 records" in message for message in log.messages) == 1


@pytest.mark.slow
def test_few_labels_are_chosen_from_the_labelled_images(partly, log):
    data = config(partly)
    labelled = [number for number in range(24) if number % 3]
    assert read(few_labels(load_source(data, "train"), data))[:2] == (labelled, [n % 2 for n in labelled])
    assert "8 of the 24 images of" in log.text and "have no label: learning from the others" in log.text
    data = config(partly, labels_per_class=7)
    numbers, labels, _ = read(few_labels(load_source(data, "train"), data))
    assert set(numbers) <= set(labelled) and labels == [number % 2 for number in numbers]
    assert sorted(labels) == [0] * 7 + [1] * 7


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [0, 2])
def test_split_of_negative_labels_is_one_without(tmp_path, num_classes):
    write(tmp_path / "train-0.tfrecord", [example(png(n), n % 2) for n in range(6)])
    write(tmp_path / "test-0.tfrecord", [example(png(n), -1) for n in range(6)])
    data = config(tmp_path, tfrecord_num_classes=num_classes)
    test = load_source(data, "test")
    assert (test.class_names, test.num_unlabelled, read(test)[2]) == (None, 0, 0)
    assert load_source(data, "train").num_classes == 2
    (tmp_path / "train-0.tfrecord").unlink()
    if not num_classes:
        assert load_source(data, "test").class_names is None


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", usual(0, also=[2]))
def test_records_of_splits_are_added(tmp_path, num_classes):
    write(tmp_path / "train-0.tfrecord", [example(png(n), n % 2) for n in range(6)])
    write(tmp_path / "train-1.tfrecord", [example(png(n), n % 2) for n in range(6, 8)])
    write(tmp_path / "unlabelled-0.tfrecord", [example(png(n)) for n in range(8, 12)])
    data = config(tmp_path, tfrecord_num_classes=num_classes)
    source = load_training_source(data)
    assert source.name == f"tfrecord:{tmp_path} (train+unlabelled)"
    assert (source.num_examples, source.num_unlabelled, source.class_names) == (12, 4, ("0", "1"))
    assert read(source) == (list(range(12)), [0, 1] * 4 + [-1] * 4, 0)
    assert read(few_labels(source, data))[0] == list(range(8))
    assert read(load_source(data, "train[6:]+unlabelled[:1]"))[0] == [6, 7, 8]
    cached = load_training_source(config(tmp_path, tfrecord_num_classes=num_classes, cache_dataset=True))
    assert cached.labels.tolist() == [0, 1] * 4 + [-1] * 4


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


def test_manifest_that_cannot_be_read_is_one_line(folder, monkeypatch):
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


# ---- Damage


@pytest.fixture
def damaged(tmp_path):
    """24 records: one has a wrong checksum, one no image, one an image that cannot be decoded, one no label."""
    records = [example(png(n), n % 2) for n in range(24)]
    records[4] = example(png(4), 0, image_key="other")
    records[5] = example(b"no picture", 1)
    records[6] = example(png(6))
    write(tmp_path / "train-0.tfrecord", records[:12])
    write(tmp_path / "train-1.tfrecord", records[12:])
    damage(tmp_path / "train-0.tfrecord", 2)
    return tmp_path


@pytest.mark.slow
def test_damaged_records_are_replaced_counted_and_named(damaged):
    source = open_train(damaged)
    with plain_decoding():
        batches = train_dataset(source, GreyView(), plan=BatchPlan(global_batch_size=8), seed=1, num_views=1)
    parts = list(batches.take(6).as_numpy_iterator())
    assert sum(part["bad_images"] for part in parts) == 2 * 4
    numbers = np.concatenate([part["views"][0][:, 0, 0, 0] for part in parts]) / GREY_STEP
    assert set(numbers) == set(range(24)) - {2, 4, 5, 6}
    np.testing.assert_array_equal(numbers % 2, np.concatenate([part["labels"] for part in parts]))
    assert set(source.bad_image_names()) == {f"train-0.tfrecord record {number}" for number in (2, 4, 5, 6)}


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_damaged_records_cost_one_example_each(damaged, cache):
    source = open_train(damaged, cache_dataset=cache)
    expected = sorted(set(range(24)) - {2, 4, 5, 6})
    assert read(source) == (expected, [number % 2 for number in expected], 4)
    data = config(damaged, labels_per_class=9)
    numbers, _, num_bad = read(few_labels(source, data))
    # An image that cannot be decoded still has its label.
    assert num_bad <= 1 and not {2, 4, 6} & set(numbers)


def test_file_that_is_cut_off_is_told(tmp_path, log):
    write_greys(tmp_path, range(24))
    path = tmp_path / "train-00001-of-00003.tfrecord"
    path.write_bytes(path.read_bytes()[:-3])
    assert open_train(tmp_path).num_examples == 24
    assert [m for m in log.messages if "cut off" in m] == [f"{path}: it is cut off within record 7."]


def test_files_without_records_are_refused(tmp_path):
    write(tmp_path / "train-0.tfrecord", [])
    with pytest.raises(UserError, match=r"there is no record in 1 file\(s\), such as .*train-0\.tfrecord; name"):
        open_train(tmp_path)
    (tmp_path / "train-0.tfrecord").write_bytes(b"no records at all, but text")
    with pytest.raises(UserError, match=r"no record of .*train-0\.tfrecord or others is a tf\.train\.Example"):
        open_train(tmp_path)
