"""The TFLite files, run by TensorFlow Lite's own interpreter."""

import json
import warnings

import pytest
import tensorflow as tf

from exports.fold_batch_norm import num_weight_bytes
from exports.tflite import write_tflite
from tests.support.networks import assert_close, random_images, randomize, tiny_config
from tf_simclr.models import build_simclr_model, resnet

SIZE = 40
# The conversion takes seconds.
pytestmark = [pytest.mark.slow, pytest.mark.stack]


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.RESNET_BLOCKS, 50, (1, 1, 1, 1))
        config = tiny_config(resnet_depth=50, sk_ratio=0.0625, image_size=SIZE, precision="float32")
        return randomize(build_simclr_model(config, 7))


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("tflite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.RESNET_BLOCKS, 50, (1, 1, 1, 1))  # The folded network is built anew.
        write_tflite(model, str(path), {"image_size": SIZE})
    assert json.loads((path / "metadata.json").read_text())["image_size"] == SIZE
    return path


def make_interpreter(path):
    with warnings.catch_warnings():
        # TensorFlow 2.20 and later name the package that takes its place.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        return tf.lite.Interpreter(str(path))


# Weights of 16 bits are off by up to 2^-11, which adds up over the layers.
@pytest.mark.parametrize(("name", "tolerance"), [("float32", 1e-5), ("float16", 4e-3)])
def test_tflite_gives_the_outputs_of_the_network(model, directory, name, tolerance):
    interpreter = make_interpreter(directory / f"model_{name}.tflite")
    run = interpreter.get_signature_runner("serving_default")
    for count in (1, 3):
        images = random_images(count, SIZE, SIZE, dtype="float32")
        outputs = model(images, training=False)
        expected = {name: value.numpy() for name, value in outputs.items() if name != "initial_conv"}
        assert_close(run(images=images), expected, tolerance)


def test_tflite_of_16_bits_is_half_as_large(model, directory):
    sizes = {name: (directory / f"model_{name}.tflite").stat().st_size for name in ("float32", "float16")}
    weights = num_weight_bytes(model)
    assert 0.95 * weights < sizes["float32"] < 1.1 * weights
    assert sizes["float16"] < 0.6 * weights
