"""Frozen parts keep their weights and their statistics, bit for bit."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import is_statistic, random_images, randomize, snapshot, tiny_config, variables
from tf_simclr.models import build_simclr_model, update_moving_statistics

pytestmark = pytest.mark.stack

CLASSES = 3


@pytest.fixture(scope="module")
def model():
    return build_simclr_model(tiny_config(precision="float32"), CLASSES)


@pytest.fixture(scope="module")
def start(model):
    return snapshot(randomize(model))


@pytest.fixture(scope="module")
def images():
    return tf.constant(random_images(6, 16, 16, dtype="float32"))


def restore(model, start):
    model.freeze_after_block(-1)
    for name, variable in variables(model).items():
        variable.assign(start[name])


def train(model, images):
    labels = tf.constant([0, 1, 2, 0, 1, 2])
    optimizer = tf.keras.optimizers.SGD(0.1, jit_compile=False)
    with tf.GradientTape() as tape:
        outputs = model.forward(images, training=True)
        logits = outputs.endpoints["logits_sup"]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        if model.projection_head[0].trainable:
            loss += tf.reduce_mean(tf.abs(outputs.head_layers[-1] - 1.0))
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    update_moving_statistics(model.norms, outputs.statistics)


def is_frozen(name, block):
    part, stage = name.split("/")[:2]
    if part == "supervised_head":
        return False
    if part == "projection_head":
        return block == 4
    return block >= (0 if stage == "stem" else int(stage[len("block_group")]))


def check_frozen(before, after, block):
    for name in before:
        same = before[name].tobytes() == after[name].tobytes()
        assert same == is_frozen(name, block), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "called_before"), [*((block, False) for block in range(-1, 5)), (2, True), (4, True)]
)
def test_frozen_part_is_bit_equal_after_training_and_the_rest_moves(model, start, images, block, called_before):
    restore(model, start)
    if called_before:
        train(model, images)
    before = snapshot(model)
    model.freeze_after_block(block)
    train(model, images)
    check_frozen(before, snapshot(model), block)


@pytest.mark.slow
def test_freezing_a_network_before_its_first_call_holds(images):
    model = build_simclr_model(tiny_config(precision="float32"), CLASSES)
    model.freeze_after_block(2)
    randomize(model)
    before = snapshot(model)
    train(model, images)
    check_frozen(before, snapshot(model), 2)


def test_frozen_part_normalizes_with_its_moving_averages_in_training(model, start, images):
    restore(model, start)
    inference = model.forward(images, training=False).endpoints
    model.freeze_after_block(2)
    training = model.forward(images, training=True).endpoints
    for name in ("initial_conv", "initial_max_pool", "block_group1", "block_group2"):
        np.testing.assert_array_equal(training[name], inference[name])
    assert np.abs(training["block_group3"] - inference["block_group3"]).max() > 1e-3


def test_keras_call_leaves_frozen_statistics_alone(model, start, images):
    restore(model, start)
    model.freeze_after_block(1)
    before = snapshot(model)
    model(images, training=True)
    after = snapshot(model)
    for name in filter(is_statistic, before):
        same = before[name].tobytes() == after[name].tobytes()
        assert same == is_frozen(name, 1), name


@pytest.mark.parametrize("block", range(-1, 5))
def test_trainable_variables_are_those_behind_the_frozen_block(model, start, block):
    restore(model, start)
    model.freeze_after_block(block)
    expected = {id(v) for name, v in variables(model).items() if not is_frozen(name, block) and not is_statistic(name)}
    assert {id(v) for v in model.trainable_variables} == expected


def test_thawing_trains_everything_again(model, start, images):
    restore(model, start)
    model.freeze_after_block(4)
    model.freeze_after_block(-1)
    before = snapshot(model)
    train(model, images)
    check_frozen(before, snapshot(model), -1)
