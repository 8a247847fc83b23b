"""Shared set-up: four logical CPU devices, so that replicas are real ones, and no GPU."""

import gc
import logging
import types

import pytest

import tf_simclr  # noqa: F401  (selects Keras 2 before TensorFlow loads)

import tensorflow as tf  # isort: skip

NUM_LOGICAL_DEVICES = 4


def pytest_configure(config):
    # A sixth of the time: what TensorFlow has loaded stays, and tracing makes many objects that live on.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_LOGICAL_DEVICES)


@pytest.fixture(autouse=True)
def _seed():
    tf.keras.utils.set_random_seed(0)


@pytest.fixture
def log(caplog):
    """Messages to the user."""
    caplog.set_level(logging.INFO, "tf_simclr")
    return caplog


@pytest.fixture
def without_network(monkeypatch):
    """Leaves out the network, for tests of what is checked before anything is trained."""
    from tf_simclr.training import assembly

    task = types.SimpleNamespace(eval_step=lambda batch: {})
    monkeypatch.setattr(assembly, "build_simclr_model", lambda *arguments: None)
    monkeypatch.setattr(assembly, "PretrainTask", lambda *arguments: task)
