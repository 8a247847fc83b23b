"""Batches of rows from the ordered examples of any source."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.data.source import Example, Source, first_success

Crop = Callable[[tf.Tensor, tf.Tensor], Any]


def batch_rows(
    source: Source,
    examples: tf.data.Dataset,
    *,
    batch_size: int,
    crop: Crop,
    num_candidates: int,
    remember_names: bool = True,
) -> tf.data.Dataset:
    """Reads examples in the order in which they come.

    Args:
        source: The source of the examples.
        examples: Elements of `source.train_examples` or `source.eval_examples`.
        batch_size: Rows of a batch, b.
        crop: Takes an image uint8 [H, W, 3] of any size and its position int64 []; returns tensors of known shape.
        num_candidates: Number of candidates to try if an image is unreadable.
        remember_names: Whether the source records the names of unreadable images, which works only in this process.

    Returns:
        Dataset of dicts with `position` int64 [b]; `images`: the results of `crop`, batched, or, if the source holds
        arrays, the images themselves, uint8 [b, H, W, C]; `labels` int32 [b], arbitrary without labels; `bad` bool
        [b], whether the first candidate is unreadable. The image is one black pixel if no candidate is readable.
    """
    if source.holds_arrays:

        def gather(batch: Example) -> Example:
            bad = tf.zeros_like(batch["position"], tf.bool)
            return {"position": batch["position"], "bad": bad, **source.read_batch(batch)}

        batches = examples.batch(batch_size, drop_remainder=True)
        return batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE)

    def attempt(example: Example, candidate: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns image, label and whether the candidate is readable."""

        def decode(element: Example) -> tuple[tf.Tensor, tf.Tensor, bool]:
            return *source.decode(element, candidate), True

        image, label, readable = first_success(example, decode, (tf.zeros([1, 1, 3], tf.uint8), tf.constant(0), False))
        if remember_names:
            key = example["keys"][candidate]
            tf.cond(readable, lambda: key, lambda: _remember_name(source, key))
        return image, label, readable

    def read(example: Example) -> Example:
        first = image, label, readable = attempt(example, 0)
        for candidate in range(1, num_candidates):
            image, label, readable = tf.cond(
                readable,
                lambda found=(image, label, readable): found,
                lambda candidate=candidate: attempt(example, candidate),
            )
        images, bad = crop(image, example["position"]), tf.logical_not(first[2])
        return {"position": example["position"], "images": images, "labels": label, "bad": bad}

    rows = examples.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return rows.batch(batch_size, drop_remainder=True)


def _remember_name(source: Source, key: tf.Tensor) -> tf.Tensor:
    def remember(key: int) -> int:
        source.add_bad_image(source.example_name(int(key)))
        return key

    return tf.numpy_function(remember, [key], tf.int64)
