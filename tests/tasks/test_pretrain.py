"""The pretraining step: its mathematics, in chunks and on replicas too, its optimizer, and evaluation."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import (
    assert_close,
    assert_identical,
    is_statistic,
    random_images,
    randomize,
    replicate,
    run_on_replicas,
    snapshot,
    tiny_config,
    two_replicas,
    variables,
)
from tests.tasks import steps
from tests.tasks.steps import BATCH, CLASSES, DECAY, names_of, tensors
from tf_simclr import optimizers
from tf_simclr.config import ContrastConfig, OptimizerConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.pretrain import PretrainTask

TEMPERATURE = 0.2
make_batch = functools.partial(steps.make_batch, num_views=2)


def make_task(precision="float64", num_classes=CLASSES, optimizer="lars", contrast=None, **model):
    network = build_simclr_model(tiny_config(precision=precision, **model), num_classes)
    schedule = WarmupCosine(0.5 if optimizer == "lars" else 0.01, 0, 100, dtype=network.config.variable_dtype)
    config = OptimizerConfig(optimizer=optimizer, weight_decay=DECAY)
    task = PretrainTask(network, config, schedule, ContrastConfig(temperature=TEMPERATURE, **(contrast or {})))
    randomize(task.model)
    return task


def in_chunks(num_chunks, **settings):
    contrast = {"contrast_chunks": num_chunks} | settings.pop("contrast", {})
    return settings | {"global_bn": False, "contrast": contrast}


# ---- Losses, gradients and statistics


def named(task, gradients, statistics, metrics):
    """What `compute_gradients` returns, as one dictionary of arrays."""
    names = names_of(task.model)
    trained = [names[id(variable)] for variable in task.model.trainable_variables]
    arrays = {f"gradient/{path}": value for path, value in zip(trained, gradients, strict=True)}
    for number, pair in enumerate(statistics):
        arrays |= {f"mean/{number}": pair[0], f"variance/{number}": pair[1]}
    return {name: np.asarray(value) for name, value in (arrays | metrics).items()}


class Computed:
    """A task and what it computes, without a step, for the one batch."""

    def __init__(self, num_chunks=1, jit_compile=False, **settings):
        self.task = make_task(**(in_chunks(num_chunks, **settings) if num_chunks > 1 else settings))
        self.before = snapshot(self.task.model)
        compute, batch = self.task.compute_gradients, tensors(make_batch())
        if num_chunks > 1 or jit_compile:
            compute = tf.function(compute, autograph=False, jit_compile=jit_compile)
            self.graph = compute.get_concrete_function(batch).graph
        self.received = named(self.task, *compute(batch))


@functools.cache
def four_chunks():
    return Computed(4)


def expected_from_one_tape(task, num_chunks, decoupled=False, hidden_norm=True):
    """The definition: one tape, each chunk normalised by itself, the loss as a sum over rows."""
    batch, rows = make_batch(), np.split(np.arange(BATCH), num_chunks)
    images = [np.concatenate([view[own] for view in batch["views"]]) for own in rows]
    with tf.GradientTape() as tape:
        passes = [task.model.forward(own, training=True, detach_supervised_head=True) for own in images]
        pairs = [tf.split(p.head_layers[-1], 2) for p in passes]
        z = tf.concat([pair[view] for view in (0, 1) for pair in pairs], 0)
        z = z / tf.norm(z, axis=1, keepdims=True) if hidden_norm else z
        similarities = tf.matmul(z, z, transpose_b=True) / TEMPERATURE
        image = np.arange(2 * BATCH) % BATCH
        positive = (image[:, None] == image) & ~np.eye(2 * BATCH, dtype=bool)
        others = ~np.eye(2 * BATCH, dtype=bool) & ~(positive & decoupled)
        largest = tf.stop_gradient(tf.reduce_max(similarities, 1, keepdims=True))
        sums = tf.math.log(tf.reduce_sum(tf.exp(similarities - largest) * others, 1)) + largest[:, 0]
        contrast = tf.reduce_sum(sums - tf.reduce_sum(similarities * positive, 1)) / BATCH
        probe, decay, metrics = 0.0, 0.0, {}
        if task.model.supervised_head is not None:
            scores = tf.concat([p.endpoints["logits_sup"] for p in passes], 0)
            labels = np.concatenate([np.tile(batch["labels"][own], 2) for own in rows])
            chosen = tf.reduce_sum(tf.nn.log_softmax(scores) * np.eye(CLASSES)[labels], 1)
            probe, decay = -tf.reduce_mean(chosen), DECAY * tf.nn.l2_loss(task.model.supervised_head.kernel)
            metrics["supervised_loss"] = probe
            metrics["supervised_acc"] = np.mean(np.argmax(scores, 1) == labels)
        total = contrast + probe + decay
    between = similarities[:BATCH, BATCH:]
    log_shares = np.asarray(tf.nn.log_softmax(between))
    metrics |= {
        "contrast_loss": contrast,
        "contrast_acc": np.mean(np.argmax(between, 1) == np.arange(BATCH)),
        "contrast_entropy": -np.mean(np.sum(np.exp(log_shares) * log_shares, 1)),
        "weight_decay": decay,
        "total_loss": total,
    }
    means = [np.mean(np.array(pairs), 0) for pairs in zip(*(p.statistics for p in passes), strict=True)]
    return named(task, tape.gradient(total, task.model.trainable_variables), means, metrics)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_chunks", "loss", "make"),
    usual(
        (1, {}, Computed),
        (1, {"hidden_norm": False}, lambda: Computed(contrast={"hidden_norm": False})),
        (4, {}, four_chunks),
        also=[
            (4, {}, lambda: Computed(4, jit_compile=True)),
            (
                2,
                {"decoupled": True},
                lambda: Computed(2, num_classes=None, contrast={"contrastive_loss": "decoupled_nt_xent"}),
            ),
        ],
    ),
    ids=["whole", "no hidden norm", "4 chunks", "4 chunks, XLA", "2 chunks, decoupled"],
)
def test_losses_gradients_and_statistics_equal_those_of_one_tape(num_chunks, loss, make):
    run = make()
    expected = expected_from_one_tape(run.task, num_chunks, **loss)
    assert set(run.task.metric_names) <= expected.keys()
    assert_close(run.received, expected, 1e-9)
    assert_identical(snapshot(run.task.model), run.before)


def test_chunks_run_one_after_the_other():
    """At once they would need the memory of the whole batch."""
    loops = [op for op in four_chunks().graph.get_operations() if op.type.endswith("While")]
    assert [loop.get_attr("parallel_iterations") for loop in loops] == [1, 1]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_chunks", "per_replica", "loss"), usual((4, 2, "nt_xent"), also=[(2, 1, "decoupled_nt_xent")])
)
def test_gradients_in_chunks_are_those_of_as_many_replicas(num_chunks, per_replica, loss):
    strategy, contrast = two_replicas(), {"contrastive_loss": loss}
    with strategy.scope():
        task = make_task(**in_chunks(per_replica, contrast=contrast))
    first, second = (named(task, *r) for r in replicate(strategy, task.compute_gradients, make_batch())())
    summed = [name for name in first if name.startswith("gradient/")]
    assert_identical({name: second[name] for name in summed}, {name: first[name] for name in summed})
    # The mean over the replicas is taken when a step is made of them.
    expected = {name: (value + second[name]) / 2 for name, value in first.items()}
    run = four_chunks() if num_chunks == 4 else Computed(num_chunks, contrast=contrast)
    assert_close(run.received, expected, 1e-9)


# ---- Steps


class Run:
    """Metrics of some steps, the variables afterwards, and how much they changed."""

    def __init__(self, task, step=None, num_steps=1, precision="float64"):
        step, batch, before = step or task.train_step, tensors(make_batch(precision=precision)), snapshot(task.model)
        self.metrics = [{name: float(value) for name, value in step(batch).items()} for _ in range(num_steps)]
        self.variables = snapshot(task.model)
        self.changes = {name: self.variables[name] - before[name] for name in before}


@pytest.mark.slow
def test_train_step_is_the_same_in_a_graph():
    expected, task = Run(make_task()), make_task()
    received = Run(task, tf.function(task.train_step, autograph=False))
    assert received.metrics[0] == pytest.approx(expected.metrics[0], rel=1e-7)  # In float32.
    assert_close(received.variables, expected.variables, 1e-9)
    assert_close(received.changes, expected.changes, 1e-9)
    for name, change in expected.changes.items():
        assert np.abs(change).max() > 1e-6, f"{name} hardly changed"


@pytest.mark.slow
def test_probe_leaves_the_backbone_bit_equal():
    with_probe, without = (
        Run(make_task("float32", num_classes=classes), num_steps=2, precision="float32").variables
        for classes in (CLASSES, None)
    )
    assert with_probe.keys() - without.keys() == {"supervised_head/kernel", "supervised_head/bias"}
    assert_identical({name: with_probe[name] for name in without}, without)


def is_excluded(name):
    return name.startswith("supervised_head/") or name.endswith(("/gamma", "/beta", "/bias"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "num_classes"), [("lars", CLASSES), ("lars", None), ("momentum", CLASSES), ("adam", None)]
)
def test_weight_decay_is_in_the_optimizer_or_in_the_loss(monkeypatch, optimizer, num_classes):
    received, make = {}, optimizers.make_optimizer

    def record(name, **settings):
        received.update(settings)
        return make(name, **settings)

    monkeypatch.setattr(optimizers, "make_optimizer", record)
    task = make_task(optimizer=optimizer, num_classes=num_classes, se_ratio=0.25)
    named, values = variables(task.model), snapshot(task.model)
    excluded = [id(named[name]) for name in named if is_excluded(name) and not is_statistic(name)]
    assert sorted(map(id, received["excluded"])) == sorted(excluded)
    assert received["weight_decay"] == DECAY
    if optimizer == "lars":
        decayed = [name for name in values if name == "supervised_head/kernel"]
    else:
        decayed = [n for n in values if not n.endswith(("/gamma", "/beta")) and not is_statistic(n)]
    expected = DECAY * sum(np.sum(values[name] ** 2) for name in decayed) / 2
    _, metrics = task._objective({"total_loss": tf.constant(0.0, tf.float64)})
    np.testing.assert_allclose(metrics["weight_decay"], expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"proj_head_mode": "none"},
        {"proj_head_mode": "linear", "ft_proj_selector": 1},
        {"num_proj_layers": 1, "ft_proj_selector": -1},
    ],
    ids=["none", "linear", "one_layer"],
)
def test_every_projection_head_trains(model):
    run = Run(make_task(**model))
    assert all(np.isfinite(value) for value in run.metrics[0].values())
    assert all(np.abs(change).max() > 0 for change in run.changes.values())


# ---- Evaluation


@pytest.mark.slow
@pytest.mark.distributed
def test_eval_step_tells_of_each_row_of_all_replicas_and_changes_nothing():
    task, batch = (
        make_task(num_classes=7),
        {
            "images": random_images(BATCH, 16, 16, seed=3),
            "labels": np.array([0, 3, 6, 2, 2, 5, 1, 4], "int32"),
            "mask": np.array([1, 1, 0, 1, 0, 1, 1, 0], "float32"),
        },
    )
    before = snapshot(task.model)
    logits = task.model.forward(tf.constant(batch["images"]), training=False).endpoints["logits_sup"].numpy()
    shares = np.array([steps.shares(row) for row in logits])
    of_label = [(row, share, label) for row, share, label in zip(logits, shares, batch["labels"], strict=True)]
    expected = {
        "label": batch["labels"],
        "prediction": [max(range(7), key=row.__getitem__) for row in logits],
        "confidence": shares.max(axis=1),
        "is_in_top_5": [sum(other > row[label] for other in row) < 5 for row, _, label in of_label],
        "loss": [-np.log(share[label]) for _, share, label in of_label],
        "mask": batch["mask"],
    }
    strategy = two_replicas()
    with strategy.scope():
        on_replicas = make_task(num_classes=7)
    for received in (task.eval_step(tensors(batch)), *run_on_replicas(strategy, on_replicas.eval_step, batch)):
        assert received.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(received[name], values, rtol=1e-6, err_msg=name)
    assert_identical(snapshot(task.model), before)
