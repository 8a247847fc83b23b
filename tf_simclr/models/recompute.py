"""Recomputation of the inside of a function for its gradient, instead of keeping it."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def recomputed(function: Callable[[tf.Tensor], Any]) -> Callable[[tf.Tensor], Any]:
    """Returns `function` with the same gradient, which calls it a second time (arXiv 1604.06174).

    XLA merges the second call of `tf.recompute_grad` with the first, and so keeps everything; not this one.

    Args:
        function: takes a tensor, returns nested tensors of floats; its variables get gradients too. The second call
            waits for the gradient of the first output, in the order of `tf.nest.flatten`.
    """

    def run(inputs: tf.Tensor) -> Any:
        structure: Any = None

        @tf.custom_gradient
        def compute(inputs: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., Any]]:
            nonlocal structure
            structure = function(inputs)

            def gradient(
                *upstream: tf.Tensor, variables: Sequence[tf.Variable] = ()
            ) -> tuple[tf.Tensor, list[tf.Tensor]]:
                with tf.GradientTape() as tape:
                    again = _after(inputs, upstream[0])
                    tape.watch(again)
                    outputs = tf.nest.flatten(function(again))
                first, *others = tape.gradient(outputs, [again, *variables], output_gradients=upstream)
                return first, others

            return tf.nest.flatten(structure), gradient

        outputs = compute(inputs)  # This sets their structure.
        return tf.nest.pack_sequence_as(structure, outputs)

    return run


def _after(inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Returns `inputs`, in a form that a compiler cannot compute before `gradient`.

    It adds zero, or NaN if the gradient has overflowed.
    """
    one = tf.reshape(gradient, [-1])[:1]
    zero = tf.where(one > one.dtype.max, tf.cast(float("nan"), inputs.dtype), tf.cast(0, inputs.dtype))
    return inputs + tf.reshape(zero, [])
