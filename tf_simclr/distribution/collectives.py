"""All collectives. Each is the identity on one replica, so that callers need no branch."""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

T = TypeVar("T")


def num_replicas() -> int:
    """Returns the number of replicas in sync, 1 outside a replica context."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def replica_id() -> tf.Tensor | int:
    """Returns this replica's number among all replicas, 0 outside a replica context."""
    if num_replicas() == 1:
        return 0
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def cross_replica_mean(tensors: T) -> T:
    """Returns the mean over replicas of a (nested structure of) tensors; differentiable."""
    return _all_reduce(tf.distribute.ReduceOp.MEAN, tensors)


def cross_replica_sum(tensors: T) -> T:
    """Returns the sum over replicas of a (nested structure of) tensors; differentiable."""
    return _all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def _all_reduce(operation: tf.distribute.ReduceOp, tensors: T) -> T:
    if num_replicas() == 1:
        return tensors
    reduced: T = tf.distribute.get_replica_context().all_reduce(operation, tensors)
    return reduced


def all_gather_batch(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the rows of all replicas in replica order; differentiable.

    Each replica places its rows among zeros, and all are summed. Unlike `all_gather`, this has an exact gradient under
    every strategy, and a static shape, which TPUs need.

    Args:
        tensor: `[b, d]`, this replica's rows.

    Returns:
        `[replicas * b, d]`.
    """
    replicas = num_replicas()
    if replicas == 1:
        return tensor
    placed = tf.scatter_nd([[replica_id()]], [tensor], [replicas, *tensor.shape])
    return tf.reshape(cross_replica_sum(placed), [-1, *tensor.shape[1:]])


def assign_on_replicas(variables: Sequence[Any], values: Sequence[tf.Tensor]) -> None:
    """Assigns to variables as an optimizer does, in replica context.

    Args:
        variables: weights and slots; those of a strategy are the same on all replicas.
        values: one for each variable, in its dtype and shape, equal on all replicas.
    """

    def assign(strategy: tf.distribute.Strategy, values: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(variable, lambda v, x: v.assign(x), args=(value,), group=False)

    # If XLA compiles the step of several GPUs, replicas cannot meet, and need not.
    tf.__internal__.distribute.interim.maybe_merge_call(assign, tf.distribute.get_strategy(), list(values))


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes the files and talks to the user."""
    return bool(strategy.extended.should_checkpoint)


def gather_from_workers(strategy: tf.distribute.Strategy, values: Sequence[float]) -> NDArray[np.float64]:
    """Returns the `values` of every process of a run, after all have come here.

    Args:
        strategy: of the run.
        values: of this process, as many on each.

    Returns:
        `[processes, len(values)]` or more rows, where a process with several devices counts several times.
    """
    own = np.array([values], np.float64)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return own
    return np.asarray(_make_gather(strategy)(tf.constant(own)))


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Waits until every process of a run has come here."""
    gather_from_workers(strategy, [0.0])


@functools.cache
def _make_gather(strategy: tf.distribute.Strategy) -> tf.types.experimental.GenericFunction:
    return tf.function(
        lambda values: strategy.experimental_local_results(strategy.run(all_gather_batch, args=(values,)))[0],
        autograph=False,
    )
