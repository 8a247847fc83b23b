"""Colour jitter and grey-scale of whole batches, with one order and strength per image."""

import functools
import itertools
from collections.abc import Callable

import tensorflow as tf

from tf_simclr.augment.steps import Step, per_image, step_for_some, take_steps

JITTER_PROBABILITY = 0.8
GREY_PROBABILITY = 0.2
NUM_JITTER_DRAWS = 6
LUMA = (0.2989, 0.5870, 0.1140)

_TINY = 1e-12
_ORDERS = tuple(itertools.permutations(range(4)))


def adjust_brightness(planes: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies each image by its factor.

    Args:
      planes: float32 [batch, 3, height, width].
      factor: float32 [batch], at least 0.

    Returns:
      float32 [batch, 3, height, width], not clipped.
    """
    return planes * per_image(factor)


def adjust_contrast(planes: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales each image's distance from its mean colour, as `tf.image.adjust_contrast` does.

    Args:
      planes: float32 [batch, 3, height, width].
      factor: float32 [batch], at least 0.

    Returns:
      float32 [batch, 3, height, width], not clipped.
    """
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

    Args:
      planes: float32 [batch, 3, height, width].
      factor: float32 [batch], at least 0.

    Returns:
      float32 [batch, 3, height, width], not clipped.
    """
    value, spread = _value_and_range(planes)
    # Resizing can overshoot below 0; such a pixel has no saturation, in TensorFlow too.
    scale = tf.minimum(per_image(factor), tf.maximum(value, 0.0) / tf.maximum(spread, _TINY))
    return planes * scale + value * (1 - scale)


def adjust_hue(planes: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Turns each image's hue (HSV), as `tf.image.adjust_hue` does.

    Args:
      planes: float32 [batch, 3, height, width].
      delta: float32 [batch], in turns, in [-1, 1].

    Returns:
      float32 [batch, 3, height, width], not clipped.
    """
    red, green, blue = tf.split(planes, 3, axis=1)
    value, spread = _value_and_range(planes)
    # Channels are compared with each other, not with their maximum: a compiler may compute that twice and
    # round it differently, and then no channel would equal it.
    is_red, is_green = (red >= green) & (red >= blue), green >= blue
    difference = tf.where(is_red, green - blue, tf.where(is_green, blue - red, red - green))
    sector = tf.where(is_red, 0.0, tf.where(is_green, 2.0, 4.0))
    hue = sector + difference / tf.maximum(spread, _TINY) + 6 * per_image(delta)
    # A channel falls from v to v - d and rises again over the six sectors; red, green and blue do so
    # two sectors apart.
    phase = hue + tf.reshape(tf.constant([5.0, 3.0, 1.0]), [1, 3, 1, 1])
    phase -= 6 * tf.floor(phase * (1 / 6))
    return value - spread * tf.clip_by_value(tf.minimum(phase, 4 - phase), 0.0, 1.0)


def jitter_factors(draws: tf.Tensor, strength: float) -> list[tf.Tensor]:
    """Maps four draws to the factors of brightness, contrast and saturation and the turn of the hue.

    SimCLR (arXiv 2002.05709, appendix A), with brightness multiplied rather than added to, as SimCLRv2 does.
    For strengths above 1.25 a factor's lower bound is 0.

    Args:
      draws: float32 [batch, 4], uniform in [0, 1).
      strength: Strength s of the jitter, at least 0.

    Returns:
      Four float32 [batch]: three factors in [max(1 - 0.8 s, 0), 1 + 0.8 s], and turns in [-0.2 s, 0.2 s].
    """
    low, high = max(1 - 0.8 * strength, 0.0), 1 + 0.8 * strength
    brightness, contrast, saturation, hue = tf.unstack(draws, axis=1)
    factors = [low + (high - low) * draw for draw in (brightness, contrast, saturation)]
    return [*factors, 0.2 * strength * (2 * hue - 1)]


def jitter_steps(draws: tf.Tensor, strength: float) -> list[Step]:
    """Returns the steps of `jitter`."""
    factors = jitter_factors(draws[:, 2:NUM_JITTER_DRAWS], strength)
    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    pairs = zip(adjustments, factors, strict=True)
    operations = [functools.partial(_adjust_and_clip, adjust, factor) for adjust, factor in pairs]
    order = tf.minimum(tf.cast(draws[:, 1] * len(_ORDERS), tf.int32), len(_ORDERS) - 1)
    orders = tf.gather(tf.constant(_ORDERS), order)
    orders = tf.where(draws[:, :1] < JITTER_PROBABILITY, orders, -1)
    return [Step(which, operations) for which in tf.unstack(orders, axis=1)]


def jitter(planes: tf.Tensor, draws: tf.Tensor, strength: float) -> tf.Tensor:
    """Jitters brightness, contrast, saturation and hue of four images in five, each in its own order.

    Values are clipped to [0, 1] after each of the four operations; other images do not change. The authors
    draw the order per image too.

    Args:
      planes: float32 [batch, 3, height, width], nominally in [0, 1].
      draws: float32 [batch, NUM_JITTER_DRAWS], uniform in [0, 1): whether, order, then the four factors.
      strength: Strength of the jitter, at least 0.

    Returns:
      float32 [batch, 3, height, width].
    """
    return take_steps(planes, jitter_steps(draws, strength))


def _adjust_and_clip(
    adjust: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], factor: tf.Tensor, planes: tf.Tensor
) -> tf.Tensor:
    return tf.clip_by_value(adjust(planes, factor), 0.0, 1.0)


def grey_step(draws: tf.Tensor) -> Step:
    """Returns the step of `random_grey`."""
    return step_for_some(draws < GREY_PROBABILITY, _to_grey)


def random_grey(planes: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Replaces the colours of one image in five by their luma, as `tf.image.rgb_to_grayscale` defines it.

    Args:
      planes: float32 [batch, 3, height, width].
      draws: float32 [batch], uniform in [0, 1).

    Returns:
      float32 [batch, 3, height, width].
    """
    return take_steps(planes, [grey_step(draws)])


def _to_grey(planes: tf.Tensor) -> tf.Tensor:
    red, green, blue = tf.split(planes, 3, axis=1)
    grey = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return tf.concat([grey, grey, grey], axis=1)
