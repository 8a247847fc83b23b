"""The finetuning step: what it trains, what it leaves bit-equal, and its mathematics."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import is_statistic, randomize, snapshot, tiny_config, variables
from tests.tasks.steps import BATCH, CLASSES, DECAY, check_metrics, make_batch, names_of, shares, tensors
from tf_simclr import optimizers
from tf_simclr.config import OptimizerConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.finetune import FinetuneTask

RATE = 0.05


def make_task(*, block=-1, optimizer="lars", **model):
    """A task with random weights; the tiny head has three layers, `layer1` to `layer3`."""
    network = build_simclr_model(tiny_config(**model), CLASSES)
    network.freeze_for_finetuning(block)
    schedule = WarmupCosine(RATE, 0, 100, dtype="float64")
    task = FinetuneTask(network, OptimizerConfig(optimizer=optimizer, weight_decay=DECAY), schedule)
    randomize(network)
    return task


def is_trained(name, layers, block):
    """Whether finetuning from head layer `layers`, after block group `block`, changes a variable."""
    part, stage = name.split("/")[:2]
    if part == "supervised_head":
        return True
    if part == "projection_head":
        return block < 4 and int(stage.removeprefix("layer")) <= layers
    return (0 if stage == "stem" else int(stage[len("block_group")])) > block


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "settings"),
    usual(
        (0, {"ft_proj_selector": 0, "optimizer": "momentum"}),
        (1, {"ft_proj_selector": 1}),
        (3, {"ft_proj_selector": -1, "optimizer": "momentum"}),
        (0, {"proj_head_mode": "none", "ft_proj_selector": -1}),
        (1, {"ft_proj_selector": 1, "block": 0}),
        (2, {"ft_proj_selector": 2, "block": 3, "optimizer": "momentum"}),
        (0, {"ft_proj_selector": 0, "block": 2, "optimizer": "adam"}),
        (1, {"ft_proj_selector": 1, "block": 4}),
        also=[
            (2, {"ft_proj_selector": 2}),
            (3, {"ft_proj_selector": 3}),
            (0, {"proj_head_mode": "linear", "optimizer": "momentum"}),
            (1, {"proj_head_mode": "linear", "ft_proj_selector": 1}),
            (1, {"num_proj_layers": 1, "ft_proj_selector": -1}),
            (1, {"resnet_depth": 50, "width_multiplier": 0.0625, "sk_ratio": 0.0625, "ft_proj_selector": 1}),
            *((0, {"block": block, "optimizer": name}) for block in (1, 4) for name in ("momentum", "adam")),
        ],
    ),
    ids=str,
)
def test_step_moves_what_the_classifier_depends_on_and_leaves_the_rest_bit_equal(layers, settings, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    seen, apply = [], optimizers.apply_gradients

    def record(optimizer, gradients, variables, **where):
        seen.extend(gradients)
        apply(optimizer, gradients, variables, **where)

    monkeypatch.setattr(optimizers, "apply_gradients", record)
    task, block = make_task(**settings), settings.get("block", -1)
    before = snapshot(task.model)
    has_head = any(name.startswith("projection_head/") for name in before)
    assert has_head == (settings.get("proj_head_mode") != "none")
    task.train_step(tensors(make_batch()))
    after = snapshot(task.model)
    wrong = [
        name for name in before if (before[name].tobytes() != after[name].tobytes()) != is_trained(name, layers, block)
    ]
    assert not wrong, f"moved though frozen, or not though trained: {wrong}"
    trained = [name for name in before if is_trained(name, layers, block) and not is_statistic(name)]
    assert len(seen) == len(trained) == len(task.model.trainable_variables)
    assert all(gradient is not None and np.abs(gradient).max() > 0 for gradient in seen)
    assert caplog.records == []


@pytest.mark.slow
def test_used_variables_are_those_the_classifier_depends_on():
    for selector, used in ((0, 0), (2, 2), (-1, 3)):
        model = build_simclr_model(tiny_config(ft_proj_selector=selector), CLASSES)
        model.freeze_for_finetuning(2)
        expected = [name for name in variables(model) if is_trained(name, used, -1)]
        names = names_of(model)
        assert sorted(names[id(variable)] for variable in model.used_variables) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "block"), [("lars", -1), ("momentum", 3)])
def test_metrics_and_gradient_are_those_of_the_cross_entropy(optimizer, block):
    task, batch = make_task(ft_proj_selector=1, optimizer=optimizer, block=block), make_batch()
    before = snapshot(task.model)
    kernel, bias = before["supervised_head/kernel"], before["supervised_head/bias"]
    features = task.model.forward(tf.constant(batch["views"][0]), training=True).head_layers[1].numpy()
    loss, right, gradient = 0.0, 0, np.zeros_like(kernel)
    for row, label in zip(features, batch["labels"], strict=True):
        share = shares(row @ kernel + bias)
        loss -= np.log(share[label]) / BATCH
        right += share.argmax() == label
        gradient += np.outer(row, share - np.eye(CLASSES)[label]) / BATCH
    decayed = ["supervised_head/kernel"]
    if optimizer == "momentum":
        decayed = [
            name
            for name in before
            if is_trained(name, 1, block) and not is_statistic(name) and not name.endswith(("gamma", "beta"))
        ]
    decay = DECAY * sum(np.sum(before[name] ** 2) for name in decayed) / 2
    metrics = {"supervised_loss": loss, "supervised_acc": right / BATCH}
    metrics |= {"weight_decay": decay, "total_loss": loss + decay}
    check_metrics(task.train_step(tensors(batch)), metrics, task)
    if optimizer == "momentum":
        # Nesterov momentum 0.9 multiplies the first step by 1.9; Keras holds 0.9 in float32.
        change = snapshot(task.model)["supervised_head/kernel"] - kernel
        np.testing.assert_allclose(change, -1.9 * RATE * (gradient + DECAY * kernel), rtol=1e-7, atol=1e-14)


@pytest.mark.slow
def test_statistics_move_once_towards_those_of_the_batch():
    task, batch = make_task(ft_proj_selector=1), make_batch()
    before, names = snapshot(task.model), names_of(task.model)
    statistics = task.model.forward(tf.constant(batch["views"][0]), training=True).statistics
    task.train_step(tensors(batch))
    after = snapshot(task.model)
    for norm, values in zip(task.model.norms, statistics, strict=True):
        for variable, value in zip((norm.moving_mean, norm.moving_variance), values, strict=True):
            name = names[id(variable)]
            wanted = 0.9 * before[name] + 0.1 * value if is_trained(name, 1, -1) else before[name]
            np.testing.assert_allclose(after[name], wanted, rtol=1e-12, atol=1e-15, err_msg=name)
