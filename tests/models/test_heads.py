"""The projection head and the supervised head."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import random_images, randomize, tiny_config, variables
from tf_simclr.models import build_simclr_model

pytestmark = pytest.mark.stack

FEATURES, CLASSES = 64, 5
HEADS = [("none", 1), ("linear", 3), *(("nonlinear", layers) for layers in (1, 2, 3, 4))]


@functools.cache
def build(mode, layers, selector=0, **settings):
    config = tiny_config(proj_head_mode=mode, num_proj_layers=layers, ft_proj_selector=selector, **settings)
    return randomize(build_simclr_model(config, CLASSES))


@pytest.fixture(scope="module")
def images():
    return tf.constant(random_images(4, 16, 16))


@pytest.mark.parametrize(("mode", "layers"), HEADS)
def test_projection_head_equals_its_definition(mode, layers, images):
    model = build(mode, layers)
    outputs = model.forward(images, training=False)
    widths = {"none": [], "linear": [8]}.get(mode, [FEATURES] * (layers - 1) + [8])
    assert model.config.num_head_layers == len(model.projection_head) == len(widths)
    assert [layer.shape[1] for layer in outputs.head_layers] == [FEATURES, *widths]
    np.testing.assert_array_equal(outputs.endpoints["proj_head_input"], outputs.head_layers[0])
    np.testing.assert_array_equal(outputs.endpoints["proj_head_output"], outputs.head_layers[-1])
    x = outputs.head_layers[0].numpy()
    head = list(model.variable_tree()["projection_head"].values())
    for number, (layer, received) in enumerate(zip(head, outputs.head_layers[1:], strict=True), start=1):
        norm = {name: variable.numpy() for name, variable in layer["norm"].items()}
        assert set(layer["dense"]) == {"kernel"}
        assert ("beta" in norm) == (number < len(head))
        x = norm["gamma"] * (x @ layer["dense"]["kernel"].numpy() - norm["moving_mean"])
        x = x / np.sqrt(norm["moving_variance"] + 1e-5) + norm.get("beta", 0)
        # ReLU after all layers but the last, whose outputs take both signs.
        if number < len(head):
            x = np.maximum(x, 0)
        else:
            assert x.min() < 0
        np.testing.assert_allclose(received, x, rtol=1e-10, atol=1e-12)


SELECTORS = [("none", 1, -1), ("linear", 3, 1), *(("nonlinear", 3, s) for s in (-1, 0, 1, 2, 3))]


@pytest.mark.parametrize(("mode", "layers", "selector"), SELECTORS)
def test_supervised_head_sits_on_the_selected_layer(mode, layers, selector, images):
    model = build(mode, layers, selector)
    outputs = model.forward(images, training=False)
    features = outputs.head_layers[selector].numpy()
    kernel, bias = (v.numpy() for v in model.variable_tree()["supervised_head"].values())
    assert kernel.shape == (features.shape[1], CLASSES)
    np.testing.assert_allclose(outputs.endpoints["logits_sup"], features @ kernel + bias, rtol=1e-12)


def test_network_without_classes_has_no_logits(images):
    model = build_simclr_model(tiny_config())
    assert model.supervised_head is None
    assert "logits_sup" not in model.forward(images, training=False).endpoints
    assert "supervised_head" not in model.variable_tree()


def test_zero_initialised_logits_are_zero_and_learn_in_the_first_step(images):
    assert 0 < np.abs(build_simclr_model(tiny_config(), CLASSES).supervised_head.kernel).max() < 0.1
    model = build_simclr_model(tiny_config(zero_init_logits_layer=True), CLASSES)
    labels = tf.constant([0, 1, 2, 3])
    with tf.GradientTape() as tape:
        logits = model.forward(images, training=True).endpoints["logits_sup"]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    np.testing.assert_array_equal(logits, np.zeros((4, CLASSES)))
    np.testing.assert_allclose(loss, np.log(CLASSES))
    head = model.supervised_head.trainable_variables
    for variable, gradient in zip(head, tape.gradient(loss, head), strict=True):
        assert np.abs(gradient).max() > 0
        variable.assign_sub(gradient)
    assert np.abs(model.forward(images, training=True).endpoints["logits_sup"]).max() > 0


@pytest.mark.parametrize("selector", [0, 2, -1])
def test_detached_supervised_head_leaves_the_network_without_gradient(images, selector):
    model = build("nonlinear", 3, selector)
    others = [v for v in model.trainable_variables if v.shape[-1:] != (CLASSES,)]
    head = model.supervised_head.trainable_variables
    assert len(others) + len(head) == len(model.trainable_variables)
    with tf.GradientTape() as tape:
        logits = model.forward(images, training=True, detach_supervised_head=True).endpoints["logits_sup"]
    gradients = tape.gradient(logits, [*others, *head])
    assert all(gradient is None for gradient in gradients[: len(others)])
    assert all(gradient is not None for gradient in gradients[len(others) :])


@pytest.mark.parametrize(("selector", "num_layers"), [(0, 0), (1, 1), (-1, 3)])
def test_attached_supervised_head_reaches_exactly_what_it_sits_on(images, selector, num_layers):
    model = build("nonlinear", 3, selector)
    with tf.GradientTape() as tape:
        logits = model.forward(images, training=True).endpoints["logits_sup"]
    trainable = {n: v for n, v in variables(model).items() if v.trainable}
    gradients = tape.gradient(logits, trainable)
    reached = {name for name, gradient in gradients.items() if gradient is not None}
    unused = tuple(f"projection_head/layer{number}/" for number in range(num_layers + 1, 4))
    assert reached == {name for name in trainable if not name.startswith(unused or "-")}
