"""Training in 16 bits: close to float32, and a step that overflows leaves no trace."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import assert_identical, replicate, run_on_replicas, snapshot, tiny_config, two_replicas
from tests.support.runs import read_tensors
from tests.tasks.steps import tensors
from tf_simclr.config import ContrastConfig, OptimizerConfig
from tf_simclr.loss_scale import LossScale
from tf_simclr.models import build_simclr_model
from tf_simclr.runs.checkpoint import Checkpoints
from tf_simclr.runs.networks import initialize_from
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.finetune import FinetuneTask
from tf_simclr.tasks.pretrain import PretrainTask

BATCH, CLASSES = 32, 4
NETWORKS = {
    "resnet10": {},
    "sk": {"resnet_depth": 50, "sk_ratio": 0.0625, "se_ratio": 0.25, "width_multiplier": 0.0625},
}
# Norm of the difference of all gradients from those in float32, in parts of their norm. Measured: 0.014
# (ResNet-18) and 0.026 (SK) in bfloat16, which has 8 bits; 0.005 and 0.003 in float16, which has 11.
GRADIENT_BOUND = {"mixed_bfloat16": 0.05, "mixed_float16": 0.01}


def make_task(precision, kind="finetune", optimizer="momentum", **model):
    """A network as it starts: random scales and offsets would multiply rounding."""
    tf.keras.utils.set_random_seed(0)
    network = build_simclr_model(tiny_config(precision=precision, **model), CLASSES)
    schedule = WarmupCosine(0.5 if optimizer == "lars" else 0.05, 0, 100)
    config = OptimizerConfig(optimizer=optimizer)
    if kind == "pretrain":
        return PretrainTask(network, config, schedule, ContrastConfig(temperature=0.5))
    network.freeze_for_finetuning()
    return FinetuneTask(network, config, schedule)


def make_batch(num_views=1):
    """Brightness tells the classes apart."""
    rng = np.random.default_rng(0)
    labels = (np.arange(BATCH) % CLASSES).astype("int32")
    views = [0.2 * labels[:, None, None, None] + 0.3 * rng.random((BATCH, 16, 16, 3)) for _ in range(num_views)]
    return {"views": tuple(view.astype("float32") for view in views), "labels": labels}


def graph(function, **options):
    return tf.function(function, autograph=False, **options)


@functools.cache
def gradients(precision, network):
    task = make_task(precision, **NETWORKS[network])
    received, _, metrics = task.compute_gradients(tensors(make_batch()))
    assert {gradient.dtype for gradient in received} == {tf.float32}
    assert {metric.dtype for metric in metrics.values()} == {tf.float32}
    return np.concatenate([np.ravel(gradient) for gradient in received])


@pytest.mark.slow
@pytest.mark.parametrize("network", usual("resnet10", also=["sk"]))
@pytest.mark.parametrize("precision", GRADIENT_BOUND)
def test_gradients_are_near_those_in_float32(precision, network):
    expected, received = gradients("float32", network), gradients(precision, network)
    difference = np.linalg.norm(received - expected) / np.linalg.norm(expected)
    # Below the rounding of a single number it would not be computed in 16 bits at all.
    assert 0.1 * GRADIENT_BOUND[precision] < difference < GRADIENT_BOUND[precision]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision"),
    usual(
        ("finetune", "mixed_bfloat16"),
        ("pretrain", "mixed_bfloat16"),
        also=[("finetune", "mixed_float16"), ("pretrain", "mixed_float16")],
    ),
)
def test_loss_falls_as_in_float32(kind, precision):
    batch, losses = tensors(make_batch(num_views=1 if kind == "finetune" else 2)), {}
    for name in ("float32", precision):
        step = graph(make_task(name, kind).train_step)
        losses[name] = [float(step(batch)["total_loss"]) for _ in range(6)]
    fall, tolerance = (0.6, 0.02) if kind == "finetune" else (0.9, 0.1)
    assert losses[precision][-1] < fall * losses[precision][0]
    np.testing.assert_allclose(losses[precision], losses["float32"], rtol=tolerance)


def trainable(task):
    return {v.name: v.numpy() for v in (*task.model.variables, *task.optimizer.variables()[1:])}


def overflow(task):
    task.loss_scale.scale.assign(2.0**24)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "jit_compile"), usual(("lars", False), also=[("momentum", True)]))
def test_step_that_overflows_changes_nothing_but_scale_and_counter(optimizer, jit_compile):
    task, batch = make_task("mixed_float16", optimizer=optimizer), tensors(make_batch())
    step = graph(task.train_step, jit_compile=True) if jit_compile else task.train_step
    first = step(batch)
    assert float(first["loss_scale"]) == float(task.loss_scale.scale) == 2**15
    before = trainable(task)
    overflow(task)
    metrics = step(batch)
    assert_identical(trainable(task), before)
    assert np.isfinite(metrics["total_loss"])
    assert float(metrics["loss_scale"]) == 2**24
    assert float(task.loss_scale.scale) == 2**23
    assert int(task.loss_scale.good_steps) == 0
    assert int(task.optimizer.iterations) == 2
    task.loss_scale.scale.assign(2.0**15)
    step(batch)
    after = trainable(task)
    unchanged = [name for name, value in before.items() if np.array_equal(after[name], value)]
    frozen = {v.name for v in task.model.variables} - {v.name for v in task.model.used_variables}
    assert set(unchanged) == frozen


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.exhaustive
def test_replicas_leave_out_a_step_that_overflows_on_one_of_them():
    strategy, batch = two_replicas(), make_batch()
    with strategy.scope():
        task = make_task("mixed_float16", "finetune", "lars")
    step = replicate(strategy, task.train_step, batch)
    step()
    before = trainable(task)
    batch["views"][0][0] = np.inf  # In the rows of the first replica.
    first, second = run_on_replicas(strategy, task.train_step, batch)
    assert first["loss_scale"] == second["loss_scale"] == 2**15
    assert_identical(trainable(task), before)
    for variable in (*task.model.variables, *task.loss_scale.variables):
        copies = [copy.numpy() for copy in strategy.experimental_local_results(variable)]
        assert copies[0].tobytes() == copies[1].tobytes(), variable.name
    assert [float(c) for c in strategy.experimental_local_results(task.loss_scale.scale)] == [2**14] * 2
    step()
    assert int(task.optimizer.iterations.numpy()) == 3
    assert any(not np.array_equal(value, before[name]) for name, value in trainable(task).items())


@pytest.mark.slow
def test_run_resumed_between_overflow_and_growth_is_the_same(tmp_path):
    """Steps: good, overflow, good | good: the scale doubles after two good ones in a row."""
    batch = tensors(make_batch())

    def start(directory):
        task = make_task("mixed_float16", optimizer="lars")
        task.loss_scale = LossScale(growth_interval=2)
        return task, Checkpoints(str(directory), task), task.train_step

    task, checkpoints, step = start(tmp_path)
    step(batch)
    overflow(task)
    step(batch)
    task.loss_scale.scale.assign(2.0**12)
    step(batch)
    checkpoints.save()
    step(batch)
    assert float(task.loss_scale.scale) == 2**13
    again, checkpoints, step = start(tmp_path)
    assert checkpoints.restore() == 3
    assert (float(again.loss_scale.scale), int(again.loss_scale.good_steps)) == (2**12, 1)
    step(batch)
    assert_identical(trainable(again), trainable(task))
    assert float(again.loss_scale.scale) == 2**13


@pytest.mark.slow
def test_checkpoints_of_all_precisions_hold_the_same_weights(tmp_path):
    """Only float16 adds its scale, so that those of float32 are what they were before there was one."""
    names, tasks = {}, {}
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        tasks[precision] = make_task(precision)
        path = Checkpoints(str(tmp_path / precision), tasks[precision]).save()
        names[precision] = set(read_tensors(path))
    assert names["mixed_bfloat16"] == names["float32"]
    assert {name.split("/")[0] for name in names["mixed_float16"] - names["float32"]} == {"loss_scale"}
    tasks["float32"].model.supervised_head.bias.assign(np.arange(CLASSES))
    line = initialize_from(str(tmp_path / "mixed_float16"), tasks["float32"].model)
    assert line.endswith("variables matched.")
    assert_identical(snapshot(tasks["float32"].model), snapshot(tasks["mixed_float16"].model))


@pytest.mark.slow
def test_evaluation_tells_in_float32():
    task = make_task("mixed_bfloat16")
    batch = {"images": make_batch()["views"][0], "labels": make_batch()["labels"], "mask": np.ones(BATCH)}
    rows = task.eval_step(tensors(batch))
    assert {(value.dtype, value.shape[0]) for value in rows.values()} == {(tf.float32, BATCH)}
    assert float(tf.reduce_mean(rows["loss"])) == pytest.approx(np.log(CLASSES), rel=0.1)
