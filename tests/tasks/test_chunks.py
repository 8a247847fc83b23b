"""A batch in chunks: K chunks are K replicas with batch norm of their own, in one replica's memory."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import assert_close, assert_identical, replicate, snapshot, two_replicas, variables
from tests.tasks.test_pretrain import (
    BATCH,
    CLASSES,
    WRAP,
    assert_same_run,
    make_batch,
    make_task,
    run_in,
    run_replicated,
    tensors,
)

TEMPERATURE, DECAY = 0.2, 0.01  # Of `make_task`.


def in_chunks(num_chunks, loss="nt_xent", **settings):
    contrast = {"contrast_chunks": num_chunks, "contrastive_loss": loss}
    return settings | {"global_bn": False, "contrast": contrast}


def named(task, gradients, statistics, metrics):
    """What `compute_gradients` returns, as one dictionary of arrays."""
    paths = {id(variable): path for path, variable in variables(task.model).items()}
    trained = [paths[id(variable)] for variable in task.model.trainable_variables]
    arrays = {f"gradient/{path}": value for path, value in zip(trained, gradients, strict=True)}
    for number, pair in enumerate(statistics):
        arrays |= {f"mean/{number}": pair[0], f"variance/{number}": pair[1]}
    return {name: np.asarray(value) for name, value in (arrays | metrics).items()}


class Chunked:
    """A task in chunks, and what it computes for the one batch."""

    def __init__(self, num_chunks, **settings):
        self.task = make_task(**in_chunks(num_chunks, **settings))
        self.before = snapshot(self.task.model)
        compute, batch = WRAP["graph"](self.task.compute_gradients), tensors(make_batch())
        self.received = named(self.task, *compute(batch))
        self.graph = compute.get_concrete_function(batch).graph


chunked = functools.cache(Chunked)


def expected_in_chunks(task, num_chunks, decoupled):
    """The definition: one tape, each chunk normalised by itself, the loss as a sum over rows."""
    batch, rows = make_batch(), np.split(np.arange(BATCH), num_chunks)
    with tf.GradientTape() as tape:
        passes = [
            task.model.forward(
                np.concatenate([view[own] for view in batch["views"]]),
                training=True,
                detach_supervised_head=True,
            )
            for own in rows
        ]
        pairs = [tf.split(p.head_layers[-1], 2) for p in passes]
        z = tf.concat([pair[view] for view in (0, 1) for pair in pairs], 0)
        z = z / tf.norm(z, axis=1, keepdims=True)
        similarities = tf.matmul(z, z, transpose_b=True) / TEMPERATURE
        image = np.arange(2 * BATCH) % BATCH
        positive = (image[:, None] == image) & ~np.eye(2 * BATCH, dtype=bool)
        others = ~np.eye(2 * BATCH, dtype=bool) & ~(positive & decoupled)
        shares = tf.reduce_sum(tf.exp(similarities) * others, 1)
        contrast = tf.reduce_sum(tf.math.log(shares) - tf.reduce_sum(similarities * positive, 1)) / BATCH
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
    ("num_chunks", "settings"),
    usual((4, {}), also=[(2, {"loss": "decoupled_nt_xent", "num_classes": None})]),
    ids=["4-nt_xent-probe", "2-decoupled"],
)
def test_chunks_have_the_loss_gradient_and_statistics_of_one_tape_over_all(num_chunks, settings):
    run = chunked(num_chunks, **settings)
    expected = expected_in_chunks(run.task, num_chunks, decoupled="loss" in settings)
    assert set(run.task.metric_names) <= expected.keys()
    assert_close(run.received, expected, 1e-9)


@pytest.mark.slow
def test_gradients_in_chunks_change_no_variable():
    run = chunked(4)
    assert_identical(snapshot(run.task.model), run.before)


def test_chunks_run_one_after_the_other():
    """At once they would need the memory of the whole batch."""
    loops = [op for op in chunked(4).graph.get_operations() if op.type.endswith("While")]
    assert [loop.get_attr("parallel_iterations") for loop in loops] == [1, 1]


@pytest.fixture(scope="module")
def step_in_graph():
    return run_in("graph", num_steps=1, **in_chunks(2))


@pytest.mark.slow
@pytest.mark.parametrize("mode", usual("eager", also=["xla"]))
def test_step_in_chunks_is_the_same_in_every_mode(step_in_graph, mode):
    assert_same_run(run_in(mode, num_steps=1, **in_chunks(2)), step_in_graph)


@pytest.fixture(scope="module")
def strategy():
    return two_replicas()


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("loss", usual("nt_xent", also=["decoupled_nt_xent"]))
def test_gradients_of_two_chunks_are_those_of_two_replicas(strategy, loss):
    with strategy.scope():
        task = make_task(**in_chunks(1, loss))
    first, second = (named(task, *r) for r in replicate(strategy, task.compute_gradients, make_batch())())
    summed = [name for name in first if name.startswith("gradient/")]
    assert_identical({name: second[name] for name in summed}, {name: first[name] for name in summed})
    # The mean over the replicas is taken when a step is made of them.
    expected = {name: (value + second[name]) / 2 for name, value in first.items()}
    assert_close(chunked(2, loss=loss).received, expected, 1e-9)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_chunks", "num_chunks_of_two_replicas", "num_classes"), usual((2, 1, CLASSES), also=[(4, 2, None)])
)
def test_steps_in_chunks_are_those_of_as_many_replicas(strategy, num_chunks, num_chunks_of_two_replicas, num_classes):
    received = run_in("graph", **in_chunks(num_chunks), num_classes=num_classes)
    expected = run_replicated(strategy, **in_chunks(num_chunks_of_two_replicas), num_classes=num_classes)
    assert_same_run(received, expected)
    for ours, theirs in zip(received.metrics, expected.metrics, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
