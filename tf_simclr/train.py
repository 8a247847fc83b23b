"""The training loop. It knows no task by name: input and output enter as actions."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tf_simclr import distribute
from tf_simclr.checkpoint import DIVERGED_MEND
from tf_simclr.config import UserError


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """How far to train and when to stop for air.

    Attributes:
        total_steps: the exact last step.
        checkpoint_steps: steps between checkpoints.
        steps_per_loop: steps in one call of the compiled loop.
        global_batch_size: examples a step, for the speed that is reported.
    """

    total_steps: int
    checkpoint_steps: int
    steps_per_loop: int
    global_batch_size: int

    def next_stop(self, step: int) -> int:
        """Returns the step at which the loop call that starts at `step` ends."""
        if step == 0:
            return 1  # The user sees early that the run is alive.
        next_checkpoint = (step // self.checkpoint_steps + 1) * self.checkpoint_steps
        return min(step + self.steps_per_loop, next_checkpoint, self.total_steps)


@dataclasses.dataclass(frozen=True)
class LoopEvent:
    """What an action sees after each call of the loop.

    Attributes:
        step: steps taken so far.
        num_steps: steps since the last event; `metrics` are their means.
        plan: of this run.
        metrics: named scalars; empty if this run took no step.
        images_per_second: examples (not views) a second since the last event, 0 if unknown.
        checkpoint: path of the checkpoint written at this step, or None.
        task: the task that is trained.
    """

    step: int
    num_steps: int
    plan: LoopPlan
    metrics: dict[str, float]
    images_per_second: float
    checkpoint: str | None
    task: Any

    @property
    def is_last(self) -> bool:
        """Whether training is complete."""
        return self.step >= self.plan.total_steps


Action = Callable[[LoopEvent], None]


def make_train_function(task, strategy: tf.distribute.Strategy, *, jit_compile: bool = False):
    """Returns a function (iterator, steps), one graph, that trains and returns the metrics' means.

    To the metrics of the task it adds `bad_images`, the unreadable images of a global batch.

    Args:
        task: has `train_step` and `metric_names`.
        strategy: that the task's variables were made under.
        jit_compile: whether XLA compiles the step of each replica.
    """

    @tf.autograph.experimental.do_not_convert
    def step(batch):
        bad_images = distribute.cross_replica_sum(tf.cast(batch["bad_images"], tf.float32))
        return task.train_step(batch) | {"bad_images": bad_images}

    names = (*task.metric_names, "bad_images")
    replica_step = tf.function(step, jit_compile=True, autograph=False) if jit_compile else step

    @tf.function
    def run(iterator, num_steps):
        totals = {name: tf.zeros([]) for name in names}
        for _ in tf.range(num_steps):
            metrics = strategy.run(replica_step, args=(next(iterator),))
            totals = {n: totals[n] + strategy.experimental_local_results(metrics[n])[0] for n in names}
        return {name: totals[name] / tf.cast(num_steps, tf.float32) for name in names}

    return run


def train(task, batches: Iterator, *, run: Callable, checkpoints, plan: LoopPlan, actions=()) -> None:
    """Trains `task` from its current step to `plan.total_steps`.

    Args:
        task: an object with `optimizer`, whose `iterations` is the step.
        batches: iterator of distributed batches, starting at the current step.
        run: from `make_train_function`.
        checkpoints: has `save()`, which returns a path, and `latest`.
        plan: where to stop.
        actions: called with a `LoopEvent` after each call of the loop, in order; the last event of a
            run is given even if no step was left to take.

    Raises:
        UserError: the loss or a weight is not finite. Nothing is saved then.
    """
    step = int(task.optimizer.iterations.numpy())
    first = True  # The first call also traces and compiles: its speed would mislead.
    if step >= plan.total_steps:
        _emit(actions, LoopEvent(step, 0, plan, {}, 0.0, checkpoints.latest, task))
    while step < plan.total_steps:
        stop = plan.next_stop(step)
        start = time.perf_counter()
        metrics = {name: float(value) for name, value in run(batches, tf.constant(stop - step)).items()}
        speed = (stop - step) * plan.global_batch_size / (time.perf_counter() - start)
        _check_finite(metrics, step, stop, checkpoints.latest)
        saved = stop % plan.checkpoint_steps == 0 or stop == plan.total_steps
        path = checkpoints.save() if saved else None
        _emit(actions, LoopEvent(stop, stop - step, plan, metrics, 0.0 if first else speed, path, task))
        step, first = stop, False


def _emit(actions, event: LoopEvent) -> None:
    for action in actions:
        action(event)


def _check_finite(metrics: dict[str, float], step: int, stop: int, checkpoint: str | None) -> None:
    bad = {name: value for name, value in metrics.items() if not tf.math.is_finite(value)}
    if bad:
        listed = ", ".join(f"{name}={value}" for name, value in bad.items())
        raise UserError(
            f"training diverged in steps {step + 1} to {stop}: {listed}; the last good checkpoint is "
            f"{checkpoint or 'none'}; {DIVERGED_MEND}."
        )
