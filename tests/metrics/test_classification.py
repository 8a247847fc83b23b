"""Counting of correct answers against a sort in plain Python."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tf_simclr.metrics.classification import count_correct


def oracle(logits, labels, top):
    """Sorts the classes, the largest logit first and of equal ones the lower class."""
    correct = []
    for row, label in zip(logits, labels, strict=True):
        ranking = sorted(range(len(row)), key=lambda k, row=row: (-row[k], k))
        finite = all(math.isfinite(value) for value in row)
        correct.append(1.0 if finite and label in ranking[:top] else 0.0)
    return correct


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("top", [1, 2, 5])
@pytest.mark.parametrize("num_classes", [2, 4, 5, 12])
def test_count_correct_equals_sorting(num_classes, top, dtype):
    rng = np.random.default_rng(0)
    # Few distinct values: most rows hold ties. In some rows, all are equal or one is not finite.
    logits = rng.integers(-2, 3, size=(200, num_classes)).astype(dtype)
    logits[:20] = 0
    logits[range(20, 50), rng.integers(0, num_classes, 30)] = np.tile([math.nan, math.inf, -math.inf], 10)
    labels = rng.integers(0, num_classes, size=200).astype("int32")
    received = count_correct(tf.constant(logits), tf.constant(labels), top)
    assert received.dtype == dtype
    np.testing.assert_array_equal(received, oracle(logits, labels, top))


@pytest.mark.parametrize("jit_compile", usual(True, also=[False]))
def test_count_correct_compiles(jit_compile):
    rng = np.random.default_rng(1)
    logits, labels = rng.integers(0, 3, size=(50, 6)).astype("float32"), rng.integers(0, 6, size=50)
    compiled = tf.function(count_correct, jit_compile=jit_compile)
    np.testing.assert_array_equal(compiled(logits, labels, 2), oracle(logits, labels, 2))
