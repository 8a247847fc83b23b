"""Distribution strategies, and the one home of every collective.

Each collective is the identity on one replica, so that callers need no branch.
"""

import functools
import socket
import urllib.parse
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.config import StrategyConfig, UserError, check


def num_replicas() -> int:
    """Returns the number of replicas in sync, 1 outside a replica context."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def replica_id() -> tf.Tensor | int:
    """Returns this replica's number among all replicas, 0 outside a replica context."""
    if num_replicas() == 1:
        return 0
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def cross_replica_mean(tensors):
    """Returns the mean over replicas of a (nested structure of) tensors; differentiable."""
    if num_replicas() == 1:
        return tensors
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tensors)


def cross_replica_sum(tensors):
    """Returns the sum over replicas of a (nested structure of) tensors; differentiable."""
    if num_replicas() == 1:
        return tensors
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def all_gather_batch(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the rows of all replicas in replica order; differentiable.

    A one-hot placement followed by a sum: unlike `all_gather`, its gradient is exact under every
    strategy, and its shape is static, which TPUs need.

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

    def assign(strategy, values):
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(variable, lambda v, x: v.assign(x), args=(value,), group=False)

    # Where XLA compiles the step of several GPUs, replicas cannot meet, and need not.
    tf.__internal__.distribute.interim.maybe_merge_call(assign, tf.distribute.get_strategy(), list(values))


def make_strategy(config: StrategyConfig) -> tf.distribute.Strategy:
    """Returns the distribution strategy that `config` asks for.

    Args:
        config: `auto` takes the TPU that `tpu_name` or `master` names, else all GPUs, else the CPU.

    Raises:
        UserError: a TPU was asked for and none answers, or no such device is here.
    """
    if config.use_tpu or config.strategy == "tpu":
        return _tpu_strategy(config)
    if config.use_tpu is None and config.strategy == "auto" and (config.tpu_name or config.master):
        return _tpu_strategy(config)
    gpus = tf.config.list_logical_devices("GPU")
    if config.strategy == "mirrored":
        return _mirrored_strategy(*(d.name for d in gpus or tf.config.list_logical_devices("CPU")))
    if config.strategy == "auto" and len(gpus) > 1:
        return _mirrored_strategy(*(d.name for d in gpus))
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")


# TensorFlow numbers the collectives of every MirroredStrategy anew: a second one on the same devices
# fails as soon as a number stands for another shape or type than in the first.
@functools.cache
def _mirrored_strategy(*devices: str) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


def is_step_compiled(jit_compile: str, strategy: tf.distribute.Strategy) -> bool:
    """Returns whether XLA is to compile what `strategy.run` is given.

    Args:
        jit_compile: `True`, `False`, or `auto`: on GPUs. On a CPU XLA is slower than TensorFlow's kernels.
        strategy: that will run the step. One of TPUs compiles whatever it runs by itself.

    Raises:
        UserError: several CPU devices are to be compiled for, which have no collectives under XLA.
    """
    kinds = {tf.DeviceSpec.from_string(name).device_type for name in strategy.extended.worker_devices}
    check(
        jit_compile != "True" or kinds != {"CPU"} or strategy.num_replicas_in_sync == 1,
        "jit_compile",
        jit_compile,
        "TensorFlow has no collectives between CPU devices under XLA; use auto, or --strategy=one_device.",
    )
    return kinds == {"GPU"} if jit_compile == "auto" else jit_compile == "True" and "TPU" not in kinds


def _tpu_strategy(config: StrategyConfig) -> tf.distribute.Strategy:
    name = config.tpu_name or config.master or ""
    flag = "tpu_name" if config.tpu_name else "master" if config.master else "use_tpu"
    try:
        if "://" in name:  # TensorFlow aborts the process where such an address does not answer.
            address = urllib.parse.urlsplit(name)
            socket.create_connection((address.hostname or "", address.port or 8470), timeout=10).close()
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=name, zone=config.tpu_zone, project=config.gcp_project
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"--{flag}={name or True}: no TPU answers ({reason}); name one with --tpu_name, "
            "--tpu_name=local on a TPU VM, or use --use_tpu=False."
        ) from error
    return tf.distribute.TPUStrategy(resolver)
