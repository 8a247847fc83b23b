"""Choosing among operations image by image."""

from collections.abc import Callable, Sequence

import tensorflow as tf


def per_image(values: tf.Tensor) -> tf.Tensor:
    """Returns values [batch] as [batch, 1, 1, 1], beside planes."""
    return tf.reshape(values, [-1, 1, 1, 1])


def choose(which: tf.Tensor, branches: Sequence[Callable[[], tf.Tensor]]) -> tf.Tensor:
    """Returns for each image what the branch of its number returns.

    A single image is given to its branch alone. In a larger batch every branch is computed for all images,
    as accelerators want it; so a processor is faster with one image after the other.

    Args:
      which: int32 [batch], numbers of branches.
      branches: Functions that return planes, float32 [batch, channels, height, width], all of one shape.

    Returns:
      float32 [batch, channels, height, width].
    """
    if which.shape[0] == 1:
        return tf.switch_case(which[0], list(branches))
    chosen = branches[-1]()
    for number, branch in enumerate(branches[:-1]):
        chosen = tf.where(per_image(which == number), branch(), chosen)
    return chosen


def apply_to_some(
    applied: tf.Tensor, operation: Callable[[tf.Tensor], tf.Tensor], planes: tf.Tensor
) -> tf.Tensor:
    """Applies an operation to some images; the others stay exactly as they are.

    Args:
      applied: bool [batch].
      operation: Takes and returns planes of one shape.
      planes: float32 [batch, channels, height, width].

    Returns:
      float32 [batch, channels, height, width].
    """
    return choose(tf.cast(applied, tf.int32), (lambda: planes, lambda: operation(planes)))
