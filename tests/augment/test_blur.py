"""Gaussian blur against plain loops."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment.blur import blur_choice, blur_radius, gaussian_blur
from tf_simclr.augment.choices import apply_choices


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


@pytest.mark.parametrize("size", [19, 20, 41])
def test_gaussian_blur_equals_loops(size):
    sigmas = [0.1, 0.7, 2.0]
    planes = _planes(3, size, channels=2)
    result = gaussian_blur(tf.constant(sigmas), planes)
    for b, sigma in enumerate(sigmas):
        for channel in range(2):
            expected = _blur_loops(planes[b, channel], sigma, (size // 10) // 2)
            np.testing.assert_allclose(result[b, channel], expected, atol=1e-5)


@pytest.mark.parametrize(("size", "taps"), [(224, 23), (32, 3), (19, 1)])
def test_blur_radius_gives_the_authors_taps(size, taps):
    assert 2 * blur_radius(size) + 1 == taps


def test_blur_choice_maps_draws_to_sigma_and_leaves_half_of_the_images_exactly():
    planes = _planes(4, 40)
    draws = tf.constant([[0.0, 0.0], [0.499, 0.5], [0.49, 1 - 2**-24], [0.5, 0.9]])
    result = apply_choices(planes, [blur_choice(draws)])
    np.testing.assert_allclose(result[:3], gaussian_blur(tf.constant([0.1, 1.05, 2.0]), planes[:3]), atol=1e-6)
    np.testing.assert_array_equal(result[3], planes[3])
