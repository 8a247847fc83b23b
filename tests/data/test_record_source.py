"""`tfrecord:GLOB`: files, features, classes, manifests; the cost of damaged records."""

import os

import numpy as np
import pytest

from tests.data.kinds import order, read
from tests.data.records import example, png, write, write_greys, write_manifest
from tests.support.marks import usual
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    BatchPlan,
    available_splits,
    few_labels,
    load_source,
    load_training_source,
    record_source,
)
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.stream_source import StreamSource


def config(where, **settings):
    return DataConfig(dataset=f"tfrecord:{where}", **settings)


def open_train(where, split="train", **settings):
    return load_source(config(where, **settings), split)


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
