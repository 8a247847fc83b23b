"""Dynamic loss scaling, which keeps the gradients of float16 within its range."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

# 2^-24 is the smallest number of float16, so a larger scale saves no gradient. The bound keeps the scale finite
# if nothing can overflow, such as in training of the classifier alone, which is float32.
_LARGEST = 2.0**24


class ScaledStep(NamedTuple):
    """The outcome of one step.

    Attributes:
        taken: bool `[]`, true if every gradient is finite, so that the step can be taken.
        scale: float32 `[]`, the scale of this step; NaN if gradients overflow at scale 1, which no scale can fix.
    """

    taken: tf.Tensor
    scale: tf.Tensor


class LossScale(tf.Module):
    """A factor for the loss that keeps the gradients within float16.

    Mixed precision training (arXiv 1710.03740), section 3.2, with a factor found while training: every step
    whose gradients overflow halves it, down to 1; `growth_interval` steps in a row without overflow double
    it. The caller leaves out a step that overflows.

    Call its methods in replica context, with gradients that are equal on all replicas; so the scale is too.

    Args:
        initial: the scale at the start, a power of 2.
        growth_interval: number of steps without overflow that double it.
    """

    def __init__(self, initial: float = 2.0**15, growth_interval: int = 2000) -> None:
        super().__init__()
        self._growth_interval = growth_interval
        # Like a moving average: each replica has a copy that only the step writes.
        own = {
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
        }
        self.scale = tf.Variable(initial, dtype=tf.float32, name="loss_scale", **own)
        self.good_steps = tf.Variable(0, dtype=tf.int64, name="good_steps", **own)

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Returns the loss, float32 `[]`, times the scale."""
        return loss * self.scale

    def unscale(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the gradients of the loss from those, float32, of the scaled loss."""
        return [gradient / self.scale for gradient in gradients]

    def update(self, gradients: Sequence[tf.Tensor]) -> ScaledStep:
        """Adapts the scale to the gradients of all variables, summed over the replicas."""
        scale = tf.identity(self.scale)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        good_steps = tf.where(finite, self.good_steps + 1, 0)
        grows = good_steps == self._growth_interval
        adapted = tf.where(finite, tf.where(grows, 2 * scale, scale), scale / 2)
        self.scale.assign(tf.clip_by_value(adapted, 1, _LARGEST))
        self.good_steps.assign(tf.where(grows, tf.zeros_like(good_steps), good_steps))
        return ScaledStep(finite, tf.where(finite | (scale > 1), scale, float("nan")))
