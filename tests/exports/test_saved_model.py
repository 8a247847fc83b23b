"""The exported module: reloaded where this project is not, it gives what the network gave."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from exports.saved_model import make_module, save_model
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
NAMES = [f"block_group{number}" for number in (1, 2, 3, 4)]
NAMES += ["initial_conv", "initial_max_pool", "final_avg_pool", "default"]
NAMES += ["proj_head_input", "proj_head_output", "logits_sup"]


@pytest.fixture(scope="module")
def model():
    """The network of the finished run."""
    model = build_simclr_model(ModelConfig(**BASE), 10)
    initialize_from(str(finished_run().directory), model)
    return model


@pytest.fixture(scope="module")
def reloaded():
    return load()


def load():
    return tf.saved_model.load(str(finished_run().directory / "saved_model" / str(TOTAL_STEPS)))


def random_images(*shape):
    return np.random.default_rng(0).uniform(size=(*shape, 3)).astype(np.float32)


def assert_same(received, expected):
    assert set(received) == set(expected) == set(NAMES)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_export_reloads_in_a_process_without_this_project(model, tmp_path):
    images = random_images(3, 8, 8)
    np.save(tmp_path / "images.npy", images)
    path = finished_run().directory / "saved_model" / str(TOTAL_STEPS)
    script = f"""
        import sys
        import numpy as np
        import tensorflow as tf
        module = tf.saved_model.load({str(path)!r})
        outputs = module(np.load("images.npy"), training=False)
        assert not [name for name in sys.modules if name.startswith(("tf_simclr", "exports", "flags."))]
        np.savez("outputs.npz", **{{name: value.numpy() for name, value in outputs.items()}})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {name: value.numpy() for name, value in model(images, training=False).items()}
    assert_same(dict(np.load(tmp_path / "outputs.npz")), expected)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 8, 8), (2, 24, 17)])
def test_export_takes_any_number_and_size_of_images(model, reloaded, shape):
    images = random_images(*shape)
    expected = model(images, training=False)
    assert_same(reloaded(images), expected)
    assert_same(reloaded(images, training=False), expected)
    assert_same(reloaded(images, trainable=False), expected)


def test_export_serving_signature_has_every_name(model, reloaded):
    serve = reloaded.signatures["serving_default"]
    assert set(serve.structured_outputs) == set(NAMES)
    ((), arguments) = serve.structured_input_signature
    assert arguments["images"].shape.as_list() == [None, None, None, 3]
    assert arguments["images"].dtype == tf.float32
    images = random_images(2, 8, 8)
    assert_same(serve(images=tf.constant(images)), model(images, training=False))


@pytest.mark.slow
def test_export_in_training_uses_and_updates_the_batch_statistics(model):
    reloaded, images = load(), random_images(4, 8, 8)
    copy = build_simclr_model(ModelConfig(**BASE), 10)
    copy.set_weights(model.get_weights())
    assert_same(reloaded(images, training=True), copy(images, training=True))
    # Both have moved their averages in the same way.
    after = copy(images, training=False)
    assert_same(reloaded(images), after)
    assert np.abs(after["default"] - model(images, training=False)["default"]).max() > 1e-4
    assert_same(reloaded(images, trainable=True), copy(images, training=True))


@pytest.mark.slow
def test_export_takes_both_names_of_training_at_once():
    """Batch norm takes the statistics of the batch where either says so."""
    reloaded, images = load(), random_images(4, 8, 8)
    expected = [reloaded(images), reloaded(images, training=True)]
    for training, trainable in [(True, False), (False, True), (True, True)]:
        received = reloaded(images, training=training, trainable=trainable)
        np.testing.assert_array_equal(received["default"], expected[True]["default"])
    received = load()(images, training=False, trainable=False)
    np.testing.assert_array_equal(received["default"], expected[False]["default"])


@pytest.mark.slow
def test_export_has_finite_gradients_for_what_can_be_trained(model):
    reloaded = load()
    variables = reloaded.trainable_variables
    assert len(variables) == len(model.trainable_variables)
    assert len(reloaded.variables) == len(model.variables)
    with tf.GradientTape() as tape:
        outputs = reloaded(random_images(2, 8, 8), training=True)
        loss = tf.reduce_sum(outputs["logits_sup"] ** 2) + tf.reduce_sum(outputs["proj_head_output"] ** 2)
    gradients = tape.gradient(loss, variables)
    assert all(gradient is not None for gradient in gradients)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert sum(np.abs(gradient).max() > 0 for gradient in gradients) > len(gradients) // 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_export_casts_floating_images(reloaded, dtype):
    images = tf.cast(random_images(2, 8, 8), dtype)
    received = reloaded(images)
    assert {value.dtype for value in received.values()} == {tf.float32}
    assert_same(received, reloaded(tf.cast(images, tf.float32)))


BAD_IMAGES = {
    "images are uint8; give floats in \\[0, 1\\]: tf.cast\\(images, tf.float32\\) / 255": (
        (1, 8, 8, 3),
        "uint8",
    ),
    "images is empty; give one image or more": ((0, 8, 8, 3), "float32"),
    "hape.*3": ((8, 8, 3), "float32"),
    "hape.*6": ((1, 8, 8, 6), "float64"),
}


@pytest.mark.parametrize("message", BAD_IMAGES)
@pytest.mark.parametrize("training", [False, True])
def test_export_says_in_a_sentence_what_it_does_not_take(reloaded, message, training):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message) as error:
        reloaded(tf.zeros(*BAD_IMAGES[message]), training=training)
    assert "Option" not in str(error.value)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (8, 8, 3), (1, 8, 8, 6)])
def test_signature_refuses_other_shapes(reloaded, shape):
    """A rank of 3 would end the process in the first kernel."""
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"is empty|not compatible with expected shape"):
        reloaded.signatures["serving_default"](images=tf.zeros(shape))


@pytest.mark.slow
def test_module_without_a_probe_has_no_logits():
    module = make_module(build_simclr_model(ModelConfig(**BASE | {"proj_head_mode": "none"})))
    assert set(module.serve(random_images(1, 8, 8))) == set(NAMES) - {"logits_sup"}


def encode(pixels, form=tf.io.encode_jpeg):
    return form(pixels).numpy()


@pytest.fixture(scope="module")
def photos():
    """Encoded images of several sizes and formats."""
    rng = np.random.default_rng(0)
    sizes = [(10, 10, 3), (31, 17, 3), (12, 40, 1), (8, 8, 3)]
    pixels = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    return [encode(one, form) for one, form in zip(pixels, [tf.io.encode_jpeg, tf.io.encode_png] * 2, strict=True)]


@pytest.mark.slow
def test_predict_jpeg_equals_the_evaluation_of_the_run(model, reloaded, photos):
    """On images in files, by the run's own data and view."""
    source = EncodedImages("photos", photos, read=tf.identity, example_names=["a", "b", "c", "d"])
    (batch,) = eval_dataset(source, EvalView(image_size=8), plan=BatchPlan(global_batch_size=4))
    expected = model(batch["images"], training=False)
    prediction = reloaded.signatures["predict_jpeg"](image_bytes=tf.constant(photos))
    assert set(prediction) == {"embedding", "probabilities"}
    np.testing.assert_allclose(prediction["embedding"], expected["default"], rtol=1e-5, atol=1e-6)
    logits = expected["logits_sup"].numpy().astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(prediction["probabilities"], softmax, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_predict_jpeg_names_what_is_no_image_and_what_is_too_large(reloaded, photos):
    bomb = bytearray(encode(np.zeros((8, 8, 3), np.uint8), tf.io.encode_png))
    bomb[16:24] = (50_000).to_bytes(4, "big") * 2
    for number, bad, message in [
        (3, b"hello", r"image_bytes\[3\] is no JPEG, PNG, GIF, BMP or WebP image"),
        (1, b"", r"image_bytes\[1\] is no JPEG"),
        (2, b"\xff\xd8\xff" + b"x" * 60, r"image_bytes\[2\] is no JPEG, .* or its header is damaged"),
        (0, photos[0][:80], r"image_bytes\[0\] is no JPEG"),
        (2, bytes(bomb), r"image_bytes\[2\] declares 50000x50000 pixels, over the limit of 100000000"),
        (0, photos[0][: len(photos[0]) // 2], "Invalid JPEG|jpeg|JPEG"),
    ]:
        images = [*photos[:number], bad, *photos[number + 1 :]]
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            reloaded.signatures["predict_jpeg"](image_bytes=tf.constant(images))


@pytest.mark.slow
def test_predict_jpeg_takes_one_image_alone(reloaded, photos):
    predict = reloaded.signatures["predict_jpeg"]
    expected, received = (
        predict(image_bytes=tf.constant(photos[:1])),
        predict(image_bytes=tf.constant(photos[0])),
    )
    for name, value in expected.items():
        np.testing.assert_array_equal(received[name], value)


@pytest.mark.slow
def test_predict_jpeg_of_no_images_says_so(reloaded):
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes is empty; give one image or more"):
        reloaded.signatures["predict_jpeg"](image_bytes=tf.constant([], tf.string))


def saved_nodes():
    path = finished_run().directory / "saved_model" / str(TOTAL_STEPS) / "saved_model.pb"
    graph = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return graph, nodes


def test_predict_jpeg_decodes_two_images_at_a_time():
    """Ten at once, as by default, would take over 10 GB where each has as many pixels as it may."""
    _, nodes = saved_nodes()
    assert [node.attr["parallel_iterations"].i for node in nodes if node.name == "map/while"] == [2]


def test_export_has_no_custom_gradients():
    graph, nodes = saved_nodes()
    assert len(nodes) > 1000
    assert not [node.name for node in nodes if "_gradient_op_type" in node.attr]
    assert not graph.library.gradient


def ops_of(function):
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {node.op for node in nodes}


def test_export_decodes_in_its_signature_alone(reloaded):
    """What is called runs on any device."""
    host = {"DecodeImage", "DecodeRaw"}
    assert host <= ops_of(reloaded.signatures["predict_jpeg"])
    assert len(reloaded.__call__.concrete_functions) >= 4
    for function in (*reloaded.__call__.concrete_functions, reloaded.signatures["serving_default"]):
        ops = ops_of(function)
        assert "Conv2D" in ops
        assert not ops & {*host, "PyFunc", "EagerPyFunc"}


@pytest.mark.slow
def test_metadata_travels_as_an_asset():
    path = finished_run().directory / "saved_model" / str(TOTAL_STEPS)
    module = tf.saved_model.load(str(path))
    metadata = json.loads((path / "assets" / "metadata.json").read_text())
    assert json.loads(tf.io.read_file(module.metadata.asset_path).numpy()) == metadata
    assert metadata["class_names"] == list("0123456789")
    assert (metadata["image_size"], metadata["num_classes"], metadata["global_step"]) == (8, 10, TOTAL_STEPS)
    assert metadata["preprocessing"]["central_crop"] == 1.0
    assert metadata["metrics"] == finished_run().result
    settings = metadata["settings"]
    assert (settings["dataset"], settings["resnet_depth"]) == ("digits", TINY["resnet_depth"])
    assert not {"model_dir", "data_dir", "tpu_name"} & settings.keys()
    assert metadata["supervised_head_on"] == "final_avg_pool"


def test_metadata_tells_strides_and_channels_of_each_output(reloaded):
    path = finished_run().directory / "saved_model" / str(TOTAL_STEPS) / "assets" / "metadata.json"
    endpoints = json.loads(path.read_text())["endpoints"]
    outputs = reloaded(random_images(1, 32, 32))
    assert endpoints.keys() == outputs.keys()
    for name, value in outputs.items():
        assert endpoints[name]["channels"] == value.shape[-1], name
        assert endpoints[name].get("stride") == (32 // value.shape[1] if value.shape.rank == 4 else None), name


@pytest.mark.slow
@pytest.mark.distributed
def test_export_of_a_mirrored_network_equals_it(model, tmp_path):
    strategy = two_replicas()
    with strategy.scope():
        mirrored = build_simclr_model(ModelConfig(**BASE), 10)
    mirrored.set_weights(model.get_weights())
    save_model(mirrored, str(tmp_path / "export"))
    images = random_images(3, 8, 8)
    assert_same(tf.saved_model.load(str(tmp_path / "export"))(images), model(images, training=False))


@pytest.mark.slow
def test_export_of_a_mixed_network_computes_in_float32(tmp_path):
    """On the same weights it is the module of a float32 network, to the bit."""
    mixed = build_simclr_model(ModelConfig(**BASE, precision="mixed_bfloat16"), 10)
    plain = build_simclr_model(ModelConfig(**BASE), 10)
    plain.set_weights(mixed.get_weights())
    save_model(mixed, str(tmp_path / "module"))
    images = random_images(2, 8, 8)
    received = tf.saved_model.load(str(tmp_path / "module"))(images, trainable=False)
    assert {value.dtype for value in received.values()} == {tf.float32}
    assert_same(received, plain(images, training=False))
