"""The folded network gives what the network gives, from constants alone."""

import json

import numpy as np
import pytest
import tensorflow as tf

from exports import fold_batch_norm as folding
from exports.fold_batch_norm import check_size, fold_batch_norm, write_folded
from tests.support.marks import usual
from tests.support.networks import assert_close, random_images, randomize, tiny_config
from tf_simclr.config import UserError
from tf_simclr.models import build_simclr_model, resnet

pytestmark = pytest.mark.stack

METADATA = {"image_size": 16, "endpoints": {"initial_conv": {"channels": 8}, "default": {"channels": 64}}}


def expected(model, images) -> dict:
    """The outputs of the network in float64, without the one that folding changes."""
    return to_numpy(model(images, training=False), "initial_conv")


def to_numpy(outputs, *without) -> dict:
    return {name: value.numpy() for name, value in outputs.items() if name not in without}


def make_model(**changes):
    return randomize(build_simclr_model(tiny_config(**changes), 7))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def folded(model):
    return fold_batch_norm(model)


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("folded")
    write_folded(model, str(path), METADATA)
    return path


@pytest.fixture(scope="module")
def reloaded(directory):
    return tf.saved_model.load(str(directory))


@pytest.mark.parametrize(
    "changes",
    usual(
        {},
        {"resnet_depth": 50, "sk_ratio": 0.0625, "image_size": 40, "ft_proj_selector": 2},
        {"proj_head_mode": "none"},
        also=[
            {"resnet_depth": 50, "image_size": 40},
            {"resnet_depth": 50, "sk_ratio": 0.0625},
            {"se_ratio": 0.25},
            {"proj_head_mode": "linear"},
        ],
    ),
    ids=str,
)
def test_folded_network_gives_the_same_outputs(changes, monkeypatch):
    monkeypatch.setitem(resnet.RESNET_BLOCKS, 50, (1, 1, 1, 1))
    model = make_model(**changes)
    folded = fold_batch_norm(model)
    assert not folded.norms
    images = random_images(2, 23, 18)
    received = folded(images)
    assert {value.dtype for value in received.values()} == {tf.float32}
    assert_close(to_numpy(received, "initial_conv"), expected(model, images), 2e-6)


def test_folded_network_of_16_bits_computes_in_float32(model, folded):
    mixed = build_simclr_model(tiny_config(precision="mixed_bfloat16"), 7)
    mixed.set_weights(model.get_weights())
    images = random_images(1, 8, 8)
    assert_close(to_numpy(fold_batch_norm(mixed)(images)), to_numpy(folded(images)), 1e-6)


def test_folded_network_without_a_classifier_has_no_logits():
    model = build_simclr_model(tiny_config())
    assert "logits_sup" not in fold_batch_norm(model)(random_images(1, 8, 8))


def test_reloaded_module_takes_any_number_and_size_of_images(model, reloaded):
    for shape in ((1, 16, 16), (2, 25, 18)):
        images = random_images(*shape)
        want = expected(model, images)
        images = images.astype(np.float32)
        for arguments in ({}, {"training": False}, {"trainable": False}):
            assert_close(to_numpy(reloaded(images, **arguments)), want, 2e-6)
        assert_close(to_numpy(reloaded.signatures["serving_default"](images=tf.constant(images))), want, 2e-6)


def test_reloaded_module_casts_floats_and_refuses_the_rest(reloaded):
    images = random_images(2, 16, 16)  # In float64.
    assert_close(to_numpy(reloaded(images)), to_numpy(reloaded(images.astype(np.float32))), 1e-12)
    serve = reloaded.signatures["serving_default"]
    for call, shape, dtype, message in [
        (reloaded, (1, 8, 8, 3), "uint8", "images are uint8; give floats"),
        (reloaded, (0, 8, 8, 3), "float32", "images is empty"),
        (lambda x: serve(images=x), (0, 8, 8, 3), "float32", "images is empty"),
        (lambda x: serve(images=x), (8, 8, 3), "float32", "not compatible with expected shape"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            call(tf.zeros(shape, dtype))


def test_reloaded_module_has_one_signature_and_cannot_be_trained(reloaded):
    assert list(reloaded.signatures) == ["serving_default"]
    with pytest.raises(ValueError, match="Could not find matching concrete function"):
        reloaded(np.zeros([1, 8, 8, 3], np.float32), training=True)


def test_module_holds_its_weights_as_constants_once(folded, directory):
    assert (directory / "variables" / "variables.data-00000-of-00001").stat().st_size < 1000
    size = folding.num_weight_bytes(folded)
    assert size < (directory / "saved_model.pb").stat().st_size < 1.3 * size


def test_graph_has_no_batch_norm_and_no_addition_that_could_broadcast(reloaded):
    """TensorFlow's kernels of convolution, bias, sum and rectifier take these operations alone."""
    functions = reloaded.signatures["serving_default"].graph.as_graph_def().library.function
    operations = {node.op for function in functions for node in function.node_def}
    assert operations >= {"Conv2D", "BiasAdd", "AddN", "Relu"}
    assert not operations & {"FusedBatchNormV3", "Rsqrt", "Mul", "Add", "AddV2", "ReadVariableOp"}


def test_metadata_is_an_asset_and_names_the_outputs_that_there_are(directory):
    metadata = json.loads((directory / "assets" / "metadata.json").read_text())
    assert metadata == METADATA | {"endpoints": {"default": {"channels": 64}}}


def test_network_that_is_too_large_for_a_graph_keeps_variables(folded, monkeypatch, log):
    """A module that saves its variables is called as the other one is."""
    saved = []
    monkeypatch.setattr(folding, "MAX_CONSTANT_BYTES", 1000)
    monkeypatch.setattr(folding, "fold_batch_norm", lambda model: folded)
    monkeypatch.setattr(folding, "save_module", lambda module, *_: saved.append(module))
    write_folded(None, "", METADATA)
    assert "they stay variables" in log.text
    assert len(tf.nest.flatten(saved[0].weights)) == len(folded.variables) > 0
    images = random_images(2, 16, 16)
    assert_close(to_numpy(saved[0].serve(images.astype(np.float32))), to_numpy(folded(images), "initial_conv"), 2e-6)


def test_format_that_cannot_hold_the_weights_is_refused(model, monkeypatch):
    check_size(model, "onnx")
    monkeypatch.setattr(folding, "MAX_FILE_BYTES", 1000)
    with pytest.raises(UserError, match=r"^--export_formats=onnx: its files hold 2 GB, .*use saved_model"):
        check_size(model, "onnx")
