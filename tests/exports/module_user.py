"""A program that knows an exported module and nothing of this project; run with its path.

Beside the module lies `<path>.npz`: `images` and what the network gave for them.
"""

import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_hub as hub


def check_outputs(module, images, expected):
    calls = {
        "module()": lambda: module(images),
        "training=False": lambda: module(images, training=False),
        "trainable=False": lambda: module(images, trainable=False),
        "float64": lambda: module(tf.cast(images, tf.float64)),
        "serving_default": lambda: module.signatures["serving_default"](images=tf.constant(images)),
    }
    for how, call in calls.items():
        outputs = call()
        assert outputs.keys() == expected.keys(), how
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-5, err_msg=f"{how} {name}")


def check_gradients(module, images):
    with tf.GradientTape() as tape:
        outputs = module(images, training=True)
        loss = tf.add_n([tf.reduce_sum(value**2) for value in outputs.values()])
    gradients = tape.gradient(loss, module.trainable_variables)
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)
    (regularization,) = module.regularization_losses
    kernels = [v.numpy() for v in module.trainable_variables if v.shape.rank > 1]
    expected = 1e-4 * sum((kernel.astype(np.float64) ** 2).sum() / 2 for kernel in kernels)
    np.testing.assert_allclose(regularization(), expected, rtol=1e-5)


def check_keras_layer(module, path, images, expected):
    for name, trainable in (("default", True), ("block_group2", True), ("default", False)):
        layer = hub.KerasLayer(module, output_key=name, trainable=trainable)
        np.testing.assert_allclose(layer(images), expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
        layers = [tf.keras.Input(images.shape[1:]), layer, tf.keras.layers.Flatten(), tf.keras.layers.Dense(2)]
        model = tf.keras.Sequential(layers)
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # The training step of one is compiled, as users have it; the others are faster so.
        model.compile("sgd", loss, run_eagerly=name != "default" or not trainable)
        assert (float(model.losses[0]) > 0) == trainable
        before = [variable.numpy() for variable in layer.variables]
        model.fit(images, np.arange(len(images)) % 2, epochs=1, verbose=0)
        moved = [np.any(v.numpy() != old) for v, old in zip(layer.variables, before, strict=True)]
        weights = {id(variable) for variable in module.trainable_variables}
        is_weight = [id(variable) in weights for variable in layer.variables]
        assert any(is_weight) and not all(is_weight)
        assert any(m for m, weight in zip(moved, is_weight, strict=True) if weight) == trainable, name
        assert all(m == trainable for m, weight in zip(moved, is_weight, strict=True) if not weight), name
        for variable, old in zip(layer.variables, before, strict=True):
            variable.assign(old)
    layer = hub.KerasLayer(path, output_key="default", signature="serving_default")
    np.testing.assert_allclose(layer(images), expected["default"], rtol=1e-4, atol=1e-5)


def check_encoded(module, images):
    predict = module.signatures["predict_jpeg"]
    encoded = [tf.io.encode_jpeg((image * 255).astype(np.uint8)).numpy() for image in images]
    prediction = predict(image_bytes=tf.constant(encoded))
    np.testing.assert_allclose(tf.reduce_sum(prediction["probabilities"], 1), np.ones(len(images)), rtol=1e-5)


def main(path):
    expected = dict(np.load(f"{path}.npz"))
    images = expected.pop("images")
    module = hub.load(path)
    check_outputs(module, images, expected)
    check_encoded(module, images)
    check_keras_layer(module, path, images, expected)
    check_gradients(module, images)
    foreign = [name for name in sys.modules if name.split(".")[0] in ("tf_simclr", "exports", "flags")]
    assert not foreign, foreign
    print("ok", tf.__version__)


if __name__ == "__main__":
    main(sys.argv[1])
