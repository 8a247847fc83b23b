"""Frozen parts keep their weights and their statistics, bit for bit; `tests/tasks/test_finetune.py` trains them."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import is_statistic, random_images, randomize, snapshot, tiny_config, variables
from tf_simclr.models import build_simclr_model

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def model():
    return randomize(build_simclr_model(tiny_config(precision="float32"), num_classes=3))


@pytest.fixture(scope="module")
def images():
    return tf.constant(random_images(6, 16, 16, dtype="float32"))


def is_frozen(name, block):
    part, stage = name.split("/")[:2]
    if part == "supervised_head":
        return False
    if part == "projection_head":
        return block == 4
    return block >= (0 if stage == "stem" else int(stage[len("block_group")]))


@pytest.mark.parametrize("block", range(-1, 5))
def test_frozen_part_does_not_train_and_keeps_its_statistics(model, images, block):
    model.freeze_after_block(4)  # A later call thaws it.
    model.freeze_after_block(block)
    named = variables(model)
    trained = {id(v) for name, v in named.items() if not is_frozen(name, block) and not is_statistic(name)}
    assert {id(v) for v in model.trainable_variables} == trained
    before = snapshot(model)
    model(images, training=True)
    changed = {name for name, value in snapshot(model).items() if value.tobytes() != before[name].tobytes()}
    assert changed == {name for name in named if is_statistic(name) and not is_frozen(name, block)}


def test_frozen_part_normalizes_with_its_moving_averages_in_training(model, images):
    model.freeze_after_block(-1)
    inference = model.forward(images, training=False).endpoints
    model.freeze_after_block(2)
    training = model.forward(images, training=True).endpoints
    for name in ("initial_conv", "initial_max_pool", "block_group1", "block_group2"):
        np.testing.assert_array_equal(training[name], inference[name])
    assert np.abs(training["block_group3"] - inference["block_group3"]).max() > 1e-3
