"""Colour jitter and grey-scale against `tf.image`."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment import color
from tf_simclr.augment.choices import apply_choices


def _planes(batch=6, size=7, low=0.0, high=1.0, seed=0):
    return np.random.default_rng(seed).uniform(low, high, (batch, 3, size, size)).astype(np.float32)


def _images(planes):
    return np.transpose(planes, [0, 2, 3, 1])


def _with_special_colors(planes):
    special = [(0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]
    planes[:, :, 0, :] = np.array(special, np.float32).T
    planes[:, :, 1, 0] = (0.2, 0.2, 0.7)
    return planes


FACTORS = [0.0, 0.2, 0.9, 1.0, 1.3, 1.8]


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (color.adjust_brightness, tf.multiply, FACTORS),
        (color.adjust_contrast, tf.image.adjust_contrast, FACTORS),
        (color.adjust_saturation, tf.image.adjust_saturation, FACTORS),
        (color.adjust_hue, tf.image.adjust_hue, [-1.0, -0.2, 0.0, 0.05, 0.2, 0.7]),
    ],
)
def test_adjustments_equal_tensorflow(ours, theirs, factors):
    for low in (0.0, -0.1):
        planes = _with_special_colors(_planes(low=low))
        result = _images(ours(planes, tf.constant(factors)))
        for image, factor, actual in zip(_images(planes), factors, result, strict=True):
            np.testing.assert_allclose(actual, theirs(tf.constant(image), factor), atol=1e-5)


def test_adjust_saturation_leaves_dark_overshoot_of_grey_image():
    planes = np.full((1, 3, 2, 2), -0.01, np.float32)
    np.testing.assert_allclose(color.adjust_saturation(planes, tf.constant([1.5])), planes, atol=1e-7)


def _jitter(planes, draws, strength):
    return apply_choices(planes, color.jitter_choices(tf.constant(draws), strength)).numpy()


def _jitter_loops(image, draws, strength):
    if draws[0] >= 0.8:
        return image
    low, high = max(1 - 0.8 * strength, 0), 1 + 0.8 * strength
    factors = low + (high - low) * draws[2:5]
    transforms = [
        lambda image: image * factors[0],
        lambda image: tf.image.adjust_contrast(image, factors[1]),
        lambda image: tf.image.adjust_saturation(image, factors[2]),
        lambda image: tf.image.adjust_hue(image, 0.2 * strength * (2 * draws[5] - 1)),
    ]
    for number in list(itertools.permutations(range(4)))[int(draws[1] * 24)]:
        image = tf.clip_by_value(transforms[number](image), 0.0, 1.0)
    return image


@pytest.mark.parametrize("strength", [1.0, 1.5])
def test_jitter_equals_tensorflow_in_every_order(strength):
    planes = _planes(batch=48, low=-0.05, high=1.05)
    draws = np.random.default_rng(1).random((48, color.NUM_JITTER_DRAWS), dtype=np.float32)
    draws[:, 1] = (np.arange(48) + 0.5) / 48
    draws[:24, 0] /= 2
    for image, row, actual in zip(_images(planes), draws, _images(_jitter(planes, draws, strength)), strict=True):
        np.testing.assert_allclose(actual, _jitter_loops(tf.constant(image), row, strength), atol=2e-5)


def test_jitter_leaves_one_image_in_five_exactly():
    planes = _planes(batch=1000, size=3, low=-0.05, high=1.05)
    draws = np.random.default_rng(2).random((1000, color.NUM_JITTER_DRAWS), dtype=np.float32)
    same = (_jitter(planes, draws, 0.5) == planes).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(same, draws[:, 0] >= 0.8)
    assert abs(same.mean() - 0.2) < 0.05


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-24])
def test_jitter_stays_in_range_at_extreme_draws(extreme):
    draws = np.full((6, color.NUM_JITTER_DRAWS), extreme, np.float32)
    draws[:, 0] = 0
    result = _jitter(_with_special_colors(_planes()), draws, 1.0)
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


def test_grey_equals_tensorflow_for_one_image_in_five():
    planes = _planes(batch=500, size=2)
    draws = np.random.default_rng(3).random(500, dtype=np.float32)
    result = _images(apply_choices(planes, [color.grey_choice(draws)]))
    grey = draws < 0.2
    expected = np.repeat(tf.image.rgb_to_grayscale(_images(planes)), 3, axis=-1)
    np.testing.assert_allclose(result[grey], expected[grey], atol=1e-6)
    np.testing.assert_array_equal(result[~grey], _images(planes)[~grey])
    assert abs(grey.mean() - 0.2) < 0.06
