"""Runs whose views the training step makes: the same as others, and exact where they are resumed."""

import types

import numpy as np
import pytest

from tests.support.runs import differing_tensors, eagerly, tiny_config
from tf_simclr import train_and_evaluate
from tf_simclr.distribution.strategies import is_augmented_on_device

FLAGS = {"mode": "train", "train_steps": 4, "steps_per_loop": 1, "color_jitter_strength": 0.5}


@pytest.mark.parametrize(("devices", "auto"), [(["CPU:0"], False), (["GPU:0", "GPU:1"], True), (["TPU:0"], True)])
def test_auto_augments_on_accelerators(devices, auto):
    names = tuple(f"/job:worker/replica:0/task:0/device:{device}" for device in devices)
    strategy = types.SimpleNamespace(extended=types.SimpleNamespace(worker_devices=names))
    assert is_augmented_on_device("auto", "auto", strategy) is auto
    assert is_augmented_on_device("auto", "False", strategy) is (devices == ["TPU:0"])
    assert is_augmented_on_device("device", "False", strategy) is True
    assert is_augmented_on_device("host", "True", strategy) is False


def run(directory, **flags):
    """Returns the metrics of each step."""
    events = []
    with eagerly():
        train_and_evaluate(tiny_config(directory, **(FLAGS | flags)), [events.append])
    return [event.metrics for event in events]


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [{}, {"contrast_chunks": 2, "global_bn": False}])
def test_run_augments_alike_on_host_and_device(tmp_path, chunks):
    host = run(tmp_path / "host", augment_on="host", **chunks)
    device = run(tmp_path / "device", augment_on="device", **chunks)
    assert len(host) == len(device) == 4
    for name, value in host[0].items():  # Later ones grow apart from rounding.
        np.testing.assert_allclose(device[0][name], value, rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_run_on_device_that_is_resumed_ends_in_the_same_bytes(tmp_path):
    class Stopped(Exception):  # noqa: N818
        pass

    def stop(event):
        if event.step == 3:
            raise Stopped

    run(tmp_path / "whole", augment_on="device")
    with eagerly(), pytest.raises(Stopped):
        train_and_evaluate(tiny_config(tmp_path / "parts", augment_on="device", **FLAGS), [stop])
    assert len(run(tmp_path / "parts", augment_on="device")) == 2  # From the checkpoint of step 2.
    assert differing_tensors(tmp_path / "parts" / "ckpt-4", tmp_path / "whole" / "ckpt-4") == []


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.exhaustive
def test_compiled_run_on_device_on_two_replicas_loses_as_on_one(tmp_path):
    losses = []
    for strategy in ("one_device", "mirrored"):
        config = tiny_config(tmp_path / strategy, strategy=strategy, augment_on="device", **FLAGS)
        train_and_evaluate(config, [lambda event: losses.append(event.metrics["total_loss"])])
    assert losses[0] == pytest.approx(losses[4], rel=1e-4)
