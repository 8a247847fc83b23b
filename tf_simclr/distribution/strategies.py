"""Choice of devices and workers for a run."""

import contextlib
import functools
import logging
import socket
import urllib.parse
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_simclr.config import StrategyConfig, UserError, check
from tf_simclr.distribution.cluster import find_cluster, names_several_workers
from tf_simclr.distribution.collectives import is_chief, wait_for_all
from tf_simclr.distribution.rendezvous import meet
from tf_simclr.files import first_line

_LOG = logging.getLogger("tf_simclr")
# A process connects to the other workers once.
_CONNECTED: list[tf.distribute.Strategy] = []


def is_chief_process() -> bool:
    """Returns whether this process writes the files of its runs: it is the only or the first worker."""
    return all(is_chief(strategy) for strategy in _CONNECTED)


def wait_for_workers() -> None:
    """Waits until all workers have come here, so that none leaves while another still works."""
    for strategy in _CONNECTED:
        # If a worker has left already, its last messages may be lost.
        with contextlib.suppress(tf.errors.OpError):
            wait_for_all(strategy)


def make_strategy(config: StrategyConfig, settings: Mapping[str, Any] | None = None) -> tf.distribute.Strategy:
    """Returns the distribution strategy that `config` asks for.

    Args:
        config: `auto` takes the first of these that exists: a TPU that is named or here, the workers that `TF_CONFIG`
            or Slurm names, all GPUs, the CPU.
        settings: all flags of the run by name, which must be the same at all workers.

    Raises:
        UserError: a TPU was asked for and none answers, or a worker does not come.
    """
    name, reason = _choose(config)
    _LOG.info("Strategy: %s (%s).", name, reason)
    if name == "tpu":
        return _tpu_strategy(config)
    if name == "multi_worker":
        return _multi_worker_strategy(config, settings or {})
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored":
        return _mirrored_strategy(*(d.name for d in gpus or tf.config.list_logical_devices("CPU")))
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")


def _choose(config: StrategyConfig) -> tuple[str, str]:
    """Returns a strategy and the reason for it, without starting TensorFlow's runtime."""
    if config.use_tpu:
        return "tpu", "--use_tpu"
    if config.strategy != "auto":
        return config.strategy, f"--strategy={config.strategy}"
    named, here = config.tpu_name or config.master, tf.config.list_physical_devices("TPU")
    if config.use_tpu is None and (named or here):
        return "tpu", f"auto: a TPU is {'named' if named else 'here'}"
    if names_several_workers(config):
        return "multi_worker", "auto: several workers are named"
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if num_gpus > 1:
        return "mirrored", f"auto: {num_gpus} GPUs are here"
    return "one_device", f"auto: {'one GPU' if num_gpus else 'no TPU and no GPU'} is here"


# TensorFlow numbers the collectives of every MirroredStrategy from the start: a second one on the same devices fails as
# soon as a number means another shape or type than in the first.
@functools.cache
def _mirrored_strategy(*devices: str) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


def _multi_worker_strategy(config: StrategyConfig, settings: Mapping[str, Any]) -> tf.distribute.Strategy:
    if _CONNECTED:
        return _CONNECTED[0]
    cluster = find_cluster(config)
    meet(cluster, settings, config.cluster_timeout)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster.resolver())
    except (RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            f"{cluster.source}: TensorFlow cannot connect the workers ({first_line(error)}); start all of them again."
        ) from error
    _CONNECTED.append(strategy)
    return strategy


# Initialising a TPU again would lose what is on it.
@functools.cache
def _tpu_strategy(config: StrategyConfig) -> tf.distribute.Strategy:
    if name := config.tpu_name or config.master:
        asked = f"--tpu_name={name}" if config.tpu_name else f"--master={name}"
    else:
        name = "local" if tf.config.list_physical_devices("TPU") else ""
        asked = "--use_tpu=True" if config.use_tpu else f"--strategy={config.strategy}"
    try:
        # TensorFlow aborts the process if such an address does not answer.
        for address in map(urllib.parse.urlsplit, name.split(",") if "://" in name else ()):
            socket.create_connection((address.hostname or "", address.port or 8470), timeout=10).close()
        resolver_class = tf.distribute.cluster_resolver.TPUClusterResolver
        resolver = resolver_class(tpu=name, zone=config.tpu_zone, project=config.gcp_project)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, ImportError, tf.errors.OpError) as error:
        raise UserError(
            f"{asked}: no TPU answers ({first_line(error)}); name one with --tpu_name, --tpu_name=local on a "
            "TPU VM, or use --use_tpu=False."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def is_step_compiled(jit_compile: str, strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the step that `strategy` runs must be compiled with XLA.

    Args:
        jit_compile: `True`, `False`, or `auto`: on GPUs. On a CPU XLA is slower than TensorFlow's kernels.
        strategy: that will run the step. One of TPUs compiles everything by itself.

    Raises:
        UserError: XLA is asked for on several CPU devices, for which it has no collectives.
    """
    kinds = _device_kinds(strategy)
    check(
        jit_compile != "True" or kinds != {"CPU"} or strategy.num_replicas_in_sync == 1,
        "jit_compile",
        jit_compile,
        "TensorFlow has no collectives between CPU devices under XLA; use auto, or --strategy=one_device.",
    )
    return kinds == {"GPU"} if jit_compile == "auto" else jit_compile == "True" and "TPU" not in kinds


def is_augmented_on_device(augment_on: str, jit_compile: str, strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the training step makes the views of its images.

    Args:
        augment_on: `host`, `device`, or `auto`: on accelerators that may use XLA.
        jit_compile: `False` keeps XLA, which compiles these views, away from GPUs.
        strategy: that will run the step.
    """
    kinds = _device_kinds(strategy)
    compiles = "TPU" in kinds or jit_compile != "False"
    return augment_on == "device" or (augment_on == "auto" and "CPU" not in kinds and compiles)


def _device_kinds(strategy: tf.distribute.Strategy) -> set[str]:
    return {tf.DeviceSpec.from_string(name).device_type for name in strategy.extended.worker_devices}
