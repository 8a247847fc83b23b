"""Steps: one image computes what it takes, a batch everything, with the same result."""

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment.steps import Step, step_for_some, take_steps

PLANES = np.random.default_rng(0).random((5, 3, 4, 4), dtype=np.float32)
OPERATIONS = (lambda planes: planes + 1, lambda planes: planes * 2)


def _take(planes, first, second):
    return take_steps(planes, [Step(first, OPERATIONS), Step(second, OPERATIONS[::-1])])


@pytest.mark.parametrize("compiled", [False, True])
def test_take_steps_takes_the_choice_of_each_image(compiled):
    first, second = np.array([-1, 0, 1, 1, -1], np.int32), np.array([0, 1, 0, -1, -1], np.int32)
    function = tf.function(_take, jit_compile=compiled)
    expected = np.stack(
        [PLANES[0] * 2, PLANES[1] + 1 + 1, PLANES[2] * 2 * 2, PLANES[3] * 2, PLANES[4]], dtype=np.float32
    )
    np.testing.assert_array_equal(function(PLANES, first, second), expected)
    for row in range(5):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(function(PLANES[one], first[one], second[one])[0], expected[row])


def test_take_steps_computes_nothing_else_for_one_image():
    computed = []

    def operation(number, planes):
        computed.append(number)
        return planes

    operations = [lambda planes, n=number: operation(n, planes) for number in range(4)]
    take_steps(tf.constant(PLANES[:1]), [Step(tf.constant([number]), operations) for number in (2, -1, 0)])
    assert computed == [2, 0]


@pytest.mark.parametrize("rows", [1, 5])
def test_take_steps_without_any_returns_the_images(rows):
    np.testing.assert_array_equal(take_steps(tf.constant(PLANES[:rows]), []), PLANES[:rows])


def test_step_for_some_leaves_the_others_exactly():
    applied = np.array([True, False, True, False, False])
    step = step_for_some(tf.constant(applied), lambda planes: planes / 3)
    result = take_steps(tf.constant(PLANES), [step]).numpy()
    np.testing.assert_array_equal(result[~applied], PLANES[~applied])
    np.testing.assert_array_equal(result[applied], PLANES[applied] / np.float32(3))
