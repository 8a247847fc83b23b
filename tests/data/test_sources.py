"""The digits, parts of splits, and the share of unreadable images."""

import subprocess
import sys

import numpy as np
import pytest

from tests.data.kinds import KINDS, BlankView, make_source
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    ArraySource,
    BatchPlan,
    available_splits,
    check_bad_images,
    eval_dataset,
    load_eval_source,
    load_source,
)
from tf_simclr.data.splits import slices_of_split, split_kind, splits_left

DIGITS = DataConfig(dataset="digits")


def test_digits_are_bytes_with_labels():
    source = load_source(DIGITS, "train")
    assert (source.num_examples, source.num_classes, source.name) == (1347, 10, "digits (train)")
    assert source.images.shape == (1347, 8, 8, 1) and source.images.dtype == np.uint8
    assert source.images.max() == 255
    assert source.class_names == tuple("0123456789")


def test_digits_splits_are_disjoint_complete_and_stratified():
    from sklearn.datasets import load_digits

    train, test = load_source(DIGITS, "train"), load_source(DIGITS, "test", flag="eval_split")
    images = np.concatenate([train.images, test.images])[..., 0]
    expected = np.rint(load_digits().images * 255 / 16)
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected.astype(np.uint8)))
    assert available_splits(DIGITS) == ("train", "test")
    for source, share in ((train, 0.75), (test, 0.25)):
        counts = np.bincount(source.labels, minlength=10)
        assert np.abs(counts - share * np.bincount(load_digits().target)).max() <= 1


def test_digits_parts_of_a_split_join_to_the_whole():
    whole, first, second = (load_source(DIGITS, split) for split in ("train", "train[:80%]", "train[80%:]"))
    assert first.num_examples == 1078
    np.testing.assert_array_equal(np.concatenate([first.images, second.images]), whole.images)
    np.testing.assert_array_equal(np.concatenate([first.labels, second.labels]), whole.labels)
    assert np.bincount(second.labels, minlength=10).min() >= 15


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
def test_splits_are_known_in_any_spelling(kind, names):
    assert {name: split_kind(name) for name in names} == dict.fromkeys(names, kind)


def test_splits_that_are_used_are_not_left():
    splits = ("train", "test", "validation")
    assert splits_left(splits, "train[:80%]+val") == ["test"]
    assert splits_left(splits, "all") == []


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            "dev",
            r"^--eval_split=dev: digits has the split\(s\) train, test; use one of them, or a part such as",
        ),
        (
            "train[:0%]",
            r"^--eval_split=train\[:0%\]: no example of the 1347 of train is in it; take a larger part",
        ),
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


def test_digits_splits_are_added():
    both = load_source(DIGITS, "train[:5]+test")
    parts = [load_source(DIGITS, split) for split in ("train[:5]", "test")]
    assert both.num_examples == 455 and both.name == "digits (train[:5]+test)"
    np.testing.assert_array_equal(both.images, np.concatenate([part.images for part in parts]))
    np.testing.assert_array_equal(both.labels, np.concatenate([part.labels for part in parts]))


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
        (
            "csv:labels.csv",
            "there is no kind of data csv:; use folder:labels.csv for a folder of images, or tfrecord:",
        ),
        ("Folder:/photos", "there is no kind of data Folder:; use folder:/photos for a folder of images"),
        (
            "folder:gs://bucket/x",
            "folders are read only from this machine; copy it, or use tfrecord:gs://bucket/x",
        ),
        ("gs://bucket/x", "there is no kind of data gs:; use tfrecord:gs://bucket/x for record files."),
    ],
)
def test_paths_and_unknown_prefixes_are_offered_as_what_they_may_be(dataset, fix):
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "stop"), [(0, 23), (0, 7), (5, 6), (6, 23), (22, 23)])
def test_part_holds_the_examples_of_its_range_under_their_own_names(kind, start, stop, tmp_path):
    source = make_source(kind, 23, tmp_path)
    part = source.part(start, stop)
    assert (part.num_examples, part.class_names) == (stop - start, source.class_names)
    batches = list(eval_dataset(part, BlankView(), plan=BatchPlan(global_batch_size=4)).as_numpy_iterator())
    labels, positions, mask = (
        np.concatenate([batch[name] for batch in batches]) for name in ("labels", "position", "mask")
    )
    assert labels[mask > 0].tolist() == list(range(start, stop))
    assert positions[mask > 0].tolist() == list(range(stop - start))
    names = [part.example_name(key) for key in range(stop - start)]
    assert names == [source.example_name(key) for key in range(start, stop)]


@pytest.mark.parametrize("kind", KINDS)
def test_part_of_a_part_and_its_subset_keep_their_names(kind, tmp_path):
    source = make_source(kind, 23, tmp_path)
    inner = source.part(4, 20).part(3, 10)
    assert inner.example_name(2) == source.example_name(9)
    assert inner.subset(np.array([2, 5]), "two").example_name(1) == source.example_name(12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoded", "stream"])
def test_part_decodes_no_other_image(kind, tmp_path):
    """What is unreadable elsewhere is not met."""
    part = make_source(kind, 23, tmp_path, bad=(0, 3, 15)).part(4, 15)
    batches = list(eval_dataset(part, BlankView(), plan=BatchPlan(global_batch_size=4)))
    assert sum(int(batch["bad_images"]) for batch in batches) == 0
    assert part.bad_image_names() == ()
