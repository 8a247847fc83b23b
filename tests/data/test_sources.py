"""The digits, parts of splits, and the share of unreadable images."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tests.data.kinds import KINDS, make_source, read
from tests.support.marks import usual
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    ArraySource,
    BatchPlan,
    available_splits,
    check_bad_images,
    load_eval_source,
    load_source,
)
from tf_simclr.data.splits import slices_of_split, split_kind, splits_left

DIGITS = DataConfig(dataset="digits")


def test_digits_are_bytes_with_labels_in_stratified_splits():
    digits = load_digits()
    train, test = load_source(DIGITS, "train"), load_source(DIGITS, "test", flag="eval_split")
    assert (train.num_examples, train.name, train.class_names) == (1347, "digits (train)", tuple("0123456789"))
    assert available_splits(DIGITS) == ("train", "test")
    images = np.concatenate([train.images, test.images])[..., 0]
    assert images.dtype == np.uint8
    assert sorted(map(bytes, images)) == sorted(map(bytes, np.rint(digits.images * 255 / 16).astype(np.uint8)))
    for source, share in ((train, 0.75), (test, 0.25)):
        counts = np.bincount(source.labels, minlength=10)
        assert np.abs(counts - share * np.bincount(digits.target)).max() <= 1


def test_digits_parts_of_a_split_join_to_the_whole():
    whole = load_source(DIGITS, "train")
    for parts in (("train[:80%]", "train[80%:]"), ("train[:80%]+train[80%:]",)):
        sources = [load_source(DIGITS, part) for part in parts]
        np.testing.assert_array_equal(np.concatenate([source.images for source in sources]), whole.images)
        np.testing.assert_array_equal(np.concatenate([source.labels for source in sources]), whole.labels)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [("train", 0, 100)]),
        ("train[:10]", [("train", 0, 10)]),
        ("train[90%:]", [("train", 90, 100)]),
        ("train[-20:]", [("train", 80, 100)]),
        ("train[:10] + val", [("train", 0, 10), ("validation", 0, 50)]),
        ("training[:10]+train[90%:]", [("train", 0, 10), ("train", 90, 100)]),
    ],
)
def test_slices_of_split_follow_tfds(split, expected):
    sizes = {"train": 100, "validation": 50}
    found = slices_of_split(split, tuple(sizes), sizes.get, flag="train_split", dataset="x")
    assert found == expected


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("train", ["train", "Train", "TRAINING", "train2017", "train_set", "images_train", "trainset"]),
        ("validation", ["val", "valid", "Validation", "val2017", "dev", "ILSVRC2012_img_val"]),
        ("test", ["test", "Test", "testing", "test_images"]),
        ("unlabelled", ["unlabelled", "Unlabeled", "UNLABELLED", "unlabeled_data", "no_labels"]),
        (None, ["images", "bus", "trainer", "invalid", "tester", "data", "cat", "2017", "all"]),
    ],
)
def test_split_kind_knows_any_spelling(kind, names):
    assert {name: split_kind(name) for name in names} == dict.fromkeys(names, kind)


def test_splits_left_lacks_those_in_use():
    splits = ("train", "test", "validation")
    assert splits_left(splits, "train[:80%]+val") == ["test"]
    assert splits_left(splits, "all") == []


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("dev", r"^--eval_split=dev: digits has the split\(s\) train, test; use one of them, or a part such as"),
        ("train[:0%]", r"^--eval_split=train\[:0%\]: no example of the 1347 of train is in it; take a larger part"),
        ("train[:8", r"^--eval_split=train\[:8: not a part of a split; write it like train\[:80%\]"),
        ("train[x:]", r"^--eval_split=train\[x:\]: not a part of a split"),
        ("train+dev", r"^--eval_split=train\+dev: digits has the split"),
        ("train[:5]+test[", r"^--eval_split=train\[:5\]\+test\[: not a part of a split"),
        ("train+", r"^--eval_split=train\+: not a part of a split"),
    ],
)
def test_load_source_refuses_split_in_one_line(split, message):
    with pytest.raises(UserError, match=message) as error:
        load_source(DIGITS, split, flag="eval_split")
    assert "\n" not in str(error.value)


def test_split_that_is_trained_on_is_not_evaluated_on():
    assert load_eval_source(DIGITS).name == "digits (test)"
    assert load_eval_source(DataConfig(dataset="digits", train_split="train+test")) is None


@pytest.mark.parametrize(
    ("dataset", "fix"),
    [
        ("/photos", "is a path; use folder:/photos for images, or tfrecord:/photos for record files."),
        ("~/photos", "is a path; use folder:~/photos for images"),
        ("./a/b", "is a path; use folder:./a/b for images"),
        ("digits,/photos", "is a path; use folder:/photos for images"),
        ("csv:labels.csv", "there is no kind of data csv:; use folder:labels.csv for a folder of images, or tfrecord:"),
        ("Folder:/photos", "there is no kind of data Folder:; use folder:/photos for a folder of images"),
        ("folder:gs://bucket/x", "folders are read only from this machine; copy it, or use tfrecord:gs://bucket/x"),
        ("gs://bucket/x", "there is no kind of data gs:; use tfrecord:gs://bucket/x for record files."),
    ],
)
def test_refused_paths_and_prefixes_come_with_a_fix(dataset, fix):
    with pytest.raises(UserError) as error:
        DataConfig(dataset=dataset)
    assert str(error.value).startswith(f"--dataset={dataset}: {fix}")


def test_names_of_tfds_are_no_paths():
    for dataset in ("cifar10", "mnist:3.0.1", "imagenet2012_subset/1pct:5.*.*", "tfrecord:gs://bucket/x"):
        assert DataConfig(dataset=dataset).dataset == dataset


@pytest.mark.slow
def test_load_source_of_digits_does_not_load_tfds():
    code = (
        "import sys; from tf_simclr.config import DataConfig; from tf_simclr.data import load_source;"
        "load_source(DataConfig(dataset='digits'), 'train'); assert 'tensorflow_datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_check_bad_images_stops_over_the_share():
    source = ArraySource("noise", np.zeros([200, 8, 8, 3], np.uint8))
    source.add_bad_image("a.jpg")
    source.add_bad_image("a.jpg")
    source.add_bad_image("b.jpg")
    assert source.bad_image_names() == ("a.jpg", "b.jpg")
    check_bad_images(source, num_bad=2, num_seen=200, max_fraction=0.01)
    check_bad_images(source, num_bad=3, num_seen=199, max_fraction=0.01)
    message = (
        r"^--max_bad_image_fraction=0.01: 3 of 200 images of noise are unreadable, such as a\.jpg, b\.jpg; "
        r"fix or remove them, or tolerate a larger share\.$"
    )
    with pytest.raises(UserError, match=message):
        check_bad_images(source, num_bad=3, num_seen=200, max_fraction=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "stop"), usual((6, 23), (5, 6), also=[(0, 23), (0, 7), (22, 23)]))
def test_part_holds_the_examples_of_its_range_under_their_own_names(kind, start, stop, tmp_path):
    source = make_source(kind, 23, tmp_path)
    part = source.part(start, stop)
    assert (part.num_examples, part.class_names) == (stop - start, source.class_names)
    rows = list(part.eval_examples(BatchPlan(global_batch_size=4)).take(stop - start))
    assert [int(row["position"]) for row in rows] == list(range(stop - start))
    assert read(part, rows)[1:] == (list(range(start, stop)), 0)
    names = [part.example_name(key) for key in range(stop - start)]
    assert names == [source.example_name(key) for key in range(start, stop)]


@pytest.mark.parametrize("kind", KINDS)
def test_part_of_a_part_and_its_subset_keep_their_names(kind, tmp_path):
    source = make_source(kind, 23, tmp_path)
    inner = source.part(4, 20).part(3, 10)
    assert inner.example_name(2) == source.example_name(9)
    assert inner.subset(np.array([2, 5]), "two").example_name(1) == source.example_name(12)


@pytest.mark.parametrize("kind", ["encoded", "stream"])
def test_part_decodes_no_other_image(kind, tmp_path):
    """It meets no unreadable image of other parts."""
    part = make_source(kind, 23, tmp_path, bad=(0, 3, 15)).part(4, 15)
    assert read(part)[1:] == (list(range(4, 15)), 0)


def test_grey_array_is_decoded_to_colours():
    source = ArraySource("grey", np.full([4, 4, 5, 1], 9, np.uint8))
    image, label = source.decode({"keys": tf.constant([2], tf.int64)}, 0)
    np.testing.assert_array_equal(image, np.full([4, 5, 3], 9))
    assert label == -1
