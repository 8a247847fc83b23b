"""Batches from a source and a view.

Row p of a run (p = step * global batch size + row) has the same example and the same random numbers on any
number of replicas, and after any number of interruptions.
"""

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.augment.views import EvalView, TrainView, draw_uniforms
from tf_simclr.data.batch_plan import BatchPlan
from tf_simclr.data.rows import batch_rows
from tf_simclr.data.service import DataService
from tf_simclr.data.source import NUM_CANDIDATES, Source
from tf_simclr.data.view_placement import VIEW_PARTS, Batch, Views, array_parts, row_parts


def train_dataset(
    source: Source,
    view: TrainView,
    *,
    plan: BatchPlan,
    seed: int,
    num_views: int = 2,
    first_step: int = 0,
    service: DataService | None = None,
) -> tf.data.Dataset:
    """Makes endless batches of random views, shuffled anew each epoch.

    Element k belongs to step `first_step + k // plan.num_replicas` and to replica
    `plan.first_replica + k % plan.num_replicas`. From a data service, batches come in any order and to any
    worker; those of a `RandomAccessSource` have the same contents.

    Args:
        source: The examples.
        view: Makes one random view of an image, here or in the training step.
        plan: Batch sizes and this worker's rows.
        seed: Seed of order and augmentation, 0 to 2**31 - 1.
        num_views: Views of each image.
        first_step: First step, more than 0 to resume a run.
        service: Makes the batches elsewhere; None to make them here.

    Returns:
        Dataset of dicts with `views`, a tuple of `num_views` tensors float32 [b, S, S, 3] in [0, 1];
        `labels` int32 [b], if the source has them; and `bad_images` int32 [], the number of rows whose image
        was unreadable and replaced by the next readable one of the order.

        With `view.on_device`, `views` is replaced by the inputs of `step_views`: `draws`, a tuple of
        `num_views` tensors float32 [b, NUM_DRAWS]; and `images`, whole uint8 [b, H, W, C] from an
        `ArraySource`, otherwise a tuple of `num_views` tensors of crops, float32 [b, S, S, 3].

    Raises:
        UserError: If the batch cannot be shared out evenly, there are too few records, or the service fails.
    """
    plan.check("train_batch_size")
    if service:
        service.check_fits(source)
    order = source.divisible_examples if service else source.train_examples
    batch_size = plan.per_replica_batch_size

    crop, finish = _row_functions(source, view, batch_size, seed=seed, num_views=num_views)
    rows = batch_rows(
        source,
        order(seed, plan, first_step),
        batch_size=batch_size,
        crop=crop,
        num_candidates=NUM_CANDIDATES,
        remember_names=service is None,
    )
    batches = _with_options(rows.map(finish, num_parallel_calls=tf.data.AUTOTUNE))
    batches = service.distribute(batches) if service else batches
    return _endless(batches.prefetch(tf.data.AUTOTUNE))


def _row_functions(
    source: Source, view: TrainView, batch_size: int, *, seed: int, num_views: int
) -> tuple[Callable[[tf.Tensor, tf.Tensor], Batch], Callable[[Batch], Batch]]:
    """Returns the function of an image and its position to its row, and that of batched rows to an element."""
    of_row, of_array = row_parts(view), array_parts(view)

    def draws(first_position: tf.Tensor, num_rows: int) -> Views:
        return tuple(draw_uniforms(seed, number, first_position, num_rows) for number in range(num_views))

    def crop(image: tf.Tensor, position: tf.Tensor) -> Batch:
        row_draws = tuple(one[0] for one in draws(position, 1))
        return of_row(tuple(view.crop_image(image, one) for one in row_draws), row_draws)

    def finish(batch: Batch) -> Batch:
        parts = batch["images"]
        if source.holds_arrays:
            parts = of_array(parts, draws(batch["position"][0], batch_size))
        return _element(source, batch, **parts, bad_images=_count(batch["bad"]))

    return crop, finish


def mix_labelled(unlabelled: tf.data.Dataset, labelled: tf.data.Dataset) -> tf.data.Dataset:
    """Appends each batch of labelled examples to a batch of unlabelled examples.

    Args:
        unlabelled: From `train_dataset`; its labels, if any, are dropped.
        labelled: From `train_dataset`, with labels.

    Returns:
        Dataset of dicts like those of `train_dataset`, with -1 as the label of the unlabelled examples.
    """

    def mix(first: Batch, second: Batch) -> Batch:
        parts = [{name: part[name] for name in VIEW_PARTS & part.keys()} for part in (first, second)]
        rows = tf.nest.map_structure(lambda *pair: tf.concat(pair, axis=0), *parts)
        num_unlabelled = tf.nest.flatten(parts[0])[0].shape[0]
        unknown = tf.fill([num_unlabelled], tf.constant(-1, second["labels"].dtype))
        labels = tf.concat([unknown, second["labels"]], axis=0)
        return {**rows, "labels": labels, "bad_images": first["bad_images"] + second["bad_images"]}

    mixed = tf.data.Dataset.zip((unlabelled, labelled)).map(mix)
    return _endless(_with_options(mixed.prefetch(tf.data.AUTOTUNE)))


def eval_dataset(source: Source, view: EvalView, *, plan: BatchPlan) -> tf.data.Dataset:
    """Makes one pass over all examples in a fixed order, with equally many batches for every replica.

    Args:
        source: The examples.
        view: Makes the single view of an image.
        plan: Batch sizes and this worker's rows.

    Returns:
        Dataset of dicts with `images` float32 [b, S, S, 3] in [0, 1]; `labels` int32 [b], if the source has them;
        `mask` float32 [b], 0 for padding rows of the last batch and for unreadable images; `position` int64 [b], the
        number of the example, N or more for padding; and `bad_images` int32 [], the number of unreadable images.

    Raises:
        UserError: If the batch cannot be shared out evenly.
    """
    plan.check("eval_batch_size")
    transform = tf.function(view, jit_compile=True) if source.holds_arrays else tf.identity

    def finish(batch: Batch) -> Batch:
        is_row = batch["position"] < source.num_examples
        bad = tf.logical_and(is_row, batch["bad"])
        mask = tf.cast(tf.logical_and(is_row, tf.logical_not(bad)), tf.float32)
        parts = {"images": transform(batch["images"]), "mask": mask, "position": batch["position"]}
        return _element(source, batch, **parts, bad_images=_count(bad))

    def crop(image: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        del position
        return view.crop_image(image)

    examples, batch_size = source.eval_examples(plan), plan.per_replica_batch_size
    rows = batch_rows(source, examples, batch_size=batch_size, crop=crop, num_candidates=1)
    batches = _with_options(rows.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))
    num_batches = plan.num_eval_batches(source.num_examples)
    return batches.apply(tf.data.experimental.assert_cardinality(num_batches))


def _element(source: Source, batch: Batch, **parts: Any) -> Batch:
    return parts if source.num_classes is None else parts | {"labels": batch["labels"]}


def _count(flags: tf.Tensor) -> tf.Tensor:
    return tf.math.count_nonzero(flags, dtype=tf.int32)


def _endless(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Asserts that no batch is smaller, which strategies need to keep the shapes static."""
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def _with_options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    # A thread that reads an image waits while another one tries to decode it (`rows.py`): with one for each core,
    # a quarter of their time is lost.
    options.threading.private_threadpool_size = 2 * (os.cpu_count() or 1)
    options.deterministic = True
    # The plan chooses the rows of this worker; TensorFlow must not choose among them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
