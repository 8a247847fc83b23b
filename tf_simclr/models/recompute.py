"""Computing the inside of a function again for its gradient, instead of keeping it."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def recomputed(function: Callable[[tf.Tensor], Any]) -> Callable[[tf.Tensor], Any]:
    """Returns `function` with the same gradient, for which it is called a second time (arXiv 1604.06174).

    Unlike that of `tf.recompute_grad`, the second call cannot be merged with the first one by XLA, which would keep
    everything after all.

    Args:
        function: takes a tensor, returns nested tensors of floats; its variables get gradients too. The second call
            waits for the gradient of the first output, in the order of `tf.nest.flatten`.
    """

    def run(inputs: tf.Tensor) -> Any:
        structure: Any = None

        @tf.custom_gradient
        def compute(inputs):
            nonlocal structure
            structure = function(inputs)

            def gradient(*upstream, variables=()):
                with tf.GradientTape() as tape:
                    again = _after(inputs, upstream[0])
                    tape.watch(again)
                    outputs = tf.nest.flatten(function(again))
                first, *others = tape.gradient(outputs, [again, *variables], output_gradients=upstream)
                return first, others

            return tf.nest.flatten(structure), gradient

        outputs = compute(inputs)  # Only now is their structure known.
        return tf.nest.pack_sequence_as(structure, outputs)

    return run


def _after(inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Returns `inputs`, to a compiler something else that cannot be computed before `gradient`.

    What is added is zero, unless the gradient has overflown.
    """
    one = tf.reshape(gradient, [-1])[:1]
    zero = tf.where(one > one.dtype.max, tf.cast(float("nan"), inputs.dtype), tf.cast(0, inputs.dtype))
    return inputs + tf.reshape(zero, [])
