"""Classification metrics as pure functions."""

import tensorflow as tf


def count_correct(logits: tf.Tensor, labels: tf.Tensor, top: int) -> tf.Tensor:
    """Returns 1 if the label is among the `top` largest logits, else 0.

    Of equal logits, the lower class ranks first, as in argmax. Logits that are not finite are never right.

    Args:
        logits: `[B, classes]`.
        labels: integers `[B]`.
        top: number of the largest logits that count; all of them if there are fewer classes.

    Returns:
        `[B]`, of the type of `logits`.
    """
    labels = tf.cast(labels, tf.int32)
    own = tf.gather(logits, labels, axis=1, batch_dims=1)[:, None]
    lower_class = tf.range(tf.shape(logits)[1])[None, :] < labels[:, None]
    ahead = (logits > own) | ((logits == own) & lower_class)
    rank = tf.reduce_sum(tf.cast(ahead, tf.int32), axis=1)
    return tf.cast((rank < top) & tf.reduce_all(tf.math.is_finite(logits), axis=1), logits.dtype)


def most_likely(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the predicted class of each row of logits, and its probability.

    Of equal logits, the lower class wins.

    Args:
        logits: `[B, classes]`.

    Returns:
        The class, int32 `[B]`, -1 if a logit is not finite; its softmax `[B]`, of the type of `logits`.
    """
    is_finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    classes = tf.argmax(logits, axis=1, output_type=tf.int32)
    return tf.where(is_finite, classes, -1), tf.reduce_max(tf.nn.softmax(logits, axis=1), axis=1)
