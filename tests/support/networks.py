"""Tiny networks with random weights, and two replicas to run them on."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.config import ModelConfig


def tiny_config(**changes) -> ModelConfig:
    settings = {
        "resnet_depth": 10,
        "width_multiplier": 0.125,
        "image_size": 16,
        "proj_out_dim": 8,
        "precision": "float64",
    }
    return ModelConfig(**(settings | changes))


def flatten(tree, path="") -> dict:
    """Turns nested dictionaries into one: {"encoder/stem/conv1/kernel": variable, ...}."""
    if not isinstance(tree, dict):
        return {path[1:]: tree}
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{path}/{key}")
    return flat


def variables(model) -> dict:
    return flatten(model.variable_tree())


def snapshot(model) -> dict[str, np.ndarray]:
    return {name: np.array(variable.numpy()) for name, variable in variables(model).items()}


def is_statistic(name: str) -> bool:
    return name.endswith(("/moving_mean", "/moving_variance"))


def randomize(model, seed=0):
    """Gives every variable a value of its own: initial ones and zeros would hide mistakes."""
    rng = np.random.default_rng(seed)
    for name, variable in variables(model).items():
        shape, kind = tuple(variable.shape), name.rpartition("/")[2]
        if kind in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif kind == "kernel":
            value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        else:
            value = 0.1 * rng.normal(size=shape)
        variable.assign(value.astype(variable.dtype.as_numpy_dtype))
    return model


def random_images(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).uniform(size=(*shape, 3)).astype(dtype)


def assert_identical(received: dict, expected: dict):
    """Every array the same, bit for bit."""
    assert received.keys() == expected.keys()
    different = [name for name in expected if received[name].tobytes() != expected[name].tobytes()]
    assert not different, f"not bit-equal: {different}"


def assert_close(received: dict, expected: dict, tolerance: float):
    """Every array within `tolerance` of its largest element."""
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.max(np.abs(value), initial=0.0)
        np.testing.assert_allclose(received[name], value, rtol=0, atol=tolerance * max(scale, 1e-300), err_msg=name)


@functools.cache
def replicas(count: int) -> tf.distribute.Strategy:
    """A strategy of so many logical CPU devices."""
    if count == 1:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    with pytest.MonkeyPatch.context() as patch:
        # Several strategies on the same devices would mix up their collectives.
        patch.setattr(tf.distribute.MirroredStrategy, "_collective_key_base", 100_000 * count)
        return tf.distribute.MirroredStrategy([f"/cpu:{number}" for number in range(count)])


def two_replicas() -> tf.distribute.Strategy:
    return replicas(2)


def split_batch(strategy, batch):
    """Gives replica r the r-th part of the rows of every array in `batch`."""

    def rows_of(context):
        number, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
        return tf.nest.map_structure(lambda a: tf.constant(np.split(np.asarray(a), count)[number]), batch)

    return strategy.experimental_distribute_values_from_function(rows_of)


def replicate(strategy, function, batch, graph=True):
    """Returns a function that runs `function(rows)` on each replica's rows of `batch`.

    It returns what each replica returned, as NumPy.
    """
    rows = split_batch(strategy, batch)

    def run():
        return strategy.run(function, args=(rows,))

    compiled = tf.function(run, autograph=False) if graph else run

    def call() -> list:
        result = compiled()
        leaves = [strategy.experimental_local_results(leaf) for leaf in tf.nest.flatten(result)]
        return [
            tf.nest.pack_sequence_as(result, [parts[replica].numpy() for parts in leaves])
            for replica in range(strategy.num_replicas_in_sync)
        ]

    return call


def run_on_replicas(strategy, function, batch, graph=True) -> list:
    """Runs `function` once on each replica's rows of `batch`."""
    return replicate(strategy, function, batch, graph)()
