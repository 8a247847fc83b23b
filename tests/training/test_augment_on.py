"""Runs whose views the training step makes: the same as others, and exact when they are resumed."""

import types

import pytest

from tests.support.runs import differing_tensors, eagerly, tiny_config
from tf_simclr import train_and_evaluate
from tf_simclr.distribution.strategies import is_augmented_on_device

FLAGS = {"mode": "train", "train_steps": 2, "checkpoint_steps": 1, "steps_per_loop": 1, "color_jitter_strength": 0.5}


@pytest.mark.parametrize(("devices", "auto"), [(["CPU:0"], False), (["GPU:0", "GPU:1"], True), (["TPU:0"], True)])
def test_auto_augments_on_accelerators(devices, auto):
    names = tuple(f"/job:worker/replica:0/task:0/device:{device}" for device in devices)
    strategy = types.SimpleNamespace(extended=types.SimpleNamespace(worker_devices=names))
    assert is_augmented_on_device("auto", "auto", strategy) is auto
    assert is_augmented_on_device("auto", "False", strategy) is (devices == ["TPU:0"])
    assert is_augmented_on_device("device", "False", strategy) is True
    assert is_augmented_on_device("host", "True", strategy) is False


class Stopped(Exception):  # noqa: N818
    """Raised by an action to end a run."""


def run(directory, augment_on="device", stop_after=None):
    """Returns the metrics of each step."""
    metrics = []

    def record(event):
        metrics.append(event.metrics)
        if event.step == stop_after:
            raise Stopped

    with eagerly():
        train_and_evaluate(tiny_config(directory, augment_on=augment_on, **FLAGS), [record])
    return metrics


@pytest.mark.slow
def test_run_on_device_has_the_loss_of_the_host_and_resumes_to_the_same_bytes(tmp_path):
    device = run(tmp_path / "device")
    with pytest.raises(Stopped):
        run(tmp_path / "parts", stop_after=1)
    assert len(run(tmp_path / "parts")) == 1
    assert differing_tensors(tmp_path / "parts" / "ckpt-2", tmp_path / "device" / "ckpt-2") == []
    host = run(tmp_path / "host", "host")
    assert device[0] == pytest.approx(host[0], rel=1e-4)  # Later ones grow apart from rounding.


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.exhaustive
def test_compiled_run_on_device_on_two_replicas_loses_as_on_one(tmp_path):
    losses = []
    for strategy in ("one_device", "mirrored"):
        config = tiny_config(tmp_path / strategy, strategy=strategy, augment_on="device", **FLAGS)
        train_and_evaluate(config, [lambda event: losses.append(event.metrics["total_loss"])])
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)
