"""Classes compared by name: other orders, fewer classes, others."""

import numpy as np
import pytest
import tensorflow as tf

from tests.data.kinds import KINDS, make_source
from tf_simclr.config import UserError
from tf_simclr.data import ArraySource, class_numbers, match_classes


def match(source, names):
    return match_classes(source, names, flag="eval_split", whose="the network", fix="use others")


@pytest.mark.parametrize(
    ("names", "among", "expected"),
    [
        ("abc", "abc", [0, 1, 2]),
        ("abc", "cab", [1, 2, 0]),
        ("ac", "abc", [0, 2]),
        ("abd", "abc", None),
        ("ab", "aab", None),  # Which one is it?
        ("aa", "ab", None),
        ("aa", "aa", [0, 1]),  # By their places alone.
    ],
)
def test_class_numbers_go_by_name(names, among, expected):
    numbers = class_numbers(names, among)
    assert (numbers is None and expected is None) or numbers.tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_matched_source_has_the_numbers_of_the_network(kind, tmp_path):
    source = make_source(kind, 3, tmp_path)
    source.add_bad_image("broken.jpg")
    matched = match(source, ["2", "x", "0", "1"])
    assert (matched.name, matched.num_examples, matched.class_names) == ("some", 3, ("2", "x", "0", "1"))
    assert matched.bad_image_names() == ("broken.jpg",)
    part = matched.part(1, 3)
    assert part.read_labels().tolist() == [3, 0]
    if kind == "encoded":
        decode = tf.function(lambda keys: part.decode({"keys": keys}, 0)[1])
        assert decode(tf.constant([1])).numpy() == 0
    assert (source.class_names, source.read_labels().tolist()) == (("0", "1", "2"), [0, 1, 2])


def test_matched_source_keeps_images_without_a_label():
    images = np.zeros([3, 4, 4, 3], np.uint8)
    source = ArraySource("some", images, np.array([1, -1, 0]), ["a", "b"])
    assert match(source, ["b", "a"]).read_labels().tolist() == [0, -1, 1]


def test_source_with_the_same_or_unknown_classes_stays(log):
    source = make_source("array", 2)
    assert match(source, ["0", "1"]) is source
    assert match(source, None) is source
    unlabelled = ArraySource("some", source.images)
    assert match(unlabelled, ["cat"]) is unlabelled
    assert log.messages == []


def test_matching_names_classes_without_images(log):
    match(make_source("array", 2), [str(number) for number in range(10)])
    assert log.messages == ["some has no images of 2, 3, 4, 5, 6, 7 and 2 more: the other classes keep their numbers."]


def test_other_classes_are_refused_with_both_lists():
    with pytest.raises(UserError) as error:
        match(make_source("array", 3), ["0", "1"])
    assert str(error.value) == ("--eval_split: some has 3 classes (0, 1, 2), the network 2 classes (0, 1); use others.")
    with pytest.raises(UserError) as error:
        match(make_source("array", 9), ["cat", *map(str, range(8))])
    assert str(error.value) == (
        "--eval_split: some has 9 classes (among them 8), the network 9 classes (among them cat); use others."
    )
