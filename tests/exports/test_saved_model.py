"""The exported module: reloaded from its files, it gives what the network gave.

`module_user.py` does the same in a process that knows nothing of this project.
"""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from exports.saved_model import _predict, copy_for_export
from tests.support.networks import two_replicas
from tests.support.runs import TINY, TOTAL_STEPS, finished_run
from tf_simclr.augment import EvalView
from tf_simclr.config import ModelConfig
from tf_simclr.data import BatchPlan, eval_dataset
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.models import build_simclr_model
from tf_simclr.runs.networks import initialize_from

pytestmark = pytest.mark.stack

BASE = {name: TINY[name] for name in ("resnet_depth", "width_multiplier", "image_size", "proj_out_dim")}
NAMES = {"initial_conv", "initial_max_pool", *(f"block_group{number}" for number in (1, 2, 3, 4)), "final_avg_pool"}
NAMES |= {"default", "proj_head_input", "proj_head_output", "logits_sup"}


def build(**changes):
    return build_simclr_model(ModelConfig(**BASE, **changes), 10)


@pytest.fixture(scope="module")
def model():
    """The network of the finished run."""
    model = build()
    initialize_from(str(finished_run().directory), model)
    return model


@pytest.fixture(scope="module")
def path():
    return finished_run().directory / "saved_model" / str(TOTAL_STEPS)


@pytest.fixture(scope="module")
def loaded(path):
    return tf.saved_model.load(str(path))


@pytest.fixture
def reloaded(loaded):
    """The module as it was saved; training moves the statistics of its batch norms."""
    before = [variable.numpy() for variable in loaded.variables]
    yield loaded
    for variable, value in zip(loaded.variables, before, strict=True):
        variable.assign(value)


def random_images(*shape):
    return np.random.default_rng(0).uniform(size=(*shape, 3)).astype(np.float32)


def assert_same(received, expected):
    assert set(received) == set(expected) == NAMES
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_export_takes_any_number_and_size_of_images(model, reloaded):
    (), arguments = reloaded.signatures["serving_default"].structured_input_signature
    assert (arguments["images"].shape.as_list(), arguments["images"].dtype) == ([None, None, None, 3], tf.float32)
    for images in (random_images(1, 8, 8), random_images(2, 24, 17)):
        expected = model(images, training=False)
        assert_same(reloaded(images), expected)
        assert_same(reloaded(images, training=False), expected)
        assert_same(reloaded(images, trainable=False), expected)
        assert_same(reloaded.signatures["serving_default"](images=tf.constant(images)), expected)


def test_export_in_training_uses_and_updates_the_batch_statistics(model, reloaded):
    images, copy = random_images(4, 8, 8), build()
    copy.set_weights(model.get_weights())
    assert_same(reloaded(images, training=True), copy(images, training=True))
    # Both have moved their averages in the same way.
    after = copy(images, training=False)
    assert_same(reloaded(images), after)
    assert np.abs(after["default"] - model(images, training=False)["default"]).max() > 1e-4


def test_export_takes_both_names_of_training_at_once(reloaded):
    """Batch norm takes the statistics of the batch if either says so."""
    images = random_images(4, 8, 8)
    expected = [reloaded(images, training=False, trainable=False), reloaded(images, training=True)]
    np.testing.assert_array_equal(expected[False]["default"], expected[False]["final_avg_pool"])
    assert np.abs(expected[True]["default"] - expected[False]["default"]).max() > 1e-4
    for training, trainable in [(True, False), (False, True), (True, True)]:
        received = reloaded(images, training=training, trainable=trainable)
        np.testing.assert_array_equal(received["default"], expected[True]["default"])


def test_export_has_finite_gradients_for_what_can_be_trained(model, reloaded):
    variables = reloaded.trainable_variables
    assert len(variables) == len(model.trainable_variables)
    assert len(reloaded.variables) == len(model.variables)
    with tf.GradientTape() as tape:
        outputs = reloaded(random_images(2, 8, 8), training=True)
        loss = tf.reduce_sum(outputs["logits_sup"] ** 2) + tf.reduce_sum(outputs["proj_head_output"] ** 2)
    gradients = tape.gradient(loss, variables)
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)
    assert sum(np.abs(gradient).max() > 0 for gradient in gradients) > len(gradients) // 2


def test_export_casts_floating_images(reloaded):
    for dtype in ("float16", "bfloat16", "float64"):
        images = tf.cast(random_images(2, 8, 8), dtype)
        received = reloaded(images)
        assert {value.dtype for value in received.values()} == {tf.float32}
        assert_same(received, reloaded(tf.cast(images, tf.float32)))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 8, 8, 3), "uint8", r"images are uint8; give floats in \[0, 1\]: tf.cast\(images, tf.float32\) / 255"),
        ((0, 8, 8, 3), "float32", "images is empty; give one image or more"),
        ((8, 8, 3), "float32", "hape.*3"),
        ((1, 8, 8, 6), "float64", "hape.*6"),
    ],
)
def test_export_says_in_a_sentence_what_it_does_not_take(reloaded, shape, dtype, message):
    """A rank of 3 would end the process in the first kernel."""
    for training in (False, True):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message) as error:
            reloaded(tf.zeros(shape, dtype), training=training)
        assert "Option" not in str(error.value)
    if dtype != "uint8":
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"is empty|not compatible with expected shape"):
            reloaded.signatures["serving_default"](images=tf.zeros(shape))


# ---- Encoded images


def encode(pixels, form=tf.io.encode_jpeg):
    return form(pixels).numpy()


@pytest.fixture(scope="module")
def photos():
    """Encoded images of several sizes and formats."""
    rng = np.random.default_rng(0)
    sizes = [(10, 10, 3), (31, 17, 3), (12, 40, 1), (8, 8, 3)]
    pixels = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    return [encode(one, form) for one, form in zip(pixels, [tf.io.encode_jpeg, tf.io.encode_png] * 2, strict=True)]


@pytest.fixture
def predict(reloaded):
    return lambda images: reloaded.signatures["predict_jpeg"](image_bytes=tf.constant(images, tf.string))


@pytest.mark.slow
def test_predict_jpeg_equals_the_evaluation_of_the_run(model, predict, photos):
    """On images in files, by the run's own data and view; one alone is the same."""
    source = EncodedImages("photos", photos, read=tf.identity, example_names=["a", "b", "c", "d"])
    (batch,) = eval_dataset(source, EvalView(image_size=8), plan=BatchPlan(global_batch_size=4))
    expected = model(batch["images"], training=False)
    prediction = predict(photos)
    assert set(prediction) == {"embedding", "probabilities"}
    np.testing.assert_allclose(prediction["embedding"], expected["default"], rtol=1e-5, atol=1e-6)
    logits = expected["logits_sup"].numpy().astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(prediction["probabilities"], softmax, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predict(photos[0])["embedding"], expected["default"][:1], rtol=1e-5, atol=1e-6)


def test_predict_without_a_classifier_has_no_probabilities(photos):
    prediction = _predict(lambda images: {"default": tf.reduce_mean(images, [1, 2])}, tf.constant(photos), 8)
    assert {name: value.shape for name, value in prediction.items()} == {"embedding": (4, 3)}


def test_predict_jpeg_names_what_is_no_image_and_what_is_too_large(predict, photos):
    bomb = bytearray(encode(np.zeros((8, 8, 3), np.uint8), tf.io.encode_png))
    bomb[16:24] = (50_000).to_bytes(4, "big") * 2
    for number, bad, message in [
        (3, b"hello", r"image_bytes\[3\] is no JPEG, PNG, GIF, BMP or WebP image"),
        (1, b"", r"image_bytes\[1\] is no JPEG"),
        (2, bytes(bomb), r"image_bytes\[2\] declares 50000x50000 pixels, over the limit of 100000000"),
        (0, photos[0][: len(photos[0]) // 2], "Invalid JPEG|jpeg|JPEG"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            predict([*photos[:number], bad, *photos[number + 1 :]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes is empty; give one image or more"):
        predict([])


# ---- The graph


def nodes_of(graph):
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def test_graph_decodes_two_images_at_a_time_and_has_no_custom_gradients(path):
    """Ten at once, TensorFlow's default, would take over 10 GB if each has as many pixels as it may."""
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    nodes = nodes_of(graph)
    assert [node.attr["parallel_iterations"].i for node in nodes if node.name == "map/while"] == [2]
    assert len(nodes) > 1000
    assert not [node.name for node in nodes if "_gradient_op_type" in node.attr]
    assert not graph.library.gradient


def test_export_decodes_in_its_signature_alone(reloaded):
    """The call runs on any device."""

    def ops_of(function):
        return {node.op for node in nodes_of(function.graph.as_graph_def())}

    host = {"DecodeImage", "DecodeRaw"}
    assert host <= ops_of(reloaded.signatures["predict_jpeg"])
    assert len(reloaded.__call__.concrete_functions) >= 4
    for function in (*reloaded.__call__.concrete_functions, reloaded.signatures["serving_default"]):
        assert "Conv2D" in ops_of(function)
        assert not ops_of(function) & {*host, "PyFunc", "EagerPyFunc"}


# ---- Metadata


def test_metadata_travels_as_an_asset(path, reloaded):
    metadata = json.loads((path / "assets" / "metadata.json").read_text())
    assert json.loads(tf.io.read_file(reloaded.metadata.asset_path).numpy()) == metadata
    assert metadata["class_names"] == list("0123456789")
    assert (metadata["image_size"], metadata["num_classes"], metadata["global_step"]) == (8, 10, TOTAL_STEPS)
    assert metadata["preprocessing"]["central_crop"] == 1.0
    assert metadata["metrics"] == finished_run().result
    settings = metadata["settings"]
    assert (settings["dataset"], settings["resnet_depth"]) == ("digits", TINY["resnet_depth"])
    assert not {"model_dir", "data_dir", "tpu_name"} & settings.keys()
    assert metadata["supervised_head_on"] == "final_avg_pool"
    outputs, endpoints = reloaded(random_images(1, 32, 32)), metadata["endpoints"]
    assert endpoints.keys() == outputs.keys()
    for name, value in outputs.items():
        stride = {"stride": 32 // value.shape[1]} if value.shape.rank == 4 else {}
        assert endpoints[name] == {"channels": value.shape[-1]} | stride, name


# ---- The copy that is exported


@pytest.mark.distributed
def test_copy_of_a_mirrored_network_has_its_weights_and_no_strategy(model):
    with two_replicas().scope():
        mirrored = build()
    mirrored.set_weights(model.get_weights())
    copy = copy_for_export(mirrored)
    for variable, weight in zip(copy.variables, model.variables, strict=True):
        assert not hasattr(variable, "distribute_strategy")
        np.testing.assert_array_equal(variable, weight)


def test_copy_of_a_mixed_network_computes_in_float32():
    """On the same weights, as a float32 network does."""
    mixed = build(precision="mixed_bfloat16")
    copy = copy_for_export(mixed)
    assert copy.config == ModelConfig(**BASE, precision="float32")
    for variable, weight in zip(copy.variables, mixed.variables, strict=True):
        np.testing.assert_array_equal(variable, weight)
