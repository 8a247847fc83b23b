"""Batches and checks that the tests of the tasks share."""

import numpy as np
import tensorflow as tf

from tests.support.networks import random_images, variables

BATCH, CLASSES, DECAY = 8, 4, 0.01


def make_batch(num_views=1, precision="float64", seed=0):
    """Images of all classes in turn; `seed` chooses other images."""
    views = [random_images(BATCH, 16, 16, seed=2 * seed + view, dtype=precision) for view in range(num_views)]
    return {"views": tuple(views), "labels": (np.arange(BATCH) % CLASSES).astype("int32")}


def tensors(batch):
    return tf.nest.map_structure(tf.constant, batch)


def names_of(model) -> dict:
    """Returns {id of a variable: its name}."""
    return {id(variable): name for name, variable in variables(model).items()}


def shares(row, temperature=1.0):
    weights = np.exp(np.asarray(row) / temperature)
    return weights / weights.sum()


def check_metrics(received, expected, task):
    assert set(received) == set(expected) == set(task.metric_names)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=1e-6, err_msg=name)
