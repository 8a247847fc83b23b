"""Evaluation: scores of a classifier, features."""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_simclr.distribution import collectives
from tf_simclr.metrics.scores import calibration_error, mean_per_class_accuracy


class Evaluation(NamedTuple):
    """What an evaluation says.

    Attributes:
        scores: by their names in `result.json`.
        predictions: int64 `[N]`, the likeliest class of each readable example, -1 where logits are not finite.
        labels: int64 `[N]`.
    """

    scores: dict[str, Any]
    predictions: np.ndarray
    labels: np.ndarray


def make_eval_function(task, strategy: tf.distribute.Strategy):
    """Returns a compiled function from a distributed batch to `task.eval_step`'s rows and `bad_images`."""

    @tf.autograph.experimental.do_not_convert
    def step(batch):
        bad_images = collectives.cross_replica_sum(tf.cast(batch["bad_images"], tf.float32))
        return task.eval_step(batch) | {"bad_images": bad_images}

    @tf.function(autograph=False)
    def run(batch):
        rows = strategy.run(step, args=(batch,))
        return {name: strategy.experimental_local_results(value)[0] for name, value in rows.items()}

    return run


def evaluate(
    function, dataset, *, num_steps: int = 0, report: Callable[[int], None] = lambda num_images: None
) -> Evaluation:
    """Runs `function` over `dataset` and scores what it says.

    Args:
        function: from `make_eval_function`.
        dataset: a finite, distributed data set of batches.
        num_steps: batches to use; 0 for all.
        report: called after each batch with the number of images so far.

    Returns:
        An evaluation with the scores `eval/label_top_1_accuracy`, `eval/label_top_5_accuracy`,
        `eval/mean_per_class_accuracy` (of the classes that occur), `eval/expected_calibration_error`,
        `eval/supervised_loss`, `eval/num_examples` and `eval/num_bad_images`, which were unreadable and
        not counted as examples; nor are those without a label.
    """
    parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    num_images = 0
    for batch in itertools.islice(dataset, num_steps or None):
        for name, value in function(batch).items():
            parts[name].append(np.atleast_1d(value.numpy()).astype(np.float64))
        num_images += len(parts["mask"][-1])
        report(num_images)
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    num_bad = int(columns.pop("bad_images").sum())
    rows = {name: column[columns["mask"] > 0] for name, column in columns.items()}
    predictions, labels = (rows[name].astype(np.int64) for name in ("prediction", "label"))
    is_correct = predictions == labels
    num_examples = len(labels)
    count = max(num_examples, 1)
    scores = {
        "eval/label_top_1_accuracy": float(is_correct.sum() / count),
        "eval/label_top_5_accuracy": float(rows["is_in_top_5"].sum() / count),
        "eval/mean_per_class_accuracy": mean_per_class_accuracy(predictions, labels) if num_examples else 0.0,
        "eval/expected_calibration_error": calibration_error(rows["confidence"], is_correct),
        "eval/supervised_loss": float(rows["loss"].sum() / count),
        "eval/num_examples": num_examples,
        "eval/num_bad_images": num_bad,
    }
    return Evaluation(scores, predictions, labels)


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


def feature_batches(function: Callable[[tf.Tensor], tf.Tensor], dataset: tf.data.Dataset) -> Iterator[FeatureBatch]:
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
