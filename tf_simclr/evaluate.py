"""Evaluation: top-1 and top-5 accuracy, features."""

import itertools
from typing import Any

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


def extract_features(
    network: tf.keras.Model, dataset: tf.data.Dataset, *, endpoint: str = "default"
) -> tuple[np.ndarray, np.ndarray]:
    """Computes one named output of a network for every readable image of a data set.

    Args:
        network: takes images `[B, S, S, 3]` in [0, 1], returns a dictionary of named outputs.
        dataset: of batches, from `data.eval_dataset`.
        endpoint: the output; `default` is the representation h.

    Returns:
        Features float32 `[N, ...]`, and labels int32 `[N]`, -1 where there is none.
    """

    @tf.function(autograph=False)
    def forward(images):
        return tf.cast(network(images, training=False)[endpoint], tf.float32)

    features, labels = [], []
    for batch in dataset:
        kept = batch["mask"].numpy() > 0
        features.append(forward(batch["images"]).numpy()[kept])
        unknown = np.full(kept.shape, -1, np.int32)
        labels.append((batch["labels"].numpy() if "labels" in batch else unknown)[kept])
    return np.concatenate(features), np.concatenate(labels)
