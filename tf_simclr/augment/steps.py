"""Sequences of random transforms, with a separate choice for each image."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

Operation = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Step:
    """A choice of one operation, or none, for each image of a batch.

    Attributes:
      which: int32 [batch], numbers of operations; -1 leaves an image exactly as it is.
      operations: Functions of planes, float32 [batch, channels, height, width], to planes of the same shape.
    """

    which: tf.Tensor
    operations: Sequence[Operation]


def step_for_some(applied: tf.Tensor, operation: Operation) -> Step:
    """Returns the step that applies an operation to the images for which `applied`, bool [batch], is true."""
    return Step(tf.cast(applied, tf.int32) - 1, (operation,))


def per_image(values: tf.Tensor) -> tf.Tensor:
    """Returns values [batch] as [batch, 1, 1, 1], to broadcast with planes."""
    return tf.reshape(values, [-1, 1, 1, 1])


def take_steps(planes: tf.Tensor, steps: Sequence[Step]) -> tf.Tensor:
    """Applies the steps in order.

    A single image goes only through its chosen operations. In a larger batch, every operation is computed for
    all images, which suits accelerators; a CPU is faster with one image at a time.

    Args:
      planes: float32 [batch, channels, height, width].
      steps: The steps, in this order.

    Returns:
      float32 [batch, channels, height, width].
    """
    if planes.shape[0] == 1 and steps:
        return _take_alone(planes, steps)
    for step in steps:
        taken = planes
        for number, operation in enumerate(step.operations):
            taken = tf.where(per_image(step.which == number), operation(planes), taken)
        planes = taken
    return planes


def _take_alone(planes: tf.Tensor, steps: Sequence[Step]) -> tf.Tensor:
    # One choice in a loop, because XLA takes half a minute to compile a chain of them at 224 pixels.
    operations = list(dict.fromkeys(operation for step in steps for operation in step.operations))
    numbers = []
    for step in steps:
        branches = [0, *(1 + operations.index(operation) for operation in step.operations)]
        numbers.append(tf.gather(tf.constant(branches), 1 + step.which[0]))
    order = tf.stack(numbers)

    def take(number: tf.Tensor, planes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        branches = [functools.partial(operation, planes) for operation in (tf.identity, *operations)]
        return number + 1, tf.switch_case(order[number], branches)

    return tf.while_loop(lambda number, _: number < len(steps), take, (tf.constant(0), planes))[1]
