"""Stages that are computed again for their gradients: the same steps, on one replica and on two."""

import functools
import re

import pytest
import tensorflow as tf

from tests.support.exact_steps import Stepper
from tests.support.marks import usual
from tests.support.networks import assert_close, random_images, replicas, tiny_config
from tests.tasks.steps import tensors
from tests.tasks.test_pretrain import in_chunks, make_batch, make_task, named
from tf_simclr.models import build_simclr_model

pytestmark = pytest.mark.stack

TASKS = ("pretrain", "finetune", "distill")


def steps(task, num_replicas=1, recompute=False):
    stepper = Stepper(replicas(num_replicas), task)
    stepper.task.model.recompute = recompute
    return stepper.run(2)


kept = functools.cache(steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "num_replicas"),
    usual(("finetune", 1), also=[("pretrain", 1), ("distill", 1), *((task, 2) for task in TASKS)]),
)
def test_steps_equal_those_that_keep_everything(task, num_replicas):
    """Losses, gradients, statistics and changes in float64; finetuning has frozen stages."""
    assert_close(steps(task, num_replicas, recompute=True), kept(task), 1e-9)


def gradients(recompute, jit_compile=False, **settings):
    task = make_task(**settings)
    task.model.recompute = recompute
    compute = tf.function(task.compute_gradients, jit_compile=jit_compile, autograph=False)
    return named(task, *compute(tensors(make_batch())))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    usual(in_chunks(2), also=[{"resnet_depth": 50, "sk_ratio": 0.0625}, {"jit_compile": True}]),
    ids=["chunks", "selective kernels", "XLA"],
)
def test_gradients_equal_those_that_keep_everything(settings):
    expected = gradients(False, **{k: v for k, v in settings.items() if k != "jit_compile"})
    assert_close(gradients(True, **settings), expected, 1e-9)


IMAGES = tf.constant(random_images(2, 16, 16))


def make_gradient(recompute, training=True, jit_compile=False):
    model = build_simclr_model(tiny_config())
    model.recompute = recompute

    @tf.function(autograph=False, jit_compile=jit_compile)
    def gradient(images):
        with tf.GradientTape() as tape:
            outputs = model.forward(images, training=training).head_layers[-1]
        return tape.gradient(outputs, model.trainable_variables)

    return gradient


def convolutions(recompute, training=True):
    """How many convolutions of the forward pass are in the graph of a gradient."""
    graph = make_gradient(recompute, training).get_concrete_function(IMAGES).graph
    return sum(operation.type == "Conv2D" for operation in graph.get_operations())


@pytest.mark.slow
def test_stages_are_computed_twice_in_training_alone():
    assert convolutions(True) == 2 * convolutions(False)
    assert convolutions(True, training=False) == convolutions(False)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_xla_leaves_both_computations_apart():
    """XLA merges what it can prove to be equal, and would keep all activations after all."""

    def compiled(recompute):
        gradient = make_gradient(recompute, jit_compile=True)
        program = gradient.experimental_get_compiler_ir(IMAGES)(stage="optimized_hlo")
        return [len(re.findall(rf"= \S+ {kind}\(", program)) for kind in ("convolution", "dot")]

    kept, again = compiled(False), compiled(True)
    more_convolutions, more_products = (b - a for a, b in zip(kept, again, strict=True))
    # The first one has nothing before it that would have to be kept. XLA makes matrix products of those of size 1
    # without a stride: the shortcuts of three groups, beside the dense layers.
    assert more_convolutions >= convolutions(False) - 1 - 3
    assert more_convolutions + more_products >= convolutions(False) - 1 + 3
