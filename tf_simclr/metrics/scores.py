"""Scores of a classifier on labelled examples."""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy import special

from tf_simclr.files import Form, between
from tf_simclr.metrics.classification import count_correct

_SCORES = (
    "label_top_1_accuracy",
    "label_top_5_accuracy",
    "mean_per_class_accuracy",
    "mean_average_precision",
    "expected_calibration_error",
)
_COUNTS = ("num_examples", "num_train_examples", "num_bad_images", "num_classes")
_NUM_BINS = 15


def scores_form(prefix: str = "") -> dict[str, Form]:
    """Returns the form of scores in a file of results, all optional; see `files.form_problem`.

    Args:
        prefix: prefix of their names, such as `eval/`.
    """
    scores = {f"{prefix}{name}?": (float, None) for name in _SCORES}
    return scores | {f"{prefix}{name}?": between(0, 2**53) for name in _COUNTS}


def classification_scores(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Returns accuracies and calibration, each from 0 to 1.

    Args:
        logits: finite `[N, classes]`, whose softmax is the probability of each class. Of equal ones, the lower
            class ranks first.
        labels: integers `[N]` in [0, classes).

    Returns:
        `label_top_1_accuracy`; `label_top_5_accuracy`, 1 if there are at most 5 classes;
        `mean_per_class_accuracy`; `expected_calibration_error`, for which less is better.
    """
    predictions, confidence = logits.argmax(axis=1), special.softmax(logits, axis=1).max(axis=1)
    top_1, top_5 = (
        float(tf.reduce_mean(count_correct(tf.constant(logits), tf.constant(labels), top))) for top in (1, 5)
    )
    return {
        "label_top_1_accuracy": top_1,
        "label_top_5_accuracy": top_5,
        "mean_per_class_accuracy": mean_per_class_accuracy(predictions, labels),
        "expected_calibration_error": calibration_error(confidence, predictions == labels),
    }


def mean_per_class_accuracy(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns the unweighted mean of the accuracies of the classes that occur.

    Args:
        predictions: integers `[N]`, N at least 1.
        labels: integers `[N]`, 0 or more.
    """
    counts = np.bincount(labels)
    correct = np.bincount(labels[predictions == labels], minlength=len(counts))
    return float(np.mean(correct[counts > 0] / counts[counts > 0]))


def calibration_error(confidence: NDArray[Any], is_correct: NDArray[np.bool_]) -> float:
    """Returns the gap between confidence and accuracy: Guo et al. 2017 (arXiv 1706.04599), equation 3.

    15 bins of equal width divide the examples by confidence; a bin includes its upper bound but not its lower one.
    The gap between a bin's mean confidence and its accuracy is weighted by its share of the examples.

    Args:
        confidence: `[N]` in [0, 1], the probability of the predicted class.
        is_correct: `[N]`, whether that class is the right one.

    Returns:
        The error; 0 without examples, NaN if a confidence is NaN.
    """
    if np.isnan(confidence).any():
        return float("nan")
    # The softmax of float32 may be a little above 1.
    bins = np.clip(np.ceil(confidence * _NUM_BINS).astype(np.int64) - 1, 0, _NUM_BINS - 1)
    gaps = np.bincount(bins, is_correct - confidence, minlength=_NUM_BINS)
    return float(np.abs(gaps).sum() / max(len(confidence), 1))


def mean_average_precision(scores: NDArray[Any], is_positive: NDArray[np.bool_], is_known: NDArray[np.bool_]) -> float:
    """Returns the mean over classes of the 11-point average precision of PASCAL VOC 2007.

    The average precision of a class is the mean, over the recalls 0, 0.1, ..., 1, of the best precision at that
    recall or a higher one (Everingham et al. 2010, section 4.2). Of examples with equal scores, those without the
    class rank first. Classes without a known positive example are left out.

    Args:
        scores: `[N, K]`.
        is_positive: `[N, K]`, the classes of each example.
        is_known: `[N, K]`; if false, the example does not count for that class.
    """
    columns = zip(scores.T, is_positive.T, is_known.T, strict=True)
    precisions = [_average_precision(s[known], positive[known]) for s, positive, known in columns]
    return float(np.nanmean(precisions))


def _average_precision(scores: NDArray[Any], is_positive: NDArray[np.bool_]) -> float:
    if not is_positive.any():
        return float("nan")
    hits = np.cumsum(is_positive[np.lexsort((is_positive, -scores))])
    precision = hits / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    # In whole numbers, because 3/10 is not exactly 0.3.
    places = np.searchsorted(10 * hits, hits[-1] * np.arange(11))
    return float(best_from_here[places].mean())
