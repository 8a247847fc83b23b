"""Evaluation: top-1 and top-5 accuracy, features."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_simclr import distribute


def make_eval_function(task, strategy: tf.distribute.Strategy):
    """Returns a compiled function from a distributed batch to `task.eval_step`'s sums and `bad_images`."""

    @tf.autograph.experimental.do_not_convert
    def step(batch):
        bad_images = distribute.cross_replica_sum(tf.cast(batch["bad_images"], tf.float32))
        return task.eval_step(batch) | {"bad_images": bad_images}

    @tf.function(autograph=False)
    def run(batch):
        sums = strategy.run(step, args=(batch,))
        return {name: strategy.experimental_local_results(value)[0] for name, value in sums.items()}

    return run


def evaluate(function, dataset, *, num_steps: int = 0) -> dict[str, Any]:
    """Runs `function` over `dataset` and turns its sums into means.

    Args:
        function: from `make_eval_function`.
        dataset: a finite, distributed data set of batches.
        num_steps: batches to use; 0 for all.

    Returns:
        `eval/label_top_1_accuracy`, `eval/label_top_5_accuracy`, `eval/supervised_loss`,
        `eval/num_examples` and `eval/num_bad_images`, which were unreadable and not counted as examples.
    """
    totals: dict[str, float] = {}
    for batch in itertools.islice(dataset, num_steps or None):
        for name, value in function(batch).items():
            totals[name] = totals.get(name, 0.0) + float(value)
    num_examples = int(totals["count"])
    count = max(num_examples, 1)
    return {
        "eval/label_top_1_accuracy": totals["label_top_1"] / count,
        "eval/label_top_5_accuracy": totals["label_top_5"] / count,
        "eval/supervised_loss": totals["supervised_loss"] / count,
        "eval/num_examples": num_examples,
        "eval/num_bad_images": int(totals["bad_images"]),
    }


def make_feature_function(
    network: Callable[[tf.Tensor], Mapping[str, tf.Tensor]], endpoint: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a compiled function from images `[B, S, S, 3]` in [0, 1] to one named output.

    Args:
        network: takes images, returns its named outputs in inference mode.
        endpoint: the output, which becomes float32 `[B, ...]`.
    """
    return tf.function(lambda images: tf.cast(network(images)[endpoint], tf.float32), autograph=False)


class FeatureBatch(NamedTuple):
    """What a network makes of one batch.

    Attributes:
        features: float32 `[B, ...]`.
        labels: int32 `[B]`, -1 where there is none.
        positions: int64 `[B]`, the number of each example in its source.
        is_readable: bool `[B]`; false also for rows that fill up the batch.
    """

    features: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    is_readable: np.ndarray


def feature_batches(
    function: Callable[[tf.Tensor], tf.Tensor], dataset: tf.data.Dataset
) -> Iterator[FeatureBatch]:
    """Computes the features of a data set, batch by batch.

    Args:
        function: from `make_feature_function`.
        dataset: of batches, from `data.eval_dataset`.
    """
    for batch in dataset:
        is_readable = batch["mask"].numpy() > 0
        unknown = np.full(is_readable.shape, -1, np.int32)
        yield FeatureBatch(
            function(batch["images"]).numpy(),
            batch["labels"].numpy() if "labels" in batch else unknown,
            batch["position"].numpy(),
            is_readable,
        )


def extract_features(
    network: Callable[..., Mapping[str, tf.Tensor]], dataset: tf.data.Dataset, *, endpoint: str = "default"
) -> tuple[np.ndarray, np.ndarray]:
    """Computes one named output of a network for every readable image of a data set.

    Args:
        network: takes images `[B, S, S, 3]` in [0, 1], returns a dictionary of named outputs.
        dataset: of batches, from `data.eval_dataset`.
        endpoint: the output; `default` is the representation h.

    Returns:
        Features float32 `[N, ...]`, and labels int32 `[N]`, -1 where there is none.
    """
    function = make_feature_function(lambda images: network(images, training=False), endpoint)
    batches = list(feature_batches(function, dataset))
    features = np.concatenate([batch.features[batch.is_readable] for batch in batches])
    return features, np.concatenate([batch.labels[batch.is_readable] for batch in batches])
