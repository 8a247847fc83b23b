"""Choosing among operations: one image computes its own branch, a batch all of them, with the same result."""

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment.choice import apply_to_some, choose

PLANES = np.random.default_rng(0).random((5, 3, 4, 4), dtype=np.float32)


def _branches(planes):
    return (lambda: planes, lambda: planes + 1, lambda: planes * 2)


def _choose(which, planes):
    return choose(which, _branches(planes))


@pytest.mark.parametrize("compiled", [False, True])
def test_choose_takes_the_branch_of_each_image(compiled):
    which = np.array([2, 0, 1, 1, 2], np.int32)
    function = tf.function(_choose, jit_compile=compiled)
    expected = [_branches(PLANES)[number]()[row] for row, number in enumerate(which)]
    np.testing.assert_array_equal(function(which, PLANES), expected)
    for row in range(5):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(function(which[one], PLANES[one])[0], expected[row])


def test_choose_computes_nothing_else_for_one_image():
    computed = []

    def branch(number):
        computed.append(number)
        return tf.zeros([1, 3, 4, 4])

    choose(tf.constant([1]), [lambda n=number: branch(n) for number in range(4)])
    assert computed == [1]


def test_apply_to_some_leaves_the_others_exactly():
    applied = np.array([True, False, True, False, False])
    result = apply_to_some(tf.constant(applied), lambda planes: planes / 3, tf.constant(PLANES)).numpy()
    np.testing.assert_array_equal(result[~applied], PLANES[~applied])
    np.testing.assert_array_equal(result[applied], PLANES[applied] / np.float32(3))
