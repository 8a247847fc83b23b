"""Choices: one image computes only its chosen transforms, a batch computes all, with the same result."""

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment.choices import Choice, apply_choices, choose_some

PLANES = np.random.default_rng(0).random((5, 3, 4, 4), dtype=np.float32)
TRANSFORMS = (lambda planes: planes + 1, lambda planes: planes * 2)


def _apply(planes, first, second):
    return apply_choices(planes, [Choice(first, TRANSFORMS), Choice(second, TRANSFORMS[::-1])])


@pytest.mark.parametrize("compiled", [False, True])
def test_apply_choices_follows_the_choice_of_each_image(compiled):
    first, second = np.array([-1, 0, 1, 1, -1], np.int32), np.array([0, 1, 0, -1, -1], np.int32)
    function = tf.function(_apply, jit_compile=compiled)
    expected = np.stack([PLANES[0] * 2, PLANES[1] + 2, PLANES[2] * 4, PLANES[3] * 2, PLANES[4]])
    np.testing.assert_allclose(function(PLANES, first, second), expected, rtol=1e-6)
    for row in range(5):
        one = slice(row, row + 1)
        np.testing.assert_allclose(function(PLANES[one], first[one], second[one])[0], expected[row], rtol=1e-6)


def test_apply_choices_computes_only_the_chosen_transforms_of_one_image():
    computed = []
    transforms = [lambda planes, n=number: computed.append(n) or planes for number in range(4)]
    apply_choices(tf.constant(PLANES[:1]), [Choice(tf.constant([number]), transforms) for number in (2, -1, 0)])
    assert computed == [2, 0]


def test_choose_some_leaves_the_others_exactly():
    applied = np.array([True, False, True, False, False])
    choice = choose_some(tf.constant(applied), lambda planes: planes / 3)
    expected = np.where(applied[:, None, None, None], PLANES / np.float32(3), PLANES)
    np.testing.assert_array_equal(apply_choices(tf.constant(PLANES), [choice]), expected)
