"""The training step under XLA: the same numbers, static shapes, nothing on the host, and who decides."""

import contextlib
import re
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import assert_close, snapshot
from tests.support.runs import eagerly, refusal, tiny_config
from tests.tasks import test_distill, test_finetune, test_pretrain
from tf_simclr import train_and_evaluate
from tf_simclr.distribution.strategies import is_step_compiled
from tf_simclr.training import experiment
from tf_simclr.training.loop import make_train_function

# Each with everything it can have: a probe, frozen layers, a teacher and labels.
TASKS = {
    "pretrain": (test_pretrain.make_task, test_pretrain.make_batch),
    "finetune": (lambda: test_finetune.make_task(block=0, ft_proj_selector=1), test_finetune.make_batch),
    "distill": (
        lambda: test_distill.make_task(num_labelled=2, distill_alpha=0.5),
        lambda: test_distill.make_batch(num_labelled=2),
    ),
}
ONE_DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")


def train(name, jit_compile):
    """Two steps in one call of the loop's function, which runs eagerly if XLA does not compile it."""
    make_task, make_batch = TASKS[name]
    task, batch = make_task(), make_batch() | {"bad_images": np.int32(1)}
    before = snapshot(task.model)
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    run = make_train_function(task, ONE_DEVICE, jit_compile=jit_compile)
    with contextlib.nullcontext() if jit_compile else eagerly():
        means, num_good = run(batches, tf.constant(2))
    assert int(num_good) == 2
    metrics = {name: value.numpy() for name, value in means.items()}
    after = snapshot(task.model)
    return metrics, {name: after[name] - before[name] for name in after}


@pytest.mark.slow
@pytest.mark.parametrize("name", usual("finetune", also=["pretrain", "distill"]))
def test_compiled_step_is_the_same_in_float64(name):
    metrics, changes = train(name, jit_compile=True)
    expected_metrics, expected_changes = train(name, jit_compile=False)
    assert_close(changes, expected_changes, 1e-9)
    assert max(np.abs(change).max() for change in changes.values()) > 1e-6
    assert metrics.keys() == expected_metrics.keys()
    for key, value in expected_metrics.items():  # float32
        np.testing.assert_allclose(metrics[key], value, rtol=1e-6, atol=1e-7, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_step_is_static_and_stays_on_the_device(name):
    make_task, make_batch = TASKS[name]
    task, batch = make_task(), tf.nest.map_structure(tf.constant, make_batch())

    @tf.function(jit_compile=True, autograph=False)
    def step(*tensors):
        return task.train_step(tf.nest.pack_sequence_as(batch, tensors))

    hlo = step.experimental_get_compiler_ir(*tf.nest.flatten(batch))(stage="hlo")
    assert "f64[" in hlo
    assert "<=" not in hlo, "a dynamic dimension is written [<=8]"
    assert not re.findall(r" (infeed|outfeed|send|recv|custom-call)\(", hlo)


def strategy_on(*devices):
    """Stands in for a strategy on devices that this machine does not have."""
    names = tuple(f"/job:worker/replica:0/task:0/device:{device}" for device in devices)
    return types.SimpleNamespace(
        extended=types.SimpleNamespace(worker_devices=names), num_replicas_in_sync=len(devices)
    )


@pytest.mark.parametrize(
    ("devices", "auto", "asked"),
    [
        (["CPU:0"], False, True),
        (["GPU:0"], True, True),
        (["GPU:0", "GPU:1"], True, True),
        (["TPU:0", "TPU:1"], False, False),
    ],
)
def test_auto_compiles_on_gpus(devices, auto, asked):
    strategy = strategy_on(*devices)
    assert is_step_compiled("auto", strategy) is auto
    assert is_step_compiled("True", strategy) is asked
    assert is_step_compiled("False", strategy) is False


def test_several_cpu_devices_are_not_compiled_for(tmp_path):
    assert not is_step_compiled("auto", strategy_on("CPU:0", "CPU:1"))
    message = refusal(tiny_config(tmp_path / "run", jit_compile=True, strategy="mirrored"))
    assert message.startswith("--jit_compile=True: ")
    assert message.endswith(" use auto, or --strategy=one_device.")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_run_hands_the_choice_to_the_loop(tmp_path, monkeypatch):
    choices = []
    monkeypatch.setattr(
        experiment, "make_train_function", lambda task, strategy, *, jit_compile, prepare: choices.append(jit_compile)
    )
    monkeypatch.setattr(experiment, "train", lambda *arguments, **options: None)
    for choice in ("True", "auto"):
        config = tiny_config(tmp_path / choice, mode="train", strategy="one_device", jit_compile=choice)
        train_and_evaluate(config)
    assert choices == [True, False]
