"""Few labels: which examples are chosen, and that a batch mixes them in as it says."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.data.conftest import grey_image, numbers_of, write_image
from tests.support.runs import REPOSITORY
from tf_simclr.augment.views import EvalView, TrainView
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    ArraySource,
    BatchPlan,
    choose_labelled,
    eval_dataset,
    few_labels,
    load_source,
    mix_labelled,
    train_dataset,
)
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.stream_source import StreamSource

VIEW = TrainView(image_size=8)
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
def test_choice_takes_as_many_of_each_class(labels, per_class):
    assert chosen_of_each_class(labels, per_class=per_class) == [per_class] * 3 + [0]


def test_choice_of_fewer_lies_inside_that_of_more(labels):
    fractions = [{"fraction": share} for share in (0.1, 0.11, 0.3, 0.5, 1.0)]
    numbers = [{"per_class": number} for number in range(1, 8)]
    for settings, seed in itertools.product((fractions, numbers), (0, 5)):
        sets = [set(choose_labelled(labels, 3, seed=seed, **one)) for one in settings]
        assert all(smaller <= larger for smaller, larger in itertools.pairwise(sets))
        assert len(sets[0]) < len(sets[-1])


def test_choice_of_one_percent_lies_inside_ten_percent_of_many():
    labels = np.random.RandomState(0).randint(0, 10, 20_000)
    one, ten = (set(choose_labelled(labels, 10, fraction=share)) for share in (0.01, 0.1))
    assert len(one) == pytest.approx(200, abs=5) and len(ten) == pytest.approx(2000, abs=5)
    assert one < ten


def test_choice_depends_on_the_seed_and_on_nothing_else(labels):
    first = choose_labelled(labels, 3, per_class=5, seed=1)
    np.random.seed(9)
    tf.random.set_seed(9)
    np.testing.assert_array_equal(first, choose_labelled(labels.copy(), 3, per_class=5, seed=1))
    choices = {tuple(choose_labelled(labels, 3, per_class=5, seed=seed)) for seed in range(20)}
    assert len(choices) == 20


def test_choice_is_uniform_and_drawn_for_each_class_by_itself():
    labels = np.repeat([0, 1], 10)
    choices = np.array([choose_labelled(labels, 2, per_class=2, seed=seed) for seed in range(2000)])
    counts = np.bincount(choices.ravel(), minlength=20)
    # Of 2000 draws each example has 400 +- 18.
    assert np.all(np.abs(counts - 400) < 90)
    same = np.mean(np.all(choices[:, :2] + 10 == choices[:, 2:], axis=1))
    assert same < 0.05, "both classes have the same order"


PINNED = [1, 4, 7, 10]


@pytest.mark.slow
def test_choice_is_the_same_in_every_process_and_release():
    """A published result names its labels by their seed alone."""
    script = (
        "import numpy as np; from tf_simclr.data.subsets import choose_labelled; "
        "print(choose_labelled(np.arange(12) % 2, 2, fraction=0.4, seed=7).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == str(choose_labelled(np.arange(12) % 2, 2, fraction=0.4, seed=7).tolist())
    assert done.stdout.strip() == str(PINNED), done.stderr


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


def test_few_labels_keeps_all_classes_of_an_array_and_its_own_labels(labels):
    source = array_source(labels)
    before = source.read_labels()
    few_labels(source, data_of(label_fraction=0.5)).labels[:] = 9
    source.read_labels()[:] = 9
    np.testing.assert_array_equal(source.read_labels(), before)


def shown(source):
    """Numbers of the grey images and labels that an evaluation sees."""
    plan = BatchPlan(global_batch_size=source.num_examples)
    (batch,) = eval_dataset(source, EvalView(image_size=8), plan=plan).as_numpy_iterator()
    assert batch["bad_images"] == 0
    return numbers_of(batch["images"]), batch["labels"]


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_few_labels_of_a_folder_has_the_chosen_files(class_folder, cache):
    data = DataConfig(dataset=f"folder:{class_folder}", cache_dataset=cache, labels_per_class=2, label_seed=3)
    source = load_source(data, "train")
    few = few_labels(source, data)
    indices = choose_labelled(np.repeat([0, 1], 6), 2, per_class=2, seed=3)
    numbers, labels = shown(few)
    np.testing.assert_array_equal(numbers, indices)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1])
    assert isinstance(few, EncodedImages) and few.class_names == ("cat", "dog")
    assert [few.example_name(key) for key in range(4)] == [source.example_name(key) for key in indices]
    assert shown(source)[0].tolist() == list(range(12))


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "kind"), [(False, StreamSource), (True, EncodedImages)])
def test_few_labels_of_records_has_the_chosen_records(tfds_dir, no_network, cache, kind):
    data = DataConfig(
        dataset="tiny_jpegs", data_dir=str(tfds_dir), cache_dataset=cache, label_fraction=0.3, label_seed=1
    )
    source = load_source(data, "train")
    assert isinstance(source, kind)
    all_numbers, all_labels = shown(source)
    np.testing.assert_array_equal(source.read_labels(), all_labels)
    few = few_labels(source, data)
    indices = choose_labelled(all_labels, 2, fraction=0.3, seed=1)
    numbers, labels = shown(few)
    np.testing.assert_array_equal(numbers, all_numbers[indices])
    np.testing.assert_array_equal(labels, all_labels[indices])
    assert (len(labels), few.num_examples, few.class_names) == (12, 12, ("even", "odd"))
    assert [few.example_name(key) for key in (0, 11)] == [
        source.example_name(key if cache else stream_key(source, key)) for key in (indices[0], indices[11])
    ]
    (batch,) = train_dataset(few, VIEW, plan=BatchPlan(global_batch_size=12), seed=0).take(1)
    assert sorted(numbers_of(batch["views"][0])) == sorted(numbers)


def stream_key(source, number):
    (example,) = source.eval_examples(BatchPlan(global_batch_size=1)).skip(number).take(1)
    return int(example["keys"][0])


@pytest.mark.slow
def test_few_labels_of_a_part_of_a_stream_reads_no_other_records(tfds_dir, no_network):
    data = DataConfig(dataset="tiny_jpegs", data_dir=str(tfds_dir), labels_per_class=2)
    source = load_source(data, "train[30%:]")
    numbers, labels = shown(few_labels(source, data))
    assert set(numbers) <= set(shown(source)[0])
    np.testing.assert_array_equal(numbers % 2, labels)


def test_subset_of_a_source_without_labels_has_none(tfds_dir, no_network, tmp_path):
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    assert ArraySource("plain", images).subset(np.array([1, 3]), "few").num_classes is None
    for number in range(3):
        write_image(tmp_path / "flat" / f"{number}.png", grey_image(number))
    folder = load_source(DataConfig(dataset=f"folder:{tmp_path}/flat"), "train")
    few = folder.subset(np.array([0, 2]), "few")
    assert (few.num_examples, few.num_classes, few.name) == (2, None, "few")


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


def grey_source(numbers, labels=None):
    images = np.stack([grey_image(number, 10, 10) for number in numbers])
    return ArraySource("grey", images, labels, labels is not None and ["even", "odd"])


def mixed(first_step=0, num_replicas=1):
    """Batches of 6 of the images 0 to 19, and of 2 of the images 30 to 34."""
    parts = []
    for source, size, seed in (
        (grey_source(range(20), np.zeros(20)), 6, 1),
        (grey_source(range(30, 35), np.arange(30, 35) % 2), 2, 2),
    ):
        plan = BatchPlan(global_batch_size=size * num_replicas, num_replicas=num_replicas, total_replicas=num_replicas)
        parts.append(train_dataset(source, VIEW, plan=plan, seed=seed, num_views=1, first_step=first_step))
    return mix_labelled(*parts), *parts


@pytest.mark.slow
def test_mixed_batch_has_the_labelled_rows_last():
    dataset, unlabelled, labelled = mixed()
    spec = dataset.element_spec
    assert spec["views"][0].shape.as_list() == [8, 8, 8, 3]
    assert (spec["labels"].shape.as_list(), spec["labels"].dtype) == ([8], tf.int32)
    seen = []
    for batch, first, second in zip(dataset.take(5), unlabelled, labelled, strict=False):
        np.testing.assert_array_equal(batch["views"][0], np.concatenate([first["views"][0], second["views"][0]]))
        np.testing.assert_array_equal(batch["labels"], [-1] * 6 + second["labels"].numpy().tolist())
        numbers = numbers_of(batch["views"][0])
        assert numbers[:6].max() < 20 and numbers[6:].min() >= 30
        np.testing.assert_array_equal(batch["labels"][6:], numbers[6:] % 2)
        seen += numbers[6:].tolist()
    assert sorted(seen) == sorted([*range(30, 35)] * 2)


@pytest.mark.slow
def test_mixed_batches_go_on_at_any_step():
    whole = list(mixed()[0].take(7))
    for batch, other in zip(whole[4:], mixed(first_step=4)[0].take(3), strict=True):
        np.testing.assert_array_equal(batch["views"][0], other["views"][0])
        np.testing.assert_array_equal(batch["labels"], other["labels"])


@pytest.mark.slow
def test_mixed_batches_give_every_replica_labelled_rows():
    for batch in mixed(num_replicas=2)[0].take(4):
        np.testing.assert_array_equal(batch["labels"].numpy() < 0, [True] * 6 + [False] * 2)


def test_mixed_batch_adds_up_the_bad_images():
    def batches(bad, rows):
        element = {
            "views": (tf.zeros([rows, 8, 8, 3]),),
            "bad_images": bad,
            "labels": tf.ones([rows], tf.int32),
        }
        return tf.data.Dataset.from_tensors(element)

    (batch,) = mix_labelled(batches(2, 3).repeat(), batches(5, 1).repeat()).take(1)
    assert batch["bad_images"].numpy() == 7
