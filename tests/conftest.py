"""Shared set-up: two logical CPU devices, so that replicas are real ones, and no GPU."""

import pytest

import tf_simclr  # noqa: F401  (selects Keras 2 before TensorFlow loads)

import tensorflow as tf  # isort: skip

NUM_LOGICAL_DEVICES = 2


def pytest_configure(config):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_LOGICAL_DEVICES
    )


@pytest.fixture(autouse=True)
def _seed():
    tf.keras.utils.set_random_seed(0)
