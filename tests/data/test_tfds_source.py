"""Data sets of TensorFlow Datasets, read from prepared files without any network."""

import numpy as np
import pytest
import tensorflow as tf

from tests.data.conftest import classes_of_number
from tests.data.kinds import order, read
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    ArraySource,
    BatchPlan,
    available_splits,
    load_source,
    load_training_source,
    load_with_label_sets,
    tfds_source,
)
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.stream_source import StreamSource

pytestmark = [pytest.mark.usefixtures("no_network"), pytest.mark.stack]


@pytest.fixture
def config(tfds_dir):
    return lambda name, **kwargs: DataConfig(dataset=name, data_dir=str(tfds_dir), **kwargs)


def numbers_of_array(source):
    return (source.images[:, 0, 0, 0] // 5).tolist()


@pytest.mark.slow  # It prepares the data sets of all tests here.
def test_small_images_are_held_decoded(config):
    train = load_source(config("tiny_fixed"), "train")
    test = load_source(config("tiny_fixed"), "test", flag="eval_split")
    assert isinstance(train, ArraySource) and train.images.shape == (20, 32, 32, 3)
    assert (train.num_examples, test.num_examples, train.class_names) == (20, 10, ("even", "odd"))
    assert sorted(numbers_of_array(train)) == list(range(20))
    assert train.labels.tolist() == [number % 2 for number in numbers_of_array(train)]
    assert set(available_splits(config("tiny_fixed"))) == {"train", "test"}
    assert load_source(config("tiny_fixed"), "train[:25%]").num_examples == 5


def test_feature_can_be_named(config, capfd):
    source = load_source(config("tiny_pairs", tfds_image_key="right", tfds_label_key="shape"), "train")
    assert sorted(numbers_of_array(source)) == list(range(10, 30))
    assert source.labels.tolist() == [(number - 10) // 2 % 2 for number in numbers_of_array(source)]
    assert load_source(config("tiny_fixed", tfds_label_key=""), "train").num_classes is None
    assert "deprecated" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("tiny_pairs", {}, r"^--tfds_image_key: not given, and tiny_pairs has the images left, right; name one"),
        (
            "tiny_pairs",
            {"tfds_image_key": "left"},
            r"^--tfds_label_key: not given, and tiny_pairs has the labels colour, shape; name one of them, or use "
            r"--tfds_label_key= to read without labels\.$",
        ),
        ("tiny_fixed", {"tfds_image_key": "label"}, r"^--tfds_image_key=label: tiny_fixed has the images image;"),
        ("tiny_unlabelled", {"tfds_label_key": "x"}, r"^--tfds_label_key=x: tiny_unlabelled has no label; leave"),
    ],
)
def test_feature_that_is_not_known_is_refused(config, name, keys, message):
    with pytest.raises(UserError, match=message):
        load_source(config(name, **keys), "train")


@pytest.mark.parametrize(("name", "split", "count"), [("tiny_unlabelled", "train", 30), ("tiny_held_back", "test", 2)])
def test_data_without_labels_and_withheld_labels_have_no_classes(config, name, split, count):
    source = load_source(config(name), split)
    assert (source.num_examples, source.num_classes) == (count, None)


def test_training_without_labels_takes_an_unlabelled_split_too(config):
    source = load_training_source(config("tiny_held_back"))
    assert source.name == "tiny_held_back (train+unlabelled)"
    assert (source.num_examples, source.num_unlabelled) == (6, 2)
    assert sorted(source.labels) == [-1, -1, 0, 0, 1, 1]


@pytest.mark.parametrize(("cache", "kind"), [(False, StreamSource), (True, EncodedImages)])
def test_images_of_several_sizes(config, tfds_dir, cache, kind):
    source = load_source(config("tiny_jpegs", cache_dataset=cache), "train")
    assert isinstance(source, kind) and source.class_names == ("even", "odd")
    assert source.prepared_in == f"{tfds_dir}/tiny_jpegs/1.0.0"
    numbers, labels, num_bad = read(source)
    assert (sorted(numbers), labels, num_bad) == (list(range(40)), [number % 2 for number in numbers], 0)


@pytest.mark.slow
def test_stream_order_is_that_of_the_run_on_any_part(config):
    source = load_source(config("tiny_jpegs"), "train")
    whole, labels = order(source, 80)
    assert sorted(whole[:40]) == sorted(whole[40:]) == list(range(40)) and whole[:40] != whole[40:]
    assert labels == [number % 2 for number in whole]
    tf.random.set_seed(1234)  # The order does not depend on it.
    assert order(source, 38, first_step=7)[0] == whole[42:]
    plans = [BatchPlan(global_batch_size=8, num_replicas=2, first_replica=n, total_replicas=4) for n in (0, 2)]
    shares = [order(source, 20, plan=plan)[0] for plan in plans]
    assert sorted(shares[0] + shares[1]) == list(range(40))
    parts = [load_source(config("tiny_jpegs"), split) for split in ("train[:30%]", "train[30%:]")]
    (first, _), (second, _) = order(parts[0], 12), order(parts[1], 28)
    assert sorted(first + second) == list(range(40))


@pytest.mark.slow
def test_unreadable_images_are_told(config):
    source = load_source(config("tiny_damaged_fixed", max_bad_image_fraction=0.5), "train")
    assert source.num_examples == 30 and len(source.bad_image_names()) == source.num_left_out == 1
    with pytest.raises(UserError, match=r"^--max_bad_image_fraction=0.01: 1 of 31 images of tiny_damaged_fixed"):
        load_source(config("tiny_damaged_fixed"), "train")
    numbers, labels, num_bad = read(load_source(config("tiny_damaged"), "train"))
    assert (set(numbers), num_bad) == (set(range(20)) - {6}, 1)
    assert labels == [number % 2 for number in numbers]


def test_large_images_of_one_size_are_streamed(config, monkeypatch):
    monkeypatch.setattr(tfds_source, "MAX_BYTES_IN_MEMORY", 1000)
    source = load_source(config("tiny_fixed"), "train")
    assert isinstance(source, StreamSource)
    assert sorted(read(source)[0]) == list(range(20))


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("tiny_fixed", "dev", r"^--train_split=dev: tiny_fixed has the split\(s\) .*train.*; use one of them"),
        ("tiny_fixed", "train[:x]", r"^--train_split=train\[:x\]: not a part of a split; write it like"),
        ("tiny_fixed", "train[:0%]", r"^--train_split=train\[:0%\]: no example of tiny_fixed is in it"),
        ("tiny_text", "train", r"^--dataset=tiny_text: no 8-bit image feature in it \(its features: text\)"),
        ("cifar11", "train", r"^--dataset=cifar11: no such data set .*; did you mean .*cifar10"),
        ("digit", "train", r"^--dataset=digit: no such data set .*; did you mean digits"),
        ("qqqqqqq", "train", r"^--dataset=qqqqqqq: no such data set .*; use digits, a name of"),
        ("mnist:99.0.0", "train", r"^--dataset=mnist:99\.0\.0: cannot be opened \(.*\); check the name\."),
        ("not a name", "train", r"^--dataset=not a name: cannot be opened \(.*\); check the name\."),
    ],
)
def test_refusal_is_one_line(config, name, split, message):
    with pytest.raises(UserError, match=message) as error:
        load_source(config(name), split)
    assert "\n" not in str(error.value)


def test_failed_preparation_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.download.downloader.MAX_RETRIES", 0)  # Minutes otherwise.
    message = r"^--dataset=cifar10: not prepared under --data_dir=[^\n]* failed \([^\n]*\); [^\n]*$"
    with pytest.raises(UserError, match=message):
        load_source(DataConfig(dataset="cifar10", data_dir=str(tmp_path)), "train")


def test_label_sets_are_in_the_order_of_the_positions(config):
    source, sets = load_with_label_sets(config("tiny_sets"), "train", ["labels"], flag="datasets")
    assert isinstance(source, StreamSource) and source.num_classes == 3
    expected = [np.isin(range(3), classes_of_number(number)) for number in read(source)[0]]
    np.testing.assert_array_equal(sets["labels"], expected)
    part, sets = load_with_label_sets(config("tiny_sets"), "train[50%:]", ["labels"], flag="datasets")
    assert (part.num_examples, sets["labels"].shape) == (20, (20, 3))


def test_missing_label_sets_are_refused(config):
    for name, key in (("tiny_sets", "kinds"), ("tiny_jpegs", "label")):
        message = rf"^--dataset={name}/1\.0\.0: its {key} is no list of classes of each image \(its features: image, "
        with pytest.raises(UserError, match=message):
            load_with_label_sets(config(name), "train", [key], flag="datasets")
