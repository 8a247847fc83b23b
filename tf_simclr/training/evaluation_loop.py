"""Evaluation of a classifier: one pass over a data set, and its scores."""

import collections
import itertools
from collections.abc import Callable
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
