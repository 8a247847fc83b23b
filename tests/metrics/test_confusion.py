"""Confusion matrices: what is counted, and their files."""

import csv

import numpy as np
import pytest

from tf_simclr.metrics.confusion import (
    Confusion,
    confusion_path,
    count_confusions,
    largest_mistakes,
    read_confusion,
    to_csv,
)

NAMES = ("cat", "dog", "owl")


def test_counts_equal_plain_loops():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 3, 50), rng.integers(-1, 3, 50)
    expected = np.zeros((3, 3), int)
    for label, prediction in zip(labels, predictions, strict=True):
        if prediction >= 0:
            expected[label, prediction] += 1
    counts, names = count_confusions(predictions, labels, NAMES)
    np.testing.assert_array_equal(counts, expected)
    assert names == NAMES


def test_thousand_classes_have_a_matrix_and_more_have_none():
    one = np.array([999], np.int32)  # The place in the matrix would not fit in 16 bits.
    assert count_confusions(one, one, ["x"] * 1000).counts[999, 999] == 1
    assert count_confusions(one, one, ["x"] * 1001) is None


def test_largest_mistakes_come_first_with_their_share_of_the_class():
    counts = np.array([[6, 3, 1], [0, 5, 0], [3, 0, 1]])
    found = largest_mistakes(Confusion(counts, NAMES), 2)
    assert found == [("cat", "dog", 3, pytest.approx(0.3)), ("owl", "cat", 3, pytest.approx(0.75))]
    assert len(largest_mistakes(Confusion(counts, NAMES), 10)) == 3
    assert largest_mistakes(Confusion(np.diag([5, 0, 1]), NAMES), 10) == []


def test_file_stands_beside_the_results_and_says_all(tmp_path):
    names = ('a "b", c', "two\nlines", "猫")
    matrix = Confusion(np.arange(9).reshape(3, 3), names)
    path = confusion_path(str(tmp_path / "result_x.json"))
    assert path == str(tmp_path / "result_x_confusion.csv")
    (tmp_path / "result_x_confusion.csv").write_text(to_csv(matrix), encoding="utf-8")
    found = read_confusion(path)
    assert found.class_names == names
    np.testing.assert_array_equal(found.counts, matrix.counts)
    with open(path, encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == ["class", *names]


@pytest.mark.parametrize("text", ["", "class,a,b\na,1,0\n", "class,a,b\na,1,0\nb,x,1\n", "class,a,b\na,1\nb,0,1\n"])
def test_damaged_or_missing_file_is_no_matrix(tmp_path, text):
    path = tmp_path / "a_confusion.csv"
    assert read_confusion(str(path)) is None
    path.write_text(text)
    assert read_confusion(str(path)) is None
