"""The whole network: its stages, its variables, and its behaviour as a Keras model."""

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
    snapshot,
    tiny_config,
    variables,
)
from tf_simclr.models import BatchNormalization, build_simclr_model
from tf_simclr.models.simclr import check_images

pytestmark = pytest.mark.stack

CLASSES = 5


SK = {"resnet_depth": 50, "sk_ratio": 0.0625, "se_ratio": 0.25, "width_multiplier": 0.0625}


@pytest.fixture(scope="module", params=[{}, SK], ids=["basic", "bottleneck_sk_se"])
def model(request):
    return randomize(build_simclr_model(tiny_config(**request.param), CLASSES))


@pytest.fixture(scope="module")
def images():
    return tf.constant(random_images(4, 16, 16))


@pytest.mark.slow
def test_variable_tree_holds_every_variable_once(model):
    listed = [id(variable) for variable in variables(model).values()]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(variable) for variable in model.variables}
    assert {path.split("/")[0] for path in variables(model)} == {"encoder", "projection_head", "supervised_head"}
    # LAMB tells variables apart by name.
    assert len({variable.name for variable in model.variables}) == len(model.variables)
    statistics = {id(v) for name, v in variables(model).items() if is_statistic(name)}
    assert {id(v) for v in model.non_trainable_variables} == statistics
    assert {id(v) for v in model.trainable_variables}.isdisjoint(statistics)


def test_norms_are_all_batch_norm_layers(model):
    stages = (*model.encoder, *model.projection_head)
    found = [layer for stage in stages for layer in stage.layers if isinstance(layer, BatchNormalization)]
    assert {id(norm) for norm in model.norms} == {id(norm) for norm in found}
    assert len(model.norms) == len(found)


@pytest.mark.parametrize("training", [False, True])
def test_stages_called_one_by_one_equal_forward(model, images, training):
    x, statistics, endpoints = images, [], {}
    for stage in model.encoder:
        outputs = stage(x, training=training)
        x = outputs["features"]
        assert len(outputs["statistics"]) == len(stage.norms)
        statistics += outputs["statistics"]
        endpoints |= outputs["endpoints"] | ({stage.endpoint: x} if stage.endpoint else {})
    z = tf.reduce_mean(x, [1, 2])
    for stage in model.projection_head:
        outputs = stage(z, training=training)
        z = outputs["features"]
        statistics += outputs["statistics"]
    endpoints["proj_head_output"] = z
    whole = model.forward(images, training=training)
    for name, value in endpoints.items():
        np.testing.assert_array_equal(whole.endpoints[name], value)
    tf.nest.map_structure(np.testing.assert_array_equal, whole.statistics, statistics)
    groups = ("initial_conv", "initial_max_pool", *(f"block_group{k}" for k in range(1, 5)))
    assert set(endpoints) == {*groups, "proj_head_output"}


def test_keras_call_in_training_updates_the_statistics_once(images):
    model = randomize(build_simclr_model(tiny_config(batch_norm_decay=0.7), CLASSES))
    before = snapshot(model)
    expected = model.forward(images, training=True)
    endpoints = model(images, training=True)
    tf.nest.map_structure(np.testing.assert_array_equal, endpoints, expected.endpoints)
    after = snapshot(model)
    for norm, (mean, variance) in zip(model.norms, expected.statistics, strict=True):
        path = next(n for n, v in variables(model).items() if v is norm.moving_mean).rpartition("/")[0]
        for kind, value in (("moving_mean", mean), ("moving_variance", variance)):
            name = f"{path}/{kind}"
            np.testing.assert_allclose(after[name], 0.7 * before[name] + 0.3 * value, rtol=1e-12)
    weights = {name for name in before if not is_statistic(name)}
    assert_identical({n: after[n] for n in weights}, {n: before[n] for n in weights})


def test_forward_and_a_keras_call_in_inference_are_equal_and_change_nothing(model, images):
    before = snapshot(model)
    model.forward(images, training=True)
    endpoints = model(images, training=False)
    expected = model.forward(images, training=False).endpoints
    tf.nest.map_structure(np.testing.assert_array_equal, endpoints, expected)
    assert_identical(snapshot(model), before)


def test_float32_equals_float64_to_rounding(images):
    wide = randomize(build_simclr_model(tiny_config(), CLASSES))
    narrow = randomize(build_simclr_model(tiny_config(precision="float32"), CLASSES))
    assert all(variable.dtype == tf.float32 for variable in narrow.variables)
    for training in (False, True):
        expected = wide.forward(images, training=training).endpoints
        received = narrow.forward(images, training=training).endpoints
        assert all(tensor.dtype == tf.float32 for tensor in received.values())
        to_numpy = {name: value.numpy() for name, value in expected.items()}
        # Batch norm over 16 rows in the last group multiplies rounding.
        assert_close({name: value.numpy() for name, value in received.items()}, to_numpy, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", usual("mixed_bfloat16", also=["mixed_float16"]))
def test_mixed_precision_computes_in_16_bits_and_hands_out_float32(images, precision):
    narrow = build_simclr_model(tiny_config(precision=precision, **SK), CLASSES)
    wide = build_simclr_model(tiny_config(precision="float32", **SK), CLASSES)
    wide.set_weights(narrow.get_weights())
    assert {variable.dtype for variable in narrow.variables} == {tf.float32}
    for stage in (*narrow.encoder, *narrow.projection_head):
        assert stage(tf.zeros([2, *(d or 4 for d in stage.input_shape[1:])]))["features"].dtype == precision[6:]
    outputs = narrow.forward(images, training=False)
    assert {tensor.dtype for tensor in tf.nest.flatten(outputs)} == {tf.float32}
    received = {name: value.numpy() for name, value in outputs.endpoints.items()}
    expected = {name: value.numpy() for name, value in wide.forward(images, training=False).endpoints.items()}
    assert_close(received, expected, 0.03 if precision == "mixed_bfloat16" else 0.004)
    assert np.any(received["default"] != expected["default"])


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 8, 8, 3), "uint8", r"images are uint8; give floats in \[0, 1\]: tf.cast\(images, tf.float32\) / 255\."),
        ((8, 8, 3), "float32", r"images have the shape \(8, 8, 3\); give \[batch, height, width, 3\]"),
        ((1, 8, 8, 4), "float32", r"images have the shape \(1, 8, 8, 4\)"),
        ((0, 8, 8, 3), "float32", r"images have the shape \(0, 8, 8, 3\); .*, one image or more"),
    ],
)
def test_what_is_no_batch_of_images_is_refused_in_a_sentence(shape, dtype, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check_images(tf.zeros(shape, dtype))
