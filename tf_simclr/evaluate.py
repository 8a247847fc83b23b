"""Evaluation: top-1 and top-5 accuracy."""

import itertools
from typing import Any

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
