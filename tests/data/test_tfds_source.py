"""Data sets of TensorFlow Datasets, read from prepared files without any network."""

import numpy as np
import pytest

from tests.data.conftest import classes_of_number, numbers_of
from tf_simclr.augment.views import EvalView, TrainView
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    ArraySource,
    BatchPlan,
    available_splits,
    eval_dataset,
    load_source,
    load_training_source,
    load_with_label_sets,
    tfds_source,
    train_dataset,
)
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.stream_source import StreamSource

pytestmark = [pytest.mark.usefixtures("no_network"), pytest.mark.stack]
VIEW = TrainView(image_size=8)


@pytest.fixture
def config(tfds_dir):
    return lambda name, **kwargs: DataConfig(dataset=name, data_dir=str(tfds_dir), **kwargs)


def batches(source, count, **kwargs):
    dataset = train_dataset(source, VIEW, **{"plan": BatchPlan(global_batch_size=8), "seed": 1} | kwargs)
    return list(dataset.take(count).as_numpy_iterator())


def numbers(parts):
    return np.concatenate([numbers_of(part["views"][0]) for part in parts])


@pytest.mark.slow
def test_tfds_small_images_are_held_decoded(config):
    train = load_source(config("tiny_fixed"), "train")
    test = load_source(config("tiny_fixed"), "test", flag="eval_split")
    assert isinstance(train, ArraySource) and train.images.shape == (20, 32, 32, 3)
    assert (train.num_examples, test.num_examples, train.class_names) == (20, 10, ("even", "odd"))
    assert sorted(train.images[:, 0, 0, 0]) == [5 * number for number in range(20)]
    np.testing.assert_array_equal(train.images[:, 0, 0, 0] // 5 % 2, train.labels)
    assert set(available_splits(config("tiny_fixed"))) == {"train", "test"}
    assert load_source(config("tiny_fixed"), "train[:25%]").num_examples == 5


def test_tfds_tells_which_version_it_has_read_and_where(config, tfds_dir):
    for name, cache in (("tiny_fixed", False), ("tiny_jpegs", True), ("tiny_jpegs", False)):
        source = load_source(config(name, cache_dataset=cache), "train")
        assert source.prepared_in == f"{tfds_dir}/{name}/1.0.0"


def test_tfds_without_labels(config):
    source = load_source(config("tiny_unlabelled"), "train")
    assert (source.num_examples, source.num_classes) == (30, None)


def test_tfds_feature_can_be_named(config, capfd):
    source = load_source(config("tiny_pairs", tfds_image_key="right", tfds_label_key="shape"), "train")
    assert sorted(source.images[:, 0, 0, 0]) == [5 * number for number in range(10, 30)]
    np.testing.assert_array_equal((source.images[:, 0, 0, 0] // 5 - 10) // 2 % 2, source.labels)
    assert load_source(config("tiny_fixed", tfds_label_key=""), "train").num_classes is None
    assert "deprecated" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "tiny_pairs",
            {},
            r"^--tfds_image_key: not given, and tiny_pairs has the images left, right; name one",
        ),
        (
            "tiny_pairs",
            {"tfds_image_key": "left"},
            r"^--tfds_label_key: not given, and tiny_pairs has the labels colour, shape; name one of them, or use "
            r"--tfds_label_key= to read without labels\.$",
        ),
        (
            "tiny_fixed",
            {"tfds_image_key": "label"},
            r"^--tfds_image_key=label: tiny_fixed has the images image;",
        ),
        (
            "tiny_unlabelled",
            {"tfds_label_key": "x"},
            r"^--tfds_label_key=x: tiny_unlabelled has no label; leave",
        ),
    ],
)
def test_tfds_feature_that_is_not_known_is_refused(config, name, keys, message):
    with pytest.raises(UserError, match=message):
        load_source(config(name, **keys), "train")


def test_tfds_labels_that_are_held_back_are_none(config):
    assert load_source(config("tiny_held_back"), "test").num_classes is None


def test_tfds_unlabelled_split_is_taken_where_no_labels_are_learnt(config):
    source = load_training_source(config("tiny_held_back"))
    assert source.name == "tiny_held_back (train+unlabelled)"
    assert (source.num_examples, source.num_unlabelled) == (6, 2)
    assert sorted(source.labels) == [-1, -1, 0, 0, 1, 1]


@pytest.mark.slow
def test_tfds_unreadable_small_image_is_left_out(config):
    source = load_source(config("tiny_damaged_fixed", max_bad_image_fraction=0.5), "train")
    assert source.num_examples == 30 and len(source.bad_image_names()) == source.num_left_out == 1
    with pytest.raises(UserError, match=r"^--max_bad_image_fraction=0.01: 1 of 31 images of tiny_damaged_fixed"):
        load_source(config("tiny_damaged_fixed"), "train")


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "kind"), [(False, StreamSource), (True, EncodedImages)])
def test_tfds_images_of_several_sizes(config, cache, kind):
    source = load_source(config("tiny_jpegs", cache_dataset=cache), "train")
    assert isinstance(source, kind) and (source.num_examples, source.num_classes) == (40, 2)
    whole = batches(source, 10)
    epochs = numbers(whole).reshape(2, 40)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(40), (2, 1)))
    assert not np.array_equal(*epochs)
    np.testing.assert_array_equal(epochs.ravel() % 2, np.concatenate([batch["labels"] for batch in whole]))
    assert not np.array_equal(numbers(whole), numbers(batches(source, 10, seed=0)))
    for first_step in (0, 3, 7):
        again = batches(source, 10 - first_step, first_step=first_step)
        for batch, other in zip(whole[first_step:], again, strict=True):
            np.testing.assert_array_equal(batch["views"], other["views"])


@pytest.mark.slow
def test_tfds_stream_order_does_not_depend_on_the_global_seed(config):
    import tensorflow as tf

    source = load_source(config("tiny_jpegs"), "train")
    first = numbers(batches(source, 5))
    tf.random.set_seed(1234)
    np.testing.assert_array_equal(first, numbers(batches(source, 5)))


@pytest.mark.slow
def test_tfds_stream_shares_out_its_records(config):
    source = load_source(config("tiny_jpegs"), "train")
    seen = []
    for first in (0, 2):
        plan = BatchPlan(global_batch_size=8, num_replicas=2, first_replica=first, total_replicas=4)
        seen.extend(numbers(batches(source, 10, plan=plan)))
    assert sorted(seen) == list(range(40))


@pytest.mark.slow
def test_tfds_stream_part_of_a_split(config):
    parts = [load_source(config("tiny_jpegs"), split) for split in ("train[:30%]", "train[30%:]")]
    assert [part.num_examples for part in parts] == [12, 28]
    seen = [numbers(batches(part, 1, plan=BatchPlan(global_batch_size=part.num_examples))) for part in parts]
    assert sorted(np.concatenate(seen)) == list(range(40))


def test_tfds_stream_evaluates_every_example_once(config):
    source = load_source(config("tiny_jpegs"), "train")
    dataset = eval_dataset(source, EvalView(image_size=8), plan=BatchPlan(global_batch_size=16))
    parts = list(dataset.as_numpy_iterator())
    seen = np.concatenate([numbers_of(part["images"])[part["mask"] == 1] for part in parts])
    assert len(parts) == 3 and sorted(seen) == list(range(40))


@pytest.mark.slow
def test_tfds_stream_replaces_unreadable_image(config):
    source = load_source(config("tiny_damaged"), "train")
    parts = batches(source, 5, plan=BatchPlan(global_batch_size=4))
    assert sum(part["bad_images"] for part in parts) == 1
    assert set(numbers(parts)) == set(range(20)) - {6}
    (name,) = source.bad_image_names()
    assert name.startswith("tiny_damaged-train.tfrecord-0000")
    np.testing.assert_array_equal(numbers(parts) % 2, np.concatenate([part["labels"] for part in parts]))


@pytest.mark.slow
def test_tfds_large_images_of_one_size_are_streamed(config, monkeypatch):
    monkeypatch.setattr(tfds_source, "MAX_BYTES_IN_MEMORY", 1000)
    source = load_source(config("tiny_fixed"), "train")
    assert isinstance(source, StreamSource)
    assert sorted(numbers(batches(source, 1, plan=BatchPlan(global_batch_size=20)))) == list(range(20))


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "tiny_fixed",
            "dev",
            r"^--train_split=dev: tiny_fixed has the split\(s\) .*train.*; use one of them",
        ),
        ("tiny_fixed", "train[:x]", r"^--train_split=train\[:x\]: not a part of a split; write it like"),
        ("tiny_fixed", "train[:0%]", r"^--train_split=train\[:0%\]: no example of tiny_fixed is in it"),
        (
            "tiny_text",
            "train",
            r"^--dataset=tiny_text: no 8-bit image feature in it \(its features: text\)",
        ),
        ("cifar11", "train", r"^--dataset=cifar11: no such data set .*; did you mean .*cifar10"),
        ("digit", "train", r"^--dataset=digit: no such data set .*; did you mean digits"),
        (
            "qqqqqqq",
            "train",
            r"^--dataset=qqqqqqq: no such data set .*; use digits, a name of",
        ),
        ("mnist:99.0.0", "train", r"^--dataset=mnist:99\.0\.0: cannot be opened \(.*\); check the name\."),
        ("not a name", "train", r"^--dataset=not a name: cannot be opened \(.*\); check the name\."),
    ],
)
def test_tfds_refuses_in_one_line(config, name, split, message):
    with pytest.raises(UserError, match=message) as error:
        load_source(config(name), split)
    assert "\n" not in str(error.value)


def test_tfds_not_prepared_and_no_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.download.downloader.MAX_RETRIES", 0)  # Minutes otherwise.
    data = DataConfig(dataset="cifar10", data_dir=str(tmp_path))
    with pytest.raises(
        UserError, match=r"^--dataset=cifar10: not prepared under --data_dir=.* failed \(.*\); "
    ) as error:
        load_source(data, "train")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_tfds_label_sets_stand_in_the_order_of_the_positions(config):
    source, sets = load_with_label_sets(config("tiny_sets"), "train", ["labels"], flag="datasets")
    assert isinstance(source, StreamSource) and (source.num_examples, source.num_classes) == (40, 3)
    dataset = eval_dataset(source, EvalView(image_size=8), plan=BatchPlan(global_batch_size=8))
    for batch in dataset.as_numpy_iterator():
        for number, position in zip(numbers_of(batch["images"]), batch["position"], strict=True):
            assert np.flatnonzero(sets["labels"][position]).tolist() == classes_of_number(number)
    part, sets = load_with_label_sets(config("tiny_sets"), "train[50%:]", ["labels"], flag="datasets")
    assert (part.num_examples, sets["labels"].shape) == (20, (20, 3))


def test_tfds_label_sets_that_are_not_there_are_refused(config):
    for name, key in (("tiny_sets", "kinds"), ("tiny_jpegs", "label")):
        message = rf"^--dataset={name}/1\.0\.0: its {key} is no list of classes of each image \(its features: image, "
        with pytest.raises(UserError, match=message):
            load_with_label_sets(config(name), "train", [key], flag="datasets")
