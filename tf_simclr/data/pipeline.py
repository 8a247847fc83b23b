"""From a source and a view to batches.

Row p of a run (p = step * global batch size + row) shows the same example under the same random
numbers on whatever number of replicas, and however often the run was interrupted.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.augment.views import EvalView, TrainView, draw_uniforms
from tf_simclr.config import UserError
from tf_simclr.data.rows import batch_rows
from tf_simclr.data.source import NUM_CANDIDATES, ArraySource, Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How a global batch is shared out, and which rows of it are made here.

    Attributes:
        global_batch_size: Rows of a batch over all replicas of all workers.
        num_replicas: Replicas of this worker; each gets a batch of its own.
        first_replica: Number of the first of them among all replicas.
        total_replicas: Replicas of all workers.
    """

    global_batch_size: int
    num_replicas: int = 1
    first_replica: int = 0
    total_replicas: int = 1

    @property
    def per_replica_batch_size(self) -> int:
        """Rows of one element of the dataset."""
        return self.global_batch_size // self.total_replicas

    def check(self, flag: str) -> None:
        """Raises UserError, naming `flag`, unless every replica gets the same number of rows."""
        if self.global_batch_size % self.total_replicas:
            raise UserError(
                f"--{flag}={self.global_batch_size}: cannot be shared out evenly over {self.total_replicas} "
                f"replicas; use a multiple of {self.total_replicas}."
            )

    def check_fits(self, source: Source) -> None:
        """Raises UserError unless a training batch can be shared out and is no larger than the data."""
        self.check("train_batch_size")
        if self.global_batch_size > source.num_examples:
            raise UserError(
                f"--train_batch_size={self.global_batch_size}: {source.name} has only {source.num_examples} "
                f"examples; use at most {source.num_examples}."
            )

    def keep_local(self, examples: tf.data.Dataset) -> tf.data.Dataset:
        """Keeps the examples whose rows are made here."""
        if self.num_replicas == self.total_replicas:
            return examples
        first = self.first_replica * self.per_replica_batch_size
        last = first + self.num_replicas * self.per_replica_batch_size

        def is_local(example: dict) -> tf.Tensor:
            row = example["position"] % self.global_batch_size
            return tf.logical_and(row >= first, row < last)

        return examples.filter(is_local)


def train_dataset(
    source: Source,
    view: TrainView,
    *,
    plan: BatchPlan,
    seed: int,
    num_views: int = 2,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Makes endless batches of random views in an order that is shuffled anew each epoch.

    Element k belongs to step `first_step + k // plan.num_replicas` and to replica
    `plan.first_replica + k % plan.num_replicas`.

    Args:
        source: The examples.
        view: Makes one random view of an image.
        plan: Batch sizes and the rows that are made here.
        seed: Seed of order and augmentation, 0 to 2**31 - 1.
        num_views: Views of each image.
        first_step: Step to begin with, so that an interrupted run goes on.

    Returns:
        Dataset of dicts with `views`, a tuple of `num_views` tensors float32 [b, S, S, 3] in [0, 1];
        `labels` int32 [b], where the source has them; and `bad_images` int32 [], the number of rows
        whose image is unreadable, so that the next readable one of the order stands in.

    Raises:
        UserError: The batch cannot be shared out evenly.
    """
    plan.check("train_batch_size")
    examples = plan.keep_local(source.train_examples(seed, first_step * plan.global_batch_size))
    batch_size = plan.per_replica_batch_size

    def draws(first_position: tf.Tensor, num_rows: int) -> list[tf.Tensor]:
        return [draw_uniforms(seed, number, first_position, num_rows) for number in range(num_views)]

    def crop(image: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(view.crop_image(image, row_draws[0]) for row_draws in draws(position, 1))

    make_views = _compiled_views(source, view)

    def finish(batch: dict) -> dict:
        views = make_views(batch["images"], draws(batch["position"][0], batch_size))
        return _element(source, batch, views=views, bad_images=_count(batch["bad"]))

    rows = batch_rows(source, examples, batch_size=batch_size, crop=crop, num_candidates=NUM_CANDIDATES)
    return _endless(_finished(rows, finish))


def mix_labelled(unlabelled: tf.data.Dataset, labelled: tf.data.Dataset) -> tf.data.Dataset:
    """Puts each batch of labelled examples behind one of unlabelled examples.

    Args:
        unlabelled: From `train_dataset`; its labels, if any, are dropped.
        labelled: From `train_dataset`, with labels.

    Returns:
        Dataset of dicts like those of `train_dataset`, with -1 as the label of the unlabelled examples.
    """

    def mix(first: dict, second: dict) -> dict:
        views = tuple(tf.concat(pair, axis=0) for pair in zip(first["views"], second["views"], strict=True))
        unknown = tf.fill([first["views"][0].shape[0]], tf.constant(-1, second["labels"].dtype))
        labels = tf.concat([unknown, second["labels"]], axis=0)
        return {"views": views, "labels": labels, "bad_images": first["bad_images"] + second["bad_images"]}

    mixed = tf.data.Dataset.zip((unlabelled, labelled)).map(mix)
    return _endless(_with_options(mixed.prefetch(tf.data.AUTOTUNE)))


def eval_dataset(source: Source, view: EvalView, *, plan: BatchPlan) -> tf.data.Dataset:
    """Makes one pass over all examples in a fixed order, every replica with as many batches.

    Args:
        source: The examples.
        view: Makes the one view of an image.
        plan: Batch sizes and the rows that are made here.

    Returns:
        Dataset of dicts with `images` float32 [b, S, S, 3] in [0, 1]; `labels` int32 [b], where the
        source has them; `mask` float32 [b], 0 for rows that fill up the last batch and for unreadable
        images; and `bad_images` int32 [], the number of the latter.

    Raises:
        UserError: The batch cannot be shared out evenly.
    """
    plan.check("eval_batch_size")
    examples = plan.keep_local(_padded(source.eval_examples(), source.num_examples, plan.global_batch_size))
    transform = tf.function(view, jit_compile=True) if isinstance(source, ArraySource) else tf.identity

    def finish(batch: dict) -> dict:
        is_row = batch["position"] < source.num_examples
        bad = tf.logical_and(is_row, batch["bad"])
        mask = tf.cast(tf.logical_and(is_row, tf.logical_not(bad)), tf.float32)
        return _element(source, batch, images=transform(batch["images"]), mask=mask, bad_images=_count(bad))

    def crop(image: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        del position
        return view.crop_image(image)

    batch_size = plan.per_replica_batch_size
    dataset = _finished(
        batch_rows(source, examples, batch_size=batch_size, crop=crop, num_candidates=1), finish
    )
    num_batches = -(-source.num_examples // plan.global_batch_size) * plan.num_replicas
    return dataset.apply(tf.data.experimental.assert_cardinality(num_batches))


def _compiled_views(source: Source, view: TrainView) -> Callable:
    """Returns the function of what `batch_rows` gives, and the draws of each view, to the views."""
    if isinstance(source, ArraySource):
        return tf.function(lambda images, draws: tuple(view(images, one) for one in draws), jit_compile=True)
    # Images of several sizes were cropped one by one.
    return tf.function(lambda crops, draws: tuple(map(view.distort, crops, draws)), jit_compile=True)


def _element(source: Source, batch: dict, **parts: Any) -> dict:
    return parts if source.num_classes is None else parts | {"labels": batch["labels"]}


def _count(flags: tf.Tensor) -> tf.Tensor:
    return tf.math.count_nonzero(flags, dtype=tf.int32)


def _padded(examples: tf.data.Dataset, num_examples: int, batch_size: int) -> tf.data.Dataset:
    """Fills up the last batch with the first example at positions from `num_examples` on."""
    filler_positions = tf.data.Dataset.range(num_examples, -(-num_examples // batch_size) * batch_size)
    filler = tf.data.Dataset.zip((examples.take(1).cache().repeat(), filler_positions))
    return examples.concatenate(filler.map(lambda example, position: example | {"position": position}))


def _finished(rows: tf.data.Dataset, finish: Callable[[dict], dict]) -> tf.data.Dataset:
    return _with_options(rows.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))


def _endless(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Tells the strategies that no batch will be smaller: only then do they keep the shapes static."""
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def _with_options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # The plan chooses the rows of this worker; TensorFlow must not choose among them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
