"""The finetuning step: what it trains, what it leaves bit-equal, and its mathematics."""

import functools
import logging

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import (
    assert_close,
    assert_identical,
    is_statistic,
    random_images,
    randomize,
    replicate,
    snapshot,
    tiny_config,
    two_replicas,
    variables,
)
from tf_simclr import optimizers
from tf_simclr.config import OptimizerConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.finetune import FinetuneTask

BATCH, CLASSES, DECAY, RATE = 8, 4, 0.01, 0.05


def make_task(*, block=-1, optimizer="lars", num_classes=CLASSES, **model):
    """A task with random weights; the tiny head has three layers, `layer1` to `layer3`."""
    network = build_simclr_model(tiny_config(**model), num_classes)
    network.freeze_for_finetuning(block)
    schedule = WarmupCosine(RATE, 0, 100, dtype="float64")
    task = FinetuneTask(network, OptimizerConfig(optimizer=optimizer, weight_decay=DECAY), schedule)
    randomize(network)
    return task


def make_batch():
    labels = (np.arange(BATCH) % CLASSES).astype("int32")
    return {"views": (random_images(BATCH, 16, 16),), "labels": labels}


def tensors(batch):
    return tf.nest.map_structure(tf.constant, batch)


def is_trained(name, layers, block):
    """Whether finetuning from head layer `layers`, after block group `block`, changes a variable."""
    part, stage = name.split("/")[:2]
    if part == "supervised_head":
        return True
    if part == "projection_head":
        return block < 4 and int(stage.removeprefix("layer")) <= layers
    return (0 if stage == "stem" else int(stage[len("block_group")])) > block


@pytest.fixture
def gradients(monkeypatch):
    """The gradients of all steps that are taken."""
    seen, apply = [], optimizers.apply_gradients

    def record(optimizer, gradients, variables, **where):
        seen.extend(gradients)
        apply(optimizer, gradients, variables, **where)

    monkeypatch.setattr(optimizers, "apply_gradients", record)
    return seen


def check_step(task, layers, block, gradients, caplog):
    caplog.set_level(logging.WARNING)
    before = snapshot(task.model)
    task.train_step(tensors(make_batch()))
    after = snapshot(task.model)
    wrong = [name for name in before if np.any(before[name] != after[name]) != is_trained(name, layers, block)]
    assert not wrong, f"moved though frozen, or not though trained: {wrong}"
    frozen = [name for name in before if not is_trained(name, layers, block)]
    assert_identical({name: after[name] for name in frozen}, {name: before[name] for name in frozen})
    trained = [name for name in before if is_trained(name, layers, block) and not is_statistic(name)]
    assert len(gradients) == len(trained) == len(task.model.trainable_variables)
    assert all(gradient is not None and np.abs(gradient).max() > 0 for gradient in gradients)
    assert caplog.records == []


# ---- What moves


def name_of_case(value):
    return "-".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, dict) else None


def check_head_layer(layers, model, optimizer, gradients, caplog):
    task = make_task(optimizer=optimizer, **model)
    has_head = any(name.startswith("projection_head/") for name in variables(task.model))
    assert has_head == (model.get("proj_head_mode") != "none")
    check_step(task, layers, -1, gradients, caplog)


HEAD_LAYERS = [
    (0, {"ft_proj_selector": 0}),
    (1, {"ft_proj_selector": 1}),
    (2, {"ft_proj_selector": 2}),
    (3, {"ft_proj_selector": -1}),
    (0, {"proj_head_mode": "none", "ft_proj_selector": -1}),
    (1, {"proj_head_mode": "linear", "ft_proj_selector": 1}),
]
MORE_HEAD_LAYERS = [
    (3, {"ft_proj_selector": 3}),
    (0, {"proj_head_mode": "none"}),
    (0, {"proj_head_mode": "linear"}),
    (1, {"num_proj_layers": 1, "ft_proj_selector": -1}),
    (1, {"resnet_depth": 50, "width_multiplier": 0.0625, "sk_ratio": 0.0625, "ft_proj_selector": 1}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "model"), HEAD_LAYERS, ids=name_of_case)
def test_finetuning_from_a_head_layer_moves_what_the_classifier_sees(layers, model, gradients, caplog):
    check_head_layer(layers, model, "lars", gradients, caplog)


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "model"), HEAD_LAYERS + MORE_HEAD_LAYERS, ids=name_of_case)
def test_finetuning_with_momentum_moves_the_same(layers, model, gradients, caplog):
    check_head_layer(layers, model, "momentum", gradients, caplog)


def check_block(block, selector, optimizer, gradients, caplog):
    task = make_task(block=block, ft_proj_selector=selector, optimizer=optimizer)
    check_step(task, selector, block, gradients, caplog)


@pytest.mark.slow
@pytest.mark.parametrize(("block", "selector", "optimizer"), [(0, 1, "lars"), (2, 0, "adam"), (4, 1, "lars")])
def test_finetuning_after_a_block_leaves_what_lies_before_bit_equal(block, selector, optimizer, gradients, caplog):
    check_block(block, selector, optimizer, gradients, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lars", "momentum", "adam"])
@pytest.mark.parametrize(("block", "selector"), [(1, 0), (3, 2), (4, 0)])
def test_frozen_weights_stay_bit_equal_under_every_optimizer_and_its_decay(
    block, selector, optimizer, gradients, caplog
):
    check_block(block, selector, optimizer, gradients, caplog)


@pytest.mark.slow
def test_linear_evaluation_trains_the_linear_head_alone():
    task = make_task(block=4, ft_proj_selector=1, optimizer="momentum")
    names = {id(variable): name for name, variable in variables(task.model).items()}
    trained = {names[id(variable)] for variable in task.model.trainable_variables}
    assert trained == {"supervised_head/kernel", "supervised_head/bias"}
    features = task.model.forward(tensors(make_batch())["views"][0], training=True).head_layers[1]
    still = task.model.forward(tensors(make_batch())["views"][0], training=False).head_layers[1]
    np.testing.assert_array_equal(features, still)


@pytest.mark.slow
def test_used_variables_are_those_the_classifier_depends_on():
    for selector, used in ((0, 0), (2, 2), (-1, 3)):
        model = build_simclr_model(tiny_config(ft_proj_selector=selector), CLASSES)
        model.freeze_for_finetuning(2)
        expected = [name for name in variables(model) if is_trained(name, used, -1)]
        names = {id(variable): name for name, variable in variables(model).items()}
        assert sorted(names[id(variable)] for variable in model.used_variables) == sorted(expected)


# ---- What it computes


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "block"), [("lars", -1), ("momentum", -1), ("momentum", 3)])
def test_metrics_are_what_they_say(optimizer, block):
    task, batch = make_task(ft_proj_selector=1, optimizer=optimizer, block=block), make_batch()
    values = snapshot(task.model)
    outputs = task.model.forward(tf.constant(batch["views"][0]), training=True)
    logits = outputs.head_layers[1].numpy() @ values["supervised_head/kernel"]
    logits += values["supervised_head/bias"]
    loss, right = 0.0, 0
    for row, label in zip(logits, batch["labels"], strict=True):
        loss += (np.log(np.sum(np.exp(row))) - row[label]) / BATCH
        right += row.argmax() == label
    decayed = ["supervised_head/kernel"]
    if optimizer == "momentum":
        decayed = [
            name
            for name in values
            if is_trained(name, 1, block) and not is_statistic(name) and not name.endswith(("gamma", "beta"))
        ]
    decay = DECAY * sum(np.sum(values[name] ** 2) for name in decayed) / 2
    metrics = task.train_step(tensors(batch))
    expected = {
        "supervised_loss": loss,
        "supervised_acc": right / BATCH,
        "weight_decay": decay,
        "total_loss": loss + decay,
    }
    assert set(metrics) == set(expected) == set(task.metric_names)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_step_of_momentum_is_the_gradient_of_the_loss_times_the_rate():
    """With Nesterov momentum 0.9 the first step is 1.9 times the rate times the gradient."""
    task, batch = make_task(optimizer="momentum", ft_proj_selector=1), make_batch()
    before = snapshot(task.model)
    features = task.model.forward(tf.constant(batch["views"][0]), training=True).head_layers[1].numpy()
    scores = features @ before["supervised_head/kernel"] + before["supervised_head/bias"]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    gradient = np.zeros_like(before["supervised_head/kernel"])
    for row, share, label in zip(features, shares, batch["labels"], strict=True):
        for number in range(CLASSES):
            gradient[:, number] += row * (share[number] - (number == label)) / BATCH
    gradient += DECAY * before["supervised_head/kernel"]
    task.train_step(tensors(batch))
    change = snapshot(task.model)["supervised_head/kernel"] - before["supervised_head/kernel"]
    np.testing.assert_allclose(change, -1.9 * RATE * gradient, rtol=1e-7, atol=1e-14)  # Keras holds 0.9 in float32.


@pytest.mark.slow
def test_statistics_move_once_towards_those_of_the_batch():
    task, batch = make_task(ft_proj_selector=1), make_batch()
    before = snapshot(task.model)
    names = {id(variable): name for name, variable in variables(task.model).items()}
    statistics = task.model.forward(tf.constant(batch["views"][0]), training=True).statistics
    task.train_step(tensors(batch))
    after = snapshot(task.model)
    for norm, values in zip(task.model.norms, statistics, strict=True):
        for variable, value in zip((norm.moving_mean, norm.moving_variance), values, strict=True):
            name = names[id(variable)]
            wanted = 0.9 * before[name] + 0.1 * value if is_trained(name, 1, -1) else before[name]
            np.testing.assert_allclose(after[name], wanted, rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.slow
def test_zero_initialised_classifier_starts_at_chance_and_learns():
    task = make_task(zero_init_logits_layer=True, ft_proj_selector=1, optimizer="momentum")
    fresh = build_simclr_model(task.model.config, CLASSES).supervised_head
    task.model.supervised_head.set_weights(fresh.get_weights())
    batch = tensors(make_batch())
    losses = [float(task.train_step(batch)["supervised_loss"]) for _ in range(6)]
    np.testing.assert_allclose(losses[0], np.log(CLASSES), rtol=1e-6)
    assert losses[-1] < 0.8 * losses[0]


# ---- The same on two replicas, compiled or not


STEPS = 3


class Run:
    """Metrics of some steps, and the variables before and after them."""

    def __init__(self, task, step):
        self.before = snapshot(task.model)
        self.metrics = [{name: float(value) for name, value in step().items()} for _ in range(STEPS)]
        self.after = snapshot(task.model)


@functools.cache
def one_replica(jit_compile=False):
    task, batch = make_task(block=2, ft_proj_selector=1), tensors(make_batch())
    step = tf.function(task.train_step, autograph=False, jit_compile=jit_compile)
    return Run(task, lambda: step(batch))


def assert_same_run(received, expected):
    for ours, theirs in zip(received.metrics, expected.metrics, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert_close(received.after, expected.after, 1e-9)
    frozen = [name for name in received.after if not is_trained(name, 1, 2)]
    assert frozen
    for name in frozen:
        assert received.after[name].tobytes() == received.before[name].tobytes(), name


@pytest.mark.slow
def test_step_is_the_same_under_xla():
    assert_same_run(one_replica(jit_compile=True), one_replica())


@pytest.mark.slow
@pytest.mark.distributed
def test_two_replicas_equal_one_with_the_whole_batch():
    strategy = two_replicas()
    with strategy.scope():
        task = make_task(block=2, ft_proj_selector=1)
    run_step = replicate(strategy, task.train_step, make_batch())

    def step():
        first, second = run_step()
        assert first == second
        return first

    assert_same_run(Run(task, step), one_replica())
