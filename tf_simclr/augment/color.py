"""Colour jitter and grey-scale of whole batches, with one order and strength per image.

The `adjust_*` functions map planes, float32 [batch, 3, height, width], and one factor (at least 0) or turn of the hue
(in [-1, 1]) per image, float32 [batch], to planes of the same shape that are not clipped.
"""

import functools
import itertools
from collections.abc import Callable

import tensorflow as tf

from tf_simclr.augment.choices import Choice, choose_some, per_image

JITTER_PROBABILITY = 0.8
GREY_PROBABILITY = 0.2
NUM_JITTER_DRAWS = 6
LUMA = (0.2989, 0.5870, 0.1140)

_TINY = 1e-12
_ORDERS = tuple(itertools.permutations(range(4)))


def adjust_brightness(planes: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies each image by its factor."""
    return planes * per_image(factor)


def adjust_contrast(planes: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales each image's distance from its mean colour, as `tf.image.adjust_contrast` does."""
    factor = per_image(factor)
    mean = tf.reduce_mean(planes, axis=[2, 3], keepdims=True)
    return planes * factor + mean * (1 - factor)


def _value_and_range(planes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    red, green, blue = tf.split(planes, 3, axis=1)
    value = tf.maximum(tf.maximum(red, green), blue)
    return value, value - tf.minimum(tf.minimum(red, green), blue)


def adjust_saturation(planes: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies each image's saturation (HSV) by its factor, as `tf.image.adjust_saturation` does.

    With value v = max(r, g, b) and range d = v - min(r, g, b), saturation d/v becomes min(f d/v, 1), so a
    channel x becomes v - (v - x) min(f, v/d); no conversion to HSV is needed.
    """
    value, spread = _value_and_range(planes)
    # Resizing can overshoot below 0; such a pixel has no saturation, in TensorFlow too.
    scale = tf.minimum(per_image(factor), tf.maximum(value, 0.0) / tf.maximum(spread, _TINY))
    return planes * scale + value * (1 - scale)


def adjust_hue(planes: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Turns each image's hue (HSV), as `tf.image.adjust_hue` does."""
    red, green, blue = tf.split(planes, 3, axis=1)
    value, spread = _value_and_range(planes)
    # Channels are compared with each other, not with their maximum: a compiler may compute that twice and
    # round it differently, and then no channel would equal it.
    is_red, is_green = (red >= green) & (red >= blue), green >= blue
    difference = tf.where(is_red, green - blue, tf.where(is_green, blue - red, red - green))
    sector = tf.where(is_red, 0.0, tf.where(is_green, 2.0, 4.0))
    hue = sector + difference / tf.maximum(spread, _TINY) + 6 * per_image(delta)
    # A channel falls from v to v - d and rises again over the six sectors; red, green and blue do so two sectors apart.
    phase = hue + tf.reshape(tf.constant([5.0, 3.0, 1.0]), [1, 3, 1, 1])
    phase -= 6 * tf.floor(phase * (1 / 6))
    return value - spread * tf.clip_by_value(tf.minimum(phase, 4 - phase), 0.0, 1.0)


def jitter_choices(draws: tf.Tensor, strength: float) -> list[Choice]:
    """Returns the choices that jitter four images in five, each in its own order, as the authors do.

    SimCLR (arXiv 2002.05709, appendix A), with brightness multiplied rather than added to, as SimCLRv2 does.
    The factors of brightness, contrast and saturation are uniform in [max(1 - 0.8 s, 0), 1 + 0.8 s], the turn of
    the hue in [-0.2 s, 0.2 s]. Values are clipped to [0, 1] after each of the four adjustments.

    Args:
        draws: float32 [batch, NUM_JITTER_DRAWS], uniform in [0, 1): whether to jitter, the order, then the
            strength of brightness, contrast, saturation and hue.
        strength: Strength s of the jitter, at least 0.
    """
    low, high = max(1 - 0.8 * strength, 0.0), 1 + 0.8 * strength
    *others, hue = tf.unstack(draws[:, 2:NUM_JITTER_DRAWS], axis=1)
    factors = [*(low + (high - low) * draw for draw in others), 0.2 * strength * (2 * hue - 1)]
    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    transforms = [
        functools.partial(_adjust_and_clip, adjust, factor) for adjust, factor in zip(adjustments, factors, strict=True)
    ]
    order = tf.minimum(tf.cast(draws[:, 1] * len(_ORDERS), tf.int32), len(_ORDERS) - 1)
    orders = tf.gather(tf.constant(_ORDERS), order)
    orders = tf.where(draws[:, :1] < JITTER_PROBABILITY, orders, -1)
    return [Choice(which, transforms) for which in tf.unstack(orders, axis=1)]


def _adjust_and_clip(
    adjust: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], factor: tf.Tensor, planes: tf.Tensor
) -> tf.Tensor:
    return tf.clip_by_value(adjust(planes, factor), 0.0, 1.0)


def grey_choice(draws: tf.Tensor) -> Choice:
    """Returns the choice to make one image in five grey, given draws float32 [batch], uniform in [0, 1)."""
    return choose_some(draws < GREY_PROBABILITY, to_grey)


def to_grey(planes: tf.Tensor) -> tf.Tensor:
    """Replaces colours, float32 [batch, 3, height, width], by their luma, as `tf.image.rgb_to_grayscale` does."""
    red, green, blue = tf.split(planes, 3, axis=1)
    grey = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return tf.concat([grey, grey, grey], axis=1)
