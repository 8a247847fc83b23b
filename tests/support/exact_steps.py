"""The steps of every task on any number of replicas or workers, for comparison with one of all.

python -m tests.support.exact_steps INDEX DIRECTORY    (one worker of the cluster in TF_CONFIG)
"""

import sys
import threading

import numpy as np

import tf_simclr  # noqa: F401  (selects Keras 2 before TensorFlow loads)

import tensorflow as tf  # isort: skip

from tests.support.networks import random_images, randomize, snapshot, split_batch, tiny_config
from tf_simclr.config import ContrastConfig, DistillConfig, OptimizerConfig, StrategyConfig
from tf_simclr.distribution import collectives as distribute
from tf_simclr.distribution.strategies import make_strategy
from tf_simclr.models import build_simclr_model
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.distill import DistillTask
from tf_simclr.tasks.finetune import FinetuneTask
from tf_simclr.tasks.pretrain import PretrainTask

TASKS = ("pretrain", "finetune", "distill")
BATCH, LABELLED, CLASSES, STEPS = 24, 12, 4, 2


def _network(precision, **model):
    return build_simclr_model(tiny_config(precision=precision, **model), CLASSES)


def make_task(name, precision, num_replicas):
    """A task with LARS, all of its losses and random weights."""
    config = OptimizerConfig(optimizer="lars", weight_decay=0.01)
    schedule = WarmupCosine(0.05, 0, 100, dtype=precision)
    if name == "pretrain":
        task = PretrainTask(_network(precision), config, schedule, ContrastConfig(temperature=0.2))
    elif name == "finetune":
        network = _network(precision, ft_proj_selector=1)
        network.freeze_for_finetuning(1)
        task = FinetuneTask(network, config, schedule)
    else:
        network, teacher = _network(precision, width_multiplier=0.0625), _network(precision)
        network.freeze_for_finetuning()
        randomize(teacher, seed=7)
        task = DistillTask(
            network,
            config,
            schedule,
            DistillConfig(distill_alpha=0.6, distill_temperature=0.5),
            teacher=lambda images: teacher.forward(images, training=False).endpoints["logits_sup"],
            num_labelled=LABELLED // num_replicas,
        )
    randomize(task.model)
    return task


def make_batch(name, precision, num_replicas, order=None, seed=0):
    """The same images for any number of replicas; in distillation each replica has its labelled rows last."""
    order = np.arange(BATCH) if order is None else order
    if name == "distill":
        others, labelled = np.split(order, [BATCH - LABELLED])
        parts = zip(np.split(others, num_replicas), np.split(labelled, num_replicas), strict=True)
        order = np.concatenate([row for part in parts for row in part])
    num_views = 2 if name == "pretrain" else 1
    views = [random_images(BATCH, 16, 16, seed=2 * seed + view, dtype=precision) for view in range(num_views)]
    labels = (np.arange(BATCH) % CLASSES).astype("int32")
    return {"views": tuple(view[order] for view in views), "labels": labels[order]}


class Stepper:
    """One task on a strategy, started anew for each batch.

    Args:
        strategy: of one or several replicas.
        name: of the task.
        precision: of everything.
    """

    def __init__(self, strategy, name, precision="float64"):
        self.strategy, self.name, self.precision = strategy, name, precision
        self.num_replicas = strategy.num_replicas_in_sync
        with strategy.scope():
            self.task = make_task(name, precision, self.num_replicas)
        self._start = [variable.numpy() for variable in self.task.model.variables]
        compute = self.task.compute_gradients
        kept = threading.local()  # Each replica is traced in a thread of its own.

        def keep(batch):
            kept.computed = compute(batch)
            return kept.computed

        self.task.compute_gradients = keep

        def step(batch):
            self.task.train_step(batch)
            gradients, statistics, metrics = kept.computed
            return gradients, statistics, distribute.cross_replica_mean(metrics)

        self._step = tf.function(lambda batch: strategy.run(step, args=(batch,)), autograph=False)

    def run(self, num_steps=STEPS, **batch) -> dict[str, np.ndarray]:
        """Returns everything that some steps computed and changed, by name."""
        model, optimizer = self.task.model, self.task.optimizer
        for variable, value in zip(model.variables, self._start, strict=True):
            variable.assign(value)
        for variable in optimizer.variables():
            variable.assign(tf.zeros_like(variable))
        before = snapshot(model)
        rows = split_batch(self.strategy, make_batch(self.name, self.precision, self.num_replicas, **batch))
        found = {}
        for number in range(num_steps):
            computed = self._step(rows)
            gradients, statistics, metrics = tf.nest.map_structure(self._first, computed)
            found |= {f"{number}/metrics/{name}": value for name, value in metrics.items()}
            found |= {f"{number}/statistics/{i}": value for i, value in enumerate(tf.nest.flatten(statistics))}
            names = [variable.name for variable in model.trainable_variables]
            found |= {f"{number}/gradients/{i} {n}": g for i, (n, g) in enumerate(zip(names, gradients, strict=True))}
        after = snapshot(model)
        return found | {f"changes/{name}": after[name] - before[name] for name in before}

    def _first(self, value) -> np.ndarray:
        return np.array(self.strategy.experimental_local_results(value)[0].numpy())


def main(index, directory):
    """Runs one worker; all of them write the same, a file for each task."""
    strategy = make_strategy(StrategyConfig(strategy="multi_worker", cluster_timeout=60))
    tf.config.run_functions_eagerly(True)  # Tracing would take most of the time.
    for name in TASKS:
        np.savez(f"{directory}/{name}.{index}.npz", **Stepper(strategy, name).run())
    distribute.gather_from_workers(strategy, [0.0])


if __name__ == "__main__":
    main(*sys.argv[1:])
