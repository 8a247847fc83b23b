"""Few labels: the choice of examples, subsets of each kind of source, and labelled images in a batch."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.data.kinds import KINDS, make_source, read
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    ArraySource,
    choose_labelled,
    few_labels,
    load_source,
    mix_labelled,
)

COUNTS = (40, 100, 7)  # Examples of each class.


@pytest.fixture(scope="module")
def labels():
    """Labels of three classes and of 20 examples without one, in no order."""
    values = np.repeat([-1, 0, 1, 2], [20, *COUNTS])
    return np.random.RandomState(3).permutation(values).astype(np.int32)


def chosen_of_each_class(labels, **settings):
    indices = choose_labelled(labels, 3, **settings)
    assert indices.dtype == np.int64
    assert np.all(np.diff(indices) > 0)
    assert indices.min() >= 0 and indices.max() < len(labels)
    return [int(np.sum(labels[indices] == number)) for number in range(3)] + [int(np.sum(labels[indices] < 0))]


# ---- Which are chosen


@pytest.mark.parametrize(
    ("fraction", "expected"),
    # 7 * 0.5 and 7 * 0.1: a half is rounded up, 0.7 to 1.
    [(0.1, [4, 10, 1, 0]), (0.5, [20, 50, 4, 0]), (0.3, [12, 30, 2, 0]), (1.0, [40, 100, 7, 0])],
)
def test_choice_is_stratified_and_rounded_to_the_nearest(labels, fraction, expected):
    assert chosen_of_each_class(labels, fraction=fraction) == expected


@pytest.mark.parametrize("per_class", [1, 5, 7])
def test_choice_takes_the_same_number_of_each_class(labels, per_class):
    assert chosen_of_each_class(labels, per_class=per_class) == [per_class] * 3 + [0]


def test_choice_of_fewer_lies_inside_that_of_more(labels):
    fractions = [{"fraction": share} for share in (0.1, 0.11, 0.3, 0.5, 1.0)]
    numbers = [{"per_class": number} for number in range(1, 8)]
    for settings, seed in itertools.product((fractions, numbers), (0, 5)):
        sets = [set(choose_labelled(labels, 3, seed=seed, **one)) for one in settings]
        assert all(smaller <= larger for smaller, larger in itertools.pairwise(sets))
        assert len(sets[0]) < len(sets[-1])


def test_choice_depends_on_the_seed_and_on_nothing_else(labels):
    first = choose_labelled(labels, 3, per_class=5, seed=1)
    np.random.seed(9)
    tf.random.set_seed(9)
    np.testing.assert_array_equal(first, choose_labelled(labels.copy(), 3, per_class=5, seed=1))
    assert choose_labelled(np.arange(12) % 2, 2, fraction=0.4, seed=7).tolist() == [1, 4, 7, 10]  # In every release.


def test_choice_is_uniform_and_drawn_for_each_class_by_itself():
    labels = np.repeat([0, 1], 10)
    choices = np.array([choose_labelled(labels, 2, per_class=2, seed=seed) for seed in range(2000)])
    counts = np.bincount(choices.ravel(), minlength=20)
    # Of 2000 draws each example has 400 +- 18.
    assert np.all(np.abs(counts - 400) < 90)
    same = np.mean(np.all(choices[:, :2] + 10 == choices[:, 2:], axis=1))
    assert same < 0.05, "both classes have the same order"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_class": 8}, "class 2 has 7 examples; cannot choose 8 of them"),
        ({"fraction": 0.05}, "class 2 has 7 examples; cannot choose 0 of them"),
    ],
)
def test_choice_that_cannot_be_made_is_an_error(labels, settings, message):
    with pytest.raises(ValueError, match=message):
        choose_labelled(labels, 3, **settings)


# ---- Subsets of every kind of source


def array_source(labels):
    images = np.random.RandomState(0).randint(0, 256, (len(labels), 8, 8, 3)).astype(np.uint8)
    return ArraySource("noise", images, labels, ["ant", "bee", "cow"])


def data_of(**settings):
    return DataConfig(dataset="noise", **settings)


def test_few_labels_of_all_labels_is_the_source_itself(labels):
    source = array_source(labels)
    assert few_labels(source, data_of()) is source


def test_few_labels_of_an_array_has_the_chosen_images_and_labels(labels):
    source = array_source(labels)
    few = few_labels(source, data_of(labels_per_class=3, label_seed=5))
    indices = choose_labelled(labels, 3, per_class=3, seed=5)
    np.testing.assert_array_equal(few.images, source.images[indices])
    np.testing.assert_array_equal(few.labels, labels[indices])
    assert (few.num_examples, few.class_names) == (9, source.class_names)
    assert few.name == "noise, 9 labels"
    assert source.num_examples == len(labels)


@pytest.mark.parametrize("kind", KINDS)
def test_subset_has_the_chosen_examples_and_their_names(kind, tmp_path):
    source = make_source(kind, 23, tmp_path)
    chosen = source.subset(np.array([2, 9, 17]), "few")
    assert (chosen.name, chosen.num_examples, chosen.class_names) == ("few", 3, source.class_names)
    assert (read(chosen)[1:], chosen.read_labels().tolist()) == (([2, 9, 17], 0), [2, 9, 17])
    assert [chosen.example_name(key) for key in range(3)] == [source.example_name(key) for key in (2, 9, 17)]
    chosen.read_labels()[:] = 9
    if chosen.labels is not None:
        chosen.labels[:] = 9
    assert source.read_labels().tolist() == list(range(23))


@pytest.mark.parametrize("cache", [False, True])
def test_few_labels_of_a_folder_has_the_chosen_files(class_folder, cache):
    data = DataConfig(dataset=f"folder:{class_folder}", cache_dataset=cache, labels_per_class=2, label_seed=3)
    chosen = choose_labelled(np.repeat([0, 1], 6), 2, per_class=2, seed=3)
    few = few_labels(load_source(data, "train"), data)
    assert read(few) == (chosen.tolist(), [0, 0, 1, 1], 0) and few.class_names == ("cat", "dog")


@pytest.mark.parametrize("cache", [False, True])
def test_few_labels_of_a_part_of_tfds_has_the_chosen_records(tfds_dir, no_network, cache):
    data = DataConfig(dataset="tiny_jpegs", data_dir=str(tfds_dir), cache_dataset=cache, label_fraction=0.3)
    source = load_source(data, "train[30%:]")
    numbers, labels, _ = read(source)
    chosen = choose_labelled(np.array(labels), 2, fraction=0.3)
    assert read(few_labels(source, data))[0] == [numbers[index] for index in chosen]


def test_subset_of_a_source_without_labels_has_none():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    assert ArraySource("plain", images).subset(np.array([1, 3]), "few").num_classes is None


# ---- What is refused


def refusal(source, **settings):
    with pytest.raises(UserError) as error:
        few_labels(source, data_of(**settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_more_labels_than_there_are_is_one_line(labels):
    assert refusal(array_source(labels), labels_per_class=8) == (
        "--labels_per_class=8: noise has 7 labelled examples of its smallest class, cow; use at most 7."
    )


def test_label_fraction_that_leaves_a_class_empty_is_one_line(labels):
    assert refusal(array_source(labels), label_fraction=0.05) == (
        "--label_fraction=0.05: noise has 7 labelled examples of its smallest class, cow, of which none would "
        "be left; use a larger share, or --labels_per_class."
    )


@pytest.mark.parametrize("settings", [{}, {"label_fraction": 0.5}, {"labels_per_class": 1}])
def test_source_without_labels_is_one_line(settings):
    source = ArraySource("plain", np.zeros([4, 8, 8, 1], np.uint8))
    assert refusal(source, **settings) == (
        "--train_split=train: plain has no labels, which this stage learns from; name a split or a data set with "
        "labels."
    )


# ---- Labelled images in a batch


def test_mixed_batch_has_the_labelled_rows_last():
    """A batch has 3 unlabelled rows, whose own labels are dropped, and 1 labelled row."""

    def batches(first, rows, bad):
        def batch(number):
            images = tf.cast(first + number * rows + tf.range(rows, dtype=tf.int64), tf.float32)
            return {"views": (images,), "labels": tf.cast(images, tf.int32) % 2, "bad_images": bad}

        return tf.data.Dataset.range(tf.int64.max).map(batch)

    dataset = mix_labelled(batches(0, 3, bad=2), batches(100, 1, bad=5))
    for number, batch in enumerate(dataset.take(3)):
        first = 3 * number
        np.testing.assert_array_equal(batch["views"][0], [first, first + 1, first + 2, 100 + number])
        np.testing.assert_array_equal(batch["labels"], [-1, -1, -1, number % 2])
        assert batch["bad_images"] == 7
