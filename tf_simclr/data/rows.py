"""Batches of rows from the ordered examples of any source."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.data.mixed_source import MixedSource
from tf_simclr.data.random_access import ArraySource
from tf_simclr.data.source import EncodedSource, TrainingSource, first_success

Crop = Callable[[tf.Tensor, tf.Tensor], Any]


def batch_rows(
    source: TrainingSource,
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
        crop: Takes an image uint8 [H, W, 3] of any size and its position int64 []; returns tensors of
            known shape.
        num_candidates: Number of candidates to try if an image is unreadable.
        remember_names: Whether the source records the names of unreadable images, which works only in this
            process.

    Returns:
        Dataset of dicts with `position` int64 [b]; `images`: the results of `crop`, batched, or, for an
        `ArraySource`, the images themselves, uint8 [b, H, W, C]; `labels` int32 [b], arbitrary without
        labels; `bad` bool [b], whether the first candidate is unreadable.
    """
    if isinstance(source, ArraySource):
        batches = examples.batch(batch_size, drop_remainder=True)
        return batches.map(_gather(source), num_parallel_calls=tf.data.AUTOTUNE)
    if not isinstance(source, EncodedSource | MixedSource):
        raise TypeError(f"A source must hold arrays or encoded images. Received: {type(source).__name__}.")

    def attempt(example: dict, candidate: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image, label, readable = _try_decode(source, example, candidate)
        if remember_names:
            key = example["keys"][candidate]
            tf.cond(readable, lambda: key, lambda: _remember_name(source, key))
        return image, label, readable

    def read(example: dict) -> dict:
        image, label, bad = _first_readable(lambda candidate: attempt(example, candidate), num_candidates)
        images = crop(image, example["position"])
        return {"position": example["position"], "images": images, "labels": label, "bad": bad}

    rows = examples.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return rows.batch(batch_size, drop_remainder=True)


def _gather(source: ArraySource) -> Callable[[dict], dict]:
    # On an accelerator, the images would have to be copied back for each batch.
    with tf.device("CPU:0"):
        images = tf.constant(source.images)
        labels = tf.zeros([source.num_examples], tf.int32) if source.labels is None else tf.constant(source.labels)

    def gather(batch: dict) -> dict:
        keys = batch["keys"][:, 0]
        return {
            "position": batch["position"],
            "images": tf.gather(images, keys),
            "labels": tf.gather(labels, keys),
            "bad": tf.zeros_like(keys, tf.bool),
        }

    return gather


def _first_readable(
    attempt: Callable[[int], tuple[tf.Tensor, tf.Tensor, tf.Tensor]], num_candidates: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns image and label of the first readable candidate, and whether it is a replacement.

    The image is one black pixel if no candidate is readable.
    """
    first = image, label, readable = attempt(0)
    for candidate in range(1, num_candidates):
        current = (image, label, readable)
        image, label, readable = tf.cond(readable, lambda current=current: current, lambda c=candidate: attempt(c))
    return image, label, tf.logical_not(first[2])


def _try_decode(
    source: EncodedSource | MixedSource, example: dict, candidate: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes one candidate; returns image, label and whether it is readable. An unreadable one is a black pixel."""

    def decode(element: dict) -> tuple[tf.Tensor, tf.Tensor, bool]:
        return *source.decode(element, candidate), True

    image, label, readable = first_success(example, decode, (tf.zeros([1, 1, 3], tf.uint8), tf.constant(0), False))
    return image, label, readable


def _remember_name(source: TrainingSource, key: tf.Tensor) -> tf.Tensor:
    def remember(key: int) -> int:
        source.add_bad_image(source.example_name(int(key)))
        return key

    return tf.numpy_function(remember, [key], tf.int64)
