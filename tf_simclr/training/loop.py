"""The training loop. It knows no task by name: input and output enter as actions."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from tf_simclr.config import PreemptedError
from tf_simclr.distribution import collectives
from tf_simclr.distribution.preemption import PreemptionWatch
from tf_simclr.runs.checkpoint import Checkpoints, DivergedError

_LOG = logging.getLogger("tf_simclr")
_Batch = dict[str, Any]
# Takes an iterator and a number of steps; see `make_train_function`.
TrainFunction = Callable[[Iterator[Any], tf.Tensor], tuple[dict[str, tf.Tensor], tf.Tensor]]


class Trainable(Protocol):
    """The part of a task that the loop uses. `optimizer.iterations` is the step."""

    optimizer: Any

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics of a step."""

    def train_step(self, batch: _Batch) -> dict[str, tf.Tensor]:
        """Takes one step on the batch of a replica; returns its metrics, scalars."""


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """Length of a run and the steps at which its loop stops.

    Attributes:
        total_steps: the exact last step.
        checkpoint_steps: steps between checkpoints.
        steps_per_loop: steps in one call of the compiled loop.
        global_batch_size: examples a step, for the speed that is reported.
        max_restores: times to go back to the last checkpoint after a loss or weight that is not finite.
        stops: more steps at which a call of the loop ends, for actions that act there.
    """

    total_steps: int
    checkpoint_steps: int
    steps_per_loop: int
    global_batch_size: int
    max_restores: int = 0
    stops: tuple[int, ...] = ()

    def next_stop(self, step: int) -> int:
        """Returns the step at which the loop call that starts at `step` ends."""
        if step == 0:
            return 1  # The user sees early that the run is alive.
        next_checkpoint = (step // self.checkpoint_steps + 1) * self.checkpoint_steps
        others = (stop for stop in self.stops if stop > step)
        return min(step + self.steps_per_loop, next_checkpoint, self.total_steps, *others)


@dataclasses.dataclass(frozen=True)
class LoopEvent:
    """State of a run after a call of the loop, for its actions.

    Attributes:
        step: steps taken so far.
        num_steps: steps since the last event; `metrics` are their means.
        plan: of this run.
        metrics: named scalars; empty if this run took no step.
        images_per_second: examples (not views) a second since the last event, 0 if unknown.
        checkpoint: path of the checkpoint written at this step, or None.
        task: the task that is trained.
        result: of the run, in the last event for actions that are called after the evaluation.
        seconds: duration of the call with its checkpoint; 0 if that tells nothing, because the call compiled.
    """

    step: int
    num_steps: int
    plan: LoopPlan
    metrics: dict[str, float]
    images_per_second: float
    checkpoint: str | None
    task: Any
    result: Mapping[str, Any] | None = None
    seconds: float = 0.0

    @property
    def is_last(self) -> bool:
        """True once training is complete."""
        return self.step >= self.plan.total_steps


Action = Callable[[LoopEvent], None]


def make_train_function(
    task: Trainable,
    strategy: tf.distribute.Strategy,
    *,
    jit_compile: bool = False,
    prepare: Callable[[_Batch], _Batch] | None = None,
) -> TrainFunction:
    """Returns a function (iterator, steps), one graph, that trains.

    It returns the means of the task's metrics and of `bad_images`, the unreadable images of a global
    batch; and the number of steps before the first one with a metric that is not finite.

    Args:
        task: the task to train.
        strategy: that the task's variables were made under.
        jit_compile: True if XLA compiles the step of each replica.
        prepare: applied in the step to the batch of a replica before the task gets it; None for nothing.
    """

    def step(batch: _Batch) -> dict[str, tf.Tensor]:
        bad_images = collectives.cross_replica_sum(tf.cast(batch["bad_images"], tf.float32))
        return task.train_step(prepare(batch) if prepare else batch) | {"bad_images": bad_images}

    names = (*task.metric_names, "bad_images")
    replica_step = tf.autograph.experimental.do_not_convert(step)
    if jit_compile:
        replica_step = tf.function(step, jit_compile=True, autograph=False)

    def run(iterator: Iterator[Any], num_steps: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        totals = {name: tf.zeros([]) for name in names}
        num_good, good = 0, True
        for _ in tf.range(num_steps):
            metrics = strategy.run(replica_step, args=(next(iterator),))
            metrics = {n: strategy.experimental_local_results(metrics[n])[0] for n in names}
            totals = {n: totals[n] + metrics[n] for n in names}
            good = tf.logical_and(good, tf.reduce_all(tf.math.is_finite(list(metrics.values()))))
            num_good += tf.cast(good, tf.int32)
        return {name: totals[name] / tf.cast(num_steps, tf.float32) for name in names}, num_good

    train_function: TrainFunction = tf.function(run)
    return train_function


def train(
    task: Trainable,
    make_batches: Callable[[int], Iterator[Any]],
    *,
    run: TrainFunction,
    checkpoints: Checkpoints,
    plan: LoopPlan,
    watch: PreemptionWatch,
    actions: Sequence[Action] = (),
) -> None:
    """Trains `task` from its current step to `plan.total_steps`.

    Args:
        task: the task to train.
        make_batches: takes the number of the first batch, returns an iterator of distributed batches.
        run: from `make_train_function`.
        checkpoints: those of the run.
        plan: of the run.
        watch: that of the run, entered.
        actions: called with a `LoopEvent` after each call of the loop, in order; the last event of a
            run is given even if no step was left to take.

    Raises:
        PreemptedError: a signal asked the process to end; a checkpoint is written.
        DivergedError: the loss or a weight is not finite. Nothing is saved then.
    """
    step = int(task.optimizer.iterations.numpy())
    if step >= plan.total_steps:
        _emit(actions, LoopEvent(step, 0, plan, {}, 0.0, checkpoints.latest, task))
        return
    batches = make_batches(step + checkpoints.skipped_steps)
    num_restored, first = 0, True  # The first call also traces and compiles: its speed would mislead.
    while step < plan.total_steps:
        stop = min(plan.next_stop(step), step + watch.max_steps)
        start = time.perf_counter()
        means, num_good = run(batches, tf.constant(stop - step))
        metrics = {name: float(value) for name, value in means.items()}
        seconds = 0.0 if first else (time.perf_counter() - start) / (stop - step)
        try:
            _check_finite(metrics, step + int(num_good) + 1, checkpoints.latest)
            is_due = stop % plan.checkpoint_steps == 0 or stop == plan.total_steps
            path = checkpoints.save() if is_due else None
        except DivergedError as error:
            num_restored += 1
            step = _go_back(checkpoints, plan, stop, num_restored, error)
            batches = make_batches(step + checkpoints.skipped_steps)
            continue
        speed = plan.global_batch_size / seconds if seconds else 0.0
        signal_number = watch.after_call(seconds)
        if signal_number:
            path = path or checkpoints.save()
        total_seconds = 0.0 if first else time.perf_counter() - start
        _emit(actions, LoopEvent(stop, stop - step, plan, metrics, speed, path, task, seconds=total_seconds))
        if signal_number:
            raise PreemptedError(
                f"asked to end after step {stop} of {plan.total_steps}: {path} is written", signal_number
            )
        step, first = stop, False


def _emit(actions: Sequence[Action], event: LoopEvent) -> None:
    for action in actions:
        action(event)


def _go_back(checkpoints: Checkpoints, plan: LoopPlan, stop: int, num_restored: int, error: DivergedError) -> int:
    """Restores the last good checkpoint and returns its step; raises DivergedError if that is no longer allowed."""
    if num_restored > plan.max_restores or checkpoints.latest is None:
        raise DivergedError(error.what, checkpoints.latest, can_restore=plan.max_restores == 0) from error
    step = checkpoints.go_back(stop)
    _LOG.info("Training diverged %s.", error.what)
    times = f"{num_restored} of {plan.max_restores} times"
    _LOG.info("Going back to step %d (%s); the batches since are left out.", step, times)
    return step


def _check_finite(metrics: dict[str, float], step: int, checkpoint: str | None) -> None:
    if bad := [f"{name}={value}" for name, value in metrics.items() if not math.isfinite(value)]:
        raise DivergedError(f"at step {step}: {', '.join(bad)}", checkpoint)
