"""Gaussian blur against plain loops."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment import blur


def _planes(batch, size, channels=3):
    return np.random.default_rng(0).random((batch, channels, size, size), dtype=np.float32)


def _blur_loops(plane, sigma, radius):
    size = len(plane)
    taps = [math.exp(-(x**2) / (2 * sigma**2)) for x in range(-radius, radius + 1)]
    result = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            for k in range(max(i - radius, 0), min(i + radius + 1, size)):
                for m in range(max(j - radius, 0), min(j + radius + 1, size)):
                    result[i, j] += taps[k - i + radius] * taps[m - j + radius] * plane[k, m]
    return result / sum(taps) ** 2


@pytest.mark.parametrize("size", [20, 41])
def test_gaussian_blur_equals_loops(size):
    sigmas = [0.1, 0.7, 2.0]
    planes = _planes(3, size, channels=2)
    result = blur.gaussian_blur(planes, tf.constant(sigmas), tf.constant([True] * 3)).numpy()
    for b, sigma in enumerate(sigmas):
        for channel in range(2):
            expected = _blur_loops(planes[b, channel], sigma, (size // 10) // 2)
            np.testing.assert_allclose(result[b, channel], expected, atol=1e-5)


def test_gaussian_blur_leaves_the_others_exactly():
    planes = _planes(2, 24)
    result = blur.gaussian_blur(planes, tf.constant([2.0, 2.0]), tf.constant([False, True])).numpy()
    np.testing.assert_array_equal(result[0], planes[0])
    assert np.abs(result[1] - planes[1]).max() > 0.1


def test_gaussian_blur_pads_with_zeros():
    planes = np.ones((1, 1, 60, 60), np.float32)
    result = blur.gaussian_blur(planes, tf.constant([2.0]), tf.constant([True])).numpy()[0, 0]
    np.testing.assert_allclose(result[30, 30], 1, atol=1e-6)
    assert result[0, 30] < 0.7 and result[0, 0] < 0.5


def test_gaussian_blur_has_no_effect_on_small_images():
    planes = _planes(2, 19)
    result = blur.gaussian_blur(planes, tf.constant([2.0, 2.0]), tf.constant([True, True]))
    np.testing.assert_array_equal(result, planes)


@pytest.mark.parametrize(("size", "taps"), [(224, 23), (32, 3), (19, 1)])
def test_blur_radius_gives_the_authors_taps(size, taps):
    assert 2 * blur.blur_radius(size) + 1 == taps


def test_random_blur_maps_draws_to_sigma():
    planes = _planes(4, 40)
    draws = tf.constant([[0.0, 0.0], [0.499, 0.5], [0.49, 1 - 2**-24], [0.5, 0.9]])
    expected = blur.gaussian_blur(planes, tf.constant([0.1, 1.05, 2.0, 1.0]), tf.constant([True] * 3 + [False]))
    np.testing.assert_allclose(blur.random_blur(planes, draws), expected, atol=1e-6)
