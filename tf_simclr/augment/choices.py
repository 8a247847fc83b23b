"""Random transforms, chosen separately for each image of a batch."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

Transform = Callable[[tf.Tensor], tf.Tensor]


class Choice(NamedTuple):
    """A choice of one transform, or none, for each image of a batch.

    Attributes:
        which: int32 [batch], numbers of transforms; -1 leaves an image exactly as it is.
        transforms: Functions of planes, float32 [batch, channels, height, width], to planes of the same shape.
    """

    which: tf.Tensor
    transforms: Sequence[Transform]


def choose_some(applied: tf.Tensor, transform: Transform) -> Choice:
    """Returns the choice of a transform for the images for which `applied`, bool [batch], is true."""
    return Choice(tf.cast(applied, tf.int32) - 1, (transform,))


def per_image(values: tf.Tensor) -> tf.Tensor:
    """Returns values [batch] as [batch, 1, 1, 1], to broadcast with planes."""
    return tf.reshape(values, [-1, 1, 1, 1])


def apply_choices(planes: tf.Tensor, choices: Sequence[Choice]) -> tf.Tensor:
    """Applies choices in order.

    A single image goes only through its chosen transforms. In a larger batch, every transform is computed for
    all images, which suits accelerators; a CPU is faster with one image at a time.

    Args:
        planes: float32 [batch, channels, height, width].
        choices: The choices, in this order.

    Returns:
        float32 [batch, channels, height, width].
    """
    if planes.shape[0] == 1 and choices:
        return _apply_to_one(planes, choices)
    for which, transforms in choices:
        chosen = planes
        for number, transform in enumerate(transforms):
            chosen = tf.where(per_image(which == number), transform(planes), chosen)
        planes = chosen
    return planes


def _apply_to_one(planes: tf.Tensor, choices: Sequence[Choice]) -> tf.Tensor:
    # One choice in a loop, because XLA takes half a minute to compile a chain of them at 224 pixels.
    transforms = list(dict.fromkeys(transform for choice in choices for transform in choice.transforms))
    numbers = []
    for choice in choices:
        branches = [0, *(1 + transforms.index(transform) for transform in choice.transforms)]
        numbers.append(tf.gather(tf.constant(branches), 1 + choice.which[0]))
    order = tf.stack(numbers)

    def apply(number: tf.Tensor, planes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        branches = [functools.partial(transform, planes) for transform in (tf.identity, *transforms)]
        return number + 1, tf.switch_case(order[number], branches)

    return tf.while_loop(lambda number, _: number < len(choices), apply, (tf.constant(0), planes))[1]
