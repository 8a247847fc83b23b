"""Evaluation of a classifier: one pass over a data set, and its scores."""

import collections
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_simclr.distribution import collectives
from tf_simclr.metrics.scores import calibration_error, mean_per_class_accuracy

_Tensors = dict[str, tf.Tensor]
EvalFunction = Callable[[Any], _Tensors]  # Takes a distributed batch.


class Evaluable(Protocol):
    """The part of a task that an evaluation uses."""

    def eval_step(self, batch: dict[str, Any]) -> _Tensors:
        """Returns a row of numbers for each example, of all replicas."""


class Evaluation(NamedTuple):
    """Scores and predictions of a classifier.

    Attributes:
        scores: by their names in `result.json`.
        predictions: int64 `[N]`, the likeliest class of each readable example, -1 if its logits are not finite.
        labels: int64 `[N]`.
    """

    scores: dict[str, Any]
    predictions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def make_eval_function(task: Evaluable, strategy: tf.distribute.Strategy) -> EvalFunction:
    """Returns a compiled function from a distributed batch to `task.eval_step`'s rows and `bad_images`."""

    def step(batch: dict[str, Any]) -> _Tensors:
        bad_images = collectives.cross_replica_sum(tf.cast(batch["bad_images"], tf.float32))
        return task.eval_step(batch) | {"bad_images": bad_images}

    replica_step = tf.autograph.experimental.do_not_convert(step)

    def run(batch: Any) -> _Tensors:
        rows = strategy.run(replica_step, args=(batch,))
        return {name: strategy.experimental_local_results(value)[0] for name, value in rows.items()}

    eval_function: EvalFunction = tf.function(run, autograph=False)
    return eval_function


def evaluate(
    function: EvalFunction,
    dataset: Iterable[Any],
    *,
    num_steps: int = 0,
    report: Callable[[int], None] = lambda num_images: None,
) -> Evaluation:
    """Runs `function` over `dataset` and scores the predictions.

    Args:
        function: from `make_eval_function`.
        dataset: a finite, distributed data set of batches.
        num_steps: batches to use; 0 for all.
        report: called after each batch with the number of images so far.

    Returns:
        An evaluation with the scores `eval/label_top_1_accuracy`, `eval/label_top_5_accuracy`,
        `eval/mean_per_class_accuracy` (of the classes that occur), `eval/expected_calibration_error`,
        `eval/supervised_loss`, `eval/num_examples` and `eval/num_bad_images`. Unreadable images and images
        without a label are not counted as examples.
    """
    parts: dict[str, list[npt.NDArray[np.float64]]] = collections.defaultdict(list)
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
    is_correct, num_examples = predictions == labels, len(labels)
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
