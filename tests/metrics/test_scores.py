"""Scores of a classifier against plain loops."""

import numpy as np
import pytest

from tf_simclr.metrics.scores import (
    calibration_error,
    classification_scores,
    mean_average_precision,
    mean_per_class_accuracy,
)


def random_case(count=200, num_classes=7, seed=0):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(count, num_classes)), rng.integers(0, num_classes, count).astype(np.int32)


def loop_top_k(logits, labels, k):
    hits = 0
    for row, label in zip(logits, labels, strict=True):
        order = sorted(range(len(row)), key=lambda number: (-row[number], number))
        hits += label in order[:k]
    return hits / len(labels)


def loop_mean_per_class(logits, labels):
    accuracies = []
    for number in sorted(set(labels.tolist())):
        rows = [row for row, label in zip(logits, labels, strict=True) if label == number]
        accuracies.append(sum(int(np.argmax(row) == number) for row in rows) / len(rows))
    return sum(accuracies) / len(accuracies)


def loop_calibration_error(logits, labels, num_bins=15):
    bins = [[] for _ in range(num_bins)]
    for row, label in zip(logits, labels, strict=True):
        exponentials = [np.exp(value - max(row)) for value in row]
        confidence = max(exponentials) / sum(exponentials)
        place = next(n for n in range(num_bins) if confidence <= (n + 1) / num_bins or n == num_bins - 1)
        bins[place].append((confidence, float(np.argmax(row) == label)))
    error = 0.0
    for members in filter(None, bins):
        confidence = sum(c for c, _ in members) / len(members)
        accuracy = sum(a for _, a in members) / len(members)
        error += abs(accuracy - confidence) * len(members) / len(labels)
    return error


@pytest.mark.parametrize("num_classes", [2, 5, 7])
def test_scores_equal_plain_loops(num_classes):
    logits, labels = random_case(num_classes=num_classes)
    logits[::5] = np.round(logits[::5])  # With equal ones among them.
    scores = classification_scores(logits, labels)
    assert scores == pytest.approx(
        {
            "label_top_1_accuracy": loop_top_k(logits, labels, 1),
            "label_top_5_accuracy": loop_top_k(logits, labels, 5),
            "mean_per_class_accuracy": loop_mean_per_class(logits, labels),
            "expected_calibration_error": loop_calibration_error(logits, labels),
        },
        abs=1e-12,
    )


def test_mean_per_class_leaves_out_classes_that_do_not_occur():
    assert mean_per_class_accuracy(np.array([4, 0, 0, 1]), np.array([0, 0, 0, 2])) == pytest.approx(1 / 3)


def test_calibration_error_knows_no_examples_roundings_and_what_is_no_number():
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) == 0
    # Both stand in the last bin, as a softmax of float32 may be a little above 1.
    assert calibration_error(np.array([1 + 1e-7, 0.98]), np.array([False, True])) == pytest.approx(0.49)
    assert np.isnan(calibration_error(np.array([0.5, np.nan]), np.array([True, False])))


# ---- Several classes an image


def loop_average_precision(scores, positive):
    """By the definition: sorted, negatives first among equals; the best precision at each recall or above."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], positive[row]))
    points = []
    for count in range(1, len(order) + 1):
        hits = sum(positive[row] for row in order[:count])
        points.append((hits / sum(positive), hits / count))
    levels = [level / 10 for level in range(11)]
    return sum(max(p for recall, p in points if recall > level - 1e-9) for level in levels) / 11


def test_mean_average_precision_equals_plain_loops():
    rng = np.random.default_rng(3)
    scores = np.round(rng.normal(size=(60, 4)), 1)  # With equal ones among them.
    positive, known = rng.uniform(size=(60, 4)) < 0.4, rng.uniform(size=(60, 4)) < 0.9
    scores[:, 0] = 0
    positive[:, 3] = False  # A class without examples is left out.
    expected = [
        loop_average_precision(scores[known[:, k], k].tolist(), positive[known[:, k], k].tolist()) for k in range(3)
    ]
    assert mean_average_precision(scores, positive, known) == pytest.approx(np.mean(expected))


def test_mean_average_precision_counts_a_recall_of_three_tenths_as_such():
    scores = -np.arange(13.0)[:, np.newaxis]
    positive = np.array([True] * 3 + [False] * 3 + [True] * 7)[:, np.newaxis]
    # At the recalls 0 to 0.3 the precision is 1; behind the negatives it is 10/13 at the most.
    assert mean_average_precision(scores, positive, np.ones([13, 1], bool)) == pytest.approx((4 + 7 * 10 / 13) / 11)
